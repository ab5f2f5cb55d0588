//! `hull user`.

use clap::Subcommand;
use hull_types::{
    error::{Error, Result},
    name::Name,
    user::User,
    wire::{self, UserCreate, UserPasswordSet, UserUpdate, WhoAmI},
};

use super::{Session, secret};
use crate::{
    config::{Config, LoggedIn},
    output::{self, Show},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// List users
    #[command(visible_alias = "ls")]
    List,
    /// Show a user
    Show {
        /// Name or id
        user: String,
    },
    /// Create a user
    Create {
        /// What they log in with
        name: Name,
        /// Where they can be written to
        #[arg(long)]
        email: Option<String>,
        /// How people call them
        #[arg(long, default_value = "")]
        display_name: String,
        /// Read their first password from the first line of standard input
        #[arg(long)]
        password_stdin: bool,
        /// Ask for their first password
        #[arg(long, conflicts_with = "password_stdin")]
        ask_password: bool,
        /// They must choose another at their first log-in
        #[arg(long)]
        must_change_password: bool,
        /// They may do nothing yet
        #[arg(long)]
        disabled: bool,
    },
    /// Change a user
    Update {
        /// Name or id
        user: String,
        /// A new name
        #[arg(long)]
        name: Option<Name>,
        /// Where they can be written to; empty to remove it
        #[arg(long)]
        email: Option<String>,
        /// How people call them
        #[arg(long)]
        display_name: Option<String>,
        /// Let them in again
        #[arg(long)]
        enable: bool,
        /// Let them do nothing any more; their sessions end
        #[arg(long, conflicts_with = "enable")]
        disable: bool,
        /// Whether they must choose another password first
        #[arg(long)]
        must_change_password: Option<bool>,
    },
    /// Set a password; every session of the user ends
    SetPassword {
        /// Name or id; yourself where absent
        user: Option<String>,
        /// Read it from standard input: the new one; before it, if it is your own, a line with the present one
        #[arg(long)]
        password_stdin: bool,
        /// They must choose another at their next log-in
        #[arg(long)]
        must_change: bool,
    },
    /// End every session of a user's
    RevokeSessions {
        /// Name or id; yourself where absent
        user: Option<String>,
    },
    /// Forget log-ins that failed, so that the user need not wait
    Unlock {
        /// Name or id
        user: String,
    },
    /// Delete users with their roles, credentials and memberships
    #[command(visible_alias = "rm")]
    Delete {
        /// Names or ids
        #[arg(required = true)]
        users: Vec<String>,
    },
}

impl Show for User {
    const COLUMNS: &'static [&'static str] = &["name", "state", "e-mail", "display name", "from", "id"];
    fn row(&self) -> Vec<String> {
        let state = match (self.enabled, self.must_change_password) {
            (false, _) => "disabled",
            (true, true) => "must change password",
            (true, false) => "enabled",
        };
        vec![
            self.name.to_string(),
            state.to_owned(),
            self.email.clone().unwrap_or_default(),
            self.display_name.clone(),
            self.external.as_ref().map_or_else(|| "here".to_owned(), |external| external.issuer.clone()),
            self.id.to_string(),
        ]
    }
}

impl Verb {
    pub(crate) async fn run(self, session: &Session) -> Result<u8> {
        let users = session.client.nouns("users");
        match self {
            Self::List => output::list(&users.list::<User>(&[]).await?, session.format),
            Self::Show { user } => output::one(&users.show::<User>(&user).await?, session.format),
            Self::Create {
                name,
                email,
                display_name,
                password_stdin,
                ask_password,
                must_change_password,
                disabled,
            } => {
                let password = match (password_stdin, ask_password) {
                    (true, _) => Some(secret::from_stdin()?),
                    (false, true) => Some(secret::ask_new(&format!("Password for {name}"))?),
                    (false, false) => None,
                };
                let enabled = !disabled;
                let body = UserCreate { name, email, display_name, enabled, password, must_change_password };
                output::one(&users.create::<_, User>(&body).await?, session.format);
            }
            Self::Update { user, name, email, display_name, enable, disable, must_change_password } => {
                let enabled = (enable || disable).then_some(enable);
                let body = UserUpdate { name, email, display_name, enabled, must_change_password };
                output::one(&users.update::<_, User>(&user, &body).await?, session.format);
            }
            Self::SetPassword { user, password_stdin, must_change } => {
                set_password(session, user, password_stdin, must_change).await?;
            }
            Self::RevokeSessions { user } => {
                let user = match user {
                    Some(user) => user,
                    None => me(session).await?,
                };
                session.client.post::<_, ()>(&path(&user, "revoke-sessions"), &serde_json::json!({})).await?;
            }
            Self::Unlock { user } => {
                session.client.post::<_, ()>(&path(&user, "unlock"), &serde_json::json!({})).await?;
            }
            Self::Delete { users: names } => {
                for name in names {
                    users.delete(&name).await?;
                }
            }
        }
        Ok(0)
    }
}

fn path(user: &str, verb: &str) -> String {
    format!("v1/users/{}/{verb}", hull_client::segment(user))
}

/// The user the caller is.
async fn me(session: &Session) -> Result<String> {
    let me: WhoAmI = session.client.get("v1/whoami", &[]).await?;
    me.name.ok_or_else(|| Error::invalid("you are not logged in as a user; name one"))
}

async fn set_password(session: &Session, user: Option<String>, stdin: bool, must_change: bool) -> Result<()> {
    let own = me(session).await.ok();
    let user = match user.or_else(|| own.clone()) {
        Some(user) => user,
        None => return Err(Error::invalid("you are not logged in as a user; name one")),
    };
    let is_own = own.as_deref() == Some(&user);
    let current = match (is_own, stdin) {
        (false, _) => None,
        (true, true) => Some(secret::from_stdin()?),
        (true, false) => Some(secret::ask("Present password")?),
    };
    let password = if stdin { secret::from_stdin()? } else { secret::ask_new(&format!("New password for {user}"))? };
    let body = UserPasswordSet { password: password.clone(), current, must_change };
    session.client.put::<_, ()>(&path(&user, "password"), &body).await?;
    if !is_own {
        return Ok(());
    }
    // The session ended with the old password; go on with another.
    let mut config = Config::load()?;
    let name = session.global.context.clone().or_else(|| config.current.clone());
    let context = name.and_then(|name| config.contexts.get_mut(&name)).filter(|context| context.login.is_some());
    if let Some(context) = context {
        let project = context.project.clone();
        let body = wire::Login { user: user.clone(), password, project, system: false };
        let renewed: wire::Session = session.client.post("v1/auth/login", &body).await?;
        context.login = Some(LoggedIn::new(user, &renewed));
        context.token = renewed.token;
        config.save()?;
    }
    Ok(())
}
