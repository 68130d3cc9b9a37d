//! A door: takes in a bounded number of clients, each on a thread of its own, until it is closed.
//!
//! While all places are taken, further clients wait outside, in the kernel's queue; whoever is in is put out by the
//! deadlines of its [`Deadline`], so a place becomes free. Nobody who comes in can make the daemon wait.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::SocketFlags;
use rustix::net::sockopt::{Timeout, set_socket_timeout};

/// After a failed accept, so that a lack of file handles does not become a lack of processor time.
const PAUSE: Duration = Duration::from_millis(100);

/// An open door. Dropped, it is closed: nobody comes in, who is in goes on.
pub(crate) struct Door {
    wake: UnixStream,
    places: Arc<Places>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door").finish_non_exhaustive()
    }
}

/// Free places.
struct Places {
    free: Mutex<usize>,
    came_free: Condvar,
    closed: AtomicBool,
}

/// Gives its place back, also when the client's thread panics.
struct Place(Arc<Places>);

impl Drop for Place {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.came_free.notify_all();
    }
}

impl Places {
    /// A place, or none when the door was closed meanwhile.
    fn take(self: &Arc<Self>) -> Option<Place> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        while *free == 0 {
            if self.closed.load(Ordering::SeqCst) {
                return None;
            }
            free = self.came_free.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
        *free -= 1;
        Some(Place(Arc::clone(self)))
    }
}

impl Door {
    /// Opens it: `serve` has each client that comes to `listener`, `places` at most at the same time.
    pub(crate) fn open(
        name: &'static str,
        listener: OwnedFd,
        places: usize,
        serve: impl Fn(OwnedFd) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        // A client that went away between poll and accept must not hold the door open.
        rustix::io::ioctl_fionbio(&listener, true)?;
        let (wake, woken) = UnixStream::pair()?;
        let places = Arc::new(Places {
            free: Mutex::new(places),
            came_free: Condvar::new(),
            closed: AtomicBool::new(false),
        });
        let closing = Arc::clone(&places);
        let serve = Arc::new(serve);
        let accepts = move || {
            while let Some(place) = places.take() {
                let Some(client) = next(&listener, &woken) else { return };
                let serve = Arc::clone(&serve);
                let begun = std::thread::Builder::new().name(name.into()).spawn(move || {
                    serve(client);
                    drop(place);
                });
                if begun.is_err() {
                    std::thread::sleep(PAUSE);
                }
            }
        };
        let thread = std::thread::Builder::new().name(name.into()).spawn(accepts)?;
        Ok(Self { wake, places: closing, thread: Some(thread) })
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        // It waits for a client or for a place.
        drop(self.wake.shutdown(std::net::Shutdown::Both));
        self.places.closed.store(true, Ordering::SeqCst);
        // Whoever looked before that is waiting by now.
        drop(self.places.free.lock().unwrap_or_else(PoisonError::into_inner));
        self.places.came_free.notify_all();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// The next client; none when the door is closed.
fn next(listener: &OwnedFd, woken: &UnixStream) -> Option<OwnedFd> {
    loop {
        let mut both = [PollFd::new(listener, PollFlags::IN), PollFd::new(woken, PollFlags::IN)];
        let polled = poll(&mut both, None);
        if !both[1].revents().is_empty() {
            return None;
        }
        match polled {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => std::thread::sleep(PAUSE),
        }
        if both[0].revents().is_empty() {
            continue;
        }
        match rustix::net::accept_with(listener, SocketFlags::CLOEXEC) {
            Ok(client) => return Some(client),
            // It went away again, or another descriptor was meant.
            Err(
                rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED | rustix::io::Errno::AGAIN,
            ) => {}
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

/// A stream whose every read and write together must be done at one time: a client that sends a byte a second is
/// out as soon as one that sends none.
pub(crate) struct Deadline<S> {
    stream: S,
    until: Instant,
}

impl<S: AsFd> Deadline<S> {
    pub(crate) fn new(stream: S, within: Duration) -> Self {
        Self { stream, until: Instant::now() + within }
    }

    /// From now on it is `within`.
    pub(crate) fn renew(&mut self, within: Duration) {
        self.until = Instant::now() + within;
    }

    fn arm(&self, which: Timeout) -> io::Result<()> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        // A timeout that rounds to nothing would be none.
        set_socket_timeout(&self.stream, which, Some(left.max(Duration::from_millis(1))))?;
        Ok(())
    }
}

impl<S: AsFd + Read> Read for Deadline<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.arm(Timeout::Recv)?;
        self.stream.read(buffer)
    }
}

impl<S: AsFd + Write> Write for Deadline<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.arm(Timeout::Send)?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}
