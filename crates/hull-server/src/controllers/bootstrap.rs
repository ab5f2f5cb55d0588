//! What is there from the first start: the project, flavors and the network called `default`. Made in one round that can
//! be repeated, each thing where it is missing for the first time only: what an operator deleted stays deleted.

use std::net::{Ipv4Addr, Ipv6Addr};

use hull_core::{
    change::{Changes, Write},
    quota,
};
use hull_types::{
    error::{Error, ErrorKind, Result},
    flavor::Resources,
    name::Name,
    project::{Quota, Usage},
    units::Bytes,
    wire::{FlavorCreate, ProjectCreate},
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::app::{
    App,
    ctx::{Caller, Ctx},
};

/// Largest packet on the default network.
const MTU: u16 = 1500;

/// The flavors of a new cloud: name, CPUs, MiB of memory, GiB of disk.
const FLAVORS: &[(&str, u16, u64, u64)] = &[
    ("micro", 1, 256, 2),
    ("small", 1, 1024, 10),
    ("medium", 2, 2048, 20),
    ("large", 4, 4096, 40),
    ("xlarge", 8, 8192, 80),
];

/// Makes what a new cloud begins with.
///
/// # Errors
/// The store's.
pub async fn bootstrap(app: &App) -> Result<()> {
    if app.cache.read(|state| !state.projects.is_empty()) {
        return app.recount().await;
    }
    let ctx = Ctx::of(Caller::SERVER);
    for &(name, vcpus, memory, disk) in FLAVORS {
        let resources = Resources { vcpus, memory: Bytes::mib(memory), disk: Bytes::gib(disk) };
        let request = FlavorCreate { name: parse(name)?, description: String::new(), resources };
        present(app.create_flavor(&ctx, &request).await)?;
    }
    // The one who starts a cloud works here and owns the machine: no limits. Tenants' projects have the usual ones.
    // The project comes last: its presence says that all the rest is there.
    let request = ProjectCreate {
        name: parse("default")?,
        description: "Where you start".into(),
        quota: Some(Quota::default().into()),
    };
    app.change(&ctx, |_, call| {
        let mut changes = hull_core::project::create(&request, call)?;
        let project = changes.writes.iter().find_map(|write| match write {
            Write::PutProject(project) => Some(project.id),
            _ => None,
        });
        let project = project.ok_or_else(|| Error::internal("the default project was not decided"))?;
        let network = hull_core::network::create_default(project, &ranges(app.env.random())?, MTU, call)?;
        let held = held(&network);
        network.expect.into_iter().for_each(|expect| changes.expect(expect));
        for write in &mut changes.writes {
            if let Write::PutUsage { usage, .. } = write {
                *usage = quota::add(*usage, held);
            }
        }
        network.writes.into_iter().for_each(|write| changes.push(write));
        Ok((changes, ()))
    })
    .await
    .map(|done| done.answer)
}

fn held(network: &Changes) -> Usage {
    let networks = network.writes.iter().filter_map(|write| match write {
        Write::PutNetwork(network) => Some(quota::of_network(network)),
        _ => None,
    });
    networks.fold(Usage::default(), quota::add)
}

/// 10.90.0.0/16, and a unique local /64 made of 40 random bits (RFC 4193 section 3.2.2) with subnet 0.
fn ranges(random: [u8; 5]) -> Result<[IpNet; 2]> {
    let bad = |e: ipnet::PrefixLenError| Error::internal(format!("a default range: {e}"));
    let [a, b, c, d, e] = random.map(u16::from);
    let prefix = Ipv6Addr::new(0xfd00 | a, b << 8 | c, d << 8 | e, 0, 0, 0, 0, 0);
    let v4 = Ipv4Net::new(Ipv4Addr::new(10, 90, 0, 0), 16).map_err(bad)?;
    let v6 = Ipv6Net::new(prefix, 64).map_err(bad)?;
    Ok([v4.into(), v6.into()])
}

fn parse(name: &str) -> Result<Name> {
    Name::new(name).map_err(|e| Error::internal(format!("a default name: {e}")))
}

/// A first start that was cut short left some of it.
fn present<T>(made: Result<T>) -> Result<()> {
    match made {
        Err(error) if error.kind != ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_ranges_are_private() {
        let [v4, v6] = ranges([1, 2, 3, 4, 5]).unwrap();
        assert_eq!(v4.to_string(), "10.90.0.0/16");
        assert_eq!(v6.to_string(), "fd01:203:405::/64");
    }
}
