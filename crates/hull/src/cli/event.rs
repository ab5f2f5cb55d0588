//! `hull event`.

use clap::Subcommand;
use futures::StreamExt;
use hull_types::{
    error::Result,
    event::{Actor, Event},
    wire::WatchEvent,
};

use super::Session;
use crate::output::{self, Show};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// List events, oldest first
    #[command(visible_alias = "ls")]
    List {
        /// Only those about this resource (id)
        #[arg(long)]
        resource: Option<String>,
        /// Of all projects and the system
        #[arg(short, long)]
        all_projects: bool,
        /// Go on printing as they happen
        #[arg(short, long)]
        follow: bool,
    },
}

/// Who did something, as people read it.
pub(crate) fn actor(actor: &Actor) -> String {
    match actor {
        Actor::Token { token } => format!("token {token}"),
        Actor::User { user } => format!("user {user}"),
        Actor::AppCredential { user, credential } => format!("app-credential {credential} of user {user}"),
        Actor::LocalRoot => "root".to_owned(),
        Actor::Server => "server".to_owned(),
        Actor::Node { node } => format!("node {node}"),
    }
}

impl Show for Event {
    const COLUMNS: &'static [&'static str] = &["at", "action", "resource", "actor", "message"];
    fn row(&self) -> Vec<String> {
        let actor = actor(&self.actor);
        let resource = format!("{} {}", self.resource.kind, self.resource.name);
        vec![format!("{:.0}", self.at), self.action.clone(), resource, actor, self.message.clone()]
    }
}

impl Verb {
    pub(crate) async fn run(self, session: &Session) -> Result<u8> {
        let Self::List { resource, all_projects, follow } = self;
        let all = all_projects.then(|| ("all-projects", "true".to_owned()));
        let query: Vec<_> = all.into_iter().chain(resource.map(|id| ("resource", id))).collect();
        let events = session.client.nouns("events").list::<Event>(&query).await?;
        output::list(&events, session.format);
        if follow {
            let newest = events.last().map(|event| event.id);
            let mut changes = session.client.watch::<Event>("v1/events", &query, None).await?;
            while let Some(change) = changes.next().await {
                match change? {
                    WatchEvent::Put { object, .. } if Some(object.id) > newest => output::line(object.row().join("  ")),
                    WatchEvent::Put { .. } | WatchEvent::Delete { .. } | WatchEvent::Bookmark { .. } => {}
                }
            }
        }
        Ok(0)
    }
}
