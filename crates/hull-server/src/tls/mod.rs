//! Certificates: a CA of this cloud's own, made at the first start, and what it signs.
//!
//! ```text
//!   <data>/pki/ca.pem, ca.key          the CA; its fingerprint is in every join token, so that nodes pin it
//!   <data>/pki/server.pem, server.key  the API's certificate, made anew where names change or it is old, also while the server runs
//! ```
//!
//! Nodes bring a certificate request and a join token, and get a certificate whose common name is `node:<id>`. On the API's port a client
//! certificate is optional; what it proves is handed to the handlers as [`Peer`].

mod ca;
mod config;

pub use ca::{Ca, LEAF_LIFE, NodeCertificate, fingerprint};
pub use config::{ServerCertificate, node_of, server_config};

use hull_types::id::NodeId;

/// Who is at the other end of a connection, as far as the connection itself proves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Nobody in particular: credentials must come with the request.
    Anonymous,
    /// Root of this host, over the unix socket.
    LocalRoot,
    /// A node, by its certificate.
    Node(NodeId),
}
