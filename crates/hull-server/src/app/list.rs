//! Listings and watches, the same for every noun.

use std::{collections::BTreeMap, sync::Arc};

use futures::{Stream, StreamExt};
use hull_core::policy::Who;
use hull_types::{
    Timestamp,
    error::{Error, ErrorKind, Result},
    id::ProjectId,
    token::Role,
    wire::{List, WatchEvent},
};
use uuid::Uuid;

use super::{
    App,
    ctx::{Ctx, PageOf},
};
use crate::{
    env::Env,
    state::{
        cache::Cache,
        keys::Kind,
        table::{Doc, Noun, Table},
        view::State,
    },
};

/// A bookmark is sent at least so often.
const BOOKMARK: std::time::Duration = std::time::Duration::from_secs(15);

/// Whose resources a listing shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// One project's, and what all projects share.
    Project(ProjectId),
    /// Everyone's.
    All,
    /// What belongs to no project.
    Nobody,
}

/// How a noun is listed and watched.
pub struct Listing<T, V> {
    /// The kinds of documents that make up the resource, its own first; all have its id.
    pub kinds: &'static [Kind],
    /// Its table.
    pub table: fn(&State) -> &Table<T>,
    /// Whether other projects see it, for nouns that can be shared, or hang on what can be.
    pub shared: Option<fn(&State, &T) -> bool>,
    /// What callers see.
    pub view: fn(&State, &Doc<T>, Timestamp) -> V,
}

impl<T, V> Clone for Listing<T, V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T, V> Copy for Listing<T, V> {}

impl<T: Noun, V> Listing<T, V> {
    fn sees(&self, state: &State, whose: Whose, doc: &Doc<T>) -> bool {
        match (whose, doc.project()) {
            (Whose::All, _) | (_, None) => true,
            (Whose::Nobody, Some(_)) => false,
            (Whose::Project(own), Some(owner)) => own == owner || self.shared.is_some_and(|shared| shared(state, doc)),
        }
    }

    /// Walks what `whose` may hold after an id, in order of ids.
    fn walk<'a>(
        &self,
        state: &'a State,
        whose: Whose,
        after: Option<Uuid>,
    ) -> impl Iterator<Item = &'a Doc<T>> + use<'a, T, V>
    where
        T: 'a,
        V: 'a,
    {
        let table = (self.table)(state);
        let own = match whose {
            // Owned nouns are found by their owner; shared ones are few and looked through.
            Whose::Project(project) if self.shared.is_none() && table.is_owned() => Some(project),
            Whose::Project(_) | Whose::All | Whose::Nobody => None,
        };
        let listing = *self;
        table.after(own, after).filter(move |doc| listing.sees(state, whose, doc))
    }
}

impl App {
    /// Whose resources the call lists; `all` is for who sees the whole cloud.
    ///
    /// # Errors
    /// `Forbidden`, `NotFound`.
    pub fn whose(&self, ctx: &Ctx, all: bool) -> Result<Whose> {
        if all {
            ctx.caller.system(Role::Reader)?;
            return Ok(Whose::All);
        }
        if !matches!(ctx.who(), Who::Project(_)) {
            return Ok(Whose::Nobody);
        }
        self.cache.read(|state| ctx.project(state).map(|project| Whose::Project(project.id)))
    }

    /// A page of those documents that `keep` lets through.
    pub fn page<T: Noun, V>(
        &self,
        listing: Listing<T, V>,
        whose: Whose,
        page: PageOf,
        keep: impl Fn(&State, &Doc<T>) -> bool,
    ) -> List<V> {
        let now = self.env.now();
        self.cache.read_at(|state, revision| {
            let mut found = listing.walk(state, whose, page.after).filter(|doc| keep(state, doc));
            let mut last = None;
            let mut items = Vec::with_capacity(page.limit.min(100));
            for doc in found.by_ref().take(page.limit) {
                last = Some(doc.uuid());
                items.push((listing.view)(state, doc, now));
            }
            let next = if found.next().is_some() { last.map(|id| id.to_string()) } else { None };
            List { items, next, revision }
        })
    }

    /// Changes as they happen: puts, deletes, and bookmarks when nothing happens. Without `since`, all there are come
    /// first. Ends with an error where the caller falls too far behind; then list again.
    ///
    /// # Errors
    /// Where the revision asked for is no longer known.
    pub fn watch<T, V, K>(
        &self,
        listing: Listing<T, V>,
        whose: Whose,
        since: Option<u64>,
        keep: K,
    ) -> Result<impl Stream<Item = Result<WatchEvent<V>>> + Send + use<T, V, K>>
    where
        T: Noun + 'static,
        V: Send + 'static,
        K: Fn(&State, &Doc<T>) -> bool + Send + 'static,
    {
        if let Some(since) = since {
            self.cache.since(since).map_err(|_| behind())?;
        }
        let watch = Following { cache: self.cache.clone(), env: self.env.clone(), listing, whose, keep };
        Ok(watch.follow(since))
    }
}

struct Following<T, V, K> {
    cache: Arc<Cache>,
    env: Env,
    listing: Listing<T, V>,
    whose: Whose,
    keep: K,
}

impl<T, V, K> Following<T, V, K>
where
    T: Noun + 'static,
    V: Send + 'static,
    K: Fn(&State, &Doc<T>) -> bool + Send + 'static,
{
    fn follow(self, since: Option<u64>) -> impl Stream<Item = Result<WatchEvent<V>>> + Send {
        async_stream::try_stream! {
            let mut wake = self.cache.subscribe();
            let mut at = match since {
                Some(since) => since,
                None => {
                    let (found, revision) = self.present();
                    for object in found {
                        yield WatchEvent::Put { revision, object };
                    }
                    yield WatchEvent::Bookmark { revision };
                    revision
                }
            };
            loop {
                // Marked as seen before reading, so that a revision that arrives meanwhile wakes again.
                wake.borrow_and_update();
                let (events, upto) = self.changes(at)?;
                at = upto;
                for event in events {
                    yield event;
                }
                match tokio::time::timeout(BOOKMARK, wake.changed()).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return,
                    Err(_) => yield WatchEvent::Bookmark { revision: at },
                }
            }
        }
        .boxed()
    }

    fn present(&self) -> (Vec<V>, u64) {
        let now = self.env.now();
        self.cache.read_at(|state, revision| {
            let found = self.listing.walk(state, self.whose, None).filter(|doc| (self.keep)(state, doc));
            (found.map(|doc| (self.listing.view)(state, doc, now)).collect(), revision)
        })
    }

    /// What changed after a revision, once for each resource, as it is now.
    fn changes(&self, after: u64) -> Result<(Vec<WatchEvent<V>>, u64)> {
        let (changed, upto) = self.cache.since(after).map_err(|_| behind())?;
        let mut last: BTreeMap<Uuid, (u64, bool)> = BTreeMap::new();
        for change in changed.iter().filter(|change| self.listing.kinds.contains(&change.kind)) {
            let mine = match (self.whose, change.project) {
                (Whose::All | Whose::Nobody, _) | (_, None) => true,
                (Whose::Project(own), Some(owner)) => own == owner || self.listing.shared.is_some(),
            };
            if mine {
                // A document beside the resource's own may outlive it by a moment; that is no news.
                let own_kind = self.listing.kinds.first() == Some(&change.kind);
                let told = last.entry(change.id).or_default();
                *told = (change.revision, told.1 || own_kind || !change.deleted);
            }
        }
        let now = self.env.now();
        let mut events: Vec<(u64, WatchEvent<V>)> = self.cache.read(|state| {
            let told = last.iter().filter(|(_, (_, news))| *news);
            // Among what has no owner, what the caller must not see is not even told as deleted while it is there.
            let hidden = |id: &Uuid| {
                let found = (self.listing.table)(state).get(*id);
                self.whose == Whose::Nobody && found.is_some_and(|doc| !(self.keep)(state, doc))
            };
            let told = told.filter(|(id, _)| !hidden(id));
            told.map(|(&id, &(revision, _))| (revision, self.event(state, id, revision, now))).collect()
        });
        events.sort_by_key(|(revision, _)| *revision);
        Ok((events.into_iter().map(|(_, event)| event).collect(), upto))
    }

    /// A resource that is gone, or no longer what was asked for, is told as deleted.
    fn event(&self, state: &State, id: Uuid, revision: u64, now: Timestamp) -> WatchEvent<V> {
        let found = (self.listing.table)(state).get(id);
        match found.filter(|doc| self.listing.sees(state, self.whose, doc) && (self.keep)(state, doc)) {
            Some(doc) => WatchEvent::Put { revision, object: (self.listing.view)(state, doc, now) },
            None => WatchEvent::Delete { revision, id: id.to_string() },
        }
    }
}

fn behind() -> Error {
    Error::new(
        ErrorKind::PreconditionFailed,
        "the changes since that revision are no longer known; list again and watch from the list's revision",
    )
}
