//! Who someone is by an identity provider's word (OpenID Connect Core 1.0, section 3.1.3.7), after its signature has been checked.

use std::collections::BTreeSet;

use hull_types::{
    Timestamp,
    error::{Error, Result},
    name::Name,
    user::ExternalIdentity,
};
use serde_json::{Map, Value};

/// How far the provider's clock may be ahead or behind, in seconds.
const SKEW: i64 = 60;
/// The oldest ID token that logs anyone in, in seconds.
const OLDEST: i64 = 3600;
/// The most groups taken from a token.
const GROUPS: usize = 1000;

/// What a token must say to be believed, and where it says what.
#[derive(Clone, Debug)]
pub struct Rules<'a> {
    /// The provider.
    pub issuer: &'a str,
    /// Hull's id there.
    pub client_id: &'a str,
    /// The claim with the user's name.
    pub user_claim: &'a str,
    /// The claim with their groups.
    pub groups_claim: &'a str,
}

/// Someone, as their provider tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    /// Who they are there.
    pub identity: ExternalIdentity,
    /// What they would like to be called here, the first that is free.
    pub names: Vec<Name>,
    /// Where they can be written to.
    pub email: Option<String>,
    /// How people call them.
    pub display_name: String,
    /// The groups they are in.
    pub groups: BTreeSet<String>,
    /// Until when the token holds.
    pub expires_at: Timestamp,
}

/// Judges a token's claims.
///
/// # Errors
/// `Unauthenticated`, saying which claim is wrong.
pub fn judge(claims: &Map<String, Value>, rules: &Rules<'_>, nonce: Option<&str>, now: Timestamp) -> Result<Person> {
    let refuse = |why: String| Error::unauthenticated(format!("the identity provider's token is not accepted: {why}"));
    let text = |claim: &str| claims.get(claim).and_then(Value::as_str);
    let time = |claim: &str| claims.get(claim).and_then(Value::as_f64).map(|at| at as i64);
    if text("iss") != Some(rules.issuer) {
        return Err(refuse(format!("it is of another issuer than {}", rules.issuer)));
    }
    let audiences: Vec<&str> = match claims.get("aud") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    if !audiences.contains(&rules.client_id) {
        return Err(refuse(format!("it is not for the client {}", rules.client_id)));
    }
    let party = text("azp");
    if party.map_or(audiences.len() > 1, |party| party != rules.client_id) {
        return Err(refuse("it was given to another client".to_owned()));
    }
    let now = now.as_second();
    let ends = time("exp").ok_or_else(|| refuse("it does not say when it expires".to_owned()))?;
    if now >= ends.saturating_add(SKEW) {
        return Err(refuse("it has expired; log in again".to_owned()));
    }
    let begins = time("iat").ok_or_else(|| refuse("it does not say when it was made".to_owned()))?;
    if begins > now + SKEW || time("nbf").is_some_and(|from| from > now + SKEW) {
        return Err(refuse("it is from the future; compare the clocks of the provider and this server".to_owned()));
    }
    if now - begins > OLDEST {
        return Err(refuse("it is too old to log in with; log in again".to_owned()));
    }
    if text("nonce") != nonce {
        return Err(refuse("its nonce is not the one of this log-in".to_owned()));
    }
    let subject = text("sub").filter(|subject| !subject.is_empty() && subject.len() <= 255);
    let subject = subject.ok_or_else(|| refuse("it does not say who it is about".to_owned()))?;
    let expires_at = Timestamp::from_second(ends).map_err(|_| refuse("it expires at no time there is".to_owned()))?;
    let names = names(text(rules.user_claim), subject, rules.issuer);
    if names.is_empty() {
        return Err(refuse(format!("its claim {:?} is no name for a user", rules.user_claim)));
    }
    Ok(Person {
        identity: ExternalIdentity { issuer: rules.issuer.to_owned(), subject: subject.to_owned() },
        names,
        // An address nobody has proved to be theirs would say who they are as little as a name.
        email: text("email").filter(|_| claims.get("email_verified") != Some(&Value::Bool(false))).map(str::to_owned),
        display_name: text("name").unwrap_or_default().to_owned(),
        groups: groups(claims.get(rules.groups_claim)),
        expires_at,
    })
}

/// The name they have there; with the provider's where that is taken by someone else here; their id as the last resort.
fn names(wanted: Option<&str>, subject: &str, issuer: &str) -> Vec<Name> {
    let host = issuer.split("://").last().and_then(|rest| rest.split(['/', ':']).next()).unwrap_or(issuer);
    let mut all = Vec::new();
    for base in [wanted, Some(subject)].into_iter().flatten() {
        for text in [base.to_owned(), format!("{base}@{host}")] {
            all.extend(Name::new(&text).ok().filter(|name| !all.contains(name)));
        }
    }
    all
}

fn groups(claim: Option<&Value>) -> BTreeSet<String> {
    match claim {
        Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).take(GROUPS).map(str::to_owned).collect(),
        Some(Value::String(one)) => BTreeSet::from([one.clone()]),
        _ => BTreeSet::new(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: i64 = 1_800_000_000;
    const RULES: Rules<'static> = Rules {
        issuer: "https://id.example/realm",
        client_id: "hull",
        user_claim: "preferred_username",
        groups_claim: "groups",
    };

    #[allow(clippy::needless_pass_by_value, reason = "tests read better so")]
    fn claims(change: Value) -> Map<String, Value> {
        let mut claims = json!({
            "iss": RULES.issuer, "aud": "hull", "sub": "248289761001", "exp": NOW + 300, "iat": NOW - 5, "nonce": "n",
            "preferred_username": "ann", "email": "ann@example.org", "groups": ["ops", "all"],
        });
        let all = claims.as_object_mut().unwrap();
        for (claim, value) in change.as_object().unwrap() {
            match value {
                Value::Null => _ = all.remove(claim),
                value => _ = all.insert(claim.clone(), value.clone()),
            }
        }
        all.clone()
    }

    #[allow(clippy::needless_pass_by_value, reason = "tests read better so")]
    fn judged(change: Value) -> Result<Person> {
        judge(&claims(change), &RULES, Some("n"), Timestamp::from_second(NOW).unwrap())
    }

    #[test]
    fn someone_is_known_by_issuer_and_subject_and_called_as_they_like() {
        let person = judged(json!({})).unwrap();
        assert_eq!(person.identity.subject, "248289761001");
        let names: Vec<&str> = person.names.iter().map(Name::as_str).collect();
        assert_eq!(names, ["ann", "ann@id.example", "248289761001", "248289761001@id.example"]);
        assert_eq!(person.groups, BTreeSet::from(["all".to_owned(), "ops".to_owned()]));
        let unproved = judged(json!({"email_verified": false, "preferred_username": "a/b"})).unwrap();
        assert_eq!((unproved.email, unproved.names[0].as_str()), (None, "248289761001"));
    }

    #[test]
    fn each_claim_that_is_wrong_is_refused_by_name() {
        for (change, why) in [
            (json!({"iss": "https://evil.example"}), "issuer"),
            (json!({"iss": null}), "issuer"),
            (json!({"aud": "other"}), "client hull"),
            (json!({"aud": []}), "client hull"),
            (json!({"aud": ["hull", "other"]}), "another client"),
            (json!({"azp": "other"}), "another client"),
            (json!({"exp": NOW - 60}), "expired"),
            (json!({"exp": null}), "expires"),
            (json!({"exp": "soon"}), "expires"),
            (json!({"iat": NOW + 61}), "future"),
            (json!({"nbf": NOW + 61}), "future"),
            (json!({"iat": NOW - 3601}), "too old"),
            (json!({"iat": null}), "made"),
            (json!({"nonce": "other"}), "nonce"),
            (json!({"nonce": null}), "nonce"),
            (json!({"sub": null}), "who"),
            (json!({"sub": ""}), "who"),
        ] {
            let error = judged(change.clone()).unwrap_err();
            assert!(error.detail.contains(why), "{change}: {error}");
        }
        assert!(judged(json!({"aud": ["hull", "other"], "azp": "hull"})).is_ok());
    }

    #[test]
    fn a_token_with_a_nonce_is_not_taken_without_it() {
        let now = Timestamp::from_second(NOW).unwrap();
        assert!(judge(&claims(json!({})), &RULES, None, now).is_err());
        assert!(judge(&claims(json!({"nonce": null})), &RULES, None, now).is_ok(), "the device flow has none");
    }
}
