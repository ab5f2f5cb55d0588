//! Numbers for Prometheus.

use std::{fmt::Write as _, sync::atomic::AtomicU64, time::Duration};

use hull_types::error::{Error, Result};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use crate::app::App;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Route {
    method: String,
    route: String,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    state: String,
}

/// The numbers.
pub struct Metrics {
    registry: Registry,
    requests: Family<Route, Counter>,
    latency: Histogram,
    store: Histogram,
    vms: Family<State, Gauge<i64>>,
    migrations: Gauge<u64, AtomicU64>,
    nodes: Gauge<u64, AtomicU64>,
    nodes_ready: Gauge<u64, AtomicU64>,
    lag: Gauge<u64, AtomicU64>,
}

/// From a tenth of a millisecond to about six seconds, doubling.
fn seconds() -> Histogram {
    Histogram::new(prometheus_client::metrics::histogram::exponential_buckets(0.0001, 2.0, 17))
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("hull"),
            requests: Family::default(),
            latency: seconds(),
            store: seconds(),
            vms: Family::default(),
            migrations: Gauge::default(),
            nodes: Gauge::default(),
            nodes_ready: Gauge::default(),
            lag: Gauge::default(),
        };
        let it = &mut metrics;
        it.registry.register("http_requests", "Requests answered", it.requests.clone());
        it.registry.register("http_request_seconds", "Time to the head of the answer", it.latency.clone());
        it.registry.register("store_commit_seconds", "Time to a durable transaction", it.store.clone());
        it.registry.register("vms", "VMs by state", it.vms.clone());
        it.registry.register("migrations_under_way", "Migrations that are not over", it.migrations.clone());
        it.registry.register("nodes", "Nodes", it.nodes.clone());
        it.registry.register("nodes_ready", "Nodes that answer", it.nodes_ready.clone());
        it.registry.register("watch_lag_revisions", "Revisions the cache is behind the store", it.lag.clone());
        metrics
    }
}

impl Metrics {
    /// A request was answered. `route` is the path's pattern, so that labels stay few.
    pub fn answered(&self, method: &str, route: &str, status: u16, took: Duration) {
        let label = Route { method: method.to_owned(), route: route.to_owned(), status };
        self.requests.get_or_create(&label).inc();
        self.latency.observe(took.as_secs_f64());
    }

    /// A transaction ended.
    pub fn stored(&self, took: Duration) {
        self.store.observe(took.as_secs_f64());
    }

    /// All numbers as text, those of state freshly counted.
    ///
    /// # Errors
    /// The store's, and a defect where the text cannot be made.
    pub async fn text(&self, app: &App) -> Result<String> {
        let newest = app.store.revision().await.map_err(crate::state::repo::store_error)?.0;
        let (vms, migrations, nodes, ready, seen) = app.cache().read_at(|state, revision| {
            let ready = state.nodes.iter().filter(|node| state.answers(node.id)).count();
            let migrations = state.migrations.iter().filter(|migration| !migration.phase.is_over()).count();
            (app.count(state, |_| true), migrations, state.nodes.len(), ready, revision)
        });
        self.vms.clear();
        for (state, count) in vms {
            self.vms.get_or_create(&State { state }).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        self.migrations.set(migrations as u64);
        self.nodes.set(nodes as u64);
        self.nodes_ready.set(ready as u64);
        self.lag.set(newest.saturating_sub(seen));
        let mut text = String::new();
        encode(&mut text, &self.registry)
            .map_err(|e| Error::internal(format!("the metrics have no text form: {e}")))?;
        writeln!(text).map_err(|e| Error::internal(e.to_string()))?;
        Ok(text)
    }
}
