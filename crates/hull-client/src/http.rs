//! Requests and answers.

use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt};
use hull_types::{
    error::{Error, ErrorKind, Problem, Result},
    sensitive::Sensitive,
};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::{Serialize, de::DeserializeOwned};
use url::Url;

use crate::endpoint::{Endpoint, tls};

/// Query parameters.
pub type Query<'a> = [(&'a str, String)];

/// A client of one server. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    pub(crate) endpoint: Endpoint,
    pub(crate) token: Option<Sensitive>,
    pub(crate) project: Option<String>,
}

impl Client {
    /// A client of the server at this endpoint. The token may be absent for root over the unix socket; the project is the
    /// name or id calls are about, the server's `default` where absent.
    pub fn new(endpoint: Endpoint, token: Option<String>, project: Option<String>) -> Result<Self> {
        let builder = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(10))
            .user_agent(concat!("hull/", env!("CARGO_PKG_VERSION")));
        let builder = match &endpoint {
            Endpoint::Unix(path) => builder.unix_socket(path.as_path()).tls_backend_preconfigured(no_tls()?),
            Endpoint::Https { ca_pem, .. } => builder.tls_backend_preconfigured(tls(ca_pem)?),
        };
        let http = builder.build().map_err(|e| Error::internal(format!("the HTTP client could not be made: {e}")))?;
        Ok(Self { http, base: endpoint.base()?, endpoint, token: token.map(Sensitive::from), project })
    }

    /// `GET`, the answer as JSON.
    pub async fn get<T: DeserializeOwned>(&self, path: &str, query: &Query<'_>) -> Result<T> {
        self.json(self.request(Method::GET, path, query)?).await
    }

    /// `POST` of a JSON body, the answer as JSON.
    pub async fn post<B: Serialize + Sync + ?Sized, T: DeserializeOwned>(&self, path: &str, body: &B) -> Result<T> {
        self.json(self.request(Method::POST, path, &[])?.json(body)).await
    }

    /// `PATCH` of a JSON body, the answer as JSON.
    pub async fn patch<B: Serialize + Sync + ?Sized, T: DeserializeOwned>(&self, path: &str, body: &B) -> Result<T> {
        self.json(self.request(Method::PATCH, path, &[])?.json(body)).await
    }

    /// `PUT` of a JSON body, the answer as JSON.
    pub async fn put<B: Serialize + Sync + ?Sized, T: DeserializeOwned>(&self, path: &str, body: &B) -> Result<T> {
        self.json(self.request(Method::PUT, path, &[])?.json(body)).await
    }

    /// `DELETE`; the answer's body is not wanted.
    pub async fn delete(&self, path: &str) -> Result<()> {
        self.send(self.request(Method::DELETE, path, &[])?).await.map(drop)
    }

    /// `GET` of bytes.
    pub async fn bytes(&self, path: &str, query: &Query<'_>) -> Result<Bytes> {
        let response = self.send(self.request(Method::GET, path, query)?).await?;
        response.bytes().await.map_err(|e| self.broken(&e))
    }

    /// `GET` of a stream of bytes, with its length where the server tells.
    pub async fn download(
        &self,
        path: &str,
        query: &Query<'_>,
    ) -> Result<(Option<u64>, impl Stream<Item = Result<Bytes>> + Unpin + use<>)> {
        let response = self.send(self.request(Method::GET, path, query)?).await?;
        let length = response.content_length();
        let client = self.clone();
        Ok((length, response.bytes_stream().map_err(move |e| client.broken(&e)).boxed()))
    }

    /// `PUT` of a stream of bytes, the answer as JSON.
    pub async fn upload<T, S>(&self, path: &str, body: S) -> Result<T>
    where
        T: DeserializeOwned,
        S: Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    {
        let request = self.request(Method::PUT, path, &[])?;
        self.json(request.header("content-type", "application/octet-stream").body(reqwest::Body::wrap_stream(body)))
            .await
    }

    /// The URL of a path under the API.
    pub(crate) fn url(&self, path: &str, query: &Query<'_>) -> Result<Url> {
        let mut url = self.base.join(path).map_err(|e| Error::invalid(format!("{path:?} is not a path: {e}")))?;
        {
            let mut pairs = url.query_pairs_mut();
            pairs.extend_pairs(query);
            if let Some(project) = &self.project
                && !query.iter().any(|(name, _)| matches!(*name, "project" | "all-projects"))
            {
                pairs.append_pair("project", project);
            }
        }
        if url.query() == Some("") {
            url.set_query(None);
        }
        Ok(url)
    }

    fn request(&self, method: Method, path: &str, query: &Query<'_>) -> Result<RequestBuilder> {
        let request = self.http.request(method, self.url(path, query)?);
        Ok(match &self.token {
            Some(token) => request.bearer_auth(token.expose()),
            None => request,
        })
    }

    async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T> {
        let response = self.send(request).await?;
        let body = response.bytes().await.map_err(|e| self.broken(&e))?;
        // An endpoint that answers with nothing fits `()`.
        let body: &[u8] = if body.is_empty() { b"null" } else { &body };
        serde_json::from_slice(body).map_err(|e| {
            Error::internal(format!(
                "the server's answer could not be read ({e}); is the client older than the server? Compare `hull --version` with `hull status`"
            ))
        })
    }

    /// Sends, and turns a refusal into its error.
    async fn send(&self, request: RequestBuilder) -> Result<Response> {
        let response = request.send().await.map_err(|e| self.broken(&e))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = response.bytes().await.unwrap_or_default();
        Err(refusal(status, &body))
    }

    /// What a broken connection is called.
    fn broken(&self, error: &reqwest::Error) -> Error {
        let server = self.endpoint.describe();
        if error.is_connect() {
            return Error::unavailable(format!(
                "no Hull answers at {server} ({}); start it with `hull up`, or choose another server with `hull context`",
                root_cause(error)
            ));
        }
        if error.is_timeout() {
            return Error::timeout(format!(
                "{server} did not answer in time; the outcome is not known, look before trying again"
            ));
        }
        Error::unavailable(format!("the connection to {server} broke: {}", root_cause(error)))
    }
}

/// A refusal's error: the problem document where there is one.
pub(crate) fn refusal(status: StatusCode, body: &[u8]) -> Error {
    if let Ok(problem) = serde_json::from_slice::<Problem>(body) {
        return problem.into();
    }
    let kind = match status.as_u16() {
        401 => ErrorKind::Unauthenticated,
        403 => ErrorKind::Forbidden,
        404 => ErrorKind::NotFound,
        413 => ErrorKind::TooLarge,
        429 => ErrorKind::TooManyRequests,
        503 => ErrorKind::Unavailable,
        400..500 => ErrorKind::Invalid,
        _ => ErrorKind::Internal,
    };
    Error::new(kind, format!("the server answered {status} without a reason"))
}

/// The innermost cause: outer ones only say that a request failed.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// reqwest wants a TLS configuration even where none is used.
fn no_tls() -> Result<rustls::ClientConfig> {
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Ok(rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::internal(e.to_string()))?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_document_is_the_error_it_was() {
        let error = Error::not_found("no image named \"x\"; `hull image list` shows what there is").at("/image");
        let body = serde_json::to_vec(&Problem::from(error.clone())).unwrap();
        assert_eq!(refusal(StatusCode::NOT_FOUND, &body), error);
    }

    #[test]
    fn the_project_is_added_unless_the_call_names_one() {
        let client = Client::new(Endpoint::Unix("/nowhere".into()), None, Some("p".into())).unwrap();
        assert_eq!(client.url("v1/vms", &[]).unwrap().query(), Some("project=p"));
        assert_eq!(
            client.url("v1/vms", &[("all-projects", "true".into())]).unwrap().query(),
            Some("all-projects=true")
        );
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_says_what_to_check() {
        let client = Client::new(Endpoint::Unix("/nowhere/hull.sock".into()), None, None).unwrap();
        let error = client.get::<serde_json::Value>("v1/status", &[]).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unavailable);
        assert!(error.detail.contains("hull up"), "{error}");
    }
}
