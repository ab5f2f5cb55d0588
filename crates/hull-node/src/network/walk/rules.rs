//! What nftables does to a packet, read from what the kernel lists (`nft -j`, libnftables-json(5)).
//!
//! ```text
//!   base chains of a hook, by priority ──► rule ──► match? ──► statements ──► verdict
//!                                            │ no              │ jump, vmap
//!                                            ▼                 ▼
//!                                        next rule          other chains
//! ```
//!
//! Rate limits count as not reached: what is asked is whether a packet may pass, not whether too many do. A statement that
//! is not known here is an error, never a guess.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use hull_types::{
    error::{Error, Result},
    network::Mac,
};
use serde_json::Value;

use super::{
    packet::{Packet, Tracking},
    seen::{Seen, see},
};

/// How deep chains may jump (nftables' own limit is 16).
const DEEPEST: usize = 16;

/// `PACKET_HOST` of linux/if_packet.h.
pub(super) const HOST: u64 = 0;

/// A family of tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layer {
    Bridge,
    Inet,
}

impl Layer {
    /// Whether tables of this family see its packets.
    fn has(self, family: &str, v4: bool) -> bool {
        match self {
            Self::Bridge => family == "bridge",
            Self::Inet => family == "inet" || family == if v4 { "ip" } else { "ip6" },
        }
    }
}

/// A table, by family and name.
pub(super) type TableId = (String, String);

#[derive(Debug)]
struct Chain {
    table: TableId,
    hook: Option<(String, i64)>,
    drops: bool,
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    handle: u64,
    parts: Vec<Value>,
}

/// Everything nftables holds in one namespace.
#[derive(Debug, Default)]
pub(super) struct Rules {
    chains: BTreeMap<(TableId, String), Chain>,
    elements: HashMap<(TableId, String), Vec<Value>>,
}

/// What the rules of a hook decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) passes: bool,
    /// What decided; none where a policy that lets all through did.
    pub(super) by: Option<By>,
}

/// What decides about a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// A rule, by its table and handle, reached from this base chain.
    Rule { table: TableId, handle: u64, chain: String },
    /// A chain that drops what none of its rules lets through.
    Policy { chain: String },
}

enum Verdict {
    Accept,
    Drop,
    Return,
}

/// What became of a rule.
enum Outcome {
    /// The next rule is looked at.
    Next,
    Decided(Verdict, u64),
}

pub(super) fn unknown(what: &Value) -> Error {
    let text: String = what.to_string().chars().take(200).collect();
    Error::unsupported(format!("a rule on this node does something that cannot be explained: {text}"))
}

pub(super) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn table_of(object: &Value) -> TableId {
    (text(object, "family").to_owned(), text(object, "table").to_owned())
}

impl Rules {
    /// Reads `nft -j -nnn list ruleset`.
    pub(super) fn parse(json: &str) -> Result<Self> {
        let bad = |why: String| Error::unavailable(format!("what nft lists cannot be read: {why}"));
        let all: Value = serde_json::from_str(json).map_err(|error| bad(error.to_string()))?;
        let mut rules = Self::default();
        for object in all.get("nftables").and_then(Value::as_array).into_iter().flatten() {
            let Some((kind, object)) = object.as_object().and_then(|object| object.iter().next()) else { continue };
            let key = (table_of(object), text(object, "name").to_owned());
            match kind.as_str() {
                "chain" => _ = rules.chains.insert(key, chain(object)),
                "set" | "map" => {
                    let elements = object.get("elem").and_then(Value::as_array).cloned().unwrap_or_default();
                    rules.elements.insert(key, elements);
                }
                "rule" => {
                    let owner = (table_of(object), text(object, "chain").to_owned());
                    let handle = object.get("handle").and_then(Value::as_u64).unwrap_or_default();
                    let parts = object.get("expr").and_then(Value::as_array).cloned().unwrap_or_default();
                    if let Some(chain) = rules.chains.get_mut(&owner) {
                        chain.rules.push(Rule { handle, parts });
                    }
                }
                _ => {}
            }
        }
        Ok(rules)
    }

    /// What the base chains of a hook do to the packet, which they may change.
    pub(super) fn run(&self, layer: Layer, hook: &str, packet: &mut Packet) -> Result<Decision> {
        let v4 = packet.is_v4();
        let mut bases: Vec<(i64, &String, &Chain)> = self
            .chains
            .iter()
            .filter(|((table, _), _)| layer.has(&table.0, v4))
            .filter_map(|((_, name), chain)| {
                let (own, priority) = chain.hook.as_ref()?;
                (own == hook).then_some((*priority, name, chain))
            })
            .collect();
        bases.sort_by_key(|(priority, ..)| *priority);
        let mut last = None;
        for (_, name, base) in bases {
            match self.chain(base, name, packet, 0)? {
                Outcome::Decided(Verdict::Drop, handle) => return Ok(decided(false, base, name, handle)),
                Outcome::Decided(Verdict::Accept, handle) => last = Some(decided(true, base, name, handle)),
                Outcome::Decided(Verdict::Return, _) | Outcome::Next if base.drops => {
                    let by = Some(By::Policy { chain: name.clone() });
                    return Ok(Decision { passes: false, by });
                }
                Outcome::Decided(Verdict::Return, _) | Outcome::Next => {}
            }
        }
        Ok(last.unwrap_or(Decision { passes: true, by: None }))
    }

    /// The taps that may answer for an address beside their port's own, with the MAC each does it under: allowed pairs,
    /// as the rules against spoofing hold them.
    pub(super) fn holders(&self, address: IpAddr) -> Vec<(String, Mac)> {
        let set = if address.is_ipv4() { "pairs4" } else { "pairs6" };
        let key = (("bridge".to_owned(), "hull".to_owned()), set.to_owned());
        let held = |element: &Value| -> Option<(String, Mac)> {
            let inner = element.get("elem").and_then(|elem| elem.get("val")).unwrap_or(element);
            let [tap, mac, net] = inner.get("concat")?.as_array()?.as_slice() else { return None };
            let fits = address_fits(address, net).unwrap_or_default();
            fits.then(|| Some((tap.as_str()?.to_owned(), mac.as_str()?.parse().ok()?))).flatten()
        };
        self.elements.get(&key).into_iter().flatten().filter_map(held).collect()
    }

    fn chain(&self, chain: &Chain, name: &str, packet: &mut Packet, depth: usize) -> Result<Outcome> {
        if depth > DEEPEST {
            return Err(Error::unsupported(format!("the chain {name} jumps too deep to be explained")));
        }
        for rule in &chain.rules {
            match self.rule(chain, rule, packet, depth)? {
                Outcome::Decided(Verdict::Return, _) => return Ok(Outcome::Next),
                Outcome::Next => {}
                decided @ Outcome::Decided(..) => return Ok(decided),
            }
        }
        Ok(Outcome::Next)
    }

    fn rule(&self, chain: &Chain, rule: &Rule, packet: &mut Packet, depth: usize) -> Result<Outcome> {
        for part in &rule.parts {
            let Some((what, argument)) = part.as_object().and_then(|part| part.iter().next()) else {
                return Err(unknown(part));
            };
            let decided = |verdict| Ok(Outcome::Decided(verdict, rule.handle));
            match what.as_str() {
                "match" if self.matches(&chain.table, argument, packet)? => {}
                "match" => return Ok(Outcome::Next),
                "accept" => return decided(Verdict::Accept),
                "drop" | "reject" => return decided(Verdict::Drop),
                "return" => return decided(Verdict::Return),
                "jump" | "goto" => match self.jump(chain, text(argument, "target"), packet, depth)? {
                    Outcome::Next if what == "goto" => return decided(Verdict::Return),
                    Outcome::Next => {}
                    other @ Outcome::Decided(..) => return Ok(other),
                },
                "vmap" => match self.vmap(chain, rule, argument, packet, depth)? {
                    Outcome::Next => {}
                    other @ Outcome::Decided(..) => return Ok(other),
                },
                "counter" | "log" | "comment" => {}
                "limit" if is_over(argument) => return Ok(Outcome::Next),
                "limit" => {}
                "set" | "ct count" if over_in(part) => return Ok(Outcome::Next),
                "set" | "ct count" => {
                    // An element that cannot be made (of another family) does not match.
                    let element = argument.get("elem").map(|elem| see(elem, packet));
                    if let Some(Ok(None)) = element {
                        return Ok(Outcome::Next);
                    }
                }
                "notrack" => packet.tracking = Tracking::Untracked,
                // A mark out of a map that has none for it is not set, and the rule ends.
                "mangle" => match self.value(&chain.table, argument, packet)? {
                    Some(value) => mangle(argument, &value, packet)?,
                    None => return Ok(Outcome::Next),
                },
                "dnat" | "snat" => match self.translate(&chain.table, what, argument, packet)? {
                    true => return decided(Verdict::Accept),
                    false => return Ok(Outcome::Next),
                },
                // To the address of the link it leaves by, which the walker knows.
                "masquerade" => {
                    packet.source = unspecified(packet.is_v4());
                    return decided(Verdict::Accept);
                }
                _ => return Err(unknown(part)),
            }
        }
        Ok(Outcome::Next)
    }

    fn jump(&self, from: &Chain, target: &str, packet: &mut Packet, depth: usize) -> Result<Outcome> {
        let key = (from.table.clone(), target.to_owned());
        match self.chains.get(&key) {
            Some(chain) => self.chain(chain, target, packet, depth + 1),
            None => Ok(Outcome::Next),
        }
    }

    fn vmap(&self, chain: &Chain, rule: &Rule, argument: &Value, packet: &mut Packet, depth: usize) -> Result<Outcome> {
        let Some(verdict) = self.look_up(&chain.table, argument, packet)? else { return Ok(Outcome::Next) };
        let Some((what, target)) = verdict.as_object().and_then(|verdict| verdict.iter().next()) else {
            return Err(unknown(&verdict));
        };
        Ok(match what.as_str() {
            "accept" => Outcome::Decided(Verdict::Accept, rule.handle),
            "drop" => Outcome::Decided(Verdict::Drop, rule.handle),
            "return" => Outcome::Decided(Verdict::Return, rule.handle),
            "continue" => Outcome::Next,
            "jump" => self.jump(chain, text(target, "target"), packet, depth)?,
            "goto" => match self.jump(chain, text(target, "target"), packet, depth)? {
                Outcome::Next => Outcome::Decided(Verdict::Return, rule.handle),
                other @ Outcome::Decided(..) => other,
            },
            _ => return Err(unknown(&verdict)),
        })
    }

    /// What a map (`{key, data}`) holds for the packet.
    fn look_up(&self, table: &TableId, map: &Value, packet: &Packet) -> Result<Option<Value>> {
        let (Some(key), Some(data)) = (map.get("key"), map.get("data")) else { return Err(unknown(map)) };
        let Some(seen) = see(key, packet)? else { return Ok(None) };
        for pair in self.members(table, data)? {
            let [pattern, value] = pair.as_array().map(Vec::as_slice).unwrap_or_default() else {
                return Err(unknown(pair));
            };
            if self.fits(table, &seen, pattern)? {
                return Ok(Some(value.clone()));
            }
        }
        Ok(None)
    }

    /// What a statement sets something to: as written, or out of a map.
    fn value(&self, table: &TableId, argument: &Value, packet: &Packet) -> Result<Option<Value>> {
        let Some(value) = argument.get("value") else { return Err(unknown(argument)) };
        match value.get("map") {
            Some(map) => self.look_up(table, map, packet),
            None => Ok(Some(value.clone())),
        }
    }

    /// The members of a named or written-out set or map.
    fn members<'a>(&'a self, table: &TableId, set: &'a Value) -> Result<&'a [Value]> {
        if let Some(name) = set.as_str().and_then(|text| text.strip_prefix('@')) {
            return Ok(self.elements.get(&(table.clone(), name.to_owned())).map_or(&[], Vec::as_slice));
        }
        set.get("set").and_then(Value::as_array).map(Vec::as_slice).ok_or_else(|| unknown(set))
    }

    /// Translates; `false` where the map of translations has nothing for it.
    fn translate(&self, table: &TableId, what: &str, argument: &Value, packet: &mut Packet) -> Result<bool> {
        let Some(to) = argument.get("addr") else { return Err(unknown(argument)) };
        let to = match to.get("map") {
            Some(map) => match self.look_up(table, map, packet)? {
                Some(found) => found,
                None => return Ok(false),
            },
            None => to.clone(),
        };
        let to: IpAddr = to.as_str().and_then(|text| text.parse().ok()).ok_or_else(|| unknown(argument))?;
        if to.is_ipv4() != packet.is_v4() {
            return Ok(false);
        }
        match what {
            "dnat" => packet.destination = to,
            _ => packet.source = to,
        }
        Ok(true)
    }

    fn matches(&self, table: &TableId, argument: &Value, packet: &Packet) -> Result<bool> {
        let (Some(left), Some(right)) = (argument.get("left"), argument.get("right")) else {
            return Err(unknown(argument));
        };
        let Some(seen) = see(left, packet)? else { return Ok(false) };
        let order = || match (&seen, number(right)) {
            (Seen::Number(seen), Some(right)) => Ok(seen.cmp(&right)),
            _ => Err(unknown(argument)),
        };
        Ok(match text(argument, "op") {
            "==" => self.fits(table, &seen, right)?,
            "!=" => !self.fits(table, &seen, right)?,
            "in" => bits(&seen, right).ok_or_else(|| unknown(argument))?,
            "<" => order()?.is_lt(),
            "<=" => order()?.is_le(),
            ">" => order()?.is_gt(),
            ">=" => order()?.is_ge(),
            _ => return Err(unknown(argument)),
        })
    }

    /// Whether what is seen is what a pattern says.
    fn fits(&self, table: &TableId, seen: &Seen, pattern: &Value) -> Result<bool> {
        if pattern.as_str().is_some_and(|text| text.starts_with('@')) || pattern.get("set").is_some() {
            for member in self.members(table, pattern)? {
                // Members of a map that is used as a set of its keys.
                let key = member.as_array().and_then(|pair| pair.first()).unwrap_or(member);
                if self.fits(table, seen, key)? {
                    return Ok(true);
                }
            }
            return Ok(false);
        }
        if let Some(inner) = pattern.get("elem").and_then(|elem| elem.get("val")) {
            return self.fits(table, seen, inner);
        }
        match seen {
            Seen::Several(parts) => {
                let patterns = pattern.get("concat").and_then(Value::as_array).ok_or_else(|| unknown(pattern))?;
                for (part, pattern) in parts.iter().zip(patterns) {
                    if !self.fits(table, part, pattern)? {
                        return Ok(false);
                    }
                }
                Ok(parts.len() == patterns.len())
            }
            Seen::Address(address) => address_fits(*address, pattern),
            Seen::Number(seen) => match pattern.get("range").and_then(Value::as_array).map(Vec::as_slice) {
                Some([from, to]) => {
                    let (Some(from), Some(to)) = (number(from), number(to)) else { return Err(unknown(pattern)) };
                    Ok((from..=to).contains(seen))
                }
                _ => number(pattern).map(|number| number == *seen).ok_or_else(|| unknown(pattern)),
            },
            Seen::Ethertype(seen) => {
                let wanted = number(pattern).ok_or_else(|| unknown(pattern))?;
                Ok([*seen, seen.swap_bytes()].into_iter().any(|either| u128::from(either) == wanted))
            }
            Seen::Mac(seen) => {
                let wanted: Option<Mac> = pattern.as_str().and_then(|text| text.parse().ok());
                wanted.map(|wanted| wanted == *seen).ok_or_else(|| unknown(pattern))
            }
            Seen::Name(seen) => {
                let wanted = pattern.as_str().ok_or_else(|| unknown(pattern))?;
                Ok(wanted.strip_suffix('*').map_or(wanted == seen, |start| seen.starts_with(start)))
            }
        }
    }
}

fn decided(passes: bool, base: &Chain, name: &str, handle: u64) -> Decision {
    Decision { passes, by: Some(By::Rule { table: base.table.clone(), handle, chain: name.to_owned() }) }
}

fn chain(object: &Value) -> Chain {
    let priority = object.get("prio").and_then(Value::as_i64);
    let hook = object.get("hook").and_then(Value::as_str).map(str::to_owned);
    Chain {
        table: table_of(object),
        hook: hook.zip(priority),
        drops: text(object, "policy") == "drop",
        rules: Vec::new(),
    }
}

/// Whether a limit matches only what is beyond it.
fn is_over(limit: &Value) -> bool {
    limit.get("inv").and_then(Value::as_bool).unwrap_or_default()
}

/// The same for limits inside of a set statement, and for counts of connections.
fn over_in(part: &Value) -> bool {
    let statements = part.get("set").and_then(|set| set.get("stmt")).and_then(Value::as_array);
    let inner = statements.into_iter().flatten().filter_map(Value::as_object).flat_map(|object| object.values());
    inner.chain(part.get("ct count")).any(is_over)
}

pub(super) fn number(value: &Value) -> Option<u128> {
    match value {
        Value::Number(number) => number.as_u64().map(u128::from),
        Value::String(text) => match text.strip_prefix("0x") {
            Some(hex) => u128::from_str_radix(hex, 16).ok(),
            None => text.parse().ok(),
        },
        _ => None,
    }
}

/// Whether any of these bits are set.
fn bits(seen: &Seen, right: &Value) -> Option<bool> {
    let Seen::Number(seen) = seen else { return None };
    Some(seen & mask(right)? != 0)
}

/// Bits: one number, or several together.
pub(super) fn mask(value: &Value) -> Option<u128> {
    match value.as_array().or_else(|| value.get("|").and_then(Value::as_array)) {
        Some(list) => list.iter().map(mask).try_fold(0, |sum, bits| Some(sum | bits?)),
        None => number(value),
    }
}

fn address_fits(address: IpAddr, pattern: &Value) -> Result<bool> {
    let parse = |value: &Value| -> Result<IpAddr> {
        value.as_str().and_then(|text| text.parse().ok()).ok_or_else(|| unknown(pattern))
    };
    if let Some(prefix) = pattern.get("prefix") {
        let length = prefix.get("len").and_then(Value::as_u64).and_then(|length| u8::try_from(length).ok());
        let net = ipnet::IpNet::new(parse(&prefix["addr"])?, length.unwrap_or(u8::MAX));
        return net.map(|net| net.contains(&address)).map_err(|_| unknown(pattern));
    }
    if let Some([from, to]) = pattern.get("range").and_then(Value::as_array).map(Vec::as_slice) {
        let (from, to) = (parse(from)?, parse(to)?);
        return Ok(from.is_ipv4() == address.is_ipv4() && (from..=to).contains(&address));
    }
    Ok(parse(pattern)? == address)
}

fn unspecified(v4: bool) -> IpAddr {
    if v4 { std::net::Ipv4Addr::UNSPECIFIED.into() } else { std::net::Ipv6Addr::UNSPECIFIED.into() }
}

fn mangle(argument: &Value, value: &Value, packet: &mut Packet) -> Result<()> {
    let Some(key) = argument.get("key") else { return Err(unknown(argument)) };
    if let Some(meta) = key.get("meta") {
        let wanted = number(value).and_then(|value| u64::try_from(value).ok()).ok_or_else(|| unknown(argument))?;
        match text(meta, "key") {
            "mark" => packet.mark = wanted,
            "pkttype" => packet.claimed = wanted == HOST,
            _ => return Err(unknown(argument)),
        }
        return Ok(());
    }
    let payload = key.get("payload").unwrap_or(&Value::Null);
    match (text(payload, "protocol"), text(payload, "field"), value.as_str().map(str::parse)) {
        ("ether", "daddr", Some(Ok(mac))) => packet.to_mac = mac,
        _ => return Err(unknown(argument)),
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "rules_tests.rs"]
mod tests;
