//! A typed client of Hull's native API.
//!
//! One [`Client`] talks to one server: over its root-only unix socket, or over TLS with the server's own CA pinned. Calls are
//! grouped by noun ([`Client::vms`], [`Client::images`], …), take names or ids, and return the documents of `hull_types`.
//! Every refusal arrives as [`hull_types::error::Error`], with the sentence the server wrote; a server that cannot be reached
//! becomes the kind `unavailable`, with what to check.

mod endpoint;
mod http;
mod noun;
mod socket;
mod watch;

pub use endpoint::Endpoint;
pub use http::{Client, Query};
pub use noun::{Images, Nouns, Vms, segment};
pub use socket::Socket;
