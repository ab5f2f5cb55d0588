//! Listings on the wire: pages as JSON, watches as newline-delimited JSON.

use std::{pin::pin, sync::Arc};

use axum::{
    body::Body,
    http::header,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use hull_types::{
    error::{Error, Problem, Result},
    meta::Meta,
};
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;
use uuid::Uuid;

use super::problem::Answer;
use crate::{
    app::{
        App,
        ctx::{Ctx, PageOf},
        list::Listing,
    },
    state::{
        table::{Doc, Noun},
        view::State,
    },
};

/// The most of a page, and how many where the caller does not say.
const LIMIT_MAX: usize = 1_000;
const LIMIT: usize = 100;

/// The query of every listing. Filters that a noun does not have are refused.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// At most so many, 1 to 1,000; 100 where absent.
    limit: Option<usize>,
    /// The `next` of the page before.
    after: Option<Uuid>,
    /// Name or id of the project; the token's own, or `default`, where absent.
    #[serde(rename = "project")]
    _project: Option<String>,
    /// Those of all projects; needs system scope.
    #[serde(default)]
    pub(crate) all_projects: bool,
    /// Changes as they happen, as newline-delimited JSON, instead of a page.
    #[serde(default)]
    watch: bool,
    /// Watching: after this revision. Where absent, all there are come first, then a bookmark.
    since: Option<u64>,
    /// Waits for everything committed by now.
    #[serde(default, rename = "consistent")]
    _consistent: bool,
    /// Only the one of this id.
    pub(crate) id: Option<Uuid>,
    /// Only the one of this name.
    pub(crate) name: Option<String>,
    /// VMs: only those in this state.
    pub(crate) state: Option<String>,
    /// VMs: only those on this node (name or id). Migrations: only those from or to it.
    pub(crate) node: Option<String>,
    /// VMs: only those of this image (name or id).
    pub(crate) image: Option<String>,
    /// Events: only those of the resource of this id.
    pub(crate) resource: Option<Uuid>,
    /// Ports, migrations: only those of this VM (name or id).
    pub(crate) vm: Option<String>,
    /// Subnets, ports, floating IPs: only those of this network (name or id).
    pub(crate) network: Option<String>,
    /// Networks, subnets, routers, floating IPs, ports, security groups: only those with this tag.
    pub(crate) tag: Option<String>,
    /// Migrations: only those in this phase.
    pub(crate) phase: Option<String>,
    /// Images: with those that are hidden.
    #[serde(default)]
    pub(crate) hidden: bool,
}

impl ListQuery {
    /// Refuses filters that this noun does not have.
    pub(crate) fn only(self, filters: &[&str]) -> Result<Self> {
        let given = [
            ("state", self.state.is_some()),
            ("node", self.node.is_some()),
            ("image", self.image.is_some()),
            ("resource", self.resource.is_some()),
            ("vm", self.vm.is_some()),
            ("network", self.network.is_some()),
            ("tag", self.tag.is_some()),
            ("phase", self.phase.is_some()),
            ("hidden", self.hidden),
        ];
        match given.iter().find(|(name, given)| *given && !filters.contains(name)) {
            Some((name, _)) => {
                Err(Error::invalid(format!("?{name} is no filter of this listing")).at(format!("?{name}")))
            }
            None => Ok(self),
        }
    }

    fn page(&self) -> Result<PageOf> {
        match self.limit.unwrap_or(LIMIT) {
            limit @ 1..=LIMIT_MAX => Ok(PageOf { limit, after: self.after }),
            limit => Err(Error::invalid(format!("a page has 1 to {LIMIT_MAX} items, not {limit}")).at("?limit")),
        }
    }

    /// Answers a page, or begins a watch.
    pub(crate) fn serve<T, V, K>(self, app: &Arc<App>, ctx: &Ctx, listing: Listing<T, V>, keep: K) -> Answer<Response>
    where
        T: Noun + Send + Sync + 'static,
        V: Serialize + Send + 'static,
        K: Fn(&State, &Doc<T>) -> bool + Send + 'static,
    {
        let whose = app.whose(ctx, self.all_projects)?;
        let page = self.page()?;
        let (id, name) = (self.id, self.name);
        let keep = move |state: &State, doc: &Doc<T>| {
            id.is_none_or(|id| doc.uuid() == id)
                && name.as_ref().is_none_or(|name| doc.name().is_some_and(|own| own.as_str() == name))
                && keep(state, doc)
        };
        if !self.watch {
            return Ok(axum::Json(app.page(listing, whose, page, keep)).into_response());
        }
        let events = app.watch(listing, whose, self.since, keep)?;
        let all = self.all_projects;
        let same = move |app: &App, ctx: &Ctx| match app.whose(ctx, all)? {
            now if now == whose => Ok(()),
            _ => Err(Error::forbidden("your roles have changed; list again")),
        };
        let events = until(events, app.clone().until_revoked(ctx.clone(), same));
        let lines = events.map(|event| match event {
            Ok(event) => line(&event),
            // The stream has begun, so its end is told in its own last line.
            Err(error) => line(&Problem::from(error)),
        });
        let body = Body::from_stream(lines);
        Ok(([(header::CONTENT_TYPE, "application/x-ndjson"), (header::CACHE_CONTROL, "no-store")], body)
            .into_response())
    }
}

/// The stream's items, ended by an error before their own end.
fn until<T: Send>(
    items: impl Stream<Item = Result<T>> + Send,
    over: impl Future<Output = Error> + Send,
) -> impl Stream<Item = Result<T>> + Send {
    async_stream::stream! {
        let (mut items, mut over) = (pin!(items), pin!(over));
        loop {
            tokio::select! {
                item = items.next() => match item {
                    Some(item) => yield item,
                    None => return,
                },
                error = &mut over => {
                    yield Err(error);
                    return;
                }
            }
        }
    }
}

/// A filter by tag.
pub(crate) fn tagged(tag: Option<String>) -> impl Fn(&Meta) -> bool + Send + 'static {
    move |meta| tag.as_ref().is_none_or(|tag| meta.tags.contains(tag))
}

/// One line of a stream of JSON lines.
pub(crate) fn line(value: &impl Serialize) -> Result<Bytes, serde_json::Error> {
    let mut text = serde_json::to_vec(value)?;
    text.push(b'\n');
    Ok(text.into())
}
