//! How much a port may receive: a token bucket on its tap, the queue from which its VM is served.
//!
//! What a port may send is a rule in the bridge's table (`rules/bridge.rs`), since the kernels that Hull knows do not all
//! have a policer, and a shaper for what comes in would need a device more for each port.

use std::collections::BTreeMap;

use hull_types::{
    error::{Error, Result},
    link::DesiredNetwork,
};
use serde::Deserialize;

use super::{
    command,
    layout::{TAP_PREFIX, tap_name},
    netns::Netns,
};

/// The handle of our queues; one of another handle is somebody else's and is left alone where no limit is wanted.
const HANDLE: &str = "6875:";
/// How long a packet may wait for its turn; what would wait longer is dropped.
const PATIENCE: &str = "100ms";

/// A token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bucket {
    /// Bytes a second.
    rate: u64,
    /// Bytes at once.
    burst: u64,
}

impl Bucket {
    fn of(kbps: u64) -> Self {
        let rate = (kbps * 125).max(1);
        // A twentieth of a second's worth, and at least a few packets.
        Self { rate, burst: (rate / 20).max(16 << 10) }
    }

    /// Whether this is it, as the kernel rounds it: it counts in ticks.
    fn is_about(self, other: Self) -> bool {
        let near = |a: u64, b: u64| a.abs_diff(b) <= a / 50 + 1;
        near(self.rate, other.rate) && near(self.burst, other.burst)
    }
}

/// Keeps the queues of one network's taps.
#[derive(Debug, Default)]
pub(crate) struct Shaper {
    /// Whether none is limited, and none was when last looked.
    idle: bool,
}

impl Shaper {
    /// Makes each tap that exists have the queue it shall have.
    pub(crate) async fn shape(&mut self, network: &DesiredNetwork, namespace: &Netns) -> Result<()> {
        let limits: BTreeMap<String, Bucket> = network
            .ports
            .iter()
            .filter(|port| port.is_here())
            .filter_map(|port| Some((tap_name(port.id), Bucket::of(port.bandwidth.ingress_kbps?))))
            .collect();
        if limits.is_empty() && self.idle {
            return Ok(());
        }
        self.idle = limits.is_empty();
        namespace.run(move || apply(&limits)).await?
    }
}

fn apply(limits: &BTreeMap<String, Bucket>) -> Result<()> {
    let listing = command::run("tc", &["-j", "qdisc", "show"], "")?;
    let queues: Vec<Queue> = serde_json::from_str(&listing)
        .map_err(|error| Error::internal(format!("`tc -j qdisc show` says what cannot be read: {error}")))?;
    for words in steps(&queues, limits) {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        command::run("tc", &words, "")?;
    }
    Ok(())
}

/// A queue as `tc -j qdisc show` tells it.
#[derive(Debug, Deserialize)]
struct Queue {
    kind: String,
    handle: String,
    dev: String,
    #[serde(default)]
    root: bool,
    #[serde(default)]
    options: Options,
}

#[derive(Debug, Default, Deserialize)]
struct Options {
    #[serde(default)]
    rate: u64,
    #[serde(default)]
    burst: u64,
}

/// The commands that make the taps' queues right; those that are right have none.
fn steps(queues: &[Queue], limits: &BTreeMap<String, Bucket>) -> Vec<Vec<String>> {
    let words = |line: String| line.split(' ').map(str::to_owned).collect();
    let taps = queues.iter().filter(|queue| queue.dev.starts_with(TAP_PREFIX) && queue.root);
    taps.filter_map(|queue| {
        let (tap, ours) = (&queue.dev, queue.kind == "tbf" && queue.handle == HANDLE);
        let held = Bucket { rate: queue.options.rate, burst: queue.options.burst };
        match limits.get(tap) {
            Some(wanted) if ours && wanted.is_about(held) => None,
            Some(Bucket { rate, burst }) => Some(words(format!(
                "qdisc replace dev {tap} root handle {HANDLE} tbf rate {}bit burst {burst} latency {PATIENCE}",
                rate * 8
            ))),
            None if ours => Some(words(format!("qdisc del dev {tap} root"))),
            None => None,
        }
    })
    .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_queue_that_is_right_is_left_alone() {
        let listing = r#"[
            {"kind":"noqueue","handle":"0:","dev":"br0","root":true,"refcnt":2,"options":{}},
            {"kind":"tbf","handle":"6875:","dev":"tapa","root":true,"options":{"rate":125000,"burst":16380,"lat":100000}},
            {"kind":"tbf","handle":"6875:","dev":"tapb","root":true,"options":{"rate":125000,"burst":16380,"lat":100000}},
            {"kind":"pfifo_fast","handle":"0:","dev":"tapc","root":true,"options":{}},
            {"kind":"tbf","handle":"6875:","dev":"tapd","root":true,"options":{"rate":125000,"burst":16380,"lat":100000}},
            {"kind":"pfifo","handle":"7:","dev":"tape","root":true,"options":{}}
        ]"#;
        let queues: Vec<Queue> = serde_json::from_str(listing).unwrap();
        let limits = [("tapa", 1000), ("tapb", 2000), ("tapc", 1000), ("gone", 1000)]
            .map(|(tap, kbps)| (tap.to_owned(), Bucket::of(kbps)))
            .into();
        let lines: Vec<String> = steps(&queues, &limits).iter().map(|words| words.join(" ")).collect();
        assert_eq!(
            lines,
            [
                "qdisc replace dev tapb root handle 6875: tbf rate 2000000bit burst 16384 latency 100ms",
                "qdisc replace dev tapc root handle 6875: tbf rate 1000000bit burst 16384 latency 100ms",
                "qdisc del dev tapd root",
            ]
        );
    }
}
