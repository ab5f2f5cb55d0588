//! The nouns of Hull.
//!
//! Every floor of the house (store, core, server, node, client, command line) speaks in these types, so this crate does
//! no I/O, reads no clock and depends on nothing but serialisation. Three kinds of thing live here:
//!
//! * **values** that validate when made: ids ([`id`]), [`name::Name`], [`units::Bytes`], [`digest::Digest`];
//! * **documents**, one per noun, as the store keeps them and the API shows them ([`vm`], [`image`], [`network`], …).
//!   Each field has one writer; where a noun has several writers it has several documents
//!   (a VM is [`vm::Vm`] by its user, [`vm::Placement`] by the scheduler, [`vm::VmStatus`] by its node);
//! * the **protocol** between server and node ([`link`]).

pub mod app_credential;
pub mod audit;
pub mod digest;
pub mod error;
pub mod event;
pub mod flavor;
pub mod id;
pub mod image;
pub mod keypair;
pub mod link;
pub mod meta;
pub mod migration;
pub mod name;
pub mod network;
pub mod node;
pub mod path;
pub mod port;
pub mod project;
pub mod reason;
pub mod role_assignment;
pub mod router;
pub mod security_group;
pub mod sensitive;
pub mod session;
pub mod token;
pub mod units;
pub mod user;
pub mod user_group;
pub mod vm;
pub mod wire;

pub use jiff::Timestamp;
