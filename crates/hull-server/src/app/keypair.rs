//! Keypairs of a project.

use hull_core::change::Write;
use hull_types::{
    error::Result,
    keypair::Keypair,
    wire::{KeypairCreate, Revised},
};

use super::{
    App,
    ctx::Ctx,
    flavor::{answer, revised},
    list::Listing,
    project::usage,
};
use crate::state::keys::Kind;

/// How keypairs are listed.
pub const LISTING: Listing<Keypair, Revised<Keypair>> =
    Listing { kinds: &[Kind::Keypair], table: |state| &state.keypairs, shared: None, view: |_, doc, _| revised(doc) };

impl App {
    /// One keypair.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn keypair(&self, ctx: &Ctx, text: &str) -> Result<Revised<Keypair>> {
        self.cache.read(|state| ctx.find(&state.keypairs, text, state).map(revised))
    }

    /// Takes a public key in.
    ///
    /// # Errors
    /// `Forbidden`; the decision's.
    pub async fn create_keypair(&self, ctx: &Ctx, request: &KeypairCreate) -> Result<Revised<Keypair>> {
        let project = self.cache.read(|state| ctx.project(state).map(|project| project.id))?;
        let _turn = self.turn(project).await;
        let done = self
            .change(ctx, |state, call| {
                let project = ctx.project(state)?;
                let changes = hull_core::keypair::create(project, usage(state, project.id), request, call)?;
                answer(changes, None, |write| match write {
                    Write::PutKeypair(keypair) => Some(keypair.as_ref()),
                    _ => None,
                })
            })
            .await?;
        Ok(done.revised())
    }

    /// Deletes a keypair.
    ///
    /// # Errors
    /// `Forbidden`; `NotFound`; `PreconditionFailed`.
    pub async fn delete_keypair(&self, ctx: &Ctx, text: &str) -> Result<()> {
        self.change(ctx, |state, call| {
            let keypair = ctx.find(&state.keypairs, text, state)?;
            ctx.matches(keypair.revision)?;
            Ok((hull_core::keypair::delete(keypair, usage(state, keypair.meta.project), call), ()))
        })
        .await
        .map(|done| done.answer)
    }
}
