//! A deadline for a peer that may keep its end open for ever.
//!
//! A link that is alive says nothing about the will of the peer: one that only keeps it alive would
//! hold a thread, and with it the share. Guarantees: what waits for such a peer ends when the link is
//! closed here, a little after the deadline. Nothing of it survives a crash.

use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, bounded};
use farshore_proto::close::CloseCode;
use farshore_proto::link::Link;

/// Time a peer has to take note of the end of a session and to close its side.
pub const FAREWELL: Duration = Duration::from_secs(5);

/// Runs `work`, which waits for the peer at the other end of `link`, and closes the link if it has not
/// ended after `time`.
pub fn within<T>(
    link: &dyn Link,
    time: Duration,
    code: CloseCode,
    reason: &str,
    work: impl FnOnce() -> T,
) -> T {
    std::thread::scope(|scope| {
        let (done, ended) = bounded::<()>(0);
        scope.spawn(move || {
            if ended.recv_timeout(time) == Err(RecvTimeoutError::Timeout) {
                link.close(code as u32, reason);
            }
        });
        let result = work();
        drop(done);
        result
    })
}
