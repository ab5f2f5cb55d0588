//! `hull audit`.

use clap::{Args, Subcommand, ValueEnum};
use futures::StreamExt;
use hull_types::{
    Timestamp,
    audit::{Audit, Outcome},
    error::Result,
    event::Actor,
};

use super::Session;
use crate::output::{self, Show};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// List records, oldest first; those of the last day where --since does not say
    #[command(visible_alias = "ls")]
    List(Filters),
    /// Print all records as JSON lines
    Export(Filters),
}

/// How a call ended.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Ended {
    /// Done
    Ok,
    /// Answered as the same call before it, under its idempotency key
    Replayed,
    /// Refused, or failed
    Refused,
    /// The caller hung up first
    BrokenOff,
}

#[derive(Debug, Args)]
pub(crate) struct Filters {
    /// Not before: a time (2026-01-31T12:00:00Z) or so long ago (2h, 30d)
    #[arg(long, value_parser = when)]
    since: Option<Timestamp>,
    /// Not after: a time or so long ago
    #[arg(long, value_parser = when)]
    until: Option<Timestamp>,
    /// Whose: the id of an actor or credential, or a kind of actor (local-root)
    #[arg(long)]
    actor: Option<String>,
    /// What: an operation (vms.create), or all of a noun (vms)
    #[arg(long)]
    action: Option<String>,
    /// On what: an id or a name
    #[arg(long)]
    resource: Option<String>,
    /// How it ended
    #[arg(long, value_enum)]
    outcome: Option<Ended>,
    /// Of all projects and the system
    #[arg(short, long)]
    all_projects: bool,
}

/// A time, or how long ago.
fn when(text: &str) -> std::result::Result<Timestamp, String> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at);
    }
    let bad = || format!("{text:?} is no time; write 2026-01-31T12:00:00Z, or how long ago: 30m, 2h, 7d");
    let span = text.parse::<jiff::Span>().map_err(|_| bad())?;
    let ago = span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).map_err(|_| bad())?;
    Timestamp::now().checked_sub(ago).map_err(|_| bad())
}

impl Filters {
    fn query(self) -> Vec<(&'static str, String)> {
        let outcome = self.outcome.and_then(|ended| ended.to_possible_value()).map(|value| value.get_name().to_owned());
        let given = [
            ("since", self.since.map(|at| at.to_string())),
            ("until", self.until.map(|at| at.to_string())),
            ("actor", self.actor),
            ("action", self.action),
            ("resource", self.resource),
            ("outcome", outcome),
            ("all-projects", self.all_projects.then(|| "true".to_owned())),
        ];
        given.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

/// Who, as a table shows them: the kind of actor and its ids, in the words of the wire.
fn who(actor: Option<&Actor>) -> String {
    let fields = actor.and_then(|actor| serde_json::to_value(actor).ok());
    let mut fields = fields.and_then(|value| value.as_object().cloned()).unwrap_or_default();
    let kind = fields.remove("actor");
    let words = kind.iter().chain(fields.values()).filter_map(|value| value.as_str());
    let text = words.collect::<Vec<_>>().join(" ");
    if text.is_empty() { "unknown".to_owned() } else { text }
}

impl Show for Audit {
    const COLUMNS: &'static [&'static str] = &["at", "actor", "from", "action", "on", "outcome"];
    fn row(&self) -> Vec<String> {
        let from = self.origin.address.map_or("local socket".to_owned(), |address| address.to_string());
        let on = match self.targets.as_slice() {
            [] => self.origin.path.clone(),
            [one] => format!("{} {}", one.kind, one.name),
            [first, rest @ ..] => format!("{} {} and {} more", first.kind, first.name, rest.len()),
        };
        let mut outcome = match &self.outcome {
            Outcome::Refused { status, error, detail, .. } => {
                let detail = detail.as_ref().map(|detail| format!(": {detail}")).unwrap_or_default();
                format!("refused {status} {}{detail}", output::word(error))
            }
            Outcome::Ok | Outcome::Replayed | Outcome::BrokenOff => self.outcome.word().to_owned(),
        };
        if self.count > 1 {
            outcome = format!("{outcome} ({} times)", self.count);
        }
        vec![format!("{:.0}", self.at), who(self.actor.as_ref()), from, self.origin.operation.clone(), on, outcome]
    }
}

impl Verb {
    pub(crate) async fn run(self, session: &Session) -> Result<u8> {
        match self {
            Self::List(filters) => {
                let since = filters.since.or_else(|| when("1d").ok());
                let query = Filters { since, ..filters }.query();
                output::list(&session.client.nouns("audit").list::<Audit>(&query).await?, session.format);
            }
            Self::Export(filters) => {
                let mut query = filters.query();
                query.push(("format", "jsonl".to_owned()));
                let (_, mut lines) = session.client.download("v1/audit", &query).await?;
                while let Some(chunk) = lines.next().await {
                    output::bytes(&chunk?);
                }
            }
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_say_how_long_ago() {
        let day = Timestamp::now().as_second() - 86_400;
        assert!(when("1d").is_ok_and(|at| (at.as_second() - day).abs() < 5));
        assert!(when("2h30m").is_ok());
        assert!(when("2026-01-31T12:00:00Z").is_ok());
        assert!(when("yesterday").is_err());
    }

    #[test]
    fn actors_are_told_by_kind_and_id() {
        assert_eq!(who(None), "unknown");
        assert_eq!(who(Some(&Actor::LocalRoot)), "local-root");
        let token = Actor::Token { token: uuid::Uuid::from_u128(7).into() };
        assert_eq!(who(Some(&token)), "token 00000000-0000-0000-0000-000000000007");
    }
}
