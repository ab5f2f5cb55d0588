//! Whether the clock is to be believed when things are let go because they are old.
//!
//! A clock set ahead by ten years makes everything old at once. Between two looks, also over a stop of the server, time
//! passes in steps of minutes, or of some days; a longer step is a clock that was set, or a server that was long away, and
//! nothing tells the two apart. Then nothing goes by its age until someone has had a day to set the clock right.
//!
//! ```text
//!            step of more than GAP            DOUBT passed, or the clock went back
//!   believed ────────────────────► doubted ─────────────────────────────────────► believed
//! ```

use hull_types::Timestamp;
use jiff::SignedDuration;

/// The longest step between two looks that is believed.
pub const GAP: SignedDuration = SignedDuration::from_hours(7 * 24);
/// How long a clock that took a longer step is doubted.
pub const DOUBT: SignedDuration = SignedDuration::from_hours(24);

/// What is remembered from look to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Looked {
    /// When it was.
    pub at: Timestamp,
    /// Since when the clock is doubted.
    pub doubted: Option<Timestamp>,
}

/// Looks at the clock: what to remember, whose `doubted` says whether it is believed.
pub fn look(before: Option<Looked>, now: Timestamp) -> Looked {
    let Some(before) = before else { return Looked { at: now, doubted: None } };
    if now.duration_since(before.at) > GAP {
        return Looked { at: now, doubted: Some(now) };
    }
    let lasts = |since: &Timestamp| (SignedDuration::ZERO..DOUBT).contains(&now.duration_since(*since));
    Looked { at: now, doubted: before.doubted.filter(lasts) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{NOW, at};

    const YEARS: i64 = 10 * 365 * 86_400;

    /// Looks at these seconds; whether the clock was doubted each time.
    fn looks(seconds: &[i64]) -> Vec<bool> {
        let mut looked = None;
        let look = |second: &i64| {
            looked = Some(look(looked, at(*second)));
            looked.is_some_and(|looked| looked.doubted.is_some())
        };
        seconds.iter().map(look).collect()
    }

    #[test]
    fn time_that_passes_is_believed_and_a_jump_is_doubted_for_a_day() {
        assert_eq!(look(None, NOW), Looked { at: NOW, doubted: None });
        assert_eq!(looks(&[0, 600, 1200, 3 * 86_400]), [false; 4], "a server that was away for days");
        let day = YEARS + 86_400;
        assert_eq!(looks(&[0, YEARS, YEARS + 600, day - 1, day]), [false, true, true, true, false]);
    }

    #[test]
    fn a_clock_set_right_again_is_believed_at_once() {
        assert_eq!(looks(&[0, YEARS, 600, 1200]), [false, true, false, false]);
        assert_eq!(looks(&[0, -YEARS, 600 - YEARS]), [false, false, false], "nothing is old by a clock set back");
        assert_eq!(looks(&[0, -YEARS, 600]), [false, false, true]);
    }
}
