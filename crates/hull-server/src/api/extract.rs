//! What handlers take from a request, each refusing with a sentence that names the field.

use axum::{
    body::Body,
    extract::{FromRequest, FromRequestParts, Request},
    http::{HeaderMap, Method, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hull_core::policy::Act;
use hull_types::{
    digest::Digest,
    error::{Error, ErrorKind, Result},
};
use serde::de::DeserializeOwned;
use sha2::Digest as _;

use super::problem::Refusal;
use crate::app::{
    ctx::{Caller, Ctx, ReplayKey},
    trail::Trail,
};

/// The largest JSON body.
pub(crate) const BODY_MAX: usize = 1 << 20;

/// A JSON body of at most [`BODY_MAX`] bytes. Nesting is bounded by the parser (128 levels).
pub(crate) struct Json<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, _: &S) -> Result<Self, Refusal> {
        let kind =
            request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("application/json");
        if !kind.starts_with("application/json") {
            return Err(Error::invalid(format!("the body is {kind:?}; send application/json")).into());
        }
        let (parts, body) = request.into_parts();
        let bytes = read(&parts.headers, body).await?;
        Ok(Self(parse(&bytes)?))
    }
}

/// Reads a JSON value and names the field that is wrong.
fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let pointer: String = error
            .path()
            .iter()
            .filter_map(|segment| match segment {
                serde_path_to_error::Segment::Seq { index } => Some(format!("/{index}")),
                serde_path_to_error::Segment::Map { key } => {
                    Some(format!("/{}", key.replace('~', "~0").replace('/', "~1")))
                }
                _ => None,
            })
            .collect();
        let what = error.into_inner();
        let place = if pointer.is_empty() { String::new() } else { format!(" at {pointer}") };
        let refusal = Error::invalid(format!("the body cannot be read{place}: {what}"));
        if pointer.is_empty() { refusal } else { refusal.at(pointer) }
    })?;
    reader.end().map_err(|e| Error::invalid(format!("the body goes on after its JSON value: {e}")))?;
    Ok(value)
}

/// Reads a body that must be small. One that says it is larger is refused unread.
async fn read(headers: &HeaderMap, body: Body) -> Result<bytes::Bytes> {
    let too_large = || {
        Error::new(ErrorKind::TooLarge, format!("the body is larger than {BODY_MAX} bytes, the most this call takes"))
    };
    let told = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<u64>().ok());
    if told.is_some_and(|length| length > BODY_MAX as u64) {
        return Err(too_large());
    }
    match Limited::new(body, BODY_MAX).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(error) => Err(Error::invalid(format!("the body broke off: {error}"))),
    }
}

/// Query parameters.
pub(crate) struct Query<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        axum::extract::Query::try_from_uri(&parts.uri)
            .map(|axum::extract::Query(query)| Self(query))
            .map_err(|e| Error::invalid(format!("the query cannot be read: {}", e.body_text())).into())
    }
}

/// Path parameters.
pub(crate) struct Path<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        match axum::extract::Path::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(path)) => Ok(Self(path)),
            Err(e) => Err(Error::invalid(format!("the path cannot be read: {}", e.body_text())).into()),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Ctx {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        // The authentication layer stands before every handler that takes this.
        let caller = parts
            .extensions
            .get::<Caller>()
            .cloned()
            .ok_or_else(|| Error::internal("a handler without authentication asked who calls"))?;
        let project = parts.uri.query().and_then(|query| parameter(query, "project"));
        let if_match = parts.headers.get(header::IF_MATCH).map(|value| revision(value.to_str().ok())).transpose()?;
        let act = parts.extensions.get::<Act>().copied();
        Ok(Self {
            caller,
            act,
            project,
            if_match: if_match.flatten(),
            replay: parts.extensions.get::<ReplayKey>().cloned(),
            trail: parts.extensions.get::<Trail>().cloned(),
        })
    }
}

/// A revision as `If-Match` carries it: `"123"`, `W/"123"` or 123; `*` is any.
fn revision(text: Option<&str>) -> Result<Option<u64>> {
    let text = text.unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    let digits = text.trim_start_matches("W/").trim_matches('"');
    digits
        .parse()
        .map(Some)
        .map_err(|_| Error::invalid("If-Match takes the ETag of an earlier answer, such as \"123\"").at("If-Match"))
}

/// One parameter of a query string.
pub(crate) fn parameter(query: &str, name: &str) -> Option<String> {
    url::form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

/// Reads `Idempotency-Key`: names the request by its method, target and body, for `crate::app::replay`.
pub(crate) async fn replay_key(request: Request, next: Next) -> Response {
    let changes = matches!(*request.method(), Method::POST | Method::PATCH | Method::DELETE);
    let Some(key) = request.headers().get("idempotency-key").filter(|_| changes) else {
        return next.run(request).await;
    };
    let key = match key.to_str() {
        Ok(key) if (1..=128).contains(&key.len()) && !key.contains('/') => key.to_owned(),
        _ => {
            let detail = "an Idempotency-Key has 1 to 128 visible ASCII characters and no slash";
            return Refusal(Error::invalid(detail).at("Idempotency-Key")).into_response();
        }
    };
    let (mut parts, body) = request.into_parts();
    let bytes = match read(&parts.headers, body).await {
        Ok(bytes) => bytes,
        Err(error) => return Refusal(error).into_response(),
    };
    let mut hash = sha2::Sha256::new();
    hash.update(format!("{} {}\n", parts.method, parts.uri));
    hash.update(&bytes);
    let fingerprint = Digest(hash.finalize().into());
    parts.extensions.insert(ReplayKey { key, fingerprint });
    next.run(Request::from_parts(parts, Body::from(bytes))).await
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_field_is_named() {
        let error = parse::<hull_types::wire::VmCreate>(br#"{"name":"a","count":"x"}"#).unwrap_err();
        assert_eq!(error.field.as_deref(), Some("/count"));
        let error = parse::<hull_types::wire::VmCreate>(br#"{"name":"a/b"}"#).unwrap_err();
        assert_eq!(error.field.as_deref(), Some("/name"));
        assert!(error.detail.contains("not allowed"), "{error}");
        let error = parse::<hull_types::wire::KeypairCreate>(b"{} {}").unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid);
    }

    #[test]
    fn deep_json_is_refused() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(parse::<serde_json::Value>(deep.as_bytes()).unwrap_err().kind, ErrorKind::Invalid);
    }

    #[test]
    fn if_match_takes_etags() {
        assert_eq!(revision(Some("\"12\"")), Ok(Some(12)));
        assert_eq!(revision(Some("W/\"12\"")), Ok(Some(12)));
        assert_eq!(revision(Some("*")), Ok(None));
        assert!(revision(Some("x")).is_err());
    }
}
