//! Refusals on the wire: RFC 9457 problem documents, each with the request's id.

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use hull_types::error::{Error, ErrorKind, Problem};
use tracing::Instrument;

/// A refusal on its way out. The outermost layer turns it into a document.
#[derive(Debug)]
pub struct Refusal(pub(crate) Error);

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

/// What handlers answer.
pub(crate) type Answer<T> = Result<T, Refusal>;

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = status(self.0.kind).into_response();
        response.extensions_mut().insert(self.0);
        response
    }
}

fn status(kind: ErrorKind) -> StatusCode {
    // Every kind's status is a valid one.
    StatusCode::from_u16(kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// The id of a request: the caller's `X-Request-Id` where it is harmless, else a new one.
#[derive(Clone, Debug)]
pub(crate) struct RequestId(HeaderValue);

impl RequestId {
    /// As text.
    pub(crate) fn text(&self) -> String {
        self.0.to_str().unwrap_or_default().to_owned()
    }

    fn of(headers: &HeaderMap) -> Self {
        let given = headers.get("x-request-id").filter(|id| {
            id.len() <= 64 && id.as_bytes().iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        });
        let fresh = || HeaderValue::from_str(&uuid::Uuid::new_v4().to_string());
        // A UUID's text is a valid header value.
        Self(given.cloned().or_else(|| fresh().ok()).unwrap_or_else(|| HeaderValue::from_static("-")))
    }
}

/// Gives every request an id, and every refusal its document.
pub(crate) async fn render(mut request: Request, next: Next) -> Response {
    let id = RequestId::of(request.headers());
    request.extensions_mut().insert(id.clone());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let span = tracing::info_span!("request", %method, path, id = ?id.0);
    let mut response = next.run(request).instrument(span).await;
    if let Some(error) = response.extensions_mut().remove::<Error>() {
        if error.kind == ErrorKind::Internal {
            tracing::error!(request = ?id.0, %method, path, %error, "a request failed");
        } else {
            tracing::debug!(request = ?id.0, %method, path, %error, "a request was refused");
        }
        response = document(error, &id);
    }
    response.headers_mut().insert("x-request-id", id.0);
    response
}

fn document(error: Error, id: &RequestId) -> Response {
    let (kind, retry_after) = (error.kind, error.retry_after);
    let problem = Problem { request_id: id.0.to_str().ok().map(str::to_owned), ..Problem::from(error) };
    // A problem is text and numbers; it always has a JSON form.
    let body = serde_json::to_vec(&problem).unwrap_or_default();
    let mut response = (status(kind), [(header::CONTENT_TYPE, "application/problem+json")], body).into_response();
    let headers = response.headers_mut();
    match kind {
        ErrorKind::Unauthenticated => {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"hull\""));
        }
        ErrorKind::TooManyRequests | ErrorKind::Unavailable => {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(retry_after.unwrap_or(1)));
        }
        // The rest of a body that is too large is not read; the connection cannot be used again.
        ErrorKind::TooLarge => {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        _ => {}
    }
    response
}

/// A handler panicked: a defect, told as such without its innards.
#[allow(clippy::needless_pass_by_value, reason = "the layer hands it over")]
pub(crate) fn panicked(panic: Box<dyn std::any::Any + Send>) -> Response {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    tracing::error!(panic = text.unwrap_or("?"), "a handler panicked");
    Refusal(Error::internal("Hull made a mistake here; please report it with the request id and the server's log"))
        .into_response()
}

/// No such path.
pub(crate) async fn no_such_path(request: Request) -> Refusal {
    let path: String = request.uri().path().chars().take(200).collect();
    Refusal(Error::not_found(format!("there is nothing at {path:?}; `/v1/openapi.json` lists all paths")))
}

/// The path is there, the method is not.
pub(crate) async fn no_such_method(request: Request) -> Refusal {
    let method = request.method();
    let path: String = request.uri().path().chars().take(200).collect();
    Refusal(Error::invalid(format!("{path:?} does not take {method}; `/v1/openapi.json` lists what it takes")))
}
