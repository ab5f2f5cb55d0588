//! What a hostile guest may send to the metadata service's HTTP server, and how slowly.

use std::{path::Path, sync::Arc};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    sync::watch,
    task::JoinHandle,
    time::Instant,
};

use super::{
    super::{
        super::{
            GuestMetadata, fixture,
            hostile_tests::{Bender, rounds},
            metadata::TokenKey,
            netns::Netns,
        },
        Guests, Shop,
    },
    *,
};

const WEB: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 90, 0, 10));
/// What hyper may hold of a request's head.
const HEAD: usize = 16 << 10;

/// Two VMs, each with a secret of its own.
fn shop() -> Shop {
    let guests = Guests::default();
    for (port, secret) in fixture::network().ports.iter().zip(["secret-of-web", "secret-of-db"]) {
        let user_data = Some(secret.as_bytes().to_vec());
        guests.set(GuestMetadata { vm: port.vm.unwrap(), user_data, ..fixture::guest() });
    }
    let here = Netns::current().unwrap();
    let view = watch::channel(Arc::new(fixture::view())).1;
    let tokens = TokenKey::new([7; 32]);
    let resolv_conf = Arc::from(Path::new("/nowhere"));
    Shop { namespace: here.clone(), host: here, resolv_conf, view, guests, leases: Default::default(), tokens }
}

/// A connection of the VM `web`: its end, and the server.
fn connect(shop: &Shop, buffer: usize) -> (DuplexStream, JoinHandle<()>) {
    let (near, far) = duplex(buffer);
    (near, tokio::spawn(converse(shop.clone(), far, WEB)))
}

/// Sends all it may, and reads what comes until the server hangs up.
async fn exchange(shop: &Shop, request: &[u8]) -> Vec<u8> {
    let (near, server) = connect(shop, 1 << 20);
    let (mut reader, mut writer) = tokio::io::split(near);
    // The server may have hung up already.
    let _ = writer.write_all(request).await;
    let mut answer = Vec::new();
    reader.read_to_end(&mut answer).await.unwrap();
    server.await.unwrap();
    drop(writer);
    answer
}

fn corpus() -> Vec<Vec<u8>> {
    let mut corpus: Vec<Vec<u8>> = [
        "GET /latest/user-data HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n",
        "GET /openstack/latest/user_data HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        "PUT /latest/api/token HTTP/1.1\r\nHost: x\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\nContent-Length: 0\r\n\r\n",
        "GET /latest/meta-data/ HTTP/1.1\r\nHost: x\r\nX-aws-ec2-metadata-token: AAAA\r\n\r\n",
        "GET http://10.90.0.11/latest/user-data HTTP/1.1\r\nHost: 10.90.0.11\r\nX-Forwarded-For: 10.90.0.11\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\nffffffffffffffff\r\nGET /",
        "GET /%00%ff/..%2f..%2flatest HTTP/1.0\r\n\r\n",
        "HEAD * HTTP/1.1\r\nUpgrade: h2c\r\nExpect: 100-continue\r\nContent-Length: 99999999999999999999\r\n\r\n",
        "CONNECT 10.90.0.11:80 HTTP/1.1\r\nHost: 10.90.0.11:80\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into();
    corpus.push(b"GET /\xff\xfe\xc3\x28 HTTP/1.1\r\nHost: \xff\r\nX-aws-ec2-metadata-token: \xff\xff\r\n\r\n".to_vec());
    corpus.push([0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc].to_vec());
    corpus
}

#[tokio::test(start_paused = true)]
async fn whatever_is_asked_the_answer_is_small_and_the_askers_own() {
    let (shop, corpus, mut bender) = (shop(), corpus(), Bender::new(8080));
    let mut own = 0;
    for round in 0..rounds(3_000) {
        let request = bender.bend(&corpus, 8192);
        let answer = exchange(&shop, &request).await;
        assert!(answer.len() <= 64 << 10, "round {round}: {} bytes", answer.len());
        let said = String::from_utf8_lossy(&answer);
        assert!(!said.contains("secret-of-db"), "round {round}: {}", String::from_utf8_lossy(&request));
        own += usize::from(said.contains("secret-of-web"));
    }
    assert!(own > 20, "only {own} of the requests are near enough to real ones");
}

#[tokio::test]
async fn a_head_without_an_end_is_read_no_further_than_a_head_may_be() {
    for (start, more) in [("GET / HTTP/1.1\r\n", "X-Flood: 0123456789\r\n"), ("GET /", "0123456789"), ("", "\r\n")] {
        let (mut near, server) = connect(&shop(), 1024);
        near.write_all(start.as_bytes()).await.unwrap();
        let mut sent = start.len();
        while near.write_all(more.as_bytes()).await.is_ok() && sent < 10 << 20 {
            sent += more.len();
        }
        assert!(sent <= 8 * HEAD, "{sent} bytes of {more:?} were taken");
        server.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_speaks_slowly_or_never_ends_is_hung_up_on() {
    let shop = shop();
    // Byte by byte, silent from the start, and silent between two questions.
    for (first, then) in [("G", "E"), ("", ""), ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", "")] {
        let (near, server) = connect(&shop, 1 << 16);
        let (mut reader, mut writer) = tokio::io::split(near);
        let begun = Instant::now();
        writer.write_all(first.as_bytes()).await.unwrap();
        let drip = tokio::spawn(async move {
            while writer.write_all(then.as_bytes()).await.is_ok() && begun.elapsed() < 10 * LONGEST {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        let mut answer = Vec::new();
        reader.read_to_end(&mut answer).await.unwrap();
        server.await.unwrap();
        assert!(begun.elapsed() <= LONGEST + Duration::from_secs(1), "{first:?}: {:?}", begun.elapsed());
        drip.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_asks_without_end_is_hung_up_on_after_a_while() {
    let (near, server) = connect(&shop(), 1 << 16);
    let (mut reader, mut writer) = tokio::io::split(near);
    let begun = Instant::now();
    let asking = tokio::spawn(async move {
        while writer.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.is_ok() && begun.elapsed() < 10 * LONGEST {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    let mut answers = Vec::new();
    reader.read_to_end(&mut answers).await.unwrap();
    server.await.unwrap();
    assert!(begun.elapsed() <= LONGEST + Duration::from_secs(1), "{:?}", begun.elapsed());
    asking.abort();
}
