//! What Hull's tests stand on: a guest that boots in two seconds, a unikernel, hosts made of network namespaces,
//! and guards that leave nothing behind. Tests that use it need root and the packages of `scripts/deps.sh test`.

pub mod guest;
pub mod qemu;

pub use guest::TinyGuest;
