//! Logging in at an identity provider, as RFC 8252 has it for programs on people's own machines.
//!
//! ```text
//!   browser   a port on loopback; the provider's page in the browser; back to the port with a code; code + PKCE verifier ──> ID token
//!   device    a short code, typed on any device with a browser; asked again until that is done          (RFC 8628) ──> ID token
//! ```

use std::{process::Stdio, time::Duration};

use hull_types::{
    error::{Error, Result},
    sensitive::Sensitive,
    wire::OidcMethod,
};
use oauth2::{
    AuthType, AuthUrl, AuthorizationCode, Client, ClientId, CsrfToken, DeviceAuthorizationUrl, ExtraTokenFields,
    HttpRequest, HttpResponse, PkceCodeChallenge, RedirectUrl, Scope, StandardDeviceAuthorizationResponse,
    StandardRevocableToken, StandardTokenResponse, TokenUrl,
    basic::{BasicErrorResponse, BasicRevocationErrorResponse, BasicTokenIntrospectionResponse, BasicTokenType},
};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use url::Url;

use crate::output;

/// How long someone may take to log in.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long the provider may take to answer a request.
const ANSWER: Duration = Duration::from_secs(20);
/// The longest request the browser sends us.
const REQUEST_MAX: usize = 16 << 10;

/// What logging in gave.
pub(crate) struct Proof {
    /// The token.
    pub(crate) id_token: Sensitive,
    /// What it must repeat.
    pub(crate) nonce: Option<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
struct Extra {
    id_token: Option<Sensitive>,
}

impl ExtraTokenFields for Extra {}

type Tokens = StandardTokenResponse<Extra, BasicTokenType>;
type Bare = Client<
    BasicErrorResponse,
    Tokens,
    BasicTokenIntrospectionResponse,
    StandardRevocableToken,
    BasicRevocationErrorResponse,
>;

#[derive(Deserialize)]
struct Discovery {
    authorization_endpoint: String,
    token_endpoint: String,
    device_authorization_endpoint: Option<String>,
}

struct Provider {
    method: OidcMethod,
    found: Discovery,
    http: reqwest::Client,
}

fn bad(what: &str, why: impl std::fmt::Display) -> Error {
    Error::unavailable(format!("{what} at the identity provider failed: {why}"))
}

impl Provider {
    async fn find(method: OidcMethod) -> Result<Self> {
        // Whoever installs a provider of cryptography first wins, and it is the same one everywhere.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        // Following redirects here would hand codes and tokens to whoever they lead to.
        let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).timeout(ANSWER).build();
        let http = http.map_err(|e| Error::internal(format!("the HTTP client could not be made: {e}")))?;
        let place = format!("{}/.well-known/openid-configuration", method.issuer.trim_end_matches('/'));
        let answer = http.get(&place).send().await.and_then(reqwest::Response::error_for_status);
        let found = answer.map_err(|e| bad("looking around", e))?.json().await.map_err(|e| bad("looking around", e))?;
        Ok(Self { method, found, http })
    }

    fn client(&self) -> Bare {
        // A public client: what is on someone's machine keeps no secret of the provider's.
        Bare::new(ClientId::new(self.method.client_id.clone())).set_auth_type(AuthType::RequestBody)
    }

    fn scopes(&self) -> Vec<Scope> {
        let more = self.method.scopes.iter().map(String::as_str);
        std::iter::once("openid").chain(more).map(|scope| Scope::new(scope.to_owned())).collect()
    }

    fn token_url(&self) -> Result<TokenUrl> {
        TokenUrl::new(self.found.token_endpoint.clone()).map_err(|e| bad("finding the token endpoint", e))
    }

    fn send(&self) -> impl Fn(HttpRequest) -> std::pin::Pin<Box<dyn Future<Output = Result<HttpResponse>> + Send>> {
        let http = self.http.clone();
        move |request| {
            let http = http.clone();
            Box::pin(async move {
                let request = reqwest::Request::try_from(request).map_err(|e| bad("asking", e))?;
                let answer = http.execute(request).await.map_err(|e| bad("asking", e))?;
                let mut response = oauth2::http::Response::builder().status(answer.status());
                if let Some(headers) = response.headers_mut() {
                    headers.clone_from(answer.headers());
                }
                let body = answer.bytes().await.map_err(|e| bad("asking", e))?;
                response.body(body.to_vec()).map_err(|e| bad("asking", e))
            })
        }
    }
}

fn id_token(tokens: &Tokens) -> Result<Sensitive> {
    let token = tokens.extra_fields().id_token.clone();
    token.ok_or_else(|| bad("logging in", "it gave no ID token; is the scope `openid` allowed for this client?"))
}

/// Logs in with a browser on this machine.
pub(crate) async fn browser(method: OidcMethod) -> Result<Proof> {
    let provider = Provider::find(method).await?;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await;
    let listener = listener.map_err(|e| Error::unavailable(format!("no port on loopback can be had: {e}")))?;
    let port = listener.local_addr().map_err(|e| Error::internal(e.to_string()))?.port();
    let back = RedirectUrl::new(format!("http://127.0.0.1:{port}/callback")).map_err(|e| bad("coming back", e))?;
    let page = AuthUrl::new(provider.found.authorization_endpoint.clone()).map_err(|e| bad("finding its page", e))?;
    let client = provider.client().set_auth_uri(page).set_token_uri(provider.token_url()?).set_redirect_uri(back);
    let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
    let nonce = CsrfToken::new_random().into_secret();
    let (url, state) = client
        .authorize_url(CsrfToken::new_random)
        .add_scopes(provider.scopes())
        .add_extra_param("nonce", nonce.clone())
        .set_pkce_challenge(challenge)
        .url();
    output::note(format!("log in with your browser at\n  {url}"));
    open(&url);
    let waiting = tokio::time::timeout(PATIENCE, code(&listener, state.secret()));
    let code = waiting.await.map_err(|_| Error::timeout("nobody logged in; try again"))??;
    let tokens = client
        .exchange_code(AuthorizationCode::new(code))
        .set_pkce_verifier(verifier)
        .request_async(&provider.send())
        .await
        .map_err(|e| bad("logging in", told(&e)))?;
    Ok(Proof { id_token: id_token(&tokens)?, nonce: Some(nonce) })
}

/// Logs in with a browser anywhere.
pub(crate) async fn device(method: OidcMethod) -> Result<Proof> {
    let provider = Provider::find(method).await?;
    let place = provider.found.device_authorization_endpoint.clone();
    let place =
        place.ok_or_else(|| Error::unsupported("the identity provider has no device flow; log in with --oidc"))?;
    let place = DeviceAuthorizationUrl::new(place).map_err(|e| bad("finding the device endpoint", e))?;
    let client = provider.client().set_device_authorization_url(place).set_token_uri(provider.token_url()?);
    let begun: StandardDeviceAuthorizationResponse = client
        .exchange_device_code()
        .add_scopes(provider.scopes())
        .request_async(&provider.send())
        .await
        .map_err(|e| bad("beginning to log in", told(&e)))?;
    let page = begun.verification_uri_complete().map(|page| page.secret().clone());
    let page = page.unwrap_or_else(|| begun.verification_uri().to_string());
    output::note(format!("with any browser, go to\n  {page}\nand confirm the code\n  {}", begun.user_code().secret()));
    let tokens = client
        .exchange_device_access_token(&begun)
        .request_async(&provider.send(), tokio::time::sleep, Some(PATIENCE))
        .await
        .map_err(|e| bad("logging in", told(&e)))?;
    Ok(Proof { id_token: id_token(&tokens)?, nonce: None })
}

/// The provider's own words where it has some.
fn told<RE, T>(error: &oauth2::RequestTokenError<RE, oauth2::StandardErrorResponse<T>>) -> String
where
    RE: std::error::Error + 'static,
    T: oauth2::ErrorResponseType + std::fmt::Display + 'static,
{
    match error {
        oauth2::RequestTokenError::ServerResponse(said) => said.to_string(),
        oauth2::RequestTokenError::Request(why) => why.to_string(),
        // Answers that cannot be read may hold tokens, so they are not repeated.
        oauth2::RequestTokenError::Parse(why, _) => format!("its answer cannot be read: {why}"),
        oauth2::RequestTokenError::Other(why) => why.clone(),
    }
}

/// Opens a page; where there is no browser, people have its address.
fn open(url: &Url) {
    let mut command = std::process::Command::new("xdg-open");
    // The page's address holds no secret: the code comes back to our port, and is worth nothing without the verifier.
    let _ = command.arg(url.as_str()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
}

/// Waits for the browser to come back with a code.
async fn code(listener: &TcpListener, state: &str) -> Result<String> {
    loop {
        let Ok((mut stream, _)) = listener.accept().await else { continue };
        let Ok(Some(asked)) = tokio::time::timeout(ANSWER, asked(&mut stream)).await else { continue };
        if asked.path() != "/callback" {
            answer(&mut stream, "404 Not Found", "There is nothing here.").await;
            continue;
        }
        let parameter =
            |name: &str| asked.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned());
        // Somebody else's page may send the browser here too.
        if parameter("state").as_deref() != Some(state) {
            answer(&mut stream, "400 Bad Request", "This is not the log-in that was begun.").await;
            continue;
        }
        if let Some(code) = parameter("code") {
            answer(&mut stream, "200 OK", "You are logged in. You can close this page.").await;
            return Ok(code);
        }
        let why = parameter("error_description").or_else(|| parameter("error")).unwrap_or_default();
        answer(&mut stream, "200 OK", "You are not logged in. You can close this page.").await;
        return Err(Error::forbidden(format!("the identity provider did not log you in: {why}")));
    }
}

/// What a browser asks for: the first line of its request.
async fn asked(stream: &mut TcpStream) -> Option<Url> {
    let (mut text, mut buffer) = (Vec::new(), [0; 2048]);
    while !text.windows(4).any(|end| end == b"\r\n\r\n") {
        let read = stream.read(&mut buffer).await.ok().filter(|&read| read > 0)?;
        text.extend_from_slice(&buffer[..read]);
        if text.len() > REQUEST_MAX {
            return None;
        }
    }
    let text = String::from_utf8(text).ok()?;
    let path = text.lines().next()?.strip_prefix("GET ")?.split(' ').next()?;
    Url::parse("http://127.0.0.1").ok()?.join(path).ok()
}

async fn answer(stream: &mut TcpStream, status: &str, text: &str) {
    let page = format!("<!doctype html><meta charset=utf-8><title>Hull</title><p>{text}");
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/html; charset=utf-8\r\ncontent-length: {}\r\ncache-control: no-store\r\nreferrer-policy: no-referrer\r\nconnection: close\r\n\r\n",
        page.len()
    );
    // A browser that does not listen misses a page that says what the terminal says too.
    let _ = stream.write_all(head.as_bytes()).await;
    let _ = stream.write_all(page.as_bytes()).await;
    let _ = stream.shutdown().await;
}
