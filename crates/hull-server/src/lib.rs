//! The server: says what shall be.
//!
//! ```text
//!   api ── HTTP words ──> app ── state + request ──> hull_core ── Changes ──> state::repo ── one transaction ──> store
//!                          ^                                                                                      │
//!                          └───────────── state::cache <──────────── watch <───────────────────────────────────────┤
//!   controllers (scheduler, collector, importer, retention) <── watch, timer ──────────────────────────────────────┤
//!   hub (links to nodes): what each shall hold, what it reports <── watch ─────────────────────────────────────────┘
//! ```
//!
//! Nothing here decides: decisions are `hull_core`'s. Nothing here remembers: the cache can be thrown away at any moment.
//! Time, ids and randomness come in through [`env::Env`], so that the simulator runs this very code.

pub mod api;
pub mod app;
pub mod controllers;
pub mod env;
pub mod hub;
pub mod listen;
pub mod metrics;
mod server;
pub mod state;
pub mod tls;

pub use server::{Config, Core, Server, ServerHandle};
