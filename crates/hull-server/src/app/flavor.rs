//! Flavors: the cloud's own; everyone reads them.

use hull_core::change::{Changes, Write};
use hull_types::{
    error::{Error, Result},
    flavor::Flavor,
    wire::{FlavorCreate, Revised},
};

use super::{
    App,
    ctx::{Ctx, by_text, missing},
    list::Listing,
};
use crate::state::{keys::Kind, table::Doc, view::State};

/// How flavors are listed.
pub const LISTING: Listing<Flavor, Revised<Flavor>> =
    Listing { kinds: &[Kind::Flavor], table: |state| &state.flavors, shared: None, view: |_, doc, _| revised(doc) };

/// A document with its revision.
pub(crate) fn revised<T: Clone>(doc: &Doc<T>) -> Revised<T> {
    Revised { object: T::clone(&doc.value), revision: doc.revision }
}

/// The document a decision puts, as the answer to whoever asked for it; with `before` where it changes nothing.
pub(crate) fn answer<T: Clone>(
    changes: Changes,
    before: Option<&Doc<T>>,
    put: impl Fn(&Write) -> Option<&T>,
) -> Result<(Changes, Revised<T>)> {
    let object = changes.writes.iter().find_map(put).or(before.map(|doc| &*doc.value)).cloned();
    let object = object.ok_or_else(|| Error::internal("a decision to make something makes nothing"))?;
    Ok((changes, Revised { object, revision: before.map_or(0, |doc| doc.revision) }))
}

pub(crate) fn find<'a>(state: &'a State, text: &str) -> Result<&'a Doc<Flavor>> {
    by_text(&state.flavors, None, text).ok_or_else(|| missing::<Flavor>(text, None))
}

impl App {
    /// One flavor.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn flavor(&self, text: &str) -> Result<Revised<Flavor>> {
        self.cache.read(|state| find(state, text).map(revised))
    }

    /// Makes a flavor.
    ///
    /// # Errors
    /// `Forbidden` but for system admins; the decision's.
    pub async fn create_flavor(&self, ctx: &Ctx, request: &FlavorCreate) -> Result<Revised<Flavor>> {
        ctx.on_system()?;
        let decide = |_: &State, call: &mut hull_core::call::Call<'_>| {
            answer(hull_core::flavor::create(request, call)?, None, |write| match write {
                Write::PutFlavor(flavor) => Some(flavor.as_ref()),
                _ => None,
            })
        };
        Ok(self.change(ctx, decide).await?.revised())
    }

    /// Deletes a flavor.
    ///
    /// # Errors
    /// `Forbidden` but for system admins; `NotFound`; `PreconditionFailed`.
    pub async fn delete_flavor(&self, ctx: &Ctx, text: &str) -> Result<()> {
        ctx.on_system()?;
        self.change(ctx, |state, call| {
            let flavor = find(state, text)?;
            ctx.matches(flavor.revision)?;
            Ok((hull_core::flavor::delete(flavor, call), ()))
        })
        .await
        .map(|done| done.answer)
    }
}
