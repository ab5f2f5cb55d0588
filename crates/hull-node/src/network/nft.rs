//! Loading rules, and telling whether the kernel still holds what was loaded.
//!
//! The kernel counts the transactions of each namespace's nftables. While that number is the one after our own last
//! transaction nobody has touched anything, and nothing needs to be listed, whatever the size. Where it is another, the
//! kernel's listing is compared with the one taken when the rules were last loaded, by digest, as a listing never reads
//! exactly like what was loaded; where there was no reason to take one the rules are loaded again, which costs no packet
//! (see `reload`).
//!
//! The memory lies in a file, so a restarted Hull does not load again what is right.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use hull_types::error::{Error, Result};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    command,
    netns::Netns,
    reload,
    rules::{Edition, Ruleset},
};

/// Rules of fewer bytes than this are listed whenever they are loaded.
const CHEAP: usize = 64 << 10;

/// What was loaded, and how the kernel listed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Memory {
    text: String,
    /// Which names are in it.
    #[serde(default)]
    edition: Edition,
    /// Absent until somebody else changed something in the namespace.
    #[serde(default)]
    listing: Option<String>,
    /// The namespace it was loaded into; numbers of namespaces come again after a boot.
    namespace: u64,
    #[serde(default)]
    boot: String,
    /// The kernel's number after the transaction; absent where another one came between.
    #[serde(default)]
    generation: Option<u32>,
}

/// Rules that this process knows to be loaded: what a change is made from.
#[derive(Debug, Clone)]
pub(crate) struct Loaded {
    rules: Arc<Ruleset>,
    memory: Memory,
}

impl Loaded {
    pub(crate) fn rules(&self) -> &Arc<Ruleset> {
        &self.rules
    }
}

/// The edition that was loaded last, as far as that is remembered.
pub(crate) fn edition(memory: &Path) -> Edition {
    recall(memory).map(|memory| memory.edition).unwrap_or_default()
}

/// What had to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Done {
    /// The kernel held the rules already.
    Nothing,
    /// Only what differs was changed.
    Changed,
    /// All was loaded anew.
    Reloaded,
}

/// Makes the namespace hold these rules, from what was `loaded` as far as that still stands.
pub(crate) async fn keep_rules(
    namespace: &Netns,
    wanted: Arc<Ruleset>,
    loaded: Option<Loaded>,
    memory: PathBuf,
) -> Result<(Loaded, Done)> {
    let identity = namespace.identity();
    namespace
        .run(move || {
            let now = generation()?;
            let place = Place { identity, boot: boot_id(), memory };
            if let Some(loaded) = &loaded
                && loaded.memory.stands(&place, now)
                && let Some(done) = change(loaded, &wanted, &place, now)?
            {
                return Ok(done);
            }
            let tables: Vec<&str> = wanted.tables.keys().copied().collect();
            let (memory, done) = whole(&place, &tables, (&wanted.whole(), wanted.edition), now)?;
            Ok((Loaded { rules: wanted, memory }, done))
        })
        .await?
}

/// Makes the namespace's tables hold these rules. Says whether it had to load them.
pub(crate) async fn keep(namespace: &Netns, tables: Vec<String>, text: String, memory: PathBuf) -> Result<bool> {
    let identity = namespace.identity();
    namespace
        .run(move || {
            let now = generation()?;
            let tables: Vec<&str> = tables.iter().map(String::as_str).collect();
            let place = Place { identity, boot: boot_id(), memory };
            Ok(whole(&place, &tables, (&text, Edition::First), now)?.1 != Done::Nothing)
        })
        .await?
}

/// Where rules are loaded and remembered.
struct Place {
    identity: u64,
    boot: String,
    memory: PathBuf,
}

impl Memory {
    fn is_of(&self, place: &Place) -> bool {
        self.namespace == place.identity && self.boot == place.boot
    }

    fn stands(&self, place: &Place, now: u32) -> bool {
        self.is_of(place) && self.generation == Some(now)
    }

    /// What was loaded just now, and how it is listed where that is cheap or somebody else is known to be about.
    fn of(
        place: &Place,
        tables: &[&str],
        (text, edition): (&str, Edition),
        before: u32,
        watched: bool,
    ) -> Result<Self> {
        let after = generation()?;
        let ours = after == before.wrapping_add(1);
        let listing = if ours && (watched || text.len() < CHEAP) { listing(tables) } else { None };
        // A listing of what somebody changed meanwhile would call it right for ever.
        let listing = listing.filter(|_| generation().is_ok_and(|now| now == after));
        Ok(Self {
            text: digest(text),
            edition,
            listing,
            namespace: place.identity,
            boot: place.boot.clone(),
            generation: ours.then_some(after),
        })
    }
}

/// Changes what differs; `None` where the kernel does not take it, and only loading all may help.
fn change(loaded: &Loaded, wanted: &Arc<Ruleset>, place: &Place, now: u32) -> Result<Option<(Loaded, Done)>> {
    if Arc::ptr_eq(&loaded.rules, wanted) {
        return Ok(Some((loaded.clone(), Done::Nothing)));
    }
    let Some(steps) = wanted.steps_from(&loaded.rules) else { return Ok(None) };
    if steps.is_empty() {
        return Ok(Some((Loaded { rules: Arc::clone(wanted), memory: loaded.memory.clone() }, Done::Nothing)));
    }
    for step in &steps {
        if let Err(error) = command::run("nft", &["-f", "-"], step) {
            tracing::warn!(%error, "the rules could not be changed in place; all are loaded anew");
            return Ok(None);
        }
    }
    // Before the last step, if nobody else was about.
    let now = now.wrapping_add(steps.len() as u32 - 1);
    let tables: Vec<&str> = wanted.tables.keys().copied().collect();
    let memory = Memory::of(place, &tables, (&wanted.whole(), wanted.edition), now, false)?;
    remember(&place.memory, &memory)?;
    Ok(Some((Loaded { rules: Arc::clone(wanted), memory }, Done::Changed)))
}

/// Loads all of it, unless the kernel holds it already.
fn whole(place: &Place, tables: &[&str], (text, edition): (&str, Edition), now: u32) -> Result<(Memory, Done)> {
    let wanted = digest(text);
    let remembered = recall(&place.memory).filter(|memory| memory.is_of(place) && memory.text == wanted);
    if let Some(memory) = remembered.as_ref().filter(|memory| memory.generation == Some(now)) {
        return Ok((memory.clone(), Done::Nothing));
    }
    let present = present()?;
    if let Some(memory) = &remembered {
        let unfinished = reload::is_unfinished(tables, &present);
        if !unfinished && memory.listing.is_some() && listing(tables) == memory.listing {
            // Somebody changed something else.
            let seen = generation()? == now;
            let memory = Memory { generation: seen.then_some(now), ..memory.clone() };
            remember(&place.memory, &memory)?;
            return Ok((memory, Done::Nothing));
        }
    }
    let steps = reload::steps(tables, text, &present);
    for step in &steps {
        command::run("nft", &["-f", "-"], step)?;
    }
    let before_last = now.wrapping_add(steps.len() as u32 - 1);
    let memory = Memory::of(place, tables, (text, edition), before_last, remembered.is_some())?;
    remember(&place.memory, &memory)?;
    Ok((memory, Done::Reloaded))
}

/// The tables that there are in the thread's namespace, each by family and name.
fn present() -> Result<BTreeSet<String>> {
    let listed = command::run("nft", &["list", "tables"], "")?;
    Ok(listed.lines().filter_map(|line| line.strip_prefix("table ")).map(str::to_owned).collect())
}

fn recall(path: &Path) -> Option<Memory> {
    std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok())
}

fn remember(path: &Path, memory: &Memory) -> Result<()> {
    let failed = |error: String| Error::unavailable(format!("{} cannot be written: {error}", path.display()));
    let bytes = serde_json::to_vec(memory).map_err(|error| failed(error.to_string()))?;
    let fresh = path.with_extension("new");
    std::fs::write(&fresh, bytes)
        .and_then(|()| std::fs::rename(&fresh, path))
        .map_err(|error| failed(error.to_string()))
}

fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// The number of nftables transactions in the thread's namespace, as the kernel counts them.
fn generation() -> Result<u32> {
    ask_generation()
        .map_err(|error| Error::unavailable(format!("the kernel does not tell the generation of its rules: {error}")))
}

fn ask_generation() -> io::Result<u32> {
    /// linux/netfilter/nf_tables.h and nfnetlink.h: the subsystem, the question, the answer and its attribute.
    const SUBSYSTEM: u16 = 10 << 8;
    const GET_GENERATION: u16 = SUBSYSTEM | 16;
    const NEW_GENERATION: u16 = SUBSYSTEM | 15;
    const GENERATION_ID: u16 = 1;
    /// linux/netlink.h
    const REQUEST: u16 = 1;
    const HEADERS: usize = 16 + 4;

    let (kind, flags) = (SocketType::RAW, SocketFlags::CLOEXEC);
    let socket = socket_with(AddressFamily::NETLINK, kind, flags, Some(netlink::NETFILTER))?;
    let mut question = (HEADERS as u32).to_ne_bytes().to_vec();
    question.extend(GET_GENERATION.to_ne_bytes());
    question.extend(REQUEST.to_ne_bytes());
    question.resize(HEADERS, 0);
    send(&socket, &question, SendFlags::empty())?;
    let mut answer = [0; 512];
    let (length, _) = recv(&socket, &mut answer[..], RecvFlags::empty())?;
    let answer = &answer[..length];
    let number = |at: usize| answer.get(at..at + 2).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    if number(4) != Some(NEW_GENERATION) {
        return Err(io::Error::other("it refused the question"));
    }
    let mut at = HEADERS;
    while let (Some(length @ 4..), Some(kind)) = (number(at), number(at + 2)) {
        if kind == GENERATION_ID
            && let Some(value) = answer.get(at + 4..at + 8).and_then(|bytes| bytes.try_into().ok())
        {
            return Ok(u32::from_be_bytes(value));
        }
        at += usize::from(length).next_multiple_of(4);
    }
    Err(io::Error::other("its answer holds no number"))
}

/// The digest of what the kernel holds in these tables; `None` where one is missing.
fn listing(tables: &[&str]) -> Option<String> {
    let mut all = String::new();
    // One by one: nft 1.0.6 finds the first table of a command only.
    for table in tables {
        let mut arguments = vec!["-s", "list", "table"];
        arguments.extend(table.split(' '));
        all.push_str(&static_part(&command::run("nft", &arguments, "").ok()?));
    }
    Some(digest(&all))
}

/// The listing without the elements of dynamic sets, which come and go with traffic.
fn static_part(listing: &str) -> String {
    let mut kept = String::new();
    for block in listing.split("\n\n") {
        let dynamic = block.lines().any(|line| line.trim() == "flags dynamic");
        // An empty set is listed without the word, so what comes after is cut in both cases.
        let end = if dynamic { block.find("elements = {").or_else(|| block.rfind('}')) } else { None };
        kept.push_str(block[..end.unwrap_or(block.len())].trim_end());
        kept.push('\n');
    }
    kept
}

fn digest(text: &str) -> String {
    hex::encode(Sha256::digest(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SET: &str = "table bridge hull {\n\tset a {\n\t\ttype ifname\n\t\telements = { \"x\" }\n\t}\n\n\tset drops {\n\t\tflags dynamic\n\t\tcounter\nELEMENTS\t}\n\n\tchain c {\n\t}\n}\n";

    #[test]
    fn traffic_does_not_count_as_a_change_of_rules() {
        let quiet = SET.replace("ELEMENTS", "");
        let busy = SET.replace("ELEMENTS", "\t\telements = { \"tap1\" counter }\n");
        assert_eq!(static_part(&quiet), static_part(&busy));
        let changed = quiet.replace("\"x\"", "\"y\"");
        assert_ne!(static_part(&quiet), static_part(&changed));
        assert_ne!(static_part(&quiet), static_part(&quiet.replace("chain c", "chain d")));
    }
}
