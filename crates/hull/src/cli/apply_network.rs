//! `hull apply` of networks and what is on them. As with all nouns: what is not there is created, what is there is changed
//! as far as it can, nothing is deleted. Rules and subnets that the file does not name stay.

use hull_types::{
    error::{Error, ErrorKind, Result},
    name::Name,
    wire::network::{
        NetworkCreate, NetworkUpdate, PortCreate, PortUpdate, RouterCreate, RouterSubnetAdd, RouterUpdate,
        SecurityGroupCreate, SecurityGroupUpdate, SubnetCreate, SubnetUpdate,
    },
};
use serde::Serialize;
use serde_json::Value;

use super::{Session, apply::found};
use crate::output;

/// A noun with what its document in the file is created from and changed to.
struct Wanted<'a, C, U> {
    noun: &'static str,
    plural: &'static str,
    name: &'a Name,
    create: &'a C,
    update: U,
    /// What never changes: field and value.
    fixed: Option<(&'static str, Value)>,
}

impl Session {
    pub(crate) async fn apply_network(&self, wanted: NetworkCreate) -> Result<()> {
        self.apply_one(network(&wanted)?).await.map(drop)
    }

    pub(crate) async fn apply_subnet(&self, wanted: SubnetCreate) -> Result<()> {
        self.apply_one(subnet(&wanted)?).await.map(drop)
    }

    pub(crate) async fn apply_port(&self, wanted: PortCreate) -> Result<()> {
        self.apply_one(port(&wanted)?).await.map(drop)
    }

    pub(crate) async fn apply_security_group(&self, wanted: SecurityGroupCreate) -> Result<()> {
        let name = wanted.name.as_str();
        if self.apply_one(security_group(&wanted)).await? {
            return Ok(());
        }
        for rule in &wanted.rules {
            match self.client.nouns("security-groups").add::<_, Value>(name, "rules", rule).await {
                Ok(_) => output::line(format!("security-group {name} has a new rule")),
                Err(error) if error.kind == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    pub(crate) async fn apply_router(&self, wanted: RouterCreate) -> Result<()> {
        if self.apply_one(router(&wanted)).await? {
            return Ok(());
        }
        for subnet in wanted.subnets {
            let body = RouterSubnetAdd { subnet };
            self.client.nouns("routers").add::<_, Value>(wanted.name.as_str(), "subnets", &body).await?;
        }
        Ok(())
    }

    /// Creates or changes one; whether it was created.
    async fn apply_one<C: Serialize + Sync, U: Serialize + Sync>(&self, wanted: Wanted<'_, C, U>) -> Result<bool> {
        let Wanted { noun, plural, name, create, update, fixed } = wanted;
        let nouns = self.client.nouns(plural);
        let Some(before) = found(nouns.show::<Value>(name.as_str()).await)? else {
            nouns.create::<_, Value>(create).await?;
            output::line(format!("{noun} {name} created"));
            return Ok(true);
        };
        if let Some((field, value)) = fixed.filter(|(field, value)| before[*field] != *value) {
            return Err(Error::conflict(format!(
                "{noun} {name} is there with {field} {}, not {value}, and that never changes; delete it first, or give another name",
                before[field]
            )));
        }
        let after = nouns.update::<_, Value>(name.as_str(), &update).await?;
        let changed = after["revision"] != before["revision"];
        output::line(format!("{noun} {name} {}", if changed { "changed" } else { "unchanged" }));
        Ok(false)
    }
}

fn json(value: &impl Serialize) -> Result<Value> {
    serde_json::to_value(value).map_err(|e| Error::internal(format!("a value has no JSON form: {e}")))
}

fn network(wanted: &NetworkCreate) -> Result<Wanted<'_, NetworkCreate, NetworkUpdate>> {
    let update = NetworkUpdate {
        name: None,
        description: Some(wanted.description.clone()),
        metadata: Some(wanted.metadata.clone()),
        tags: Some(wanted.tags.clone()),
        mtu: wanted.mtu,
        domain: wanted.domain.clone(),
        shared: Some(wanted.shared),
        external: Some(wanted.external),
        port_security: Some(wanted.port_security),
    };
    let fixed = Some(("uplink", json(&wanted.uplink)?));
    Ok(Wanted { noun: "network", plural: "networks", name: &wanted.name, create: wanted, update, fixed })
}

fn subnet(wanted: &SubnetCreate) -> Result<Wanted<'_, SubnetCreate, SubnetUpdate>> {
    let update = SubnetUpdate {
        name: None,
        description: Some(wanted.description.clone()),
        metadata: Some(wanted.metadata.clone()),
        tags: Some(wanted.tags.clone()),
        gateway: wanted.gateway,
        dns: Some(wanted.dns.clone()),
        pools: Some(wanted.pools.clone()),
        dhcp: Some(wanted.dhcp),
        routes: Some(wanted.routes.clone()),
        dhcp_options: Some(wanted.dhcp_options.clone()),
    };
    let fixed = Some(("cidr", json(&wanted.cidr)?));
    Ok(Wanted { noun: "subnet", plural: "subnets", name: &wanted.name, create: wanted, update, fixed })
}

fn port(wanted: &PortCreate) -> Result<Wanted<'_, PortCreate, PortUpdate>> {
    let update = PortUpdate {
        name: None,
        description: Some(wanted.description.clone()),
        metadata: Some(wanted.metadata.clone()),
        tags: Some(wanted.tags.clone()),
        addresses: (!wanted.addresses.is_empty()).then(|| wanted.addresses.clone()),
        hostname: wanted.hostname.clone(),
        security_groups: wanted.security_groups.clone(),
        port_security: wanted.port_security,
        allowed_pairs: Some(wanted.allowed_pairs.clone()),
        dhcp_options: Some(wanted.dhcp_options.clone()),
        bandwidth: Some(wanted.bandwidth),
    };
    let fixed = wanted.mac.map(|mac| json(&mac).map(|mac| ("mac", mac))).transpose()?;
    Ok(Wanted { noun: "port", plural: "ports", name: &wanted.name, create: wanted, update, fixed })
}

fn security_group(wanted: &SecurityGroupCreate) -> Wanted<'_, SecurityGroupCreate, SecurityGroupUpdate> {
    let update = SecurityGroupUpdate {
        name: None,
        description: Some(wanted.description.clone()),
        metadata: Some(wanted.metadata.clone()),
        tags: Some(wanted.tags.clone()),
        stateful: Some(wanted.stateful),
    };
    let (noun, plural) = ("security-group", "security-groups");
    Wanted { noun, plural, name: &wanted.name, create: wanted, update, fixed: None }
}

fn router(wanted: &RouterCreate) -> Wanted<'_, RouterCreate, RouterUpdate> {
    let update = RouterUpdate {
        name: None,
        description: Some(wanted.description.clone()),
        metadata: Some(wanted.metadata.clone()),
        tags: Some(wanted.tags.clone()),
        gateway: Some(wanted.gateway.clone()),
        routes: Some(wanted.routes.clone()),
    };
    Wanted { noun: "router", plural: "routers", name: &wanted.name, create: wanted, update, fixed: None }
}
