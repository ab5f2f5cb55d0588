//! Importing from URLs: a server of our own on loopback, which only those may reach who say so.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::{lab, lab_with, raw_disk};
use hull_image::{ImportOptions, Limits, Source};
use hull_types::{error::ErrorKind, units::Bytes};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::{TlsAcceptor, rustls};

/// Answers every request by its path: headers, then body.
type Answer = Arc<dyn Fn(&str) -> (String, Vec<u8>) + Send + Sync>;

fn ok(body: Vec<u8>) -> (String, Vec<u8>) {
    (format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len()), body)
}

fn to(location: &str) -> (String, Vec<u8>) {
    (
        format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
        Vec::new(),
    )
}

async fn converse(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &Answer) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => request.push(byte),
            Err(_) => return,
        }
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    let (head, body) = answer(request.split(' ').nth(1).unwrap_or("/"));
    // A client that refuses the answer hangs up early.
    let _ = stream.write_all(head.as_bytes()).await;
    let _ = stream.write_all(&body).await;
    let _ = stream.shutdown().await;
}

/// A server on loopback; its address without scheme.
async fn serve(tls: Option<TlsAcceptor>, answer: Answer) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            match &tls {
                None => converse(stream, &answer).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        converse(stream, &answer).await;
                    }
                }
            }
        }
    });
    format!("127.0.0.1:{}", address.port())
}

fn trusted() -> ImportOptions {
    ImportOptions { allow_private: true, ..ImportOptions::default() }
}

fn url(text: &str) -> Source {
    Source::Url(text.parse().unwrap())
}

#[tokio::test]
async fn an_image_comes_by_http_and_through_a_few_redirects() {
    let disk = raw_disk(2);
    let body = disk.clone();
    let server = serve(None, Arc::new(move |path| if path == "/disk" { ok(body.clone()) } else { to("/disk") })).await;
    let lab = lab().await;
    let direct = lab.store.import(url(&format!("http://{server}/disk")), &trusted()).await.unwrap();
    let redirected = lab.store.import(url(&format!("http://{server}/latest")), &trusted()).await.unwrap();
    assert_eq!((direct.size, &direct), (Bytes::mib(2), &redirected));
}

#[tokio::test]
async fn an_image_comes_by_https_from_a_server_whose_root_is_trusted_and_from_no_other() {
    let signed = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(signed.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![signed.cert.der().clone()], key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let server = serve(Some(acceptor), Arc::new(|_| ok(raw_disk(2)))).await;
    let lab = lab().await;
    let source = || url(&format!("https://{server}/disk"));
    let error = lab.store.import(source(), &trusted()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    let options = ImportOptions { extra_roots: vec![signed.cert.pem().into_bytes()], ..trusted() };
    assert_eq!(lab.store.import(source(), &options).await.unwrap().size, Bytes::mib(2));
}

#[tokio::test]
async fn tenants_reach_neither_loopback_nor_metadata_by_address_name_or_redirect() {
    let lab = lab().await;
    let server = serve(None, Arc::new(|_| ok(raw_disk(2)))).await;
    let port = server.split(':').next_back().unwrap();
    for address in [
        format!("http://{server}/disk"),
        format!("http://localhost:{port}/disk"),
        "http://169.254.169.254/latest/user-data".to_owned(),
        "http://[::ffff:127.0.0.1]/disk".to_owned(),
    ] {
        let error = lab.store.import(url(&address), &ImportOptions::default()).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Forbidden, "{address}: {error}");
        assert!(error.detail.contains("not a public address"), "{error}");
    }
}

#[tokio::test]
async fn what_servers_do_wrong_is_named_and_leaves_nothing() {
    let server = serve(
        None,
        Arc::new(|path| match path {
            "/loop" => to("/loop"),
            "/file" => to("file:///etc/shadow"),
            "/gone" => ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned(), Vec::new()),
            "/cut" => {
                (format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 2 << 20), raw_disk(2)[..1 << 20].to_vec())
            }
            "/huge" => (format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 1u64 << 40), Vec::new()),
            _ => ok(vec![1; 9 << 20]),
        }),
    )
    .await;
    let lab = lab_with(Limits { source: Bytes::mib(8), keep_free: Bytes::mib(1), ..Limits::default() }).await;
    for (path, kind, said) in [
        ("/loop", ErrorKind::Invalid, "redirects"),
        ("/file", ErrorKind::Invalid, "only http and https"),
        ("/gone", ErrorKind::NotFound, "404"),
        ("/cut", ErrorKind::Unavailable, "failed"),
        ("/huge", ErrorKind::TooLarge, "more than the 8 MiB allowed"),
        ("/long", ErrorKind::TooLarge, "8 MiB allowed"),
    ] {
        let error = lab.store.import(url(&format!("http://{server}{path}")), &trusted()).await.unwrap_err();
        assert_eq!(error.kind, kind, "{path}: {error}");
        assert!(error.detail.contains(said), "{path}: {error}");
        assert!(lab.contents().is_empty());
    }
}
