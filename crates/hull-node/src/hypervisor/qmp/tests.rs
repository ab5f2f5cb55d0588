//! The client against a scripted peer.

use std::{os::fd::AsFd, path::Path};

use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
};

use super::*;

const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7}}, "capabilities": []}}"#;

/// A QEMU that says what the test tells it to.
struct Peer {
    stream: BufReader<UnixStream>,
}

impl Peer {
    async fn accept(listener: &UnixListener) -> Self {
        let mut peer = Self { stream: BufReader::new(listener.accept().await.unwrap().0) };
        peer.say(GREETING).await;
        let hello = peer.hear().await;
        assert_eq!(hello["execute"], "qmp_capabilities");
        peer.answer(&hello, json!({})).await;
        peer
    }

    async fn say(&mut self, line: &str) {
        self.stream.get_mut().write_all(format!("{line}\r\n").as_bytes()).await.unwrap();
    }

    async fn hear(&mut self) -> Value {
        let mut line = String::new();
        self.stream.read_line(&mut line).await.unwrap();
        serde_json::from_str(&line).unwrap()
    }

    async fn answer(&mut self, command: &Value, value: Value) {
        self.say(&json!({"return": value, "id": command["id"]}).to_string()).await;
    }
}

fn socket() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("qmp.sock");
    (dir, path)
}

fn listen(path: &Path) -> UnixListener {
    let _ = std::fs::remove_file(path);
    UnixListener::bind(path).unwrap()
}

#[tokio::test]
async fn answers_find_their_commands_in_any_order_among_events() {
    let (_dir, path) = socket();
    let listener = listen(&path);
    let client = Client::open(path, std::future::pending());
    let mut notices = client.subscribe();
    let mut peer = Peer::accept(&listener).await;
    let (first, second) = (client.clone(), client.clone());
    let first = tokio::spawn(async move { first.run("first", Value::Null).await });
    let heard_first = peer.hear().await;
    let second = tokio::spawn(async move { second.run("second", json!({"a": 1})).await });
    let heard_second = peer.hear().await;
    assert_eq!(heard_second["arguments"], json!({"a": 1}));
    peer.say(r#"{"event": "SOMETHING_NEW", "data": {"x": 1}, "timestamp": {}}"#).await;
    peer.say(r#"{"what": "is this"}"#).await;
    peer.answer(&heard_second, json!(2)).await;
    peer.say(&json!({"id": heard_first["id"], "error": {"class": "GenericError", "desc": "not now"}}).to_string())
        .await;
    assert_eq!(second.await.unwrap(), Ok(json!(2)));
    let refused = first.await.unwrap().unwrap_err();
    assert!(matches!(&refused, QmpError::Refused { command, desc, .. } if command == "first" && desc == "not now"));
    assert_eq!(notices.recv().await.unwrap(), Notice::Connected { version: "7.2.0".into() });
    let event = Event { name: "SOMETHING_NEW".into(), data: json!({"x": 1}) };
    assert_eq!(notices.recv().await.unwrap(), Notice::Event(event));
}

#[tokio::test]
async fn a_late_answer_does_not_poison_the_connection() {
    let (_dir, path) = socket();
    let listener = listen(&path);
    let client = Client::open(path, std::future::pending());
    let mut peer = Peer::accept(&listener).await;
    let slow = client.run_within(Duration::from_millis(20), "slow", Value::Null, None).await;
    assert!(matches!(slow, Err(QmpError::Timeout { .. })));
    let heard = peer.hear().await;
    peer.answer(&heard, json!("too late")).await;
    let next = tokio::spawn(async move { client.run("next", Value::Null).await });
    let heard = peer.hear().await;
    peer.answer(&heard, json!("mine")).await;
    assert_eq!(next.await.unwrap(), Ok(json!("mine")));
}

#[tokio::test]
async fn reconnects_and_fails_what_was_under_way() {
    let (_dir, path) = socket();
    let listener = listen(&path);
    let client = Client::open(path, std::future::pending());
    let mut peer = Peer::accept(&listener).await;
    let run = |name: &'static str| {
        let client = client.clone();
        tokio::spawn(async move { client.run(name, Value::Null).await })
    };
    let lost = run("lost");
    peer.hear().await;
    drop(peer);
    assert_eq!(lost.await.unwrap(), Err(QmpError::Disconnected { command: "lost".into() }));
    let waits = run("waits");
    let mut peer = Peer::accept(&listener).await;
    let heard = peer.hear().await;
    assert_eq!(heard["execute"], "waits");
    peer.answer(&heard, json!({})).await;
    assert_eq!(waits.await.unwrap(), Ok(json!({})));
}

#[tokio::test]
async fn an_ended_machines_client_leaves_the_socket_to_the_next_machine() {
    let (_dir, path) = socket();
    let listener = listen(&path);
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let old = Client::open(path.clone(), async move { drop(ended.await) });
    let peer = Peer::accept(&listener).await;
    end.send(()).unwrap();
    // Dropped after its machine's end was told: in the other order it may connect once more, as it should.
    drop(peer);
    drop(listener);
    let listener = listen(&path);
    let asked = old.run("to the dead", Value::Null).await;
    assert_eq!(asked, Err(QmpError::Disconnected { command: "to the dead".into() }));
    // Longer than it pauses between two tries at most; the clock runs as fast as there is nothing else to do.
    tokio::time::pause();
    let stranger = tokio::time::timeout(Duration::from_secs(5), listener.accept()).await;
    assert!(stranger.is_err(), "the old client is gone");
    tokio::time::resume();
    let new = Client::open(path, std::future::pending());
    let answer = tokio::spawn(async move { new.run("hello", Value::Null).await });
    let mut peer = Peer::accept(&listener).await;
    let heard = peer.hear().await;
    peer.answer(&heard, json!({})).await;
    assert_eq!(answer.await.unwrap(), Ok(json!({})));
}

#[tokio::test]
async fn an_endless_line_ends_the_connection() {
    let (_dir, path) = socket();
    let listener = listen(&path);
    let client = Client::open(path, std::future::pending());
    let mut notices = client.subscribe();
    let mut peer = Peer::accept(&listener).await;
    assert!(matches!(notices.recv().await.unwrap(), Notice::Connected { .. }));
    // The client hangs up in the middle of it, so the write may fail.
    let _ = peer.stream.get_mut().write_all(&vec![b'x'; message::MAX_LINE + 1]).await;
    assert_eq!(notices.recv().await.unwrap(), Notice::Disconnected);
}

#[tokio::test]
async fn a_descriptor_travels_with_its_command() {
    let (_dir, path) = socket();
    let listener = listen(&path);
    let client = Client::open(path, std::future::pending());
    let mut peer = Peer::accept(&listener).await;
    let (mut reader, writer) = std::io::pipe().unwrap();
    let run = tokio::spawn(async move { client.run_with_fd("getfd", json!({"fdname": "f"}), writer.into()).await });
    let (bytes, fd) = receive(peer.stream.get_ref()).await;
    let heard: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(heard["execute"], "getfd");
    peer.answer(&heard, json!({})).await;
    assert_eq!(run.await.unwrap(), Ok(json!({})));
    std::io::Write::write_all(&mut std::fs::File::from(fd.unwrap()), b"through").unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut reader, &mut text).unwrap();
    assert_eq!(text, "through");
}

/// One message of the socket with its descriptor.
async fn receive(stream: &UnixStream) -> (Vec<u8>, Option<OwnedFd>) {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    stream.readable().await.unwrap();
    let mut bytes = [0; 1024];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let count = {
        let mut slices = [std::io::IoSliceMut::new(&mut bytes)];
        recvmsg(stream.as_fd(), &mut slices, &mut ancillary, RecvFlags::empty()).unwrap().bytes
    };
    let fd = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    (bytes[..count].to_vec(), fd)
}
