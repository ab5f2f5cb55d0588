//! Networks: those that users make, and the default NAT network that Hull makes by itself.
//!
//! What all projects share or lead out through is the whole cloud's matter: such networks are made, changed and deleted
//! by system administrators.

use hull_types::{
    error::{Error, Result},
    event::Event,
    id::{NetworkId, ProjectId, SubnetId},
    meta::Meta,
    name::Name,
    network::{Network, Subnet, Uplink, Vni},
    wire::network::{NetworkCreate, NetworkUpdate},
};
use ipnet::IpNet;

use crate::{
    call::Call,
    change::{Changes, Claim, Doc, Named, Write},
    check, event, head,
    owner::Owner,
    quota,
};

/// The name of the network and the group that are there from the start.
pub const DEFAULT: &str = "default";
/// The smallest MTU: IPv6 needs it (RFC 8200 section 5).
pub const MTU_MIN: u16 = 1280;
/// The largest MTU that jumbo frames carry.
pub const MTU_MAX: u16 = 9000;
/// What VXLAN over IPv6 adds to a packet: Ethernet, IPv6, UDP and VXLAN headers. Over IPv4 it is 20 less; which of them
/// nodes speak may change, the network's MTU should not.
pub const VXLAN_OVERHEAD: u16 = 70;
/// The domain where nobody says.
const DOMAIN: &str = "hull.internal";

/// What the caller may do with networks beyond members of their project.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Powers {
    /// Administers the whole cloud.
    pub system: bool,
    /// Administers the network's project.
    pub owner: bool,
}

/// Makes a network, without subnets.
pub fn create(request: &NetworkCreate, owner: &Owner<'_>, powers: Powers, call: &mut Call<'_>) -> Result<Changes> {
    let meta = head::new(owner.id(), head::texts!(request), call)?;
    let provider = match &request.uplink {
        Uplink::Provider(name) => {
            check::hostname(name).map_err(|_| provider_name(name))?;
            true
        }
        Uplink::None | Uplink::Nat => false,
    };
    whole_cloud(provider, "/uplink", "a provider's network", powers)?;
    whole_cloud(request.shared, "/shared", "a shared network", powers)?;
    whole_cloud(request.external, "/external", "an external network", powers)?;
    unguarded(request.port_security, powers)?;
    if request.external && !provider {
        let detail = "an external network leads outside by itself: give it the uplink of a provider's network";
        return Err(Error::invalid(detail).at("/external"));
    }
    let domain = request.domain.clone().unwrap_or_else(|| DOMAIN.to_owned());
    check::domain(&domain)?;
    // A provider's network goes from node to node by itself.
    let vni = (!provider).then(|| draw_vni(call));
    let network = Network {
        id: call.id(),
        meta,
        subnets: Vec::new(),
        uplink: request.uplink.clone(),
        vni,
        mtu: mtu(request.mtu, vni)?,
        domain,
        shared: request.shared,
        external: request.external,
        port_security: request.port_security,
    };
    let event = told(&network, "network.create", "created", call);
    let mut changes = owner.take(Named::Network)?;
    claims(&network).for_each(|claim| changes.push(Write::Claim(claim)));
    Ok(changes.and(Write::PutNetwork(Box::new(network))).event(event))
}

/// Who uses a network beside its owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Others {
    /// Ports of other projects.
    pub ports: usize,
    /// Routers with their gateway on it.
    pub routers: usize,
    /// Floating IPs from it.
    pub floating_ips: usize,
}

/// Changes a network.
pub fn update(
    network: &Network,
    wanted: &NetworkUpdate,
    others: Others,
    powers: Powers,
    call: &mut Call<'_>,
) -> Result<Changes> {
    manageable(network, powers)?;
    let mut after = network.clone();
    head::retold!(&mut after.meta, wanted)?;
    if let Some(domain) = &wanted.domain {
        check::domain(domain)?;
        after.domain.clone_from(domain);
    }
    if wanted.mtu.is_some() {
        after.mtu = mtu(wanted.mtu, network.vni)?;
    }
    if let Some(shared) = wanted.shared {
        whole_cloud(shared, "/shared", "a shared network", powers)?;
        if !shared && others.ports > 0 {
            let detail = format!(
                "network {} stays shared: {} of other projects are on it; have them deleted first",
                network.meta.name,
                count(others.ports, "port", "ports")
            );
            return Err(Error::conflict(detail).at("/shared"));
        }
        after.shared = shared;
    }
    if let Some(external) = wanted.external {
        whole_cloud(external, "/external", "an external network", powers)?;
        if external && !matches!(network.uplink, Uplink::Provider(_)) {
            let detail = "only a provider's network leads outside by itself; make one with that uplink";
            return Err(Error::invalid(detail).at("/external"));
        }
        if !external && others.routers + others.floating_ips > 0 {
            return Err(leads_out(network, others).at("/external"));
        }
        after.external = external;
    }
    if let Some(port_security) = wanted.port_security {
        unguarded(port_security, powers)?;
        after.port_security = port_security;
    }
    if after == *network {
        return Ok(Changes::none());
    }
    after.meta.updated_at = call.now;
    let event = told(&after, "network.update", "changed", call);
    let mut changes = Changes::none().unchanged(Doc::Network(network.id));
    head::reclaim(&mut changes, Named::Network, &network.meta, &after.meta, network.id.0);
    Ok(changes.and(Write::PutNetwork(Box::new(after))).event(event))
}

/// A network that shall go.
#[derive(Clone, Copy, Debug)]
pub struct Going<'a> {
    /// The network.
    pub network: &'a Network,
    /// Its subnets.
    pub subnets: &'a [&'a Subnet],
    /// How many ports are on it.
    pub ports: usize,
    /// Who else uses it.
    pub others: Others,
    /// The projects that may begin to use it.
    pub users: &'a [ProjectId],
}

/// Deletes a network that nothing is on, with its subnets.
pub fn delete(going: &Going<'_>, owner: &Owner<'_>, powers: Powers, call: &mut Call<'_>) -> Result<Changes> {
    let Going { network, subnets, ports, others, users } = *going;
    manageable(network, powers)?;
    let name = &network.meta.name;
    if others.routers + others.floating_ips > 0 {
        return Err(leads_out(network, others));
    }
    if ports > 0 {
        let ports = count(ports, "port is", "ports are");
        return Err(Error::conflict(format!(
            "network {name} is in use: {ports} on it (`hull port list --network {name}`); delete them and their VMs first"
        )));
    }
    if let Some(subnet) = subnets.iter().find(|subnet| subnet.router.is_some()) {
        return Err(Error::conflict(format!(
            "network {name} is in use: a router joins its subnet {}; take the subnet from the router first",
            subnet.meta.name
        )));
    }
    let event = told(network, "network.delete", "deleted", call);
    let mut changes = owner.give_all(quota::of_network(network)).unreferred(users).unchanged(Doc::Network(network.id));
    for subnet in subnets {
        changes = changes.unchanged(Doc::Subnet(subnet.id)).and(Write::DeleteSubnet(subnet.id));
        changes.push(Write::Release(head::claim(Named::Subnet, &subnet.meta, subnet.id.0)));
    }
    claims(network).for_each(|claim| changes.push(Write::Release(claim)));
    Ok(changes.and(Write::DeleteNetwork(network.id)).event(event))
}

/// Refuses to change what is the whole cloud's.
pub(crate) fn manageable(network: &Network, powers: Powers) -> Result<()> {
    let provided = matches!(network.uplink, Uplink::Provider(_));
    if (network.shared || network.external || provided) && !powers.system {
        return Err(Error::forbidden(format!(
            "network {} serves more than its project; only a system administrator may change it",
            network.meta.name
        )));
    }
    Ok(())
}

/// Whether a project's ports may be on a network.
pub fn usable(network: &Network, project: ProjectId) -> bool {
    network.shared || network.meta.project == project
}

/// `1 port`, `2 ports`.
pub(crate) fn count(number: usize, one: &str, many: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {many}") }
}

fn leads_out(network: &Network, others: Others) -> Error {
    Error::conflict(format!(
        "network {} is in use: {} out through it and {} from it; clear those gateways and delete those floating IPs first",
        network.meta.name,
        count(others.routers, "router leads", "routers lead"),
        count(others.floating_ips, "floating IP is", "floating IPs are")
    ))
}

fn whole_cloud(wanted: bool, field: &str, what: &str, powers: Powers) -> Result<()> {
    if !wanted || powers.system {
        return Ok(());
    }
    Err(Error::forbidden(format!("{what} serves more than one project; ask a system administrator for it")).at(field))
}

/// Ports that may lie about who they are concern everyone on the network.
pub(crate) fn unguarded(port_security: bool, powers: Powers) -> Result<()> {
    if port_security || powers.system || powers.owner {
        return Ok(());
    }
    let detail =
        "port security is turned off by an administrator of the network's project only; leave it on, or ask one";
    Err(Error::forbidden(detail).at("/port_security"))
}

fn provider_name(name: &str) -> Error {
    let shown: String = name.chars().take(80).collect();
    Error::invalid(format!(
        "{shown:?} names no provider's network: nodes' configurations name them in lower-case letters, digits and hyphens"
    ))
    .at("/uplink")
}

fn mtu(wanted: Option<u16>, vni: Option<Vni>) -> Result<u16> {
    let overhead = if vni.is_some() { VXLAN_OVERHEAD } else { 0 };
    let mtu = wanted.unwrap_or(1500 - overhead);
    let most = MTU_MAX - overhead;
    if (MTU_MIN..=most).contains(&mtu) {
        return Ok(mtu);
    }
    let why =
        if vni.is_some() { format!(", since {overhead} bytes go to the tunnel between nodes") } else { String::new() };
    Err(Error::invalid(format!("this network's MTU is {MTU_MIN} to {most}{why}; {mtu} is not")).at("/mtu"))
}

/// A number between nodes. Whether it is free the claim says; where not, another is drawn.
fn draw_vni(call: &mut Call<'_>) -> Vni {
    let [a, b, c] = call.fresh.mac_bytes();
    // 24 bits, as they are: zero alone is no number.
    Vni(u32::from_be_bytes([0, a, b, c]).max(1))
}

fn claims(network: &Network) -> impl Iterator<Item = Claim> + use<> {
    let name = head::claim(Named::Network, &network.meta, network.id.0);
    let id = network.id;
    std::iter::once(name).chain(network.vni.map(|vni| Claim::Vni { vni, network: id }))
}

fn told(network: &Network, action: &str, message: &str, call: &mut Call<'_>) -> Event {
    let resource = ("network", network.id.0, network.meta.name.as_str());
    event::about(call, Some(network.meta.project), resource, action, message)
}

/// Makes the default network: NAT, shared by all projects, its gateway the first address of each range.
pub fn create_default(project: ProjectId, ranges: &[IpNet], mtu: u16, call: &mut Call<'_>) -> Result<Changes> {
    let id: NetworkId = call.id();
    let subnets =
        ranges.iter().map(|&cidr| default_subnet(project, id, cidr, call)).collect::<Result<Vec<Subnet>>>()?;
    let network = Network {
        id,
        meta: meta(project, "NAT out through the node; the node reaches in", call)?,
        subnets: subnets.iter().map(|subnet| subnet.id).collect(),
        uplink: Uplink::Nat,
        // Every node has a default network of its own: VMs of different nodes do not meet on it.
        vni: None,
        mtu,
        domain: DOMAIN.to_owned(),
        shared: true,
        external: false,
        port_security: true,
    };
    let resource = ("network", network.id.0, DEFAULT);
    let event = event::about(call, Some(project), resource, "network.create", "created");
    let mut changes = Changes::none();
    claims(&network).for_each(|claim| changes.push(Write::Claim(claim)));
    changes.push(Write::PutNetwork(Box::new(network)));
    for subnet in subnets {
        changes.push(Write::Claim(head::claim(Named::Subnet, &subnet.meta, subnet.id.0)));
        changes.push(Write::PutSubnet(Box::new(subnet)));
    }
    Ok(changes.event(event))
}

fn default_subnet(project: ProjectId, network: NetworkId, cidr: IpNet, call: &mut Call<'_>) -> Result<Subnet> {
    let gateway = cidr.hosts().find(|host| *host != cidr.network());
    let gateway = gateway.ok_or_else(|| Error::invalid(format!("{cidr} is too small for a network")))?;
    let family = if cidr.addr().is_ipv4() { "v4" } else { "v6" };
    let name = Name::new(&format!("{DEFAULT}-{family}")).map_err(|why| Error::internal(why.to_string()))?;
    Ok(Subnet {
        id: call.id::<SubnetId>(),
        meta: Meta::new(project, name, call.now),
        network,
        cidr,
        gateway: Some(gateway),
        dns: Vec::new(),
        pools: Vec::new(),
        dhcp: true,
        routes: Vec::new(),
        dhcp_options: Vec::new(),
        router: None,
    })
}

fn meta(project: ProjectId, description: &str, call: &Call<'_>) -> Result<Meta> {
    let name = Name::new(DEFAULT).map_err(|why| Error::internal(why.to_string()))?;
    Ok(Meta { description: description.to_owned(), ..Meta::new(project, name, call.now) })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{PROJECT, Seeded, call, network, owner, project};

    const MEMBER: Powers = Powers { system: false, owner: false };
    const SYSTEM: Powers = Powers { system: true, owner: true };

    fn asked(json: &str, powers: Powers) -> Result<Network> {
        let project = project();
        let changes =
            create(&serde_json::from_str(json).unwrap(), &owner(&project), powers, &mut call(&mut Seeded::new(1)))?;
        let put = changes.writes.iter().find_map(|w| if let Write::PutNetwork(n) = w { Some(n) } else { None });
        Ok(Network::clone(put.unwrap()))
    }

    #[test]
    fn a_tenant_s_network_has_a_number_and_room_for_the_tunnel() {
        let made = asked(r#"{"name":"n"}"#, MEMBER).unwrap();
        assert!((1..1 << 24).contains(&made.vni.unwrap().0));
        assert_eq!((made.mtu, made.uplink, made.shared), (1430, Uplink::None, false));
        assert_eq!(asked(r#"{"name":"n","mtu":8930}"#, MEMBER).unwrap().mtu, 8930);
        for mtu in [0, 1279, 8931, 65535] {
            let refused = asked(&format!(r#"{{"name":"n","mtu":{mtu}}}"#), MEMBER).unwrap_err();
            assert_eq!(refused.field.as_deref(), Some("/mtu"), "{mtu}");
        }
        let outside = r#"{"name":"n","uplink":{"provider":"ext"},"external":true}"#;
        let outside = asked(outside, SYSTEM).unwrap();
        assert_eq!((outside.vni, outside.mtu), (None, 1500));
    }

    #[test]
    fn what_concerns_others_is_an_administrator_s() {
        for (rest, field) in [
            (r#""uplink":{"provider":"ext"}"#, "/uplink"),
            (r#""shared":true"#, "/shared"),
            (r#""external":true"#, "/external"),
            (r#""port_security":false"#, "/port_security"),
        ] {
            let refused = asked(&format!(r#"{{"name":"n",{rest}}}"#), MEMBER).unwrap_err();
            assert_eq!(
                (refused.kind, refused.field.as_deref()),
                (hull_types::error::ErrorKind::Forbidden, Some(field))
            );
        }
        let owner = Powers { system: false, owner: true };
        assert!(!asked(r#"{"name":"n","port_security":false}"#, owner).unwrap().port_security);
        assert!(asked(r#"{"name":"n","external":true}"#, SYSTEM).is_err(), "leads nowhere by itself");
    }

    #[test]
    fn a_network_in_use_stays_and_says_by_what() {
        let (project, own) = (project(), Network { shared: false, ..network(&[]) });
        let gone = |ports, others| {
            let call = &mut Seeded::new(1);
            let going = Going { network: &own, subnets: &[], ports, others, users: &[PROJECT] };
            delete(&going, &owner(&project), MEMBER, &mut crate::testing::call(call))
        };
        let detail = gone(3, Others::default()).unwrap_err().detail;
        assert!(detail.contains("3 ports are on it (`hull port list --network net`)"), "{detail}");
        let detail = gone(0, Others { routers: 1, floating_ips: 2, ports: 0 }).unwrap_err().detail;
        assert!(detail.contains("1 router leads out through it and 2 floating IPs are from it"), "{detail}");
        let changes = gone(0, Others::default()).unwrap();
        let releases = changes.writes.iter().filter(|w| matches!(w, Write::Release(_))).count();
        assert_eq!(releases, 2, "name and number");
        assert!(changes.expect.contains(&crate::change::Expect::Unchanged(Doc::Usage(PROJECT))), "the turnstile");
    }

    #[test]
    fn what_others_use_is_not_withdrawn() {
        let net = network(&[]);
        let change = |json: &str, others, powers| {
            update(&net, &serde_json::from_str(json).unwrap(), others, powers, &mut call(&mut Seeded::new(1)))
        };
        let used = Others { ports: 2, ..Others::default() };
        assert!(change(r#"{"shared":false}"#, used, SYSTEM).unwrap_err().detail.contains("2 ports of other projects"));
        assert!(change(r#"{"shared":false}"#, Others::default(), SYSTEM).is_ok());
        assert!(change(r#"{"mtu":1400}"#, used, MEMBER).is_err(), "shared by all, changed by a system administrator");
        assert!(change("{}", used, SYSTEM).unwrap().is_empty());
    }

    #[test]
    fn gateways_are_the_first_addresses() {
        let ranges = ["10.90.0.0/16".parse().unwrap(), "fd90::/64".parse().unwrap()];
        let made = create_default(PROJECT, &ranges, 1500, &mut call(&mut Seeded::new(1))).unwrap();
        let subnets = made.writes.iter().filter_map(|w| if let Write::PutSubnet(s) = w { Some(s) } else { None });
        let gateways: Vec<_> = subnets.map(|s| s.gateway.unwrap().to_string()).collect();
        assert_eq!(gateways, ["10.90.0.1", "fd90::1"]);
    }
}
