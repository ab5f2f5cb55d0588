//! Real QEMU, real guests: what the hypervisor's border promises. Needs root, as the node does.
#![allow(clippy::unwrap_used)]

mod bench;
mod confinement;
mod devices;
mod kernels;
mod lifecycle;
#[path = "../network_kit/mod.rs"]
mod network_kit;
mod nics;
mod taken_over;
