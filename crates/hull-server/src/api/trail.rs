//! The outermost word on every call that changes something: its trail, and what became of it.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, LazyLock},
};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, header},
    middleware::Next,
    response::Response,
};
use hull_types::{
    audit::{AGENT_MAX, Origin, PATH_MAX},
    error::Error,
};
use ipnet::IpNet;

use super::{extract::parameter, problem::RequestId};
use crate::{
    app::{
        App,
        audit::Ending,
        ctx::{Caller, Ctx},
        trail::Trail,
    },
    listen::Remote,
};

/// Streams into a guest: not a change of Hull's, but entry into what a tenant owns.
const STREAMS: &[&str] = &["vms.console", "vms.vnc", "vms.tcp"];

/// The calls that are audited: operation ids by method and path.
static AUDITED: LazyLock<HashMap<(String, String), String>> = LazyLock::new(|| {
    let described = serde_json::to_value(super::openapi()).unwrap_or_default();
    let paths = described["paths"].as_object().into_iter().flatten();
    let operations = paths.flat_map(|(path, methods)| {
        let methods = methods.as_object().into_iter().flatten();
        methods.map(move |(method, operation)| {
            ((method.to_uppercase(), path.clone()), operation["operationId"].as_str().unwrap_or_default().to_owned())
        })
    });
    let changes = |method: &str| matches!(method, "POST" | "PUT" | "PATCH" | "DELETE");
    let audited = operations.filter(|((method, _), id)| changes(method) || STREAMS.contains(&id.as_str()));
    let join = (("POST".to_owned(), "/node/v1/join".to_owned()), "nodes.join".to_owned());
    audited.chain([join]).collect()
});

/// Opens a call's trail, and writes what became of it where its change has not.
pub(crate) async fn follow(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let Some(operation) = operation(&request) else { return next.run(request).await };
    let trail = Trail::new(origin(&app, &request, operation));
    request.extensions_mut().insert(trail.clone());
    let mut open = Open { app: app.clone(), trail: Some(trail) };
    let response = next.run(request).await;
    let Some(trail) = open.trail.take() else { return response };
    let status = response.status();
    let ending = if status.is_client_error() || status.is_server_error() {
        Ending::Refused(status.as_u16(), response.extensions().get::<Error>())
    } else {
        Ending::Done
    };
    app.conclude(&trail, ending).await;
    response
}

/// Tells a call's trail who calls, as soon as that is known: what the policy refuses is told with who tried.
pub(crate) fn known(app: &App, request: &Request, caller: &Caller) {
    let Some(trail) = request.extensions().get::<Trail>() else { return };
    // What the system's callers do belongs to a project only where it changes something of it.
    let project = if caller.is_system() {
        None
    } else {
        let named = request.uri().query().and_then(|query| parameter(query, "project"));
        let ctx = Ctx { project: named, ..Ctx::of(caller.clone()) };
        let seen = app.cache().read(|state| ctx.seen_project(state).map(|project| project.id).ok());
        seen.or_else(|| caller.grants.home())
    };
    trail.known(caller, project);
}

fn operation(request: &Request) -> Option<String> {
    let path = request.extensions().get::<MatchedPath>()?;
    AUDITED.get(&(request.method().as_str().to_owned(), path.as_str().to_owned())).cloned()
}

/// A call whose answer has not gone out. Dropped with the request where the caller hangs up.
struct Open {
    app: Arc<App>,
    trail: Option<Trail>,
}

impl Drop for Open {
    fn drop(&mut self) {
        let (Some(trail), Ok(runtime)) = (self.trail.take(), tokio::runtime::Handle::try_current()) else { return };
        let app = self.app.clone();
        runtime.spawn(async move { app.conclude(&trail, Ending::BrokenOff).await });
    }
}

fn origin(app: &App, request: &Request, operation: String) -> Origin {
    let headers = request.headers();
    let remote = request.extensions().get::<Remote>().map(|remote| remote.0);
    let (address, proxy) = source(remote, headers, &app.settings().trusted_proxies);
    let id = request.extensions().get::<RequestId>().map(RequestId::text);
    let agent = headers.get(header::USER_AGENT).map(|agent| cut(&String::from_utf8_lossy(agent.as_bytes()), AGENT_MAX));
    Origin {
        address,
        proxy,
        request_id: id.unwrap_or_default(),
        user_agent: agent,
        operation,
        method: request.method().as_str().to_owned(),
        path: cut(request.uri().path(), PATH_MAX),
    }
}

/// The beginning of what a stranger sent, without control characters.
fn cut(text: &str, most: usize) -> String {
    text.chars().filter(|c| !c.is_control()).take(most).collect()
}

/// Where a call came from: the other end of the connection, or, where that is a trusted proxy, the last address in
/// `X-Forwarded-For` that is not one; anyone can write what stands before it.
fn source(remote: Option<IpAddr>, headers: &HeaderMap, trusted: &[IpNet]) -> (Option<IpAddr>, Option<IpAddr>) {
    let is_trusted = |address: &IpAddr| trusted.iter().any(|net| net.contains(address));
    let Some(proxy) = remote.filter(is_trusted) else { return (remote, None) };
    let mut caller = None;
    let told = headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok());
    let told: Vec<&str> = told.flat_map(|value| value.split(',')).map(str::trim).collect();
    for text in told.into_iter().rev() {
        let Ok(address) = text.parse::<IpAddr>() else { break };
        caller = Some(address.to_canonical());
        if !is_trusted(&address) {
            break;
        }
    }
    match caller {
        Some(caller) => (Some(caller), Some(proxy)),
        None => (remote, None),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn from(remote: &str, forwarded: &[&str]) -> (String, Option<String>) {
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append("x-forwarded-for", value.parse().unwrap());
        }
        let trusted = ["192.0.2.0/24".parse().unwrap()];
        let (address, proxy) = source(Some(remote.parse().unwrap()), &headers, &trusted);
        (address.unwrap().to_string(), proxy.map(|proxy| proxy.to_string()))
    }

    #[test]
    fn only_a_trusted_proxy_is_believed_and_only_its_own_word() {
        let proxy = Some("192.0.2.1".to_owned());
        assert_eq!(from("203.0.113.5", &["198.51.100.1"]), ("203.0.113.5".into(), None));
        assert_eq!(from("192.0.2.1", &["198.51.100.1"]), ("198.51.100.1".into(), proxy.clone()));
        assert_eq!(from("192.0.2.1", &["10.0.0.1, 198.51.100.1, 192.0.2.9"]), ("198.51.100.1".into(), proxy.clone()));
        assert_eq!(from("192.0.2.1", &["10.0.0.1", "198.51.100.1"]), ("198.51.100.1".into(), proxy));
        assert_eq!(from("192.0.2.1", &["rubbish"]), ("192.0.2.1".into(), None));
        assert_eq!(from("192.0.2.1", &[]), ("192.0.2.1".into(), None));
    }

    #[test]
    fn operations_have_names_of_their_own() {
        let mut names: Vec<&String> = AUDITED.values().collect();
        names.sort();
        let many = names.len();
        names.dedup();
        assert_eq!(names.len(), many, "{names:?}");
        assert!(AUDITED.values().any(|name| name == "vms.create"));
        assert!(STREAMS.iter().all(|stream| AUDITED.values().any(|name| name == stream)));
    }
}
