//! Every decision of Hull as a pure function.
//!
//! A decision takes the documents it needs, a [`call::Call`] (who, when, and where fresh ids come from) and the request;
//! it answers with [`change::Changes`], everything ONE store transaction shall do and what must not have changed since
//! the documents were read, or with a [`hull_types::error::Error`] whose sentence says what to do.
//!
//! ```text
//!   request + documents + Call ──► decision ──► Changes { expect, writes } ──► server: compares + ops ──► store
//!                                       └─────► Error (nothing happens)
//! ```
//!
//! No I/O, no clock, no randomness: all three come in as arguments, so that thousands of cases run in a second and the
//! simulator replays a failure from its seed. One noun, one module.

pub mod app_credential;
pub mod audit;
pub mod call;
pub mod certificate;
pub mod change;
pub mod check;
pub mod event;
pub mod flavor;
pub mod floating_ip;
mod head;
pub mod hostname;
pub mod image;
pub mod ipam;
pub mod keypair;
pub mod login;
pub mod mac;
pub mod migration;
pub mod network;
pub mod node;
pub mod oidc;
pub mod owner;
pub mod path;
pub mod placement;
pub mod policy;
pub mod port;
pub mod project;
pub mod quota;
pub mod restart;
pub mod retention;
pub mod role_assignment;
pub mod router;
pub mod security_group;
pub mod session;
pub mod subnet;
pub mod user;
pub mod user_group;
pub mod vm;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod testing;
