//! The server through HTTP on real sockets, with the in-memory store and nodes that are test doubles at the hub's link.
#![allow(clippy::unwrap_used, missing_docs)]

mod audit;
mod bad_input;
mod clock;
mod cloud;
mod contract;
mod described;
mod identity;
mod images;
mod joining;
mod lifecycle;
mod link;
mod listing;
mod migrations;
mod networks;
mod node;
mod path;
mod policy;
mod quota;
mod replay;
mod sessions;
mod silence;
mod stubborn;
mod tenants;
