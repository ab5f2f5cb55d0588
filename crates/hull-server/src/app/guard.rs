//! Who tried to log in how often: the memory behind `hull_core::login`. It is lost with the process, which nobody outside can bring about.
//!
//! Names are counted whether or not there is such a user, so that being locked out tells nothing either.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use hull_core::login::{Failures, Tries, network};
use hull_types::{
    Timestamp,
    error::{Error, ErrorKind, Result},
};

/// The most names and addresses remembered. Those that matter least are forgotten first.
const MOST: usize = 20_000;

/// Counts log-ins.
#[derive(Debug, Default)]
pub struct Guard {
    names: Mutex<HashMap<String, Failures>>,
    addresses: Mutex<HashMap<IpAddr, Tries>>,
}

impl Guard {
    /// Lets a try through, or says how long to wait.
    ///
    /// # Errors
    /// `TooManyRequests`.
    pub fn admit(&self, name: &str, from: Option<IpAddr>, now: Timestamp) -> Result<()> {
        self.admit_address(from, now)?;
        let all = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        match all.get(name).and_then(|failures| failures.wait(now)) {
            Some(wait) => Err(refuse("too many log-ins under this name failed", wait)),
            None => Ok(()),
        }
    }

    /// Lets a try through whose name is not known yet.
    ///
    /// # Errors
    /// `TooManyRequests`.
    pub fn admit_address(&self, from: Option<IpAddr>, now: Timestamp) -> Result<()> {
        if let Some(from) = from.map(network) {
            let mut all = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
            if all.len() >= MOST {
                all.retain(|_, tries| !tries.whole(now));
            }
            let full = all.len() >= MOST;
            let tries = all.get(&from).copied();
            // Where even that is too much, strangers share one account.
            let key = if full && tries.is_none() { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { from };
            let tries = all.get(&key).copied().unwrap_or(Tries::fresh(now));
            let next = tries.take(now).map_err(|wait| refuse("too many log-ins from your address", wait))?;
            all.insert(key, next);
        }
        Ok(())
    }

    /// A try failed.
    pub fn failed(&self, name: &str, now: Timestamp) {
        let mut all = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MOST {
            all.retain(|_, failures| !failures.forgotten(now));
        }
        if all.len() >= MOST
            && let Some(least) = all.iter().min_by_key(|(_, it)| (it.count, it.last)).map(|(name, _)| name.clone())
        {
            all.remove(&least);
        }
        let failures = Failures::and_one(all.get(name).copied(), now);
        all.insert(name.to_owned(), failures);
    }

    /// A try succeeded, or an admin forgives.
    pub fn forgive(&self, name: &str) {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }
}

fn refuse(what: &str, wait: Duration) -> Error {
    let seconds = u32::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(u32::MAX).max(1);
    Error::new(ErrorKind::TooManyRequests, format!("{what}; try again in {seconds} s")).after(seconds)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    #[test]
    fn a_name_waits_longer_and_longer_and_is_forgiven() {
        let guard = Guard::default();
        for _ in 0..6 {
            guard.admit("ann", None, at(0)).unwrap();
            guard.failed("ann", at(0));
        }
        let error = guard.admit("ann", None, at(0)).unwrap_err();
        assert_eq!((error.kind, error.retry_after), (ErrorKind::TooManyRequests, Some(2)));
        guard.admit("bob", None, at(0)).unwrap();
        guard.admit("ann", None, at(2)).unwrap();
        guard.failed("ann", at(2));
        assert_eq!(guard.admit("ann", None, at(2)).unwrap_err().retry_after, Some(4));
        guard.forgive("ann");
        guard.admit("ann", None, at(2)).unwrap();
    }

    #[test]
    fn addresses_of_one_ipv6_network_count_as_one() {
        let guard = Guard::default();
        let from = |n: u32| Some(format!("2001:db8::{n:x}").parse::<IpAddr>().unwrap());
        for n in 0..20 {
            guard.admit(&n.to_string(), from(n), at(0)).unwrap();
        }
        assert_eq!(guard.admit("x", from(99), at(0)).unwrap_err().retry_after, Some(3));
        guard.admit("x", Some("192.0.2.1".parse().unwrap()), at(0)).unwrap();
    }

    #[test]
    fn a_flood_of_names_and_addresses_is_bounded() {
        let guard = Guard::default();
        for n in 0..=u32::try_from(MOST).unwrap() {
            guard.failed(&n.to_string(), at(0));
            let from = IpAddr::V4(n.into());
            let _ = guard.admit("x", Some(from), at(0));
        }
        assert!(guard.names.lock().unwrap().len() <= MOST);
        assert!(guard.addresses.lock().unwrap().len() <= MOST + 1);
    }
}
