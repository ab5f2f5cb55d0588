//! `hull project`.

use clap::{ArgMatches, Args, FromArgMatches, Subcommand};
use hull_types::{
    error::Result,
    name::Name,
    project::{QuotaKind, QuotaUpdate},
    wire::{ProjectCreate, ProjectUpdate, ProjectView},
};
use serde::Serialize;

use super::Session;
use crate::output::{self, Format, Show};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// List projects
    #[command(visible_alias = "ls")]
    List,
    /// Show a project with its quota and usage
    Show {
        /// Name or id
        project: String,
    },
    /// Create a project
    Create {
        /// Its name
        name: Name,
        /// Free text
        #[arg(long, default_value = "")]
        description: String,
        #[command(flatten)]
        limits: Box<Limits>,
    },
    /// Rename a project, or describe it anew
    Update {
        /// Name or id
        project: String,
        /// Its new name
        #[arg(long)]
        name: Option<Name>,
        /// Free text
        #[arg(long)]
        description: Option<String>,
    },
    /// What projects may hold, and what they hold
    #[command(subcommand)]
    Quota(Quota),
    /// Delete an empty project
    #[command(visible_alias = "rm")]
    Delete {
        /// Name or id
        project: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Quota {
    /// Show what a project holds of what it may
    Show {
        /// Name or id
        project: String,
    },
    /// Change limits; those not given stay. One below what is held takes nothing away, but no more is given
    Set {
        /// Name or id
        project: String,
        #[command(flatten)]
        limits: Box<Limits>,
    },
}

/// An option for each kind that quotas count.
#[derive(Clone, Debug, Default)]
pub(crate) struct Limits(QuotaUpdate);

impl Args for Limits {
    fn augment_args(command: clap::Command) -> clap::Command {
        command.args(QuotaKind::ALL.iter().map(|&kind| {
            clap::Arg::new(kind.name())
                .long(kind.name().replace('_', "-"))
                .value_name("LIMIT")
                .help(format!("At most so much: {} `none` is no limit", kind.help().trim()))
                .value_parser(move |text: &str| limit(kind, text))
        }))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Limits {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut limits = Self::default();
        limits.update_from_arg_matches(matches)?;
        Ok(limits)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for &kind in QuotaKind::ALL {
            if let Some(&Limit(limit)) = matches.get_one::<Limit>(kind.name()) {
                self.0.set(kind, limit);
            }
        }
        Ok(())
    }
}

/// A limit as an option carries it; none lifts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Limit(Option<u64>);

fn limit(kind: QuotaKind, text: &str) -> Result<Limit, String> {
    match text {
        "none" => Ok(Limit(None)),
        amount => kind.parse(amount).map(|limit| Limit(Some(limit))),
    }
}

impl Show for ProjectView {
    const COLUMNS: &'static [&'static str] = &["name", "vms", "vcpus", "memory", "disk", "images", "id"];
    fn row(&self) -> Vec<String> {
        let of = |kind: QuotaKind| {
            let used = kind.show(self.usage.get(kind));
            self.project.quota.limit(kind).map_or(used.clone(), |limit| format!("{used} of {}", kind.show(limit)))
        };
        let shown = [QuotaKind::Vms, QuotaKind::Vcpus, QuotaKind::Memory, QuotaKind::Disk, QuotaKind::Images];
        let name = std::iter::once(self.project.name.to_string());
        name.chain(shown.map(of)).chain([self.project.id.to_string()]).collect()
    }

    fn page(&self) -> Vec<(&'static str, String)> {
        vec![
            ("name", self.project.name.to_string()),
            ("id", self.project.id.to_string()),
            ("description", self.project.description.clone()),
            ("created", format!("{:.0}", self.project.created_at)),
        ]
    }
}

/// A line of the table of a project's quota.
#[derive(Debug, Serialize)]
struct Share {
    kind: QuotaKind,
    used: u64,
    limit: Option<u64>,
}

impl Show for Share {
    const COLUMNS: &'static [&'static str] = &["what", "used", "limit", "percent"];
    fn row(&self) -> Vec<String> {
        let Self { kind, used, limit } = *self;
        let percent = match limit {
            None => "-".to_owned(),
            Some(0) if used == 0 => "0".to_owned(),
            Some(0) => "above".to_owned(),
            // Rounded up: a trace of something is not nothing.
            Some(limit) => (u128::from(used) * 100).div_ceil(u128::from(limit)).to_string(),
        };
        let limit = limit.map_or("none".to_owned(), |limit| kind.show(limit));
        vec![kind.name().replace('_', "-"), kind.show(used), limit, percent]
    }
}

fn shares(view: &ProjectView) -> Vec<Share> {
    let share = |&kind| Share { kind, used: view.usage.get(kind), limit: view.project.quota.limit(kind) };
    QuotaKind::ALL.iter().map(share).collect()
}

/// A project, and in a table for people what it holds of what it may.
fn show(view: &ProjectView, format: Format) {
    output::one(view, format);
    if matches!(format, Format::Table) {
        output::line("");
        output::list(&shares(view), format);
    }
    warn(view);
}

/// Says what is held beyond the quota, beside the answer.
fn warn(view: &ProjectView) {
    let above: Vec<String> = view
        .above
        .iter()
        .map(|&kind| {
            let limit = view.project.quota.limit(kind).map_or_else(String::new, |limit| kind.show(limit));
            format!("{} ({} of {limit})", kind.name().replace('_', "-"), kind.show(view.usage.get(kind)))
        })
        .collect();
    if !above.is_empty() {
        output::note(format!(
            "project {} holds more than its quota of {}: nothing is taken away, no more is given until it holds less",
            view.project.name,
            above.join(", ")
        ));
    }
}

impl Verb {
    pub(crate) async fn run(self, session: &Session) -> Result<u8> {
        let projects = session.client.nouns("projects");
        match self {
            Self::List => output::list(&projects.list::<ProjectView>(&[]).await?, session.format),
            Self::Show { project } => show(&projects.show::<ProjectView>(&project).await?, session.format),
            Self::Create { name, description, limits } => {
                let Limits(quota) = *limits;
                let body = ProjectCreate { name, description, quota: Some(quota) };
                show(&projects.create::<_, ProjectView>(&body).await?, session.format);
            }
            Self::Update { project, name, description } => {
                let body = ProjectUpdate { name, description, quota: None };
                show(&projects.update::<_, ProjectView>(&project, &body).await?, session.format);
            }
            Self::Quota(Quota::Show { project }) => {
                let view = projects.show::<ProjectView>(&project).await?;
                output::list(&shares(&view), session.format);
                warn(&view);
            }
            Self::Quota(Quota::Set { project, limits }) => {
                let Limits(quota) = *limits;
                let body = ProjectUpdate { quota: Some(quota), ..ProjectUpdate::default() };
                let view = projects.update::<_, ProjectView>(&project, &body).await?;
                output::list(&shares(&view), session.format);
                warn(&view);
            }
            Self::Delete { project } => projects.delete(&project).await?,
        }
        Ok(0)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn share(used: u64, limit: Option<u64>) -> String {
        Share { kind: QuotaKind::Vms, used, limit }.row().join(" ")
    }

    #[test]
    fn shares_are_told_in_percent() {
        assert_eq!(share(3, Some(20)), "vms 3 20 15");
        assert_eq!(share(30, Some(20)), "vms 30 20 150");
        assert_eq!(share(3, None), "vms 3 none -");
        assert_eq!(share(0, Some(0)), "vms 0 0 0");
        assert_eq!(share(1, Some(0)), "vms 1 0 above");
    }

    #[test]
    fn every_kind_is_an_option() {
        let command = Limits::augment_args(clap::Command::new("set"));
        let given = ["set", "--vms", "20", "--memory", "64GiB", "--security-groups", "none"];
        let matches = command.clone().try_get_matches_from(given).unwrap();
        let Limits(update) = Limits::from_arg_matches(&matches).unwrap();
        assert_eq!((update.vms, update.ports), (Some(Some(20)), None));
        assert_eq!(update.memory.unwrap().unwrap().0, 64 << 30);
        assert_eq!(update.security_groups, Some(None));
        assert!(command.try_get_matches_from(["set", "--vms", "many"]).is_err());
    }
}
