//! A node on the network: it joins with a token that pins the CA, links over mTLS by a real WebSocket, dials back streams.

use std::sync::{Arc, Mutex};

use futures::{SinkExt, StreamExt};
use hull_types::{
    id::NodeId,
    link::{FromNode, Joined, NodeCall, PROTOCOL, ToNode},
};
use rcgen::{CertificateParams, KeyPair};
use serde_json::json;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{self, Message, client::IntoClientRequest, protocol::CloseFrame},
};

use crate::{
    cloud::{Client, Cloud, DEADLINE, tls},
    node::{Held, reply, status, take},
};

type Socket = WebSocketStream<TlsStream<TcpStream>>;

struct Identity {
    joined: Joined,
    key: String,
}

async fn join(cloud: &Cloud) -> Identity {
    let token = cloud.client.post("/v1/join-tokens", json!({})).await.created();
    let token = token["secret"].as_str().unwrap();
    let rest = token.strip_prefix("hull-join:").unwrap();
    let (rest, secret) = rest.rsplit_once(':').unwrap();
    let (address, fingerprint) = rest.rsplit_once(':').unwrap();
    assert_eq!(address, cloud.client.addr.to_string());
    let ca = rustls_pki_types::pem::PemObject::from_pem_file(cloud.dir.path().join("pki/ca.pem")).unwrap();
    let ca: rustls_pki_types::CertificateDer<'_> = ca;
    assert_eq!(fingerprint, hull_server::tls::fingerprint(&ca));

    let key = KeyPair::generate().unwrap();
    let request = CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    let stranger = cloud.client.with_token(None);
    let body = json!({"secret": "wrong", "name": "n1", "request": request});
    stranger.post("/node/v1/join", body).await.refused("unauthenticated");
    let body = json!({"secret": secret, "name": "n1", "request": request});
    let joined = stranger.post("/node/v1/join", body).await.ok();
    Identity { joined: serde_json::from_value(joined).unwrap(), key: key.serialize_pem() }
}

async fn dial(cloud: &Cloud, path: &str, identity: Option<&Identity>) -> tungstenite::Result<Socket> {
    let ca = std::fs::read(cloud.dir.path().join("pki/ca.pem")).unwrap();
    let own = identity.map(|identity| (identity.joined.certificate.as_str(), identity.key.as_str()));
    let connector = tokio_rustls::TlsConnector::from(Arc::new(tls(&ca, own)));
    let tcp = TcpStream::connect(cloud.client.addr).await?;
    let stream = connector.connect("localhost".try_into().unwrap(), tcp).await?;
    dial_over(stream, path, None).await
}

async fn dial_over(stream: TlsStream<TcpStream>, path: &str, token: Option<&str>) -> tungstenite::Result<Socket> {
    let mut request = format!("wss://localhost{path}").into_client_request()?;
    if let Some(token) = token {
        request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    Ok(client_async(request, stream).await?.0)
}

async fn say(socket: &mut Socket, message: &FromNode) {
    socket.send(Message::text(serde_json::to_string(message).unwrap())).await.unwrap();
}

async fn hear(socket: &mut Socket) -> ToNode {
    loop {
        let message = tokio::time::timeout(DEADLINE, socket.next()).await.unwrap().expect("the link stands").unwrap();
        if let Message::Text(text) = message {
            return serde_json::from_str(&text).unwrap();
        }
    }
}

fn hello(node: NodeId) -> FromNode {
    FromNode::Hello { protocol: PROTOCOL, node, status: Box::new(status(node)) }
}

#[tokio::test]
async fn a_host_joins_links_holds_a_vm_and_dials_back_its_console() {
    let cloud = Arc::new(Cloud::start().await);
    let identity = Arc::new(join(&cloud).await);
    let node = identity.joined.node;
    let refused = dial(&cloud, "/node/v1/link", None).await;
    assert!(matches!(refused, Err(tungstenite::Error::Http(answer)) if answer.status() == 401));

    cloud.image("debian").await;
    let mut link = dial(&cloud, "/node/v1/link", Some(&identity)).await.unwrap();
    say(&mut link, &hello(node)).await;
    let held = Mutex::<Held>::default();
    let dialler = (cloud.clone(), identity.clone());
    let serving = tokio::spawn(async move {
        loop {
            match hear(&mut link).await {
                ToNode::Desired(desired) => {
                    for report in take(node, &held, desired) {
                        say(&mut link, &FromNode::Vm(Box::new(report))).await;
                    }
                }
                ToNode::Call { id, call } => {
                    if let NodeCall::OpenStream { stream, .. } = call {
                        let path = format!("/node/v1/streams/{stream}");
                        tokio::spawn(shout(dial(&dialler.0, &path, Some(&dialler.1)).await.unwrap()));
                    }
                    say(&mut link, &FromNode::Reply { id, result: Ok(reply(call, &held)) }).await;
                }
            }
        }
    });
    cloud.client.post("/v1/vms", json!({"name": "w", "image": "debian", "flavor": "micro"})).await.created();
    cloud.until("/v1/vms/w", "running", |vm| vm.state() == "running").await;

    let mut console = user(&cloud, &cloud.client, "/v1/vms/w/console").await.unwrap();
    console.send(Message::binary("hello\n".as_bytes())).await.unwrap();
    let mut heard = Vec::new();
    while heard.len() < 6 {
        match tokio::time::timeout(DEADLINE, console.next()).await.unwrap().unwrap().unwrap() {
            Message::Binary(bytes) => heard.extend_from_slice(&bytes),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(heard, b"HELLO\n");
    // An empty frame says that no more will come; the far side ends, and so does the console.
    console.send(Message::binary(Vec::new())).await.unwrap();
    while let Some(Ok(message)) = tokio::time::timeout(DEADLINE, console.next()).await.unwrap() {
        assert!(matches!(message, Message::Close(Some(ref frame)) if u16::from(frame.code) == 1000), "{message:?}");
    }
    let refused = user(&cloud, &cloud.client, "/v1/vms/nope/console").await;
    assert!(matches!(refused, Err(tungstenite::Error::Http(answer)) if answer.status() == 404));

    // Whoever loses the right to a console loses the one they have open.
    let ann = crate::identity::user(&cloud, "ann", Some("default"), "member").await;
    let mut console = user(&cloud, &ann, "/v1/vms/w/console").await.unwrap();
    cloud.client.patch("/v1/users/ann", json!({"enabled": false})).await.ok();
    let end = tokio::time::timeout(DEADLINE, console.next()).await.unwrap().unwrap().unwrap();
    let told = |frame: &CloseFrame| u16::from(frame.code) == 1011 && frame.reason.contains("no longer yours");
    assert!(matches!(&end, Message::Close(Some(frame)) if told(frame)), "{end:?}");
    serving.abort();
}

/// What the node's end of the console does.
async fn shout(mut stream: Socket) {
    while let Some(Ok(message)) = stream.next().await {
        match message {
            Message::Binary(bytes) if bytes.is_empty() => break,
            Message::Binary(bytes) => stream.send(Message::binary(bytes.to_ascii_uppercase())).await.unwrap(),
            Message::Close(_) => break,
            _ => {}
        }
    }
    // Closing twice is no harm.
    drop(stream.close(None).await);
}

/// A user's WebSocket, by token.
async fn user(cloud: &Cloud, client: &Client, path: &str) -> tungstenite::Result<Socket> {
    let ca = std::fs::read(cloud.dir.path().join("pki/ca.pem")).unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(tls(&ca, None)));
    let tcp = TcpStream::connect(cloud.client.addr).await?;
    let stream = connector.connect("localhost".try_into().unwrap(), tcp).await?;
    dial_over(stream, path, client.token.as_deref()).await
}

#[tokio::test]
async fn a_node_cannot_speak_for_another_and_its_newest_link_counts() {
    let cloud = Cloud::start().await;
    let identity = join(&cloud).await;
    let node = identity.joined.node;
    let mut liar = dial(&cloud, "/node/v1/link", Some(&identity)).await.unwrap();
    say(&mut liar, &hello(NodeId(uuid::Uuid::now_v7()))).await;
    ended(&mut liar).await;

    let mut first = dial(&cloud, "/node/v1/link", Some(&identity)).await.unwrap();
    say(&mut first, &hello(node)).await;
    assert!(matches!(hear(&mut first).await, ToNode::Desired(desired) if desired.full));
    let mut second = dial(&cloud, "/node/v1/link", Some(&identity)).await.unwrap();
    say(&mut second, &hello(node)).await;
    assert!(matches!(hear(&mut second).await, ToNode::Desired(desired) if desired.full));
    ended(&mut first).await;
    assert!(cloud.app().hub().is_attached(node));
    assert_eq!(cloud.client.get("/v1/nodes/n1").await.ok()["ready"], true);
}

async fn ended(socket: &mut Socket) {
    while let Some(Ok(message)) = tokio::time::timeout(DEADLINE, socket.next()).await.unwrap() {
        assert!(!matches!(message, Message::Text(_)), "{message:?}");
    }
}
