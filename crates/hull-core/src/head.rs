//! The head of a document: its texts checked, its name claimed, and changed.

use std::collections::BTreeSet;

use hull_types::{
    error::Result,
    id::ProjectId,
    meta::{Meta, Metadata},
    name::Name,
};
use uuid::Uuid;

use crate::{
    call::Call,
    change::{Changes, Claim, Named, Write},
    check,
};

/// The texts of a new document.
pub(crate) struct Texts<'a> {
    pub(crate) name: Name,
    pub(crate) description: &'a str,
    pub(crate) metadata: &'a Metadata,
    pub(crate) tags: &'a BTreeSet<String>,
}

/// The texts of a request to make something.
macro_rules! texts {
    ($request:expr) => {
        $crate::head::texts!($request, $request.name.clone())
    };
    ($request:expr, $name:expr) => {
        $crate::head::Texts {
            name: $name,
            description: &$request.description,
            metadata: &$request.metadata,
            tags: &$request.tags,
        }
    };
}

/// The texts of a request to change something, put into a head.
macro_rules! retold {
    ($meta:expr, $wanted:expr) => {
        $crate::head::retell(
            $meta,
            $wanted.name.as_ref(),
            $wanted.description.as_deref(),
            $wanted.metadata.as_ref(),
            $wanted.tags.as_ref(),
        )
    };
}

pub(crate) use {retold, texts};

/// A checked head.
pub(crate) fn new(project: ProjectId, texts: Texts<'_>, call: &Call<'_>) -> Result<Meta> {
    let Texts { name, description, metadata, tags } = texts;
    check::description(description)?;
    check::metadata(metadata)?;
    check::tags(tags)?;
    Ok(Meta {
        description: description.to_owned(),
        metadata: metadata.clone(),
        tags: tags.clone(),
        ..Meta::new(project, name, call.now)
    })
}

/// Changes a head's texts; what is not given stays.
pub(crate) fn retell(
    meta: &mut Meta,
    name: Option<&Name>,
    description: Option<&str>,
    metadata: Option<&Metadata>,
    tags: Option<&BTreeSet<String>>,
) -> Result<()> {
    description.map_or(Ok(()), check::description)?;
    metadata.map_or(Ok(()), check::metadata)?;
    tags.map_or(Ok(()), check::tags)?;
    if let Some(name) = name {
        meta.name = name.clone();
    }
    if let Some(description) = description {
        description.clone_into(&mut meta.description);
    }
    if let Some(metadata) = metadata {
        meta.metadata = metadata.clone();
    }
    if let Some(tags) = tags {
        meta.tags = tags.clone();
    }
    Ok(())
}

/// The claim of a name in its project.
pub(crate) fn claim(kind: Named, meta: &Meta, id: Uuid) -> Claim {
    Claim::Name { kind, project: Some(meta.project), name: meta.name.clone(), id }
}

/// Moves the claim where the name changed.
pub(crate) fn reclaim(changes: &mut Changes, kind: Named, before: &Meta, after: &Meta, id: Uuid) {
    if before.name != after.name {
        changes.push(Write::Release(claim(kind, before, id)));
        changes.push(Write::Claim(claim(kind, after, id)));
    }
}
