//! Logs and traces of the long-running forms.
//!
//! ```text
//!   tracing ──► HULL_LOG filter ──► text or JSON lines on stderr                        always
//!           └─► spans of Hull's own ──► OTLP over HTTP (protobuf) to a collector        OTEL_EXPORTER_OTLP_ENDPOINT is set
//! ```
//!
//! Traces are off unless the environment names a collector; the rest of OpenTelemetry's variables
//! (`OTEL_EXPORTER_OTLP_HEADERS`, `…_TIMEOUT`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_SERVICE_NAME`, `OTEL_TRACES_SAMPLER`)
//! are honoured by the SDK. A collector that does not answer costs nothing but its spans: they are queued without
//! waiting, and dropped when the queue is full.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use hull_types::error::{Error, Result};
use opentelemetry::trace::TracerProvider;
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use tokio::runtime::Runtime;
use tracing::{Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    EnvFilter, Layer, filter::Targets, layer::SubscriberExt, registry::LookupSpan, util::SubscriberInitExt,
};

/// What may be logged, in the syntax of `RUST_LOG`; `info` where it is not set.
const FILTER: &str = "HULL_LOG";

/// Any of these names the collector (OpenTelemetry's protocol exporter specification).
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];

/// How long one batch may take to send, and the last one when Hull ends.
const PATIENCE: Duration = Duration::from_secs(5);

/// Keep it until the process ends: it sends what is still queued.
#[must_use = "traces end when this is dropped"]
pub(crate) struct Guard(Option<Traces>);

/// Starts logging to stderr, as JSON lines if asked, and tracing where a collector is named. Once in a process.
///
/// # Errors
/// `Invalid` where `HULL_LOG` or the collector's address cannot be understood.
pub(crate) fn init(json: bool) -> Result<Guard> {
    let wanted = ENDPOINTS.iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()));
    let traces = if wanted { Some(Traces::start(None)?) } else { None };
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = if json { lines.json().boxed() } else { lines.with_ansi(false).boxed() };
    tracing_subscriber::registry()
        .with(lines.with_filter(filter()?))
        .with(traces.as_ref().map(Traces::layer))
        .try_init()
        .map_err(|e| Error::internal(format!("logging cannot be started: {e}")))?;
    Ok(Guard(traces))
}

fn filter() -> Result<EnvFilter> {
    EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .with_env_var(FILTER)
        .from_env()
        .map_err(|e| Error::invalid(format!("{FILTER} cannot be read: {e}; write it like info,hull_node=debug")))
}

/// Spans on their way to a collector.
struct Traces {
    provider: SdkTracerProvider,
    sender: Arc<Sender>,
}

impl Traces {
    /// `endpoint` where the environment does not name it.
    fn start(endpoint: Option<&str>) -> Result<Self> {
        let refuse = |e: &dyn std::fmt::Display| {
            Error::invalid(format!("traces cannot be exported: {e}; check the OTEL_EXPORTER_OTLP_* variables"))
        };
        let sender = Arc::new(Sender::new()?);
        let mut exporter = SpanExporter::builder().with_http().with_http_client(Shared(Arc::clone(&sender)));
        if let Some(endpoint) = endpoint {
            exporter = exporter.with_endpoint(endpoint);
        }
        let exporter = exporter.build().map_err(|e| refuse(&e))?;
        let version = opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        let resource = Resource::builder().with_service_name("hull").with_attribute(version).build();
        let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
        Ok(Self { provider, sender })
    }

    /// Hull's own spans and those of its HTTP server; not the exporter's client, which would trace its own sending.
    fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
    {
        let ours = Targets::new().with_target("hull", LevelFilter::DEBUG).with_target("tower_http", LevelFilter::DEBUG);
        tracing_opentelemetry::layer().with_tracer(self.provider.tracer("hull")).with_filter(ours)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let Some(traces) = self.0.take() else { return };
        if let Err(error) = traces.provider.shutdown_with_timeout(PATIENCE) {
            tracing::warn!(%error, "the last traces were not sent");
        }
        if let Some(mut sender) = Arc::into_inner(traces.sender)
            && let Some(runtime) = sender.runtime.take()
        {
            // Dropping a runtime inside another one is refused; this is allowed anywhere.
            runtime.shutdown_background();
        }
    }
}

/// Sends batches. It has a runtime of its own, one thread: the SDK exports from a plain thread, and goes on while Hull's
/// runtime is being taken down.
#[derive(Debug)]
struct Sender {
    runtime: Option<Runtime>,
    http: reqwest::Client,
}

impl Sender {
    fn new() -> Result<Self> {
        // Already installed is as good: there is one provider in the house.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("traces")
            .enable_all()
            .build()
            .map_err(|e| Error::internal(format!("the runtime of traces cannot be started: {e}")))?;
        let http = reqwest::Client::builder()
            .timeout(PATIENCE)
            .build()
            .map_err(|e| Error::internal(format!("the HTTP client of traces could not be made: {e}")))?;
        Ok(Self { runtime: Some(runtime), http })
    }
}

/// A handle for the exporter.
#[derive(Debug)]
struct Shared(Arc<Sender>);

#[async_trait]
impl HttpClient for Shared {
    async fn send_bytes(&self, request: Request<Bytes>) -> std::result::Result<Response<Bytes>, HttpError> {
        let request = reqwest::Request::try_from(request)?;
        let http = self.0.http.clone();
        let runtime = self.0.runtime.as_ref().ok_or("traces have ended")?;
        let answered = runtime.spawn(async move {
            let answer = http.execute(request).await?;
            let mut response = Response::builder().status(answer.status());
            if let Some(headers) = response.headers_mut() {
                headers.clone_from(answer.headers());
            }
            let body = answer.bytes().await?;
            response.body(body).map_err(HttpError::from)
        });
        answered.await?
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader, Read, Write},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    /// Answers one request as a collector would; its path and body.
    fn collect(stream: TcpStream) -> (String, Vec<u8>) {
        let mut reader = BufReader::new(stream);
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            assert!(reader.read_until(b'\n', &mut head).unwrap() > 0, "the request ended early");
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        reader.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").unwrap();
        (head.lines().next().unwrap().to_owned(), body)
    }

    fn holds(body: &[u8], text: &str) -> bool {
        body.windows(text.len()).any(|window| window == text.as_bytes())
    }

    #[test]
    fn a_collector_receives_hulls_spans_and_nobody_elses() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}/v1/traces", listener.local_addr().unwrap());
        let (seen, collected) = std::sync::mpsc::channel();
        std::thread::spawn(move || seen.send(collect(listener.accept().unwrap().0)));

        let traces = Traces::start(Some(&endpoint)).unwrap();
        let subscriber = tracing_subscriber::registry().with(traces.layer());
        tracing::subscriber::with_default(subscriber, || {
            let _own = tracing::info_span!(target: "hull_server::app", "vm-create", vm = "web1").entered();
            let _foreign = tracing::info_span!(target: "hyper", "connection-of-a-library").entered();
        });
        drop(Guard(Some(traces))); // the last batch goes out here

        let (line, body) = collected.recv_timeout(Duration::from_secs(120)).unwrap();
        assert_eq!(line, "post /v1/traces http/1.1");
        for text in ["vm-create", "web1", "service.name", "hull"] {
            assert!(holds(&body, text), "no {text:?} in {}", String::from_utf8_lossy(&body));
        }
        assert!(!holds(&body, "connection-of-a-library"));
    }

    #[test]
    fn a_collector_that_is_gone_holds_nobody_up_for_long() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}/v1/traces", listener.local_addr().unwrap());
        drop(listener);
        let traces = Traces::start(Some(&endpoint)).unwrap();
        let subscriber = tracing_subscriber::registry().with(traces.layer());
        tracing::subscriber::with_default(subscriber, || drop(tracing::info_span!(target: "hull", "lost").entered()));
        drop(Guard(Some(traces)));
    }
}
