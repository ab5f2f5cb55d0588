//! A server of the test's own, and a client that speaks plain JSON to it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use hull_image::{ImageStore, Limits};
use hull_server::{
    Config, Server, ServerHandle,
    app::{App, Settings},
    env::Env,
};
use hull_store::{Store, memory::MemoryStore};
use reqwest::{Method, RequestBuilder, StatusCode};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::described;

/// How long anything may take here before the test fails.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) struct Cloud {
    pub(crate) handle: ServerHandle,
    pub(crate) client: Client,
    pub(crate) dir: TempDir,
    pub(crate) store: Arc<dyn Store>,
}

impl Cloud {
    pub(crate) async fn start() -> Self {
        Self::start_in(Env::system()).await
    }

    /// One whose clock, ids and randomness are the test's.
    pub(crate) async fn start_in(env: Env) -> Self {
        Self::start_as(Arc::new(MemoryStore::new()), Settings::default(), env).await
    }

    /// Over this store, as this operator wants it.
    pub(crate) async fn start_on(store: Arc<dyn Store>, settings: Settings) -> Self {
        Self::start_as(store, settings, Env::system()).await
    }

    async fn start_as(store: Arc<dyn Store>, settings: Settings, env: Env) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let images = Arc::new(ImageStore::open(dir.path().join("images"), Limits::default()).await.unwrap());
        let listen = Some("127.0.0.1:0".parse().unwrap());
        let config = Config { listen, settings, ..Config::new(dir.path()) };
        let handle = Server::start(config, store.clone(), Some(images), env).await.unwrap();
        let token = std::fs::read_to_string(dir.path().join("admin-token")).unwrap().trim().to_owned();
        let client =
            Client { http: http(dir.path(), None), addr: handle.addr.unwrap(), token: Some(token), patience: DEADLINE };
        Self { handle, client, dir, store }
    }

    pub(crate) fn app(&self) -> &Arc<App> {
        &self.handle.app
    }

    /// A ready image of this name, uploaded.
    pub(crate) async fn image(&self, name: &str) -> Value {
        self.client.post("/v1/images", json!({"name": name, "format": "raw"})).await.created();
        let answer = self.client.put(&format!("/v1/images/{name}/content"), vec![7; 1 << 20]).await;
        answer.ok()
    }

    /// Asks again until the answer is as wanted.
    pub(crate) async fn until(&self, path: &str, what: &str, wanted: impl Fn(&Answer) -> bool) -> Answer {
        let asking = async {
            loop {
                let mut changes = self.app().cache().subscribe();
                let answer = self.client.get(path).await;
                if wanted(&answer) {
                    return answer;
                }
                // Time alone changes nothing here but leases, which change the store.
                changes.changed().await.unwrap();
            }
        };
        match tokio::time::timeout(DEADLINE, asking).await {
            Ok(answer) => answer,
            Err(_) => panic!("{path} never was {what}; it is {:?}", self.client.get(path).await),
        }
    }
}

/// TLS that trusts this cloud's CA, with a node's certificate if given.
pub(crate) fn tls(ca: &[u8], identity: Option<(&str, &str)>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    match identity {
        None => config.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
            config.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()).unwrap()
        }
    }
}

pub(crate) fn http(dir: &std::path::Path, identity: Option<(&str, &str)>) -> reqwest::Client {
    let ca = std::fs::read(dir.join("pki/ca.pem")).unwrap();
    reqwest::Client::builder().tls_backend_preconfigured(tls(&ca, identity)).build().unwrap()
}

#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) http: reqwest::Client,
    pub(crate) addr: SocketAddr,
    pub(crate) token: Option<String>,
    /// How long one answer may take.
    pub(crate) patience: Duration,
}

impl Client {
    pub(crate) fn with_token(&self, token: Option<&str>) -> Self {
        Self { token: token.map(str::to_owned), ..self.clone() }
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("https://{}{path}", self.addr));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    pub(crate) async fn send(&self, request: RequestBuilder) -> Answer {
        let (http, request) = request.build_split();
        let request = request.unwrap();
        let (method, path) = (request.method().clone(), request.url().path().to_owned());
        let response = tokio::time::timeout(self.patience, http.execute(request)).await.unwrap().unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = response.bytes().await.unwrap();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        let content = headers.get("content-type").map(|content| content.to_str().unwrap());
        described::check(&method, &path, status, content, &body);
        Answer { status, headers, body, bytes }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path)).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(self.request(Method::POST, path).json(&body)).await
    }

    pub(crate) async fn patch(&self, path: &str, body: Value) -> Answer {
        self.send(self.request(Method::PATCH, path).json(&body)).await
    }

    pub(crate) async fn put(&self, path: &str, body: Vec<u8>) -> Answer {
        self.send(self.request(Method::PUT, path).body(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send(self.request(Method::DELETE, path)).await
    }
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: Value,
    pub(crate) bytes: bytes::Bytes,
}

impl Answer {
    #[track_caller]
    fn with(self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.body);
        self.body
    }

    #[track_caller]
    pub(crate) fn ok(self) -> Value {
        self.with(200)
    }

    #[track_caller]
    pub(crate) fn created(self) -> Value {
        self.with(201)
    }

    #[track_caller]
    pub(crate) fn gone(self) {
        self.with(204);
    }

    /// A problem document of this kind; answers its detail.
    #[track_caller]
    pub(crate) fn refused(self, kind: &str) -> String {
        assert_eq!(self.body["kind"], kind, "{} {}", self.status, self.body);
        assert_eq!(self.headers["content-type"], "application/problem+json");
        assert_eq!(self.body["status"], self.status.as_u16());
        assert!(self.body["request_id"].is_string());
        let detail = self.body["detail"].as_str().unwrap().to_owned();
        assert!(detail.len() > 10, "{detail}");
        detail
    }

    pub(crate) fn state(&self) -> &str {
        self.body["state"].as_str().unwrap_or_default()
    }
}
