//! The handshakes a listener holds open, bounded.
//!
//! Guarantees that at most the given number is held and that a newcomer always finds room: the
//! oldest handshake of the address that holds the most is given up for it, so one hostile address
//! pushes out its own. It refuses nobody; refusing is what a flood wants. Nothing survives a crash.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
};

/// Handshakes by the address they came from, oldest first.
#[derive(Debug)]
pub(crate) struct HalfOpen<T> {
    by_address: HashMap<IpAddr, VecDeque<(u64, T)>>,
    len: usize,
    next: u64,
}

impl<T> HalfOpen<T> {
    pub(crate) fn new() -> Self {
        Self { by_address: HashMap::new(), len: 0, next: 0 }
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Adds a handshake under a fresh number.
    pub(crate) fn insert(&mut self, from: IpAddr, handshake: T) -> u64 {
        let number = self.next;
        self.next += 1;
        self.by_address.entry(from).or_default().push_back((number, handshake));
        self.len += 1;
        number
    }

    /// Takes a handshake out that ended by itself; `None` when it was evicted before.
    pub(crate) fn remove(&mut self, from: IpAddr, number: u64) -> Option<T> {
        let held = self.by_address.get_mut(&from)?;
        let at = held.iter().position(|(found, _)| *found == number)?;
        let (_, handshake) = held.remove(at)?;
        self.len -= 1;
        if held.is_empty() {
            self.by_address.remove(&from);
        }
        Some(handshake)
    }

    /// Takes out the oldest handshake of the address that holds the most.
    pub(crate) fn evict(&mut self) -> Option<(IpAddr, T)> {
        let (from, _) = self.by_address.iter().max_by_key(|(_, held)| held.len())?;
        let from = *from;
        let (number, _) = self.by_address.get(&from)?.front()?;
        let number = *number;
        self.remove(from, number).map(|handshake| (from, handshake))
    }

    /// Takes all out.
    pub(crate) fn drain(&mut self) -> Vec<T> {
        self.len = 0;
        self.by_address.drain().flat_map(|(_, held)| held).map(|(_, handshake)| handshake).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::HalfOpen;

    const HOSTILE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    const HONEST: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));

    #[test]
    fn the_busiest_address_pays() {
        let mut held = HalfOpen::new();
        let honest = held.insert(HONEST, 'h');
        let oldest = held.insert(HOSTILE, 'a');
        held.insert(HOSTILE, 'b');
        assert_eq!(held.evict(), Some((HOSTILE, 'a')));
        assert_eq!(held.remove(HOSTILE, oldest), None);
        assert_eq!(held.remove(HONEST, honest), Some('h'));
        assert_eq!((held.len(), held.drain()), (1, vec!['b']));
        assert_eq!((held.len(), held.evict()), (0, None));
    }
}
