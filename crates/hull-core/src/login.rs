//! How often one may try to log in. Pure functions of what failed and when.
//!
//! * A name that failed more than [`FREE`] times in a row waits, each time twice as long, up to [`LONGEST`]: guessing becomes hopeless,
//!   and yet nobody is locked out for good by a stranger. A day without failures, a success, or an admin forgets them.
//! * An address may try [`BURST`] times at once and then once every [`EVERY`], whatever names it tries.

use std::{
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use hull_types::Timestamp;

/// Failures in a row without a wait.
pub const FREE: u32 = 5;
/// The longest wait.
pub const LONGEST: Duration = Duration::from_secs(15 * 60);
/// Failures are forgotten after so long without one.
pub const FORGOTTEN: Duration = Duration::from_secs(24 * 3600);
/// Tries that an address has at once.
pub const BURST: u32 = 20;
/// One more try comes back so often.
pub const EVERY: Duration = Duration::from_secs(3);

/// What is counted together of an address: whoever has one IPv6 address has a /64 of them.
pub fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
    }
}

/// Log-ins under one name that failed in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failures {
    /// How many.
    pub count: u32,
    /// The last one.
    pub last: Timestamp,
}

impl Failures {
    /// One more.
    #[must_use]
    pub fn and_one(before: Option<Self>, now: Timestamp) -> Self {
        let before = before.filter(|it| !it.forgotten(now)).map_or(0, |it| it.count);
        Self { count: before.saturating_add(1), last: now }
    }

    /// Whether they no longer matter.
    pub fn forgotten(&self, now: Timestamp) -> bool {
        since(self.last, now) >= FORGOTTEN
    }

    /// How long the next try must wait still; none where it may come.
    pub fn wait(&self, now: Timestamp) -> Option<Duration> {
        // Dated by a clock that was set back since: nobody waits for years.
        if self.last.duration_since(now) > jiff::SignedDuration::ZERO {
            return None;
        }
        let whole = delay(self.count);
        whole.checked_sub(since(self.last, now)).filter(|left| !left.is_zero())
    }
}

/// The wait after so many failures in a row.
pub fn delay(failures: u32) -> Duration {
    match failures.checked_sub(FREE) {
        None | Some(0) => Duration::ZERO,
        Some(over) => Duration::from_secs(1u64.checked_shl(over).unwrap_or(u64::MAX)).min(LONGEST),
    }
}

/// The tries of one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tries {
    left: u32,
    at: Timestamp,
}

impl Tries {
    /// Nothing tried yet.
    pub const fn fresh(now: Timestamp) -> Self {
        Self { left: BURST, at: now }
    }

    /// One try, or how long it must wait.
    pub fn take(self, now: Timestamp) -> Result<Self, Duration> {
        if self.at.duration_since(now) > jiff::SignedDuration::ZERO {
            return Self::fresh(now).take(now);
        }
        let back = since(self.at, now).as_millis() / EVERY.as_millis();
        let back = u32::try_from(back).unwrap_or(u32::MAX);
        let full = self.left.saturating_add(back);
        // What is under way towards the next try is kept, unless all are back.
        let at = if full >= BURST { now } else { self.at.checked_add(EVERY * back).unwrap_or(now) };
        match full.min(BURST).checked_sub(1) {
            Some(left) => Ok(Self { left, at }),
            None => Err(EVERY.saturating_sub(since(self.at, now))),
        }
    }

    /// Whether all are back, so that nothing need be remembered.
    pub fn whole(&self, now: Timestamp) -> bool {
        since(self.at, now) >= EVERY * (BURST - self.left)
    }
}

/// A clock that was set back makes nobody wait longer than from now on.
fn since(then: Timestamp, now: Timestamp) -> Duration {
    now.duration_since(then).try_into().unwrap_or(Duration::ZERO)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    #[test]
    fn the_wait_grows_and_ends() {
        let waits: Vec<u64> = (0..20).map(|failures| delay(failures).as_secs()).collect();
        assert_eq!(waits[..10], [0, 0, 0, 0, 0, 0, 2, 4, 8, 16]);
        assert_eq!(waits[19], 900);
        assert_eq!(delay(u32::MAX), LONGEST);
        let failures = Failures { count: 7, last: at(0) };
        assert_eq!(failures.wait(at(1)), Some(Duration::from_secs(3)));
        assert_eq!(failures.wait(at(4)), None);
    }

    #[test]
    fn a_day_forgets() {
        let old = Failures { count: 50, last: at(0) };
        assert_eq!(Failures::and_one(Some(old), at(86_400)).count, 1);
        assert_eq!(Failures::and_one(Some(old), at(86_399)).count, 51);
    }

    #[test]
    fn an_address_has_a_burst_and_then_a_rate() {
        let mut tries = Tries::fresh(at(0));
        for _ in 0..BURST {
            tries = tries.take(at(0)).unwrap();
        }
        assert_eq!(tries.take(at(1)), Err(Duration::from_secs(2)));
        tries = tries.take(at(3)).unwrap();
        assert!(tries.take(at(4)).is_err());
        assert!(tries.whole(at(3600)));
    }

    proptest! {
        #[test]
        fn nobody_waits_longer_than_the_longest(count: u32, back in 0i64..100_000, forward in 0i64..100_000) {
            let failures = Failures { count, last: at(0) };
            prop_assert!(failures.wait(at(-back)).is_none_or(|wait| wait <= LONGEST));
            prop_assert!(failures.wait(at(forward)).is_none_or(|wait| wait <= LONGEST));
            prop_assert_eq!(failures.wait(at(901)), None, "no lock-out is for good");
            prop_assert_eq!(failures.wait(at(-back - 1)), None, "nor as long as a clock was set back by");
        }

        #[test]
        fn an_address_never_gets_more_than_its_rate(steps in prop::collection::vec(0i64..30, 1..200)) {
            let (mut tries, mut now, mut got) = (Tries::fresh(at(0)), 0, 0u64);
            for step in steps {
                now += step;
                if let Ok(next) = tries.take(at(now)) {
                    tries = next;
                    got += 1;
                }
            }
            prop_assert!(got <= u64::from(BURST) + u64::try_from(now).unwrap() / 3);
        }
    }
}
