//! Nodes: joining, maintenance, leaving.

use hull_types::{
    error::{Error, Result},
    event::Event,
    id::NodeId,
    name::Name,
    node::Node,
    token::JoinToken,
    vm::Vm,
    wire::NodeUpdate,
};

use crate::{
    call::Call,
    change::{Changes, Claim, Doc, Named, Write},
    event,
};

/// A host joins under this name. Its certificate will bear the new id.
pub fn join(name: Name, call: &mut Call<'_>) -> Changes {
    let node = Node { id: call.id(), name, joined_at: call.now, maintenance: false };
    let event = told(&node, "node.join", "joined", call);
    Changes::none().and(Write::Claim(claim(&node))).and(Write::PutNode(Box::new(node))).event(event)
}

/// What a host that asks to join brings.
#[derive(Clone, Copy, Debug)]
pub struct Joining<'a> {
    /// Its token.
    pub token: &'a JoinToken,
    /// The name it wants.
    pub name: &'a Name,
    /// The node of that name, where there is one.
    pub there: Option<&'a Node>,
    /// The node whose certificate it showed.
    pub proves: Option<NodeId>,
}

/// Decides whether a host with a token that works becomes a node, and which. Whoever is a node is told the user data and
/// images of its VMs, so a name that is taken is given to its holder only, or where an admin has said so.
pub fn admit(joining: &Joining<'_>, call: &mut Call<'_>) -> Result<(NodeId, Changes)> {
    let Joining { token, name, there, proves } = *joining;
    if let Some(only) = token.name.as_ref().filter(|only| *only != name) {
        let detail = format!("this join token is for node {only} alone, not for {name}; join with `--name {only}`");
        return Err(Error::forbidden(detail));
    }
    let Some(node) = there else {
        let changes = join(name.clone(), call);
        let made = changes.writes.iter().find_map(|w| if let Write::PutNode(node) = w { Some(node.id) } else { None });
        let id = made.ok_or_else(|| Error::internal("a joining node was not decided"))?;
        return Ok((id, changes));
    };
    if proves != Some(node.id) && token.name.is_none() {
        let detail = format!(
            "there is a node {name} already, and this host does not prove to be it; join under another name, remove it (`hull node delete {name}`), or let this host take its place with a token of `hull node join-token --name {name}`"
        );
        return Err(Error::forbidden(detail));
    }
    let how = if proves == Some(node.id) { "joined again" } else { "joined again, by a token bound to its name" };
    let event = told(node, "node.join", how, call);
    Ok((node.id, Changes::none().unchanged(Doc::Node(node.id)).event(event)))
}

/// An operator changes a node.
pub fn update(node: &Node, wanted: &NodeUpdate, call: &mut Call<'_>) -> Changes {
    let maintenance = wanted.maintenance.unwrap_or(node.maintenance);
    if maintenance == node.maintenance {
        return Changes::none();
    }
    let message = if maintenance { "taken out: no new VMs are placed here" } else { "taken in again" };
    let event = told(node, "node.update", message, call);
    let after = Node { maintenance, ..node.clone() };
    Changes::none().unchanged(Doc::Node(node.id)).and(Write::PutNode(Box::new(after))).event(event)
}

/// The VMs that keep a node.
#[derive(Clone, Copy, Debug, Default)]
pub struct Holds<'a> {
    /// Those placed on it.
    pub placed: &'a [&'a Vm],
    /// Those on their way to it.
    pub coming: &'a [&'a Vm],
}

/// An operator removes a node for good. VMs' disks are on their node alone, so it goes only when no VM is wanted there;
/// VMs whose deletion was asked for do not keep a silent node, and neither do those that would have come.
pub fn delete(node: &Node, answers: bool, holds: Holds<'_>, call: &mut Call<'_>) -> Result<Changes> {
    let name = &node.name;
    let wanted: Vec<&Vm> = holds.placed.iter().filter(|vm| vm.deleted_at.is_none() || answers).copied().collect();
    if !wanted.is_empty() {
        let next = if answers {
            format!("move them away (`hull node drain {name}`), or delete them and wait until they are gone")
        } else {
            "it does not answer, so none can be moved away; delete them first, and wait until they are gone".to_owned()
        };
        let detail = format!("node {name} holds {} VMs with their disks ({}); {next}", wanted.len(), some(&wanted));
        return Err(Error::conflict(detail));
    }
    if answers && !holds.coming.is_empty() {
        let (many, which) = (holds.coming.len(), some(holds.coming));
        let detail = format!(
            "{many} VMs are on their way to it, node {name} ({which}); wait, or cancel that (`hull migration list`)"
        );
        return Err(Error::conflict(detail));
    }
    let event = told(node, "node.delete", "removed", call);
    Ok(Changes::none()
        .unchanged(Doc::Node(node.id))
        .and(Write::DeleteNode(node.id))
        .and(Write::DeleteNodeStatus(node.id))
        .and(Write::Release(claim(node)))
        .event(event))
}

/// The first names of many.
fn some(vms: &[&Vm]) -> String {
    let shown = vms.iter().take(5).map(|vm| vm.meta.name.as_str()).collect::<Vec<_>>().join(", ");
    let more = if vms.len() > 5 { ", …" } else { "" };
    format!("{shown}{more}")
}

fn claim(node: &Node) -> Claim {
    Claim::Name { kind: Named::Node, project: None, name: node.name.clone(), id: node.id.0 }
}

fn told(node: &Node, action: &str, message: &str, call: &mut Call<'_>) -> Event {
    event::about(call, None, ("node", node.id.0, node.name.as_str()), action, message)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use hull_types::{Timestamp, vm::Vm};

    use super::*;
    use crate::{
        testing::{self, NOW, Seeded, call, name},
        vm::testing::vm,
    };

    #[test]
    fn a_node_goes_when_no_vm_is_wanted_there() {
        let (node, _) = testing::node("n1");
        let deleted = |at: Option<Timestamp>| Vm { deleted_at: at, ..vm() };
        let try_delete = |answers, vm: &Vm| {
            delete(&node, answers, Holds { placed: &[vm], coming: &[] }, &mut call(&mut Seeded::new(1)))
        };
        let refusal = try_delete(true, &deleted(None)).unwrap_err().detail;
        assert!(refusal.contains("holds 1 VMs with their disks (web); move them away (`hull node drain n1`)"));
        let refusal = try_delete(false, &deleted(None)).unwrap_err().detail;
        assert!(refusal.contains("none can be moved away"), "its disk would be lost, and nothing moves it: {refusal}");
        assert!(try_delete(true, &deleted(Some(NOW))).is_err(), "it is tearing down");
        assert!(try_delete(false, &deleted(Some(NOW))).is_ok(), "nobody is left to wait for");

        let comes =
            |answers| delete(&node, answers, Holds { placed: &[], coming: &[&vm()] }, &mut call(&mut Seeded::new(1)));
        assert!(comes(true).unwrap_err().detail.contains("1 VMs are on their way to it, node n1 (web)"));
        assert!(comes(false).is_ok(), "a silent node gets none");
    }

    fn token(only: Option<&str>) -> JoinToken {
        JoinToken {
            id: hull_types::id::TokenId(uuid::Uuid::nil()),
            secret_digest: hull_types::digest::Digest([1; 32]),
            reusable: false,
            name: only.map(name),
            created_at: NOW,
            expires_at: NOW,
        }
    }

    #[test]
    fn a_name_that_is_taken_is_given_to_its_holder_or_where_an_admin_said_so() {
        let (node, _) = testing::node("n1");
        let stranger = NodeId(uuid::Uuid::from_u128(0x99));
        for (only, wants, there, proves, joins) in [
            (None, "n1", false, None, true),
            (Some("n1"), "n1", false, None, true),
            (Some("n2"), "n1", false, None, false),
            (None, "n1", true, None, false),
            (None, "n1", true, Some(stranger), false),
            (None, "n1", true, Some(node.id), true),
            (Some("n1"), "n1", true, None, true),
            (Some("n2"), "n1", true, Some(node.id), false),
        ] {
            let (token, name) = (token(only), name(wants));
            let joining = Joining { token: &token, name: &name, there: there.then_some(&node), proves };
            let admitted = admit(&joining, &mut call(&mut Seeded::new(1)));
            assert_eq!(admitted.is_ok(), joins, "{joining:?}");
            match admitted {
                Ok((id, changes)) => {
                    assert_eq!(id == node.id, there, "who joins again keeps its id, and its VMs");
                    assert!(changes.writes.iter().any(|w| matches!(w, Write::Event(e) if e.action == "node.join")));
                }
                Err(error) => assert!(error.detail.contains("--name"), "{error}"),
            }
        }
    }

    #[test]
    fn joining_claims_the_name_and_maintenance_is_written_once() {
        let mut fresh = Seeded::new(1);
        let joined = join(name("n1"), &mut call(&mut fresh));
        assert!(matches!(joined.writes[0], Write::Claim(Claim::Name { kind: Named::Node, project: None, .. })));
        let (node, _) = testing::node("n1");
        let out = NodeUpdate { maintenance: Some(true) };
        assert!(!update(&node, &out, &mut call(&mut fresh)).is_empty());
        assert!(update(&Node { maintenance: true, ..node }, &out, &mut call(&mut fresh)).is_empty());
    }
}
