//! placeholder
pub mod listen;
pub mod tls;
