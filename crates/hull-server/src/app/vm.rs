//! VMs: names become documents here, `hull_core::vm` decides, views are put together.

use std::net::IpAddr;

use hull_core::{
    call::Call,
    change::Changes,
    port::Wish,
    vm::{
        action::{Acting, act},
        create::{Create, Kernel, Nic, create},
        delete::{Deleting, delete},
        nic::Plug,
        state::{Seen, Standing, standing},
        update::update,
    },
};
use hull_types::{
    Timestamp,
    error::{Error, Result},
    id::{ImageId, NodeId, VmId},
    image::Image,
    keypair::Keypair,
    network::Mac,
    port::Port,
    project::Project,
    router::FloatingIp,
    security_group::SecurityGroup,
    vm::{Placement, Vm, VmState, VmStatus},
    wire::{DirectBootRequest, List, NicRequest, VmAction, VmAddress, VmCreate, VmUpdate, VmView},
};

use super::{
    App,
    ctx::Ctx,
    flavor, image,
    list::Listing,
    network::{self, Held, of_project},
    node,
    port::floating_ips,
    project::usage,
    security_group,
};
use crate::state::{keys::Kind, table::Doc, view::State};

/// How VMs are listed.
pub const LISTING: Listing<Vm, VmView> =
    Listing { kinds: &[Kind::Vm, Kind::Placement, Kind::VmStatus], table: |state| &state.vms, shared: None, view };

/// What people see of a VM.
pub(crate) fn stands(state: &State, vm: &Doc<Vm>, now: Timestamp) -> Standing {
    look(state, vm, now, standing)
}

/// Everything there is to know of a VM, for a look.
pub(crate) fn look<T>(state: &State, vm: &Doc<Vm>, now: Timestamp, look: impl FnOnce(&Seen<'_>) -> T) -> T {
    let placement = state.placement(vm.id).map(|placement| &*placement.value);
    look(&Seen {
        vm,
        revision: vm.revision,
        placement,
        status: state.status(vm.id).map(|status| &*status.value),
        node: placement.and_then(|placement| placement.node).and_then(|node| node::seen(state, node)),
        now,
    })
}

fn view(state: &State, vm: &Doc<Vm>, now: Timestamp) -> VmView {
    let stands = stands(state, vm, now);
    VmView {
        state: stands.state,
        reason: stands.reason,
        settled: stands.settled,
        addresses: vm
            .ports
            .iter()
            .filter_map(|&port| state.ports.get(port))
            .flat_map(|port| addresses(state, port))
            .collect(),
        placement: state.placement(vm.id).map(|placement| Placement::clone(&placement.value)),
        status: state.status(vm.id).map(|status| VmStatus::clone(&status.value)),
        revision: vm.revision,
        vm: public(vm),
    }
}

/// The document without its user data, which may hold secrets and is large.
fn public(vm: &Vm) -> Vm {
    Vm { user_data: None, ..vm.clone() }
}

fn addresses<'a>(state: &'a State, port: &'a Port) -> impl Iterator<Item = VmAddress> + 'a {
    let network = state.networks.get(port.network);
    network.into_iter().flat_map(move |network| {
        port.addresses.iter().map(move |fixed| VmAddress {
            network: network.meta.name.clone(),
            address: fixed.address,
            mac: port.mac,
        })
    })
}

/// Which VMs a listing shows.
pub struct Filter {
    state: Option<VmState>,
    node: Option<NodeId>,
    image: Option<ImageId>,
}

impl Filter {
    /// A filter by state, and by node and image as callers name them.
    ///
    /// # Errors
    /// `NotFound` for a node or image that is not there.
    pub fn new(app: &App, ctx: &Ctx, state: Option<VmState>, node: Option<&str>, image: Option<&str>) -> Result<Self> {
        app.cache.read(|all| {
            let node = node.map(|text| node::find(all, text).map(|node| node.id)).transpose()?;
            let image = image.map(|text| image::find(ctx, all, text).map(|image| image.id)).transpose()?;
            Ok(Self { state, node, image })
        })
    }

    /// Whether the listing shows this VM.
    pub fn keeps(&self, state: &State, vm: &Doc<Vm>, now: Timestamp) -> bool {
        let on = || state.placement(vm.id).and_then(|placement| placement.node);
        self.image.is_none_or(|image| vm.boot.image.as_ref().is_some_and(|own| own.id == image))
            && self.node.is_none_or(|node| on() == Some(node))
            && self.state.is_none_or(|wanted| stands(state, vm, now).state == wanted)
    }
}

/// A new VM, before anyone has placed it.
fn newborn(state: &State, vm: &Vm, changes: &Changes, now: Timestamp) -> VmView {
    let seen = Seen { vm, revision: 0, placement: None, status: None, node: None, now };
    let Standing { state: shown, reason, settled } = standing(&seen);
    let ports = changes.writes.iter().filter_map(|write| match write {
        hull_core::change::Write::PutPort(port) if port.vm == Some(vm.id) => Some(port.as_ref()),
        _ => None,
    });
    VmView {
        state: shown,
        reason,
        settled,
        addresses: ports.flat_map(|port| addresses(state, port)).collect(),
        placement: None,
        status: None,
        revision: 0,
        vm: public(vm),
    }
}

/// Where a VM and its ports stand, for deleting.
pub(crate) fn deleting<T>(state: &State, vm: &Vm, decide: impl FnOnce(&Deleting<'_>) -> T) -> T {
    let ports: Vec<Port> =
        vm.ports.iter().filter_map(|&port| state.ports.get(port)).map(|port| Port::clone(&port.value)).collect();
    let placement = state.placement(vm.id).map(|placement| &*placement.value);
    let floating_ips = ports.iter().flat_map(|port| state.floating_ips_of(port.id));
    let floating_ips: Vec<FloatingIp> = floating_ips.map(|floating| FloatingIp::clone(&floating.value)).collect();
    let usage = usage(state, vm.meta.project);
    let migration = state.migration_of(vm.id).map(|migration| &*migration.value);
    decide(&Deleting { vm, placement, migration, ports: &ports, floating_ips: &floating_ips, usage })
}

/// A kernel as a request names it, found.
pub(crate) fn kernel<'a>(
    ctx: &Ctx,
    state: &'a State,
    wanted: &'a DirectBootRequest,
    field: &str,
) -> Result<Kernel<'a>> {
    let at = |text: &str, part: &str| match image::find(ctx, state, text) {
        Ok(image) => Ok(&*image.value),
        Err(error) => Err(error.at(format!("{field}/{part}"))),
    };
    Ok(Kernel {
        kernel: at(&wanted.kernel, "kernel")?,
        initrd: wanted.initrd.as_deref().map(|text| at(text, "initrd")).transpose()?,
        cmdline: &wanted.cmdline,
    })
}

/// A NIC as a request names it, found.
enum Wanted<'a> {
    Make { held: Held<'a>, groups: Vec<&'a SecurityGroup>, addresses: &'a [IpAddr], mac: Option<Mac> },
    Take(&'a Port),
}

impl Wanted<'_> {
    fn nic(&self) -> Nic<'_> {
        match self {
            Self::Take(port) => Nic::Take(port),
            Self::Make { held, groups, addresses, mac } => {
                Nic::Make(Wish { on: held.on(), addresses, from: &[], mac: *mac, groups })
            }
        }
    }
}

/// Finds what a NIC's request names; errors name its fields.
fn wanted<'a>(ctx: &Ctx, state: &'a State, project: &Project, request: &'a NicRequest) -> Result<Wanted<'a>> {
    let NicRequest { network, port, security_groups, addresses, mac } = request;
    if let Some(text) = port {
        if network.is_some() || security_groups.is_some() || !addresses.is_empty() || mac.is_some() {
            return Err(
                Error::invalid("a port has its network, addresses and groups already; name it alone").at("/port")
            );
        }
        let port = of_project(&state.ports, project, text).map_err(|error| error.at("/port"))?;
        return Ok(Wanted::Take(&port.value));
    }
    let text = network.as_deref().unwrap_or(hull_core::network::DEFAULT);
    let network = network::find(ctx, state, text).map_err(|error| error.at("/network"))?;
    let groups = security_group::named(state, project, security_groups.as_deref())?;
    Ok(Wanted::Make { held: Held::new(state, network), groups, addresses, mac: *mac })
}

/// The NICs of a new VM: one on the default network where none is asked for.
fn nics<'a>(ctx: &Ctx, state: &'a State, project: &Project, request: &'a VmCreate) -> Result<Vec<Wanted<'a>>> {
    let Some(nics) = &request.nics else {
        let network = network::find(ctx, state, hull_core::network::DEFAULT)?;
        let groups = security_group::named(state, project, None)?;
        return Ok(vec![Wanted::Make { held: Held::new(state, network), groups, addresses: &[], mac: None }]);
    };
    let found = nics.iter().enumerate().map(|(at, nic)| {
        wanted(ctx, state, project, nic).map_err(|error| {
            let field = error.field.clone().unwrap_or_default();
            error.at(format!("/nics/{at}{field}"))
        })
    });
    found.collect()
}

fn decide_create(ctx: &Ctx, state: &State, request: &VmCreate, call: &mut Call<'_>) -> Result<(Changes, List<VmView>)> {
    let project = ctx.project(state)?;
    let image = |text: &str| image::find(ctx, state, text).map_err(|e| e.at("/image"));
    let keypairs = request.keypairs.iter().enumerate().map(|(at, text)| {
        ctx.find(&state.keypairs, text, state).map(|doc| &*doc.value).map_err(|e| e.at(format!("/keypairs/{at}")))
    });
    let keypairs = keypairs.collect::<Result<Vec<&Keypair>>>()?;
    let wanted = nics(ctx, state, project, request)?;
    let nics: Vec<Nic<'_>> = wanted.iter().map(Wanted::nic).collect();
    let flavor = request.flavor.as_deref();
    let changes = create(
        &Create {
            request,
            project,
            usage: usage(state, project.id),
            image: request.image.as_deref().map(image).transpose()?.map(|image| &*image.value),
            kernel: request.kernel.as_ref().map(|wanted| kernel(ctx, state, wanted, "/kernel")).transpose()?,
            flavor: flavor
                .map(|text| flavor::find(state, text).map_err(|e| e.at("/flavor")))
                .transpose()?
                .map(|f| &*f.value),
            keypairs: &keypairs,
            nics: &nics,
            nodes: &node::candidates(state),
        },
        call,
    )?;
    let items = changes.vms().map(|vm| newborn(state, vm, &changes, call.now)).collect();
    Ok((changes, List { items, next: None, revision: 0 }))
}

fn decide_act(ctx: &Ctx, state: &State, text: &str, action: &VmAction, call: &mut Call<'_>) -> Result<(Changes, VmId)> {
    let vm = ctx.find(&state.vms, text, state)?;
    ctx.matches(vm.revision)?;
    let project = state.projects.get(vm.meta.project).ok_or_else(|| Error::internal("the VM's project is gone"))?;
    let flavor = match action {
        VmAction::Resize { flavor: Some(text), .. } => Some(flavor::find(state, text).map_err(|e| e.at("/flavor"))?),
        _ => None,
    };
    let image: Option<&Doc<Image>> = match action {
        VmAction::Rebuild { image } | VmAction::Rescue { image } => match (image, &vm.boot.image) {
            (Some(text), _) => Some(image::find(ctx, state, text).map_err(|e| e.at("/image"))?),
            (None, Some(own)) => state.images.get(own.id),
            (None, None) => None,
        },
        _ => None,
    };
    let plugged = match action {
        VmAction::AttachNic { nic } => Some(wanted(ctx, state, project, nic).map_err(|error| {
            let field = error.field.clone().unwrap_or_default();
            error.at(format!("/nic{field}"))
        })?),
        _ => None,
    };
    let unplugged = match action {
        VmAction::DetachNic { port } => Some(of_project(&state.ports, project, port).map_err(|e| e.at("/port"))?),
        _ => None,
    };
    let floating_ips = unplugged.map(|port| floating_ips(state, port.id)).unwrap_or_default();
    let present = vm.ports.iter().filter_map(|&port| state.ports.get(port)).map(|port| &*port.value);
    let present: Vec<&Port> = present.collect();
    let unplugged = unplugged.map(|port| Plug::Out { port, floating_ips: &floating_ips, present: &present });
    let nodes = node::candidates(state);
    let placed = state.placement(vm.id).and_then(|placement| placement.node);
    let plan = Acting {
        vm,
        standing: &stands(state, vm, call.now),
        action,
        project,
        usage: usage(state, project.id),
        flavor: flavor.map(|flavor| &*flavor.value),
        image: image.map(|image| &*image.value),
        nic: plugged.as_ref().map(|wanted| Plug::In { nic: wanted.nic(), present: &present }).or(unplugged),
        nodes: &nodes,
        node: placed.and_then(|id| nodes.iter().find(|node| node.id == id)),
    };
    Ok((act(&plan, call)?, vm.id))
}

impl App {
    /// One VM.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn vm(&self, ctx: &Ctx, text: &str) -> Result<VmView> {
        let now = self.env.now();
        self.cache.read(|state| ctx.find(&state.vms, text, state).map(|vm| view(state, vm, now)))
    }

    /// A VM's id.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn vm_id(&self, ctx: &Ctx, text: &str) -> Result<VmId> {
        self.cache.read(|state| ctx.find(&state.vms, text, state).map(|vm| vm.id))
    }

    /// The user data a VM was given, base64; only for who may change it.
    ///
    /// # Errors
    /// `Forbidden`, `NotFound`.
    pub fn user_data(&self, ctx: &Ctx, text: &str) -> Result<Option<String>> {
        self.cache.read(|state| ctx.find(&state.vms, text, state).map(|vm| vm.user_data.clone()))
    }

    /// Makes one VM, or `count` of them, or none.
    ///
    /// # Errors
    /// `Forbidden`; `NotFound` for what the request names; the decision's.
    pub async fn create_vms(&self, ctx: &Ctx, request: &VmCreate) -> Result<List<VmView>> {
        let project = self.cache.read(|state| ctx.project(state).map(|project| project.id))?;
        let _turn = self.turn(project).await;
        Ok(self.change(ctx, |state, call| decide_create(ctx, state, request, call)).await?.revised())
    }

    /// Changes a VM's name, texts or policy.
    ///
    /// # Errors
    /// `Forbidden`; `NotFound`; `PreconditionFailed`; the decision's.
    pub async fn update_vm(&self, ctx: &Ctx, text: &str, wanted: &VmUpdate) -> Result<VmView> {
        let done = self
            .change(ctx, |state, call| {
                let vm = ctx.find(&state.vms, text, state)?;
                ctx.matches(vm.revision)?;
                Ok((update(vm, wanted, call)?, vm.id))
            })
            .await?;
        self.vm(ctx, &done.answer.to_string())
    }

    /// Acts on a VM: the wish is written; its node catches up with it.
    ///
    /// # Errors
    /// `Forbidden`; `NotFound`; `PreconditionFailed`; the decision's.
    pub async fn act_on_vm(&self, ctx: &Ctx, text: &str, action: &VmAction) -> Result<VmView> {
        let project = self.cache.read(|state| ctx.find(&state.vms, text, state).map(|vm| vm.meta.project))?;
        // Only these take from the quota.
        let _turn = match action {
            VmAction::Resize { .. } | VmAction::AttachNic { .. } => Some(self.turn(project).await),
            _ => None,
        };
        let done = self.change(ctx, |state, call| decide_act(ctx, state, text, action, call)).await?;
        self.vm(ctx, &done.answer.to_string())
    }

    /// Asks for a VM's deletion. It is accepted in every state but locked.
    ///
    /// # Errors
    /// `Forbidden`; `NotFound`; `PreconditionFailed`; `Conflict` where it is locked.
    pub async fn delete_vm(&self, ctx: &Ctx, text: &str) -> Result<()> {
        self.change(ctx, |state, call| {
            let vm = ctx.find(&state.vms, text, state)?;
            ctx.matches(vm.revision)?;
            Ok((deleting(state, vm, |plan| delete(plan, call))?, ()))
        })
        .await
        .map(|done| done.answer)
    }

    /// The node a VM is on, for a call that needs it now.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` where it is on none.
    pub(crate) fn node_of(&self, ctx: &Ctx, text: &str) -> Result<(NodeId, VmId)> {
        self.cache.read(|state| {
            let vm = ctx.find(&state.vms, text, state)?;
            let node = state.placement(vm.id).and_then(|placement| placement.node);
            let name = &vm.meta.name;
            let node = node.ok_or_else(|| {
                Error::conflict(format!("VM {name} is on no node yet; `hull explain vm {name}` says why"))
            })?;
            Ok((node, vm.id))
        })
    }
}
