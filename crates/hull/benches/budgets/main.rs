//! The budgets, measured: `make bench`, or `make bench ARGS=quick`; `ARGS="start list"` for some of them.
//!
//! Drives the release build of `hull` as a stranger would: its own data directory, port and network prefix, over the unix socket. Peers
//! (libvirt, bare QEMU, `cp`) are measured in the same run, in turn with Hull, so that what else the machine does hits both.
//! Everything made is removed, also after a failure or Ctrl-C. Nothing here passes or fails: the table says what was measured.

#![allow(clippy::print_stdout, reason = "the table is what this program is for")]

mod boot;
mod cloud;
mod create;
mod debian;
mod guests;
mod import;
mod libvirt;
mod list;
mod memory;
mod migration;
mod network;
mod placement;
mod qemu;
mod start;
mod table;

use std::time::{Duration, Instant};

use table::Row;

/// The budgets, in the order they are measured.
const ALL: [&str; 9] = ["placement", "network", "start", "create", "list", "boot", "migration", "import", "debian"];

/// One budget may not take longer than this, so that a run ends.
const DEADLINE: Duration = Duration::from_secs(1800);

/// How long to measure.
#[derive(Clone, Copy)]
struct Effort {
    quick: bool,
}

impl Effort {
    /// `full`, or `quick` in the short form.
    fn runs(self, full: usize, quick: usize) -> usize {
        if self.quick { quick } else { full }
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // cargo bench adds `--bench`.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let effort = Effort { quick: words.iter().any(|word| word == "quick") };
    let named: Vec<&str> = ALL.into_iter().filter(|name| words.iter().any(|word| word == name)).collect();
    let wanted = if named.is_empty() { ALL.to_vec() } else { named };
    let known = |word: &String| word == "quick" || ALL.contains(&word.as_str());
    if let Some(stranger) = words.iter().find(|word| !known(word)) {
        anyhow::bail!("no budget is called {stranger:?}; there are: quick {}", ALL.join(" "));
    }

    let mut rows = Vec::new();
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    for name in wanted {
        eprintln!("bench: {name} …");
        let begin = Instant::now();
        // Whatever a measurement made goes with its future, so dropping it cleans up.
        let measured = tokio::select! {
            measured = tokio::time::timeout(DEADLINE, measure(name, effort)) => measured,
            _ = &mut interrupted => break,
        };
        match measured {
            Ok(Ok(found)) => rows.extend(found),
            Ok(Err(error)) => rows.push(Row::missing(name, &format!("{error:#}"))),
            Err(_) => rows.push(Row::missing(name, &format!("not done within {} s", DEADLINE.as_secs()))),
        }
        eprintln!("bench: {name} took {:.0} s", begin.elapsed().as_secs_f64());
    }
    println!("{}", table::render(&rows));
    println!("{}", conditions());
    Ok(())
}

async fn measure(name: &str, effort: Effort) -> anyhow::Result<Vec<Row>> {
    match name {
        "placement" => Ok(placement::rows(effort)),
        "network" => Box::pin(network::rows(effort)).await,
        "start" => Box::pin(start::rows(effort)).await,
        "create" => Box::pin(create::rows(effort)).await,
        "list" => Box::pin(list::rows(effort)).await,
        "boot" => Box::pin(boot::rows(effort)).await,
        "migration" => Box::pin(migration::rows(effort)).await,
        "import" => Box::pin(import::rows(effort)).await,
        "debian" => Box::pin(debian::rows(effort)).await,
        other => anyhow::bail!("no budget is called {other}"),
    }
}

/// What the numbers depend on.
fn conditions() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory: u64 = read("/proc/meminfo").split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0);
    let load = read("/proc/loadavg").split_whitespace().take(3).collect::<Vec<_>>().join(" ");
    format!(
        "conditions: {cores} cores, {} GiB, kernel {}, guests under TCG where a row says so, load {load} at the end",
        memory >> 20,
        read("/proc/sys/kernel/osrelease").trim(),
    )
}
