//! What Hull's tests stand on: a guest that boots in two seconds, a unikernel, hosts made of network namespaces,
//! and guards that leave nothing behind. Tests that use it need root and the packages of `scripts/deps.sh test`.

pub mod guest;
pub mod host;
pub mod netns;
pub mod qemu;
pub mod taken_over;
pub mod unikernel;
pub mod wait;

pub use guest::TinyGuest;
pub use host::{KillOnDrop, free_port, short_dir};
pub use netns::{TestHost, TestNet};
pub use taken_over::{TakenOver, Verdicts};
pub use unikernel::Unikernel;
pub use wait::{eventually, eventually_blocking};
