//! Migrations: begun and ended by operators, moved on by what nodes report.

use hull_core::{
    change::Changes,
    migration::{Begin, Host, begin, cancel},
    placement::Candidate,
};
use hull_types::{
    error::{Error, Result},
    id::MigrationId,
    migration::Migration,
    node::NodeFacts,
    wire::{MigrationCreate, Revised},
};

use super::{
    App,
    ctx::{Ctx, by_text, missing},
    flavor::revised,
    list::Listing,
    node,
};
use crate::{
    controllers::migrations::under_way,
    state::{keys::Kind, table::Doc, view::State},
};

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
        let done = self.change(ctx, |state, call| decide_begin(ctx, state, request, call)).await?;
        self.migration(ctx, &done.answer.to_string())
    }

    /// Ends a migration; the VM goes on where it is. One that is over stays as it is.
    ///
    /// # Errors
    /// `Forbidden` but for system admins; `NotFound`; `Conflict` where the VM is on its new node already.
    pub async fn cancel_migration(&self, ctx: &Ctx, text: &str) -> Result<Revised<Migration>> {
        ctx.on_system()?;
        let done = self
            .change(ctx, |state, call| {
                let migration = find(state, text)?;
                ctx.matches(migration.revision)?;
                let present = under_way(state, migration.vm).filter(|it| it.migration.id == migration.id);
                let changes = match present {
                    Some(under_way) => cancel(&under_way, call)?,
                    None => Changes::none(),
                };
                Ok((changes, migration.id))
            })
            .await?;
        self.migration(ctx, &done.answer.to_string())
    }
}

fn decide_begin(
    ctx: &Ctx,
    state: &State,
    request: &MigrationCreate,
    call: &mut hull_core::call::Call<'_>,
) -> Result<(Changes, MigrationId)> {
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
    let (id, changes) = begin(&plan, call)?;
    Ok((changes, id))
}

fn at(error: Error, field: &str) -> Error {
    if error.field.is_some() { error } else { error.at(field) }
}
