//! What commands about networks have in common: texts and tags given, changed, filtered by and shown.

use std::collections::BTreeSet;

use clap::Args;
use hull_types::{
    meta::{Meta, Metadata},
    name::Name,
};

use super::pair;

/// Texts of something new.
#[derive(Debug, Args)]
pub(crate) struct Described {
    /// Free text
    #[arg(long, default_value = "")]
    description: String,
    /// A label, key=value (repeatable)
    #[arg(long, value_parser = pair)]
    metadata: Vec<(String, String)>,
    /// A word to find it by (repeatable)
    #[arg(long = "tag")]
    tags: Vec<String>,
}

impl Described {
    pub(crate) fn parts(self) -> (String, Metadata, BTreeSet<String>) {
        (self.description, self.metadata.into_iter().collect(), self.tags.into_iter().collect())
    }
}

/// Texts that change.
#[derive(Debug, Args)]
pub(crate) struct Redescribed {
    /// New name
    #[arg(long)]
    name: Option<Name>,
    /// New description
    #[arg(long)]
    description: Option<String>,
    /// A label, key=value; given ones replace all
    #[arg(long, value_parser = pair)]
    metadata: Option<Vec<(String, String)>>,
    /// A tag; given ones replace all
    #[arg(long = "tag")]
    tags: Option<Vec<String>>,
}

impl Redescribed {
    pub(crate) fn parts(self) -> (Option<Name>, Option<String>, Option<Metadata>, Option<BTreeSet<String>>) {
        let Self { name, description, metadata, tags } = self;
        (
            name,
            description,
            metadata.map(|pairs| pairs.into_iter().collect()),
            tags.map(|tags| tags.into_iter().collect()),
        )
    }
}

/// What a listing shows.
#[derive(Debug, Args)]
pub(crate) struct Filtered {
    /// Of all projects
    #[arg(short, long)]
    all_projects: bool,
    /// Only those with this tag
    #[arg(long)]
    tag: Option<String>,
    /// Only the one of this name
    #[arg(long)]
    name: Option<String>,
}

impl Filtered {
    pub(crate) fn query(self) -> Vec<(&'static str, String)> {
        let all = self.all_projects.then(|| ("all-projects", "true".to_owned()));
        let filters = [("tag", self.tag), ("name", self.name)];
        all.into_iter().chain(filters.into_iter().filter_map(|(key, value)| Some((key, value?)))).collect()
    }
}

/// Lines of a page: label and value.
pub(crate) type Settings = Vec<(&'static str, String)>;

/// A page with what every document says of itself, without what is empty.
pub(crate) fn settings(mut page: Settings, meta: &Meta) -> Settings {
    let labels: Vec<String> = meta.metadata.iter().map(|(key, value)| format!("{key}={value}")).collect();
    page.push(("description", meta.description.clone()));
    page.push(("labels", labels.join(", ")));
    page.push(("tags", meta.tags.iter().cloned().collect::<Vec<_>>().join(", ")));
    page.push(("created", meta.created_at.to_string()));
    page.retain(|(_, value)| !value.is_empty());
    page
}

/// Things one beside the other.
pub(crate) fn spaced<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(" ")
}

/// `none`, or a value.
#[derive(Clone, Debug)]
pub(crate) enum OrNone<T> {
    None,
    Some(T),
}

impl<T: std::str::FromStr<Err: std::fmt::Display>> std::str::FromStr for OrNone<T> {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            text => text.parse().map(Self::Some).map_err(|why| format!("{why} (or `none`)")),
        }
    }
}

impl<T> From<OrNone<T>> for Option<T> {
    fn from(value: OrNone<T>) -> Self {
        match value {
            OrNone::None => None,
            OrNone::Some(value) => Some(value),
        }
    }
}
