//! OVA: a tar of an OVF description (XML), its disks and a manifest.
//!
//! Only the description's list of files is read, and only to learn which member is the disk. Members that are not
//! plain files, or whose names are paths, make the whole archive suspect and refuse it.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
};

use hull_types::error::{Error, Result};

const MAX_MEMBERS: usize = 64;
const MAX_TEXT: u64 = 1 << 20;

/// A member of the archive, as a range of the archive's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) offset: u64,
    pub(crate) size: u64,
}

/// Finds the one disk of an OVA.
///
/// # Errors
/// `Invalid` for archives with links, paths, no or several disks, or that are cut off.
pub(crate) fn find_disk(archive: &File) -> Result<Member> {
    let refuse = |why: &str| Error::invalid(format!("refused ova image: {why}"));
    let members = members(archive)?;
    let description = members.iter().find(|m| m.name.to_ascii_lowercase().ends_with(".ovf"));
    let description = description.ok_or_else(|| refuse("it has no .ovf description; is it a plain tar?"))?;
    let text = read_text(archive, description)?;
    let mut files = hrefs(&text);
    files.sort_unstable();
    files.dedup();
    let disks: Vec<&str> = files.into_iter().filter(|name| !is_companion(name)).collect();
    let [disk] = disks[..] else {
        return Err(refuse(&match disks.len() {
            0 => "its description names no disk".to_owned(),
            n => format!("it has {n} disks; unpack it and import each by itself"),
        }));
    };
    let found = members.into_iter().find(|m| m.name == disk);
    found.ok_or_else(|| refuse(&format!("its description names the disk {disk:?}, which is not in the archive")))
}

/// Files of an OVF that are no disks.
fn is_companion(name: &str) -> bool {
    [".nvram", ".mf", ".cert", ".xml", ".txt", ".iso"].iter().any(|end| name.to_ascii_lowercase().ends_with(end))
}

fn members(archive: &File) -> Result<Vec<Member>> {
    let refuse = |why: String| Error::invalid(format!("refused ova image: {why}"));
    let broken = |e: std::io::Error| refuse(format!("the archive is damaged or truncated: {e}"));
    let mut file = archive.try_clone().map_err(broken)?;
    file.seek(SeekFrom::Start(0)).map_err(broken)?;
    let length = file.metadata().map_err(broken)?.len();
    let mut tar = tar::Archive::new(file);
    let mut members = Vec::new();
    for entry in tar.entries_with_seek().map_err(broken)? {
        let entry = entry.map_err(broken)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if !entry.header().entry_type().is_file() {
            return Err(refuse(format!("the member {name:?} is not a plain file")));
        }
        if name.contains('/') || name.contains('\\') || name.starts_with('.') || name.is_empty() {
            return Err(refuse(format!("the member's name {name:?} is a path; an OVA is flat")));
        }
        if members.len() == MAX_MEMBERS {
            return Err(refuse(format!("it has more than {MAX_MEMBERS} members")));
        }
        let (offset, size) = (entry.raw_file_position(), entry.size());
        if offset.checked_add(size).is_none_or(|end| end > length) {
            return Err(refuse(format!("the archive is truncated in {name:?}")));
        }
        members.push(Member { name, offset, size });
    }
    Ok(members)
}

fn read_text(archive: &File, member: &Member) -> Result<String> {
    if member.size > MAX_TEXT {
        return Err(Error::invalid(format!("refused ova image: {:?} is larger than {MAX_TEXT} bytes", member.name)));
    }
    let mut text = String::new();
    let read = archive.try_clone().and_then(|mut file| {
        file.seek(SeekFrom::Start(member.offset))?;
        file.take(member.size).read_to_string(&mut text)
    });
    match read {
        Ok(_) => Ok(text),
        Err(e) => Err(Error::invalid(format!("refused ova image: its description cannot be read: {e}"))),
    }
}

/// The `href` attributes of the description's `File` elements. This is no XML parser and need not be: what it finds is
/// only compared with names of members.
pub(super) fn hrefs(text: &str) -> Vec<&str> {
    let elements = text.split('<').filter_map(|element| {
        let (tag, rest) = element.split_once(char::is_whitespace)?;
        (tag == "File" || tag.ends_with(":File")).then_some(rest)
    });
    elements
        .filter_map(|attributes| {
            let value = attributes.split_once("href=")?.1;
            let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''))?;
            value[1..].split(quote).next()
        })
        .collect()
}
