//! The mechanism on one host: VMs, their disks and their networks, kept as the server says they shall be.
//!
//! ```text
//!             Desired (link)                      FromNode::Vm, Status, Reply (link)
//!                  │                                          ▲
//!                  ▼                                          │
//!   ┌──────── node ────────┐   one task a VM    ┌─────────────┴─────────────┐
//!   │ what shall be here   ├───────────────────►│ vm task: observe, plan,   │
//!   └──────────┬───────────┘                    │ do one step, report       │
//!              │ networks                       └──┬──────────┬──────────┬──┘
//!              ▼                                   ▼          ▼          ▼
//!        [network::Networks]              [hypervisor::   [storage::  [network::
//!        namespaces, bridges, rules,       Hypervisor]     Disks]      Networks]
//!        DHCP, DNS, metadata               QEMU, QMP       overlays     taps
//! ```
//!
//! The three traits are the border to the host: the simulator has its own implementations and runs the very same
//! planner and tasks. Nothing in this crate knows of the server's store or API.

pub mod hypervisor;
pub mod network;
pub mod plan;
pub mod storage;
