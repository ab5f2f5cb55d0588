//! Room for TCG's translations of guest code, and whether a CPU more finds a place in it.
//!
//! The room fills up in every guest that lives long enough, counts against the VM's memory limit, and brings tables of about
//! a third of its size with it; when it is full all is translated anew. QEMU cuts it into regions, of which each CPU fills one
//! after the other:
//!
//! ```text
//!   | full | full | CPU 0 | full | CPU 1 | free | free |      a CPU that is plugged in takes a free one
//! ```
//!
//! A CPU that is plugged in while none is free ends QEMU, and the machine with it: `tcg_region_initial_alloc__locked` asserts
//! that there is one (QEMU 7.2, `tcg/region.c`). So there must be one before a CPU is plugged in; if there is none,
//! guest code is translated one instruction at a time for a while, which fills what is left and has QEMU begin anew.

use hull_types::{error::Result, units::Bytes};
use serde_json::json;
use tokio::time::{Duration, sleep};

use super::vmm::Shared;

/// Bounds of [`room`].
const LEAST: Bytes = Bytes::mib(32);
const MOST: Bytes = Bytes::mib(128);
/// The least QEMU makes a region, unless CPUs are so many that each gets less.
const REGION: u64 = Bytes::mib(2).0;
/// Regions for each CPU at most.
const REGIONS_A_CPU: u64 = 8;

const LOOKS: u32 = 20;
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// How much a guest of this memory gets. A small guest gets little: a tiny Linux boots no slower with 16 MiB than with 128,
/// while a whole Debian wants more.
pub(super) fn room(memory: Bytes) -> Bytes {
    Bytes((memory.0 / 16).clamp(LEAST.0, MOST.0))
}

/// Whether a CPU can be plugged in, making room for it if there is none.
pub(super) async fn make_place(machine: &Shared) -> Result<bool> {
    if has_place(machine).await? {
        return Ok(true);
    }
    single_steps(machine, true).await?;
    let mut found = Ok(false);
    for _ in 0..LOOKS {
        sleep(BETWEEN_LOOKS).await;
        found = has_place(machine).await;
        if !matches!(found, Ok(false)) {
            break;
        }
    }
    single_steps(machine, false).await?;
    found
}

async fn has_place(machine: &Shared) -> Result<bool> {
    let report = monitor(machine, "info jit").await?;
    let shape = machine.record().shape;
    Ok(Fill::parse(&report).is_some_and(|fill| fill.has_place(shape.now().vcpus, shape.max_vcpus)))
}

/// One instruction at a time, by the name of QEMU since 8.1 or the one before. A name it does not know changes nothing.
async fn single_steps(machine: &Shared, on: bool) -> Result<()> {
    let state = if on { "on" } else { "off" };
    for name in ["one-insn-per-tb", "singlestep"] {
        monitor(machine, &format!("{name} {state}")).await?;
    }
    Ok(())
}

async fn monitor(machine: &Shared, line: &str) -> Result<String> {
    let said = machine.qmp.run("human-monitor-command", json!({"command-line": line})).await;
    Ok(said.map_err(|error| machine.explain(error))?.as_str().unwrap_or_default().to_owned())
}

/// Bytes of translated code, and of room for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fill {
    code: u64,
    room: u64,
}

impl Fill {
    /// From the line `gen code size       1097715/33472512` of `info jit`.
    fn parse(report: &str) -> Option<Self> {
        let line = report.lines().find_map(|line| line.strip_prefix("gen code size"))?;
        let (code, room) = line.trim().split_once('/')?;
        Some(Self { code: code.parse().ok()?, room: room.parse().ok()? })
    }

    /// Whether a region is surely free. What is filled is only known in sum: the fewer regions it could be in are full.
    fn has_place(self, vcpus: u16, max_vcpus: u16) -> bool {
        let most = u64::from(max_vcpus);
        // As in QEMU's `tcg_n_regions`.
        let regions = self.room.div_ceil(REGION).min(most.saturating_mul(REGIONS_A_CPU)).max(most).max(1);
        let region = self.room / regions;
        // A region's end stays unused, and the CPUs go on while this is reckoned.
        let full = self.code.saturating_add(region / 8) / (region - region / 32).max(1);
        full.saturating_add(u64::from(vcpus)) < regions
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const ROOM: u64 = 33_472_512;

    #[test]
    fn how_full_it_is_is_read_from_qemus_report() {
        let report =
            "Translation buffer state:\r\ngen code size       1097715/33472512\r\nTB count            2036\r\n";
        assert_eq!(Fill::parse(report), Some(Fill { code: 1_097_715, room: ROOM }));
        for report in ["", "gen code size", "gen code size 1/x"] {
            assert_eq!(Fill::parse(report), None, "{report}");
        }
    }

    #[test]
    fn a_cpu_has_a_place_while_a_region_is_free() {
        let at = |mib: u64, vcpus, max| Fill { code: Bytes::mib(mib).0, room: ROOM }.has_place(vcpus, max);
        assert!(at(0, 1, 8) && at(20, 1, 8) && at(20, 4, 8));
        assert!(!at(30, 1, 8), "one of sixteen is left at most, and a CPU is in it");
        assert!(!at(25, 4, 8), "four CPUs may be in the last four");
        // As many regions as CPUs: the last CPU's is its own when all begins anew.
        assert!(at(0, 254, 255) && !at(1, 254, 255));
    }
}
