//! MAC addresses for ports: `52:54:00` (QEMU's locally administered prefix) and three random bytes.

use std::collections::BTreeSet;

use hull_types::{
    error::{Error, Result},
    id::{NodeId, RouterId},
    network::Mac,
};
use sha2::{Digest, Sha256};

use crate::call::Fresh;

const PREFIX: [u8; 3] = [0x52, 0x54, 0x00];

/// How many draws are made before giving up: with half of all 16.7 million addresses taken, all fail once in 2^64.
const DRAWS: usize = 64;

/// A MAC neither set holds.
pub fn draw(fresh: &mut dyn Fresh, used: &BTreeSet<Mac>, taken: &BTreeSet<Mac>) -> Result<Mac> {
    (0..DRAWS)
        .map(|_| {
            let [d, e, f] = fresh.mac_bytes();
            Mac([PREFIX[0], PREFIX[1], PREFIX[2], d, e, f])
        })
        .find(|mac| !used.contains(mac) && !taken.contains(mac))
        .ok_or_else(|| Error::conflict("this network has no free MAC addresses left; use another network"))
}

/// Accepts a MAC a caller wants: unicast, not all zero, free.
pub fn check(mac: Mac, used: &BTreeSet<Mac>, taken: &BTreeSet<Mac>) -> Result<Mac> {
    if mac.0[0] & 1 == 1 || mac.0 == [0; 6] {
        return Err(Error::invalid(format!(
            "{mac} is not a station's address; give a unicast MAC, such as 52:54:00:…"
        )));
    }
    if used.contains(&mac) || taken.contains(&mac) {
        return Err(Error::already_exists(format!("{mac} is in use on this network; give another, or none")));
    }
    Ok(mac)
}

/// The MAC of a router's end on its external network, on one node: a router is on many nodes at once, and outside of the
/// cloud each must be told from the others. Locally administered.
pub fn of_router(router: RouterId, node: NodeId) -> Mac {
    let digest = Sha256::new().chain_update(router.0).chain_update(node.0).finalize();
    Mac([0x02, digest[0], digest[1], digest[2], digest[3], digest[4]])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::Seeded;

    #[test]
    fn drawn_macs_are_free_unicast_and_local() {
        let mut fresh = Seeded::new(1);
        let mut taken = BTreeSet::new();
        for _ in 0..10_000 {
            let mac = draw(&mut fresh, &BTreeSet::new(), &taken).unwrap();
            assert_eq!(mac.0[0] & 0b11, 0b10, "unicast and locally administered: {mac}");
            assert!(taken.insert(mac));
        }
    }

    #[test]
    fn a_full_network_is_told_of_rather_than_searched_forever() {
        struct Stuck;
        impl Fresh for Stuck {
            fn uuid(&mut self) -> uuid::Uuid {
                uuid::Uuid::nil()
            }
            fn mac_bytes(&mut self) -> [u8; 3] {
                [1, 2, 3]
            }
        }
        let used = [draw(&mut Stuck, &BTreeSet::new(), &BTreeSet::new()).unwrap()].into();
        assert!(draw(&mut Stuck, &used, &BTreeSet::new()).is_err());
    }

    #[test]
    fn wanted_macs_are_checked() {
        let used = ["52:54:00:00:00:01".parse().unwrap()].into();
        let check = |text: &str| super::check(text.parse().unwrap(), &used, &BTreeSet::new());
        assert!(check("52:54:00:00:00:02").is_ok());
        assert!(check("52:54:00:00:00:01").unwrap_err().detail.contains("in use"));
        assert!(check("ff:ff:ff:ff:ff:ff").is_err());
        assert!(check("01:00:5e:00:00:01").is_err());
        assert!(check("00:00:00:00:00:00").is_err());
    }
}
