//! `hull login`, `hull logout`, `hull whoami`.
//!
//! Logging in gives a token that works for an hour; the context keeps it, and every command renews it in time, until the user must prove
//! again who they are.

mod oidc;

use std::path::{Path, PathBuf};

use clap::Args;
use hull_client::{Client, Endpoint};
use hull_types::{
    Timestamp,
    error::{Error, ErrorKind, Result},
    wire::{self, Grant, WhoAmI},
};
use url::Url;

use super::{Global, Session, secret};
use crate::{
    config::{self, Config, Context, LoggedIn},
    output::{self, Show, word},
};

/// A token is renewed when it has less than this left, in seconds.
const RENEW: i64 = 30 * 60;

#[derive(Debug, Args)]
pub(crate) struct Login {
    /// `https://host:port`; the current context's where absent
    #[arg(long)]
    server: Option<Url>,
    /// File with the CA's certificate [default: the context's, or this host's]
    #[arg(long)]
    ca: Option<PathBuf>,
    /// The user's name; asked for where absent
    #[arg(short, long)]
    user: Option<String>,
    /// Read the password from the first line of standard input
    #[arg(long)]
    password_stdin: bool,
    /// Log in at the server's identity provider, with the browser of this machine
    #[arg(long, conflicts_with_all = ["user", "password_stdin"])]
    oidc: bool,
    /// Log in at the server's identity provider, with a browser anywhere
    #[arg(long, conflicts_with_all = ["user", "password_stdin", "oidc"])]
    device: bool,
    /// Work on what concerns the whole cloud only
    #[arg(long, conflicts_with = "project")]
    system: bool,
}

impl Login {
    pub(crate) async fn run(self, global: &Global) -> Result<u8> {
        let mut config = Config::load()?;
        let (name, server, ca) = self.place(&config, global)?;
        let client = Client::new(Endpoint::Https { url: server.clone(), ca_pem: ca.clone() }, None, None)?;
        let project = global.project.clone();
        let (user, session) = if self.oidc || self.device {
            self.at_provider(&client, project.clone()).await?
        } else {
            self.by_password(&client, project.clone()).await?
        };
        if session.must_change_password {
            output::note("you must choose another password before anything else: `hull user set-password`");
        }
        let context =
            Context { server, ca, project, token: session.token.clone(), login: Some(LoggedIn::new(user, &session)) };
        config.contexts.insert(name.clone(), context);
        config.current = Some(name.clone());
        config.save()?;
        output::note(format!("logged in; `hull` now talks to {name}"));
        Ok(0)
    }

    async fn by_password(&self, client: &Client, project: Option<String>) -> Result<(String, wire::Session)> {
        let user = match &self.user {
            Some(user) => user.clone(),
            None if self.password_stdin => return Err(Error::invalid("say who logs in with --user")),
            None => ask_name()?,
        };
        let password = if self.password_stdin { secret::from_stdin()? } else { secret::ask("Password")? };
        let body = wire::Login { user: user.clone(), password, project, system: self.system };
        Ok((user, client.post("v1/auth/login", &body).await?))
    }

    async fn at_provider(&self, client: &Client, project: Option<String>) -> Result<(String, wire::Session)> {
        let methods: wire::AuthMethods = client.get("v1/auth/methods", &[]).await?;
        let method = methods.oidc.ok_or_else(|| {
            Error::unsupported(
                "this server knows no identity provider; log in with a password, without --oidc and --device",
            )
        })?;
        let issuer = method.issuer.clone();
        let proof = if self.device { oidc::device(method).await? } else { oidc::browser(method).await? };
        let oidc::Proof { id_token, nonce } = proof;
        let body = wire::OidcLogin { id_token, nonce, project, system: self.system };
        Ok((issuer, client.post("v1/auth/oidc", &body).await?))
    }

    /// The context's name, the server and its CA.
    fn place(&self, config: &Config, global: &Global) -> Result<(String, Url, String)> {
        let present = match config.context(global.context.as_deref()) {
            Ok(present) => present,
            // A context that is to be made.
            Err(_) if self.server.is_some() => None,
            Err(error) => return Err(error),
        };
        let server = self.server.clone().or_else(|| present.map(|context| context.server.clone()));
        let server = server.ok_or_else(|| Error::invalid("say where to log in: --server https://host:port"))?;
        let same = |context: &&Context| context.server == server;
        let ca = match (&self.ca, present.filter(same)) {
            (Some(path), _) => text(path)?,
            (None, Some(context)) => context.ca.clone(),
            (None, None) => {
                let data = global.data_dir.as_deref().unwrap_or(Path::new(config::DATA_DIR));
                text(&data.join("pki/ca.pem")).map_err(|_| {
                    Error::invalid(
                        "say how to know the server: --ca FILE with its CA's certificate (`pki/ca.pem` in its data directory)",
                    )
                })?
            }
        };
        let current = || config.current.clone().filter(|_| present.filter(same).is_some());
        let name = global.context.clone().or_else(current);
        let name = name.unwrap_or_else(|| server.host_str().unwrap_or("hull").to_owned());
        Ok((name, server, ca))
    }
}

fn text(path: &Path) -> Result<String> {
    String::from_utf8(super::read(path)?).map_err(|_| Error::invalid(format!("{} is not text", path.display())))
}

fn ask_name() -> Result<String> {
    output::note("User:");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).map_err(|e| Error::invalid(format!("the name cannot be read: {e}")))?;
    Ok(line.trim().to_owned())
}

/// Ends the session and forgets its token.
pub(crate) async fn logout(global: &Global) -> Result<u8> {
    let mut config = Config::load()?;
    let name = global.context.clone().or_else(|| config.current.clone());
    let name = name.ok_or_else(|| Error::conflict("you are not logged in anywhere"))?;
    let context = config.context(Some(&name))?.cloned();
    let context = context.filter(|context| context.login.is_some());
    let context = context.ok_or_else(|| Error::conflict(format!("context {name} has no session; nothing to end")))?;
    match client_of(&context)?.post::<_, ()>("v1/auth/logout", &serde_json::json!({})).await {
        // A session that is over is what was asked for.
        Err(error) if error.kind != ErrorKind::Unauthenticated => return Err(error),
        _ => {}
    }
    config.contexts.insert(name, Context { token: Default::default(), login: None, ..context });
    config.save().map(|()| 0)
}

/// Renews the token of the context in use where it has not much left. What goes wrong here is told by the command itself.
pub(crate) async fn keep_in(global: &Global) -> Result<()> {
    if global.data_dir.is_some() {
        return Ok(());
    }
    let mut config = Config::load()?;
    let Some(name) = global.context.clone().or_else(|| config.current.clone()) else { return Ok(()) };
    let Some(context) = config.contexts.get(&name).cloned() else { return Ok(()) };
    let Some(login) = &context.login else { return Ok(()) };
    let (now, ends) = (Timestamp::now(), login.expires_at);
    if now >= ends || ends.as_second() - now.as_second() > RENEW || ends >= login.renewable_until {
        return Ok(());
    }
    let renewed: Result<wire::Session> = client_of(&context)?.post("v1/auth/renew", &serde_json::json!({})).await;
    if let Ok(session) = renewed {
        let login = Some(LoggedIn::new(login.user.clone(), &session));
        config.contexts.insert(name, Context { token: session.token, login, ..context });
        config.save()?;
    }
    Ok(())
}

fn client_of(context: &Context) -> Result<Client> {
    let endpoint = Endpoint::Https { url: context.server.clone(), ca_pem: context.ca.clone() };
    Client::new(endpoint, Some(context.token.expose().to_owned()), None)
}

impl Show for WhoAmI {
    const COLUMNS: &'static [&'static str] = &["who", "roles"];
    fn row(&self) -> Vec<String> {
        let who = self.name.clone().unwrap_or_else(|| super::event::actor(&self.actor));
        let role = |grant: &Grant| format!("{} on {}", word(&grant.role), super::token::scope(grant.scope));
        let roles: Vec<String> = self.roles.iter().map(role).collect();
        vec![who, if roles.is_empty() { "none".to_owned() } else { roles.join(", ") }]
    }
}

/// Who the server takes the caller for.
pub(crate) async fn whoami(session: &Session) -> Result<u8> {
    let me: WhoAmI = session.client.get("v1/whoami", &[]).await?;
    output::one(&me, session.format);
    Ok(0)
}
