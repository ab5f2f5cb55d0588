//! Room for connections, of which one caller has a share only: a guest that hoards connections keeps itself waiting, not
//! its neighbours.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

/// How many connections each caller has.
#[derive(Clone)]
pub(super) struct Seats {
    share: usize,
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Seats {
    /// So many for each caller.
    pub(super) fn new(share: usize) -> Self {
        Self { share, taken: Arc::default() }
    }

    /// One more for this caller, until it is dropped; none where it has its share.
    pub(super) fn take(&self, caller: IpAddr) -> Option<Seat> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(caller).or_default();
        if *count >= self.share {
            return None;
        }
        *count += 1;
        Some(Seat { caller, taken: Arc::clone(&self.taken) })
    }
}

/// A connection's place.
pub(super) struct Seat {
    caller: IpAddr,
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.caller) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.caller);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hoarder_has_its_share_and_others_have_theirs() {
        let (seats, one, other) = (Seats::new(2), IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let mut held: Vec<Seat> = (0..5).filter_map(|_| seats.take(one)).collect();
        assert_eq!((held.len(), seats.take(one).is_some(), seats.take(other).is_some()), (2, false, true));
        held.pop();
        assert!(seats.take(one).is_some());
        drop(held);
        assert!(seats.taken.lock().is_ok_and(|taken| taken.is_empty()), "who has left is not remembered");
    }
}
