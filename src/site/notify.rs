//! Words to the service manager: what `sd_notify` says, in a datagram.
//!
//! Guarantees: nothing here ever stops the site; a manager that is not there, or that does not listen,
//! is no fault. The socket is opened once, before the process is confined. Refuses a text of more than
//! one line.

use std::fmt;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The way to the service manager, if there is one.
#[derive(Debug)]
pub struct Notifier {
    socket: Option<UnixDatagram>,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// As the environment says: `NOTIFY_SOCKET`, `WATCHDOG_USEC`, `WATCHDOG_PID`.
    #[must_use]
    pub fn from_env() -> Self {
        let text = |name| std::env::var(name).ok();
        let is_ours = text("WATCHDOG_PID").is_none_or(|pid| pid.parse() == Ok(std::process::id()));
        let watchdog = text("WATCHDOG_USEC").filter(|_| is_ours);
        Self::new(text("NOTIFY_SOCKET").as_deref(), watchdog.as_deref())
    }

    /// To the socket called `address` (`@` for an abstract one); `watchdog` in microseconds.
    #[must_use]
    pub fn new(address: Option<&str>, watchdog: Option<&str>) -> Self {
        let socket = address.and_then(|address| {
            let address = match address.strip_prefix('@') {
                Some(name) => SocketAddr::from_abstract_name(name).ok()?,
                None => SocketAddr::from_pathname(address).ok()?,
            };
            let socket = UnixDatagram::unbound().ok()?;
            // A manager that hangs must not hang the site.
            socket.set_nonblocking(true).ok()?;
            socket.connect_addr(&address).ok()?;
            Some(socket)
        });
        let watchdog = watchdog.and_then(|us| us.parse().ok()).filter(|us| *us > 0);
        Self { socket, watchdog: watchdog.map(Duration::from_micros) }
    }

    /// How often [`Notifier::alive`] must be called: half the time the manager waits.
    #[must_use]
    pub fn alive_every(&self) -> Option<Duration> {
        self.watchdog.map(|watchdog| watchdog / 2)
    }

    /// Peers can connect.
    pub fn ready(&self) {
        self.say("READY=1");
    }

    /// The configuration is being read again; to be followed by [`Notifier::ready`].
    pub fn reloading(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let us = now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1_000);
        self.say(&format!("RELOADING=1\nMONOTONIC_USEC={us}"));
    }

    /// The site ends.
    pub fn stopping(&self) {
        self.say("STOPPING=1");
    }

    /// What `systemctl status` shows.
    pub fn status(&self, status: &impl fmt::Display) {
        self.say(&format!("STATUS={}", farshore_core::path::escape_text(&status.to_string())));
    }

    /// The site is at work.
    pub fn alive(&self) {
        self.say("WATCHDOG=1");
    }

    /// A way of one's own to the manager, if there is one.
    #[must_use]
    pub fn manager(&self) -> Option<UnixDatagram> {
        self.socket.as_ref()?.try_clone().ok()
    }

    fn say(&self, words: &str) {
        if let Some(socket) = &self.socket {
            // Nobody to tell it to.
            socket.send(words.as_bytes()).unwrap_or(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_is_a_datagram() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).expect("bind");
        let notifier = Notifier::new(path.to_str(), Some("3000000"));
        assert_eq!(notifier.alive_every(), Some(Duration::from_millis(1_500)));
        notifier.ready();
        notifier.status(&"two\nlines");
        notifier.reloading();
        notifier.alive();
        notifier.stopping();
        let mut heard = [0; 200];
        for words in [
            "READY=1",
            "STATUS=two\\u{a}lines",
            "RELOADING=1\nMONOTONIC_USEC=",
            "WATCHDOG=1",
            "STOPPING=1",
        ] {
            let len = manager.recv(&mut heard).expect("a datagram");
            assert!(heard[..len].starts_with(words.as_bytes()), "{words}");
        }
        drop(manager);
        notifier.ready();
    }

    #[test]
    fn no_manager_is_no_fault() {
        for address in [None, Some(""), Some("@"), Some("/no/such/socket")] {
            let notifier = Notifier::new(address, Some("soon"));
            notifier.ready();
            assert_eq!(notifier.alive_every(), None);
        }
    }
}
