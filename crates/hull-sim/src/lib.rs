//! The whole cloud in one process, by one seed: the real server on the store in memory, the real node runtime on hosts in
//! memory, time that jumps, and everything that can go wrong.
//!
//! ```text
//!            steps: calls, faults, mending, time          truth: every revision checked
//!                      │                                            ▲
//!                      ▼                                            │
//!   server (may die) ─ App, Hub, controllers ────► MemoryStore (never dies)
//!                      ▲
//!                link (may be cut)
//!                      ▼
//!   node runtime (may die) ─ planner, VM tasks ──► Host (may reboot): machines, disks, networks, records
//! ```
//!
//! A run ends with everything mended ([`cloud::Cloud::comes_to_rest`]), then deleted ([`cloud::Cloud::leaves_nothing`]).
//! A broken promise prints its seed; `HULL_SIM_SEED=<seed>` plays it again.

pub mod clock;
pub mod cloud;
pub mod fate;
pub mod founding;
pub mod fuse;
pub mod host;
pub mod life;
pub mod link;
mod migrating;
mod migrations;
mod networking;
pub mod quiet;
pub mod run;
pub mod steps;
pub mod truth;
