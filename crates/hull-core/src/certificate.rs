//! When a certificate is to be renewed, and when that is overdue.
//!
//! ```text
//!   from ──────────── good ──────────── 2/3 ── due ── 5/6 ── ending ── until ── over
//!                                       it is renewed │ nobody could renew it: someone has to look
//! ```

use hull_types::Timestamp;
use jiff::SignedDuration;

/// When a certificate holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// From then,
    pub from: Timestamp,
    /// until then.
    pub until: Timestamp,
}

/// How far a certificate's life has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Nothing to do.
    Good,
    /// A third of its life is left: it is to be renewed.
    Due,
    /// A sixth is left: it should have been renewed long ago.
    Ending,
    /// It holds no more.
    Over,
}

impl Validity {
    fn life(&self) -> SignedDuration {
        self.until.duration_since(self.from)
    }

    fn before_end(&self, part: i32) -> Timestamp {
        self.until.checked_sub(self.life() / part).unwrap_or(self.until)
    }

    /// When it is to be renewed.
    pub fn due_at(&self) -> Timestamp {
        self.before_end(3)
    }

    /// How far it has come. One that does not hold yet is good: the clock is wrong, and renewing would not help.
    pub fn stage(&self, now: Timestamp) -> Stage {
        if now >= self.until {
            Stage::Over
        } else if now >= self.before_end(6) {
            Stage::Ending
        } else if now >= self.due_at() {
            Stage::Due
        } else {
            Stage::Good
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{NOW, at};

    #[test]
    fn a_certificate_is_due_with_a_third_of_its_life_left_and_ending_with_a_sixth() {
        let year = Validity { from: NOW, until: at(360) };
        let stage = |seconds| year.stage(at(seconds));
        assert_eq!((stage(-10_000), stage(0), stage(239)), (Stage::Good, Stage::Good, Stage::Good));
        assert_eq!((stage(240), stage(299)), (Stage::Due, Stage::Due));
        assert_eq!((stage(300), stage(359)), (Stage::Ending, Stage::Ending));
        assert_eq!((stage(360), stage(1_000_000)), (Stage::Over, Stage::Over));
        assert_eq!(year.due_at(), at(240));
    }

    #[test]
    fn one_without_a_life_is_over() {
        assert_eq!(Validity { from: NOW, until: NOW }.stage(NOW), Stage::Over);
    }
}
