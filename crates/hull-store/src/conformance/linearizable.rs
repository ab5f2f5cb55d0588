//! A checker for histories of one register with compare-and-swap, after Wing and Gong (1993): look for an order of the
//! calls that respects real time and that one register, used by one client, could have answered.

use std::collections::HashSet;

/// One finished call. Times come from one counter read before the call and after its answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) begun: u64,
    pub(super) ended: u64,
    pub(super) seen: Seen,
}

/// What a call asked and was answered.
#[derive(Clone, Copy, Debug)]
pub(super) enum Seen {
    /// A read found this value.
    Read(u64),
    /// This value was written.
    Wrote(u64),
    /// The register was swapped from one value to another.
    Swapped(u64, u64),
    /// The register was found not to hold this value.
    Refused(u64),
}

/// Whether some order explains all of `history`, at most 64 calls on a register that first held `initial`.
pub(super) fn is_linearizable(history: &[Call], initial: u64) -> bool {
    assert!(history.len() <= 64, "the set of placed calls is one word");
    let all = if history.len() == 64 { u64::MAX } else { (1 << history.len()) - 1 };
    let mut tried = HashSet::new();
    let mut stack = vec![(0_u64, initial)];
    while let Some((placed, value)) = stack.pop() {
        if placed == all {
            return true;
        }
        if !tried.insert((placed, value)) {
            continue;
        }
        let open = || history.iter().enumerate().filter(|(i, _)| placed & (1 << i) == 0);
        // A call that began after another open one ended cannot come before it.
        let horizon = open().map(|(_, call)| call.ended).min().unwrap_or(u64::MAX);
        let candidates = open().filter(|(_, call)| call.begun <= horizon);
        stack.extend(candidates.filter_map(|(i, call)| Some((placed | (1 << i), call.seen.after(value)?))));
    }
    false
}

impl Seen {
    /// The register's value after this call, if it could be answered so while it held `value`.
    fn after(self, value: u64) -> Option<u64> {
        match self {
            Self::Read(found) => (found == value).then_some(value),
            Self::Wrote(new) => Some(new),
            Self::Swapped(old, new) => (old == value).then_some(new),
            Self::Refused(old) => (old != value).then_some(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(begun: u64, ended: u64, seen: Seen) -> Call {
        Call { begun, ended, seen }
    }

    #[test]
    fn overlapping_calls_may_be_ordered_freely() {
        let history = [call(1, 6, Seen::Wrote(1)), call(2, 3, Seen::Read(1)), call(4, 5, Seen::Swapped(1, 2))];
        assert!(is_linearizable(&history, 0));
    }

    #[test]
    fn a_stale_read_is_found_out() {
        assert!(!is_linearizable(&[call(1, 2, Seen::Wrote(1)), call(3, 4, Seen::Read(0))], 0));
    }

    #[test]
    fn a_lost_update_is_found_out() {
        let history = [call(1, 4, Seen::Swapped(0, 1)), call(2, 3, Seen::Swapped(0, 2))];
        assert!(!is_linearizable(&history, 0));
    }

    #[test]
    fn a_refusal_needs_another_value() {
        assert!(!is_linearizable(&[call(1, 2, Seen::Refused(0))], 0));
        assert!(is_linearizable(&[call(1, 3, Seen::Refused(0)), call(2, 4, Seen::Wrote(1))], 0));
    }
}
