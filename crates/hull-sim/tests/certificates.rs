//! A real node's identity against a real server over TLS: joined, renewed in time, told where that fails.
#![allow(clippy::unwrap_used)]

use std::{sync::Arc, time::Duration};

use hull_node::link::{Connector, Identity, JoinToken, Remote, join, renew};
use hull_server::{
    Config, Server, ServerHandle,
    app::ctx::{Caller, Ctx},
    env::Env,
};
use hull_store::memory::MemoryStore;
use hull_types::{Timestamp, id::StreamId, name::Name, wire::JoinTokenCreate};
use jiff::SignedDuration;
use tempfile::TempDir;

/// A server whose certificates live two hours, and a host that has joined it.
struct Seam {
    server: ServerHandle,
    dir: TempDir,
    node: TempDir,
    identity: Identity,
}

impl Seam {
    async fn new() -> Self {
        let (dir, node) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let server = serve(&dir, "127.0.0.1:0").await;
        let identity = enter(&server, "n1", &node).await.unwrap();
        Self { server, dir, node, identity }
    }

    async fn kept(&self) -> Identity {
        Identity::load(self.node.path()).await.unwrap().unwrap()
    }
}

async fn serve(dir: &TempDir, listen: &str) -> ServerHandle {
    let config = Config {
        listen: Some(listen.parse().unwrap()),
        certificates_live: SignedDuration::from_hours(2),
        ..Config::new(dir.path())
    };
    Server::start(config, Arc::new(MemoryStore::new()), None, Env::system()).await.unwrap()
}

async fn enter(server: &ServerHandle, name: &str, node: &TempDir) -> hull_types::error::Result<Identity> {
    let ctx = Ctx::of(Caller::LOCAL_ROOT);
    let token = server.app.create_join_token(&ctx, &JoinTokenCreate::default()).await.unwrap();
    let token: JoinToken = token.secret.expose().parse().unwrap();
    join(&token, &Name::new(name).unwrap(), node.path()).await
}

fn later(minutes: i64) -> Timestamp {
    Timestamp::now() + SignedDuration::from_mins(minutes)
}

/// Whether the server takes this identity for the node it names: a stream nobody asked for is refused, but not for who asks.
async fn known(identity: &Identity) -> bool {
    let stream = Remote::new(identity).unwrap().open_stream(StreamId(uuid::Uuid::now_v7())).await;
    let Err(error) = stream else { panic!("nobody waits for that stream") };
    error.detail.contains("404")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_renewed_when_a_third_of_its_life_is_left() {
    let seam = Seam::new().await;
    let remote = Remote::new(&seam.identity).unwrap();
    // From an hour ago, as clocks may differ, to two hours from now: due an hour before its end.
    assert!(!renew::renew_when_due(&remote, seam.node.path(), later(55)).await.unwrap());
    assert_eq!(seam.kept().await, seam.identity);
    assert!(renew::renew_when_due(&remote, seam.node.path(), later(65)).await.unwrap());
    let renewed = seam.kept().await;
    assert!(renewed.certificate != seam.identity.certificate && renewed.key != seam.identity.key);
    assert_eq!(
        (renewed.node, &renewed.ca, &renewed.server),
        (seam.identity.node, &seam.identity.ca, &seam.identity.server)
    );
    assert!(known(&renewed).await && known(&seam.identity).await, "the old one works until its end");
    // Again and again, by the newest.
    assert!(renew::renew_when_due(&remote, seam.node.path(), later(65)).await.unwrap());
    assert_ne!(seam.kept().await.certificate, renewed.certificate);
    seam.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_that_fails_is_told_and_made_good_later() {
    let seam = Seam::new().await;
    let address = seam.server.addr.unwrap().to_string();
    let remote = Remote::new(&seam.identity).unwrap();
    seam.server.shutdown().await;
    renew::renew_when_due(&remote, seam.node.path(), later(100)).await.unwrap_err();
    let held = remote.certificate().unwrap();
    assert!(held.trouble.is_some() && held.validity.stage(later(100)) == hull_core::certificate::Stage::Ending);
    assert_eq!(Identity::load(seam.node.path()).await.unwrap().unwrap(), seam.identity, "what is kept still works");

    // A store in memory is a new one: the node is not known there, and is not told that it is.
    let server = serve(&seam.dir, &address).await;
    let refused = renew::renew_when_due(&remote, seam.node.path(), later(100)).await.unwrap_err();
    assert!(refused.detail.contains("join"), "{refused}");
    // Joined anew it is another node, by the same directory.
    let identity = enter(&server, "n1", &seam.node).await.unwrap();
    let remote = Arc::new(Remote::new(&identity).unwrap());
    assert!(renew::renew_when_due(&remote, seam.node.path(), later(100)).await.unwrap());
    assert_eq!(remote.certificate().unwrap().trouble, None);
    // Who was the node before joins again by showing its certificate, and not without.
    let again = enter(&server, "n1", &seam.node).await.unwrap();
    assert_eq!(again.node, identity.node);
    let elsewhere = tempfile::tempdir().unwrap();
    assert!(enter(&server, "n1", &elsewhere).await.unwrap_err().detail.contains("join-token --name n1"));
    server.shutdown().await;
}

/// A clock that a test sets.
struct Ahead(SignedDuration);

impl hull_node::host::Clock for Ahead {
    fn now(&self) -> Timestamp {
        Timestamp::now() + self.0
    }

    fn uptime(&self) -> Duration {
        Duration::ZERO
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_needs_to_ask_for_it() {
    let seam = Seam::new().await;
    let remote = Arc::new(Remote::new(&seam.identity).unwrap());
    let clock = Arc::new(Ahead(SignedDuration::from_mins(65)));
    let keeping = tokio::spawn(renew::keep_renewed(remote, seam.node.path().to_owned(), clock));
    let renewed = async {
        while seam.kept().await == seam.identity {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), renewed).await.unwrap();
    keeping.abort();
    seam.server.shutdown().await;
}
