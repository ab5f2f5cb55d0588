//! What keeps a flood of refused calls from filling the store with audit records.
//!
//! ```text
//!   refused, alike within a minute? ──yes──> its count
//!        │ no
//!   budget of the credential, or of the address and of all strangers? ──yes──> a record, at once
//!        │ no
//!   one record an hour for all the rest of this caller; with no budget for that either, of all callers
//! ```
//!
//! Nothing is left out: the counts of all records sum to the calls that were made. Counts that grew are written again by
//! a timer; a crash in between loses those, never a record's first call.

use std::{collections::HashMap, net::IpAddr};

use hull_types::{
    Timestamp,
    audit::{Audit, Outcome},
    error::ErrorKind,
    event::Actor,
    id::{AuditId, ProjectId},
};
use uuid::Uuid;

use crate::login;

/// Alike calls within this many seconds are one record.
pub const WINDOW: i64 = 60;
/// What is beyond a budget is one record for so many seconds.
pub const OVERFLOW_WINDOW: i64 = 3_600;
/// Records at once, and a minute in the long run: of one credential or address,
pub const OWN: Budget = Budget { burst: 200.0, a_minute: 6.0 };
/// and of all who proved nothing, together.
pub const STRANGERS: Budget = Budget { burst: 2_000.0, a_minute: 6.0 };
/// Callers remembered at once; further strangers share one record.
const CALLERS: usize = 10_000;

/// How many records someone may cause.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// At once.
    pub burst: f64,
    /// A minute.
    pub a_minute: f64,
}

/// Who is counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Who {
    /// The bearer of a credential.
    Credential(Uuid),
    /// Root, over the local socket, and others who are known without a credential.
    Known,
    /// An address that proved nothing; of IPv6, what one host commonly has (a /64).
    Address(Option<IpAddr>),
    /// Everyone who has no budget left.
    Everyone,
}

impl Who {
    fn of(record: &Audit) -> Self {
        match (&record.authenticated_by, &record.actor) {
            (Some(credential), _) => Self::Credential(credential.id),
            (None, Some(Actor::LocalRoot)) => Self::Known,
            _ => Self::Address(record.origin.address.map(login::network)),
        }
    }

    fn is_stranger(&self) -> bool {
        match self {
            Self::Credential(_) | Self::Known => false,
            Self::Address(_) | Self::Everyone => true,
        }
    }
}

/// What makes calls alike.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Alike {
    who: Who,
    /// None for what is beyond a budget.
    what: Option<Deed>,
}

/// What was tried, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Deed {
    operation: String,
    outcome: &'static str,
    error: Option<ErrorKind>,
    project: Option<ProjectId>,
    targets: Vec<Uuid>,
}

impl Alike {
    fn of(record: &Audit) -> Self {
        let error = match &record.outcome {
            Outcome::Refused { error, .. } => Some(*error),
            Outcome::Ok | Outcome::Replayed | Outcome::BrokenOff => None,
        };
        let targets = record.targets.iter().map(|target| target.id).collect();
        let operation = record.origin.operation.clone();
        let what = Deed { operation, outcome: record.outcome.word(), error, project: record.project, targets };
        Self { who: Who::of(record), what: Some(what) }
    }
}

#[derive(Debug)]
struct Open {
    record: Audit,
    until: Timestamp,
    /// Whether its count has grown since it was written.
    grown: bool,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: f64,
    at: Timestamp,
}

impl Bucket {
    fn take(&mut self, budget: Budget, now: Timestamp) -> bool {
        let seconds = now.duration_since(self.at).as_secs_f64().max(0.0);
        self.left = (self.left + seconds * budget.a_minute / 60.0).min(budget.burst);
        self.at = now;
        let some = self.left >= 1.0;
        if some {
            self.left -= 1.0;
        }
        some
    }
}

/// Makes records of refused calls few.
#[derive(Debug, Default)]
pub struct Coalescer {
    open: HashMap<Alike, Open>,
    buckets: HashMap<Who, Bucket>,
    strangers: Option<Bucket>,
}

impl Coalescer {
    /// Takes a call's record; answers what is to be written now.
    pub fn admit(&mut self, record: Audit) -> Option<Audit> {
        let alike = Alike::of(&record);
        if self.counted(&alike, &record) {
            return None;
        }
        if self.affords(&alike.who, record.at) {
            return Some(self.begin(alike, record, WINDOW));
        }
        let own = Alike { who: alike.who, what: None };
        if self.counted(&own, &record) {
            return None;
        }
        if !own.who.is_stranger() || self.strangers(record.at) {
            let rest = Audit { targets: Vec::new(), ..record };
            return Some(self.begin(own, various(rest), OVERFLOW_WINDOW));
        }
        let everyone = Alike { who: Who::Everyone, what: None };
        if self.counted(&everyone, &record) {
            return None;
        }
        let mut rest = Audit { actor: None, project: None, targets: Vec::new(), ..record };
        rest.origin.address = None;
        rest.origin.proxy = None;
        rest.origin.user_agent = None;
        Some(self.begin(everyone, various(rest), OVERFLOW_WINDOW))
    }

    /// A record could not be written: it is due again.
    pub fn unwritten(&mut self, id: AuditId) {
        self.open.values_mut().filter(|open| open.record.id == id).for_each(|open| open.grown = true);
    }

    /// What is to be written again since its count has grown. Forgets what is over.
    pub fn due(&mut self, now: Timestamp) -> Vec<Audit> {
        let grown = |open: &mut Open| std::mem::take(&mut open.grown).then(|| open.record.clone());
        let records = self.open.values_mut().filter_map(grown).collect();
        self.open.retain(|_, open| now < open.until);
        // A bucket that is full again is as good as none.
        self.buckets.retain(|_, bucket| {
            let minutes = now.duration_since(bucket.at).as_secs_f64() / 60.0;
            bucket.left + minutes * OWN.a_minute < OWN.burst
        });
        records
    }

    /// Counts a call with the one alike whose window is open. One whose window is over counts what came late.
    fn counted(&mut self, alike: &Alike, record: &Audit) -> bool {
        let Some(open) = self.open.get_mut(alike) else { return false };
        // A record with an unwritten count is not to be lost to a new one: it goes on until the timer has written it.
        if record.at >= open.until && !open.grown {
            return false;
        }
        open.record.count += 1;
        open.record.last_at = Some(record.at);
        open.grown = true;
        true
    }

    fn begin(&mut self, alike: Alike, record: Audit, seconds: i64) -> Audit {
        let until = record.at.saturating_add(jiff::SignedDuration::from_secs(seconds)).unwrap_or(record.at);
        self.open.insert(alike, Open { record: record.clone(), until, grown: false });
        record
    }

    fn affords(&mut self, who: &Who, now: Timestamp) -> bool {
        if !self.buckets.contains_key(who) && self.buckets.len() >= CALLERS {
            return !who.is_stranger();
        }
        let bucket = self.buckets.entry(who.clone()).or_insert(Bucket { left: OWN.burst, at: now });
        bucket.take(OWN, now) && (!who.is_stranger() || self.strangers(now))
    }

    fn strangers(&mut self, now: Timestamp) -> bool {
        self.strangers.get_or_insert(Bucket { left: STRANGERS.burst, at: now }).take(STRANGERS, now)
    }
}

/// A record that stands for all sorts of calls.
fn various(mut record: Audit) -> Audit {
    record.origin.operation = "various".to_owned();
    record.origin.method = "*".to_owned();
    record.origin.path = "*".to_owned();
    record
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{collections::BTreeMap, net::Ipv6Addr};

    use hull_types::audit::{CredentialRef, Origin};
    use proptest::prelude::*;

    use super::*;
    use crate::testing;

    fn refused(from: Option<IpAddr>, bearer: Option<u128>, operation: &str, second: i64, id: u128) -> Audit {
        let credential = bearer.map(|id| CredentialRef { kind: "token".into(), id: Uuid::from_u128(id) });
        Audit {
            v: Audit::V,
            id: Uuid::from_u128(id).into(),
            at: testing::at(second),
            project: None,
            actor: None,
            authenticated_by: credential,
            origin: Origin {
                address: from,
                proxy: None,
                request_id: "r".into(),
                user_agent: None,
                operation: operation.into(),
                method: "POST".into(),
                path: "/v1/vms".into(),
            },
            targets: Vec::new(),
            outcome: Outcome::Refused { status: 403, error: ErrorKind::Forbidden, detail: None, field: None },
            count: 1,
            last_at: None,
        }
    }

    /// Runs calls through; answers the records as the store would hold them.
    fn held(calls: impl IntoIterator<Item = Audit>) -> BTreeMap<Uuid, Audit> {
        let (mut coalescer, mut held) = (Coalescer::default(), BTreeMap::new());
        let mut last = testing::NOW;
        for call in calls {
            if call.at.duration_since(last).as_secs() >= 10 {
                held.extend(coalescer.due(call.at).into_iter().map(|record| (record.id.0, record)));
            }
            last = call.at;
            held.extend(coalescer.admit(call).map(|record| (record.id.0, record)));
        }
        held.extend(coalescer.due(last).into_iter().map(|record| (record.id.0, record)));
        held
    }

    fn v4(n: u32) -> Option<IpAddr> {
        Some(IpAddr::V4(n.into()))
    }

    #[test]
    fn calls_alike_within_a_minute_are_one_record_with_a_count() {
        let records = held((0..59).map(|n| refused(v4(1), None, "vms.create", n, n as u128)));
        assert_eq!(records.len(), 1);
        let record = records.values().next().unwrap();
        assert_eq!((record.count, record.last_at), (59, Some(testing::at(58))));
        let records = held([0, 61].map(|n| refused(v4(1), None, "vms.create", n, n as u128)));
        assert_eq!(records.len(), 2, "later it is news again");
        let records = held((0..3).map(|n| refused(v4(n), None, "vms.create", 0, u128::from(n))));
        assert_eq!(records.len(), 3, "each caller is told of");
    }

    #[test]
    fn one_caller_who_tries_everything_causes_a_bounded_number_of_records() {
        for bearer in [None, Some(7)] {
            let calls = (0..100_000u128).map(|n| refused(v4(1), bearer, &format!("op{n}"), (n / 1_000) as i64, n));
            let records = held(calls);
            assert!(records.len() < 230, "{}", records.len());
            assert_eq!(records.values().map(|record| record.count).sum::<u64>(), 100_000);
        }
    }

    #[test]
    fn many_strangers_cause_a_bounded_number_of_records_and_hide_no_one_who_is_known() {
        let strangers = (0..200_000u32).map(|n| refused(v4(n), None, "tokens.create", i64::from(n / 10_000), n.into()));
        let known = refused(v4(1), Some(7), "vms.delete", 20, 1 << 80);
        let records = held(strangers.chain([known]));
        assert!(records.len() < 2_020, "{}", records.len());
        assert!(records.values().any(|record| record.origin.operation == "vms.delete"));
        assert_eq!(records.values().map(|record| record.count).sum::<u64>(), 200_001);
    }

    #[test]
    fn an_ipv6_host_is_one_caller_however_many_addresses_it_has() {
        let address = |n: u128| Some(IpAddr::V6(Ipv6Addr::from_bits((0x2001_0db8 << 96) + n)));
        let records = held((0..50).map(|n| refused(address(n), None, "vms.create", 0, n)));
        assert_eq!(records.len(), 1);
    }

    proptest! {
        #[test]
        fn counts_sum_to_the_calls(calls in prop::collection::vec((0u32..5, prop::option::of(0u128..3), 0u32..400, 0i64..30), 0..600)) {
            let (mut second, many) = (0, calls.len() as u64);
            let calls = calls.into_iter().enumerate().map(|(id, (from, bearer, operation, pause))| {
                second += pause;
                refused(v4(from), bearer, &format!("op{operation}"), second, id as u128)
            });
            let records = held(calls.collect::<Vec<_>>());
            prop_assert_eq!(records.values().map(|record| record.count).sum::<u64>(), many);
        }
    }
}
