//! What the metadata service answers, as a function: the EC2 tree, the OpenStack documents, session tokens.
//!
//! The caller is known by its source address, which anti-spoofing makes its own; one VM never reads another's. A request
//! that came through a proxy (`X-Forwarded-For`) is refused, as EC2 does: a guest's web server must not be talked into
//! handing out its metadata. Tokens (IMDSv2) are taken where offered and not demanded; a wrong one is refused.

use std::{collections::BTreeMap, net::IpAddr};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hull_types::{
    id::VmId,
    link::{DesiredNetwork, DesiredPort},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{
    GuestMetadata,
    view::{address_v4, subnets_v4},
};

/// The longest life of a session token, in seconds (EC2's own limit).
const TOKEN_LIFE: u64 = 21_600;
/// OpenStack's metadata versions that clients look for.
const OPENSTACK_VERSIONS: [&str; 4] = ["2012-08-10", "2015-10-15", "2018-08-27", "latest"];

/// A request as far as it matters here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    /// `X-aws-ec2-metadata-token`.
    pub(crate) token: Option<String>,
    /// `X-aws-ec2-metadata-token-ttl-seconds`.
    pub(crate) token_life: Option<String>,
    /// Whether it names a client on whose behalf it is made.
    pub(crate) forwarded: bool,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) content_type: &'static str,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    fn text(body: impl Into<Vec<u8>>) -> Self {
        Self { status: 200, content_type: "text/plain", body: body.into() }
    }

    fn json(body: &Value) -> Self {
        Self { status: 200, content_type: "application/json", body: body.to_string().into_bytes() }
    }

    pub(crate) fn refusal(status: u16, body: &str) -> Self {
        Self { status, content_type: "text/plain", body: format!("{body}\n").into_bytes() }
    }

    fn missing() -> Self {
        Self::refusal(404, "not found")
    }
}

/// The caller and its network.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller<'a> {
    pub(crate) network: &'a DesiredNetwork,
    pub(crate) port: &'a DesiredPort,
    pub(crate) guest: &'a GuestMetadata,
}

/// The answer to a VM's request. `now` is in seconds since 1970.
pub(crate) fn respond(caller: Caller<'_>, request: &Request, key: &TokenKey, now: u64) -> Answer {
    if request.forwarded {
        return Answer::refusal(403, "metadata is not served to proxies");
    }
    let vm = caller.guest.vm;
    let path = request.path.split(['?', '#']).next().unwrap_or_default();
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    if request.method == "PUT" {
        return match (segments.as_slice(), request.token_life.as_deref().map(str::parse::<u64>)) {
            ([_, "api", "token"], Some(Ok(life))) if (1..=TOKEN_LIFE).contains(&life) => {
                Answer::text(key.issue(vm, now + life))
            }
            ([_, "api", "token"], _) => {
                Answer::refusal(400, "X-aws-ec2-metadata-token-ttl-seconds must be between 1 and 21600")
            }
            _ => Answer::missing(),
        };
    }
    if request.method != "GET" && request.method != "HEAD" {
        return Answer::refusal(405, "only GET is answered here");
    }
    if request.token.as_deref().is_some_and(|token| !key.accepts(token, vm, now)) {
        return Answer::refusal(401, "the token is not valid or has expired; ask for a new one");
    }
    match segments.as_slice() {
        [] => Answer::text("latest\n"),
        ["openstack", rest @ ..] => openstack(caller, rest),
        ["latest" | "1.0", rest @ ..] => ec2(caller, rest),
        [version, rest @ ..] if version.starts_with("20") => ec2(caller, rest),
        _ => Answer::missing(),
    }
}

fn ec2(caller: Caller<'_>, path: &[&str]) -> Answer {
    match path {
        [] => Answer::text("dynamic\nmeta-data\nuser-data"),
        ["user-data"] => user_data(caller.guest),
        ["meta-data", rest @ ..] => tree(&ec2_leaves(caller), rest),
        ["dynamic"] => Answer::text("instance-identity/"),
        ["dynamic", "instance-identity"] => Answer::text("document"),
        ["dynamic", "instance-identity", "document"] => Answer::json(&json!({
            "instanceId": caller.guest.vm,
            "instanceType": caller.guest.flavor,
            "accountId": caller.guest.project,
            "availabilityZone": caller.guest.zone,
            "region": caller.guest.zone,
            "privateIp": first_v4(caller.port),
            "version": "2017-09-30",
        })),
        _ => Answer::missing(),
    }
}

fn user_data(guest: &GuestMetadata) -> Answer {
    match &guest.user_data {
        Some(data) => Answer { status: 200, content_type: "application/octet-stream", body: data.clone() },
        None => Answer::missing(),
    }
}

fn first_v4(port: &DesiredPort) -> Option<&IpAddr> {
    port.addresses.iter().find(|address| address.is_ipv4())
}

/// Every leaf of `meta-data`, by its path. Directories follow from the paths.
fn ec2_leaves(caller: Caller<'_>) -> BTreeMap<String, String> {
    let Caller { network, port, guest } = caller;
    let fqdn = format!("{}.{}", guest.hostname, network.domain);
    let interface = format!("network/interfaces/macs/{}", port.mac);
    let of_family = |v4: bool| {
        let of: Vec<String> =
            port.addresses.iter().filter(|address| address.is_ipv4() == v4).map(ToString::to_string).collect();
        of.join("\n")
    };
    let mut leaves: BTreeMap<String, String> = [
        ("ami-id", String::new()),
        ("ami-launch-index", "0".to_owned()),
        ("hostname", fqdn.clone()),
        ("local-hostname", fqdn),
        ("instance-id", guest.vm.to_string()),
        ("instance-type", guest.flavor.clone()),
        ("mac", port.mac.to_string()),
        ("placement/availability-zone", guest.zone.clone()),
        ("placement/region", guest.zone.clone()),
    ]
    .map(|(path, value)| (path.to_owned(), value))
    .into();
    leaves.retain(|_, value| !value.is_empty());
    leaves.insert(format!("{interface}/mac"), port.mac.to_string());
    leaves.insert(format!("{interface}/device-number"), "0".to_owned());
    leaves.insert(format!("{interface}/interface-id"), port.id.to_string());
    if let Some(address) = first_v4(port) {
        leaves.insert("local-ipv4".to_owned(), address.to_string());
        leaves.insert(format!("{interface}/local-ipv4s"), of_family(true));
    }
    if port.addresses.iter().any(IpAddr::is_ipv6) {
        leaves.insert(format!("{interface}/ipv6s"), of_family(false));
    }
    if let Some((range, _)) = subnets_v4(network).find(|(range, _)| address_v4(port, *range).is_some()) {
        leaves.insert(format!("{interface}/subnet-ipv4-cidr-block"), range.to_string());
    }
    for (index, (_, key)) in guest.ssh_keys.iter().enumerate() {
        leaves.insert(format!("public-keys/{index}/openssh-key"), key.clone());
    }
    for (name, value) in guest.metadata.iter().filter(|(name, _)| !name.contains('/')) {
        leaves.insert(format!("tags/instance/{name}"), value.clone());
    }
    // EC2 lists the keys with their names, unlike any other directory.
    if !guest.ssh_keys.is_empty() {
        let listing: Vec<String> =
            guest.ssh_keys.iter().enumerate().map(|(index, (name, _))| format!("{index}={name}")).collect();
        leaves.insert("public-keys/".to_owned(), listing.join("\n"));
    }
    leaves
}

/// A leaf's value, or a directory's entries.
fn tree(leaves: &BTreeMap<String, String>, path: &[&str]) -> Answer {
    let path = path.join("/");
    let own = |key: &str| leaves.get(key).map(|value| Answer::text(value.as_str()));
    if let Some(answer) = own(&path).or_else(|| own(&format!("{path}/"))) {
        return answer;
    }
    let inside = if path.is_empty() { String::new() } else { format!("{path}/") };
    let mut entries: Vec<&str> = leaves
        .range(inside.clone()..)
        .map_while(|(key, _)| key.strip_prefix(inside.as_str()))
        .map(|rest| rest.find('/').map_or(rest, |slash| &rest[..=slash]))
        .collect();
    entries.dedup();
    if entries.is_empty() { Answer::missing() } else { Answer::text(entries.join("\n")) }
}

fn openstack(caller: Caller<'_>, path: &[&str]) -> Answer {
    match path {
        [] => Answer::text(OPENSTACK_VERSIONS.join("\n")),
        [version, rest @ ..] if OPENSTACK_VERSIONS.contains(version) => match rest {
            [] => Answer::text("meta_data.json\nnetwork_data.json\nuser_data\nvendor_data.json\nvendor_data2.json"),
            ["meta_data.json"] => Answer::json(&openstack_meta(caller.guest)),
            ["network_data.json"] => Answer::json(&openstack_network(caller)),
            ["user_data"] => user_data(caller.guest),
            ["vendor_data.json" | "vendor_data2.json"] => Answer::json(&json!({})),
            _ => Answer::missing(),
        },
        _ => Answer::missing(),
    }
}

fn openstack_meta(guest: &GuestMetadata) -> Value {
    let keys: BTreeMap<&str, &str> = guest.ssh_keys.iter().map(|(name, key)| (name.as_str(), key.as_str())).collect();
    let list: Vec<Value> =
        guest.ssh_keys.iter().map(|(name, key)| json!({ "name": name, "type": "ssh", "data": key })).collect();
    json!({
        "uuid": guest.vm,
        "name": guest.name,
        "hostname": guest.hostname,
        "availability_zone": guest.zone,
        "project_id": guest.project,
        "launch_index": 0,
        "public_keys": keys,
        "keys": list,
        "meta": guest.metadata,
        "devices": [],
    })
}

fn openstack_network(caller: Caller<'_>) -> Value {
    let Caller { network, port, .. } = caller;
    let mut networks = Vec::new();
    if first_v4(port).is_some() {
        networks.push(json!({ "id": "network0", "link": "nic0", "type": "ipv4_dhcp", "network_id": network.id }));
    }
    if port.addresses.iter().any(IpAddr::is_ipv6) {
        let kind = "ipv6_dhcpv6-stateful";
        networks.push(json!({ "id": "network1", "link": "nic0", "type": kind, "network_id": network.id }));
    }
    json!({
        "links": [{
            "id": "nic0", "type": "phy", "vif_id": port.id, "mtu": network.mtu, "ethernet_mac_address": port.mac,
        }],
        "networks": networks,
        "services": [],
    })
}

/// Makes and checks session tokens without keeping any: a token is its own expiry and a keyed digest.
#[derive(Clone)]
pub(crate) struct TokenKey([u8; 32]);

impl TokenKey {
    pub(crate) const fn new(secret: [u8; 32]) -> Self {
        Self(secret)
    }

    fn issue(&self, vm: VmId, expires: u64) -> String {
        let mut token = expires.to_be_bytes().to_vec();
        token.extend(self.seal(vm, expires));
        URL_SAFE_NO_PAD.encode(token)
    }

    fn accepts(&self, token: &str, vm: VmId, now: u64) -> bool {
        let Ok(bytes) = URL_SAFE_NO_PAD.decode(token) else { return false };
        let Some((expires, seal)) = bytes.split_first_chunk::<8>() else { return false };
        let expires = u64::from_be_bytes(*expires);
        // Both sides are hashed once more, so that the time of the comparison tells nothing of the seal.
        now < expires && Sha256::digest(seal) == Sha256::digest(self.seal(vm, expires))
    }

    /// HMAC-SHA256 (RFC 2104) over the VM and the expiry.
    fn seal(&self, vm: VmId, expires: u64) -> [u8; 32] {
        let padded = |pad: u8| {
            let mut block = [pad; 64];
            block.iter_mut().zip(self.0).for_each(|(byte, key)| *byte ^= key);
            block
        };
        let inner = Sha256::new()
            .chain_update(padded(0x36))
            .chain_update(vm.0.as_bytes())
            .chain_update(expires.to_be_bytes())
            .finalize();
        Sha256::new().chain_update(padded(0x5c)).chain_update(inner).finalize().into()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::{
        super::fixture::{guest, network},
        *,
    };

    const KEY: TokenKey = TokenKey::new([7; 32]);

    fn asked(request: &Request, now: u64) -> (u16, String) {
        let (network, guest) = (network(), guest());
        let answer = respond(Caller { network: &network, port: &network.ports[0], guest: &guest }, request, &KEY, now);
        (answer.status, String::from_utf8(answer.body).unwrap())
    }

    fn get(path: &str) -> (u16, String) {
        asked(&Request { method: "GET".to_owned(), path: path.to_owned(), ..Request::default() }, 0)
    }

    fn put_token(life: &str) -> (u16, String) {
        let (method, path) = ("PUT".to_owned(), "/latest/api/token".to_owned());
        asked(&Request { method, path, token_life: Some(life.to_owned()), ..Request::default() }, 1000)
    }

    #[test]
    fn the_ec2_tree_can_be_walked_to_every_leaf() {
        let mut open = vec!["/latest/meta-data/".to_owned()];
        let mut leaves = 0;
        while let Some(path) = open.pop() {
            let (status, body) = get(&path);
            assert_eq!(status, 200, "{path}");
            if path.ends_with("public-keys/") {
                assert_eq!(body, "0=a\n1=b");
                open.extend(["0/", "1/"].map(|key| format!("{path}{key}")));
            } else if path.ends_with('/') {
                open.extend(body.lines().map(|entry| format!("{path}{entry}")));
            } else {
                leaves += 1;
            }
        }
        assert!(leaves >= 15, "{leaves}");
        assert_eq!(get("/2009-04-04/meta-data/local-ipv4"), (200, "10.90.0.10".to_owned()));
        assert_eq!(get("/latest/meta-data/local-hostname"), (200, "web.hull.internal".to_owned()));
        assert_eq!(get("/latest/meta-data/public-keys/1/openssh-key"), (200, "ssh-ed25519 B".to_owned()));
    }

    #[test]
    fn the_openstack_documents_are_what_cloud_init_reads() {
        assert!(get("/openstack").1.contains("2018-08-27"));
        let meta: Value = serde_json::from_str(&get("/openstack/2018-08-27/meta_data.json").1).unwrap();
        assert_eq!(meta["uuid"], json!(guest().vm));
        assert_eq!(meta["public_keys"]["b"], "ssh-ed25519 B");
        assert_eq!(meta["meta"]["role"], "web");
        let network: Value = serde_json::from_str(&get("/openstack/latest/network_data.json").1).unwrap();
        assert_eq!(network["links"][0]["ethernet_mac_address"], "52:54:00:00:00:0a");
        assert_eq!(network["networks"][1]["type"], "ipv6_dhcpv6-stateful");
        assert_eq!(get("/openstack/latest/vendor_data.json"), (200, "{}".to_owned()));
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        for path in ["/latest/user-data", "/latest/meta-data/x", "/openstack/9999/meta_data.json", "/x", "/latest/x"] {
            assert_eq!(get(path).0, 404, "{path}");
        }
    }

    #[test]
    fn tokens_serve_their_vm_for_their_time() {
        let (status, token) = put_token("60");
        assert_eq!(status, 200);
        let with = |token: &str, now| {
            let (method, path) = ("GET".to_owned(), "/latest/meta-data/".to_owned());
            asked(&Request { method, path, token: Some(token.to_owned()), ..Request::default() }, now).0
        };
        assert_eq!(with(&token, 1059), 200);
        assert_eq!(with(&token, 1060), 401, "expired");
        assert_eq!(with("AAAA", 1000), 401);
        let others = KEY.issue(network().ports[1].vm.unwrap(), 2000);
        assert_eq!(with(&others, 1000), 401, "another VM's");
        for life in ["0", "21601", "x", "-1"] {
            assert_eq!(put_token(life).0, 400, "{life}");
        }
    }

    #[test]
    fn proxies_and_other_methods_are_refused() {
        let path = "/latest/meta-data/".to_owned();
        let proxied = Request { method: "GET".to_owned(), path: path.clone(), forwarded: true, ..Request::default() };
        assert_eq!(asked(&proxied, 0).0, 403);
        assert_eq!(asked(&Request { method: "POST".to_owned(), path, ..Request::default() }, 0).0, 405);
    }

    proptest! {
        #[test]
        fn no_path_breaks_it(path in "[/a-z0-9.%-]{0,80}", token in proptest::option::of(".{0,80}")) {
            let request = Request { method: "GET".to_owned(), path, token, ..Request::default() };
            prop_assert!([200, 401, 404].contains(&asked(&request, 5).0));
        }
    }
}
