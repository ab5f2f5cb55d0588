//! Migrations: begun and ended by operators, moved on by what nodes report.

use hull_core::{
    call::Call,
    change::{Changes, Write},
    migration::{Begin, Host, UnderWay, begin, cancel},
    placement::Candidate,
};
use hull_types::{
    error::{Error, Result},
    id::{NodeId, VmId},
    migration::{Migration, MigrationPhase},
    node::NodeFacts,
    wire::{MigrationCreate, Revised},
};
use uuid::Uuid;

use super::{
    App,
    ctx::{Ctx, by_text, missing},
    flavor::{answer, revised},
    list::Listing,
    node,
};
use crate::state::{keys::Kind, table::Doc, view::State};

/// How migrations are listed.
pub const LISTING: Listing<Migration, Revised<Migration>> = Listing {
    kinds: &[Kind::Migration],
    table: |state| &state.migrations,
    shared: None,
    view: |_, doc, _| revised(doc),
};

fn find<'a>(state: &'a State, text: &str) -> Result<&'a Doc<Migration>> {
    by_text(&state.migrations, None, text).ok_or_else(|| missing::<Migration>(text, None))
}

/// A VM's present migration, with all that it turns on.
pub(crate) fn under_way(state: &State, vm: VmId) -> Option<UnderWay<'_>> {
    Some(UnderWay {
        vm: &state.vms.get(vm)?.value,
        placement: &state.placement(vm)?.value,
        migration: &state.migration_of(vm)?.value,
    })
}

fn put(write: &Write) -> Option<&Migration> {
    match write {
        Write::PutMigration(migration) => Some(migration),
        _ => None,
    }
}

/// Which migrations a listing shows.
pub struct Filter {
    phase: Option<MigrationPhase>,
    vm: Option<VmId>,
    node: Option<NodeId>,
}

impl Filter {
    /// A filter by phase, and by VM and node as callers name them. Ids are taken as they are: a migration is told of for
    /// longer than its VM and nodes may be there.
    ///
    /// # Errors
    /// `NotFound` for names that name nothing.
    pub fn new(
        app: &App,
        ctx: &Ctx,
        phase: Option<MigrationPhase>,
        vm: Option<&str>,
        node: Option<&str>,
    ) -> Result<Self> {
        let vm = vm.map(|text| Uuid::parse_str(text).map(VmId).or_else(|_| app.vm_id(ctx, text))).transpose()?;
        let named = |text: &str| app.cache.read(|state| node::find(state, text).map(|node| node.id));
        let node = node.map(|text| Uuid::parse_str(text).map(NodeId).or_else(|_| named(text))).transpose()?;
        Ok(Self { phase, vm, node })
    }

    /// Whether it shows this one.
    pub fn keeps(&self, migration: &Migration) -> bool {
        self.phase.is_none_or(|phase| migration.phase == phase)
            && self.vm.is_none_or(|vm| migration.vm == vm)
            && self.node.is_none_or(|node| migration.from == node || migration.to == node)
    }
}

impl App {
    /// One migration.
    ///
    /// # Errors
    /// `Forbidden` outside of system scope; `NotFound`.
    pub fn migration(&self, ctx: &Ctx, text: &str) -> Result<Revised<Migration>> {
        ctx.on_system()?;
        self.cache.read(|state| find(state, text).map(revised))
    }

    /// Sends a VM to another node.
    ///
    /// # Errors
    /// `Forbidden` but for system admins; `NotFound`; the decision's.
    pub async fn begin_migration(&self, ctx: &Ctx, request: &MigrationCreate) -> Result<Revised<Migration>> {
        ctx.on_system()?;
        let _turn = self.placing.lock().await;
        Ok(self.change(ctx, |state, call| decide_begin(ctx, state, request, call)).await?.revised())
    }

    /// Ends a migration; the VM goes on where it is. One that is over stays as it is.
    ///
    /// # Errors
    /// `Forbidden` but for system admins; `NotFound`; `Conflict` where the VM is on its new node already.
    pub async fn cancel_migration(&self, ctx: &Ctx, text: &str) -> Result<Revised<Migration>> {
        ctx.on_system()?;
        let decide = |state: &State, call: &mut Call<'_>| {
            let migration = find(state, text)?;
            ctx.matches(migration.revision)?;
            let present = under_way(state, migration.vm).filter(|it| it.migration.id == migration.id);
            match present {
                Some(under_way) => answer(cancel(&under_way, call)?, Some(migration), put),
                None => answer(Changes::none(), Some(migration), put),
            }
        };
        let done = self.change(ctx, decide).await?;
        self.migration(ctx, &done.answer.object.id.to_string())
    }
}

fn decide_begin(
    ctx: &Ctx,
    state: &State,
    request: &MigrationCreate,
    call: &mut Call<'_>,
) -> Result<(Changes, Revised<Migration>)> {
    let vm = ctx.find(&state.vms, &request.vm, state).map_err(|error| at(error, "/vm"))?;
    let wanted = request.node.as_deref().map(|text| node::find(state, text)).transpose();
    let wanted = wanted.map_err(|error| at(error, "/node"))?.map(|node| node.id);
    let candidates = node::candidates(state);
    let facts = |node: &Candidate| state.node_status(node.id).map(|status| &status.value.facts);
    let told: Vec<Option<&NodeFacts>> = candidates.iter().map(facts).collect();
    let nodes: Vec<Host<'_>> =
        candidates.iter().zip(told).map(|(candidate, facts)| Host { candidate, facts }).collect();
    let plan = Begin {
        vm,
        placement: state.placement(vm.id).map(|placement| &*placement.value),
        status: state.status(vm.id).map(|status| &*status.value),
        nodes: &nodes,
        wanted,
    };
    answer(begin(&plan, call)?, None, put)
}

fn at(error: Error, field: &str) -> Error {
    if error.field.is_some() { error } else { error.at(field) }
}
