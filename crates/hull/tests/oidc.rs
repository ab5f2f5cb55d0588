//! Logging in at a real identity provider: `oidc-provider` from npm, in the namespace of the test's host, its pages driven by `curl` as a
//! browser would. `scripts/tools.sh oidc-provider` installs it into the cache of tools. Needs root for the namespaces.

#![allow(clippy::unwrap_used)]

mod kit;

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use hull_testkit::eventually_blocking;
use kit::{DEADLINE, Hull, Said};
use serde_json::Value;

const PORT: &str = "4411";
const ISSUER: &str = "http://127.0.0.1:4411";

/// The provider, killed when the test ends.
struct Provider(Child);

impl Provider {
    fn start(hull: &Hull, key: &str) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/oidc/provider.js");
        // Node looks for packages above the script's own place.
        let place = modules().parent().unwrap().to_path_buf();
        let copy = place.join("provider.js");
        if std::fs::read(&copy).ok() != std::fs::read(script).ok() {
            std::fs::copy(script, &copy).unwrap();
        }
        let mut command = hull.program("node");
        command.arg(copy).args([PORT, key]).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "ready", "the provider did not start");
        Self(child)
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Where `scripts/tools.sh oidc-provider` put it; installed now where it is missing.
fn modules() -> PathBuf {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/tools.sh");
    let done = Command::new(script).arg("oidc-provider").stderr(Stdio::inherit()).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/hull/tools");
    let root = std::env::var_os("HULL_TOOLS").map_or_else(home, PathBuf::from);
    root.join("oidc-provider/node_modules")
}

/// A browser with its cookies, and someone in front of it.
struct Browser<'a> {
    hull: &'a Hull,
    name: &'a str,
}

impl Browser<'_> {
    /// Asks, follows redirects; the address it ended at, and the page.
    fn curl(&self, words: &[&str]) -> (String, String) {
        let jar = self.hull.file(&format!("cookies-{}", self.name));
        let jar = jar.to_str().unwrap();
        let mut command = self.hull.program("curl");
        command.args(["-sSL", "--max-time", "60", "-b", jar, "-c", jar, "-w", "\n%{url_effective}"]).args(words);
        let said = Said::from(command.output().unwrap());
        assert_eq!(said.code, 0, "{said:?}");
        let (page, url) = said.out.rsplit_once('\n').unwrap();
        (url.to_owned(), page.to_owned())
    }

    /// Opens a page and fills in every form it meets, until there is none.
    fn visit(&self, url: &str) -> String {
        let (mut at, mut page) = self.curl(&[url]);
        for _ in 0..10 {
            let Some((action, mut fields)) = form(&page) else { return page };
            for (field, value) in [("login", self.name), ("password", "any")] {
                if fields.contains_key(field) {
                    fields.insert(field.to_owned(), value.to_owned());
                }
            }
            let action = if action.starts_with('/') { format!("{ISSUER}{action}") } else { action };
            let data: Vec<String> = fields.iter().map(|(field, value)| format!("{field}={value}")).collect();
            let mut words = vec![action.as_str()];
            data.iter().for_each(|pair| words.extend(["--data-urlencode", pair]));
            (at, page) = self.curl(&words);
        }
        panic!("the forms do not end: {at}\n{page}")
    }
}

/// The first form of a page: where it goes, and its fields.
fn form(page: &str) -> Option<(String, BTreeMap<String, String>)> {
    let form = &page[page.find("<form")?..];
    let form = &form[..form.find("</form>")?];
    let attribute = |tag: &str, name: &str| {
        let from = tag.find(&format!("{name}=\""))? + name.len() + 2;
        Some(tag[from..].split('"').next()?.replace("&amp;", "&"))
    };
    let head = form.split('>').next()?;
    let inputs = form.split("<input").skip(1).map(|rest| rest.split('>').next().unwrap_or_default());
    let fields = inputs.filter_map(|tag| Some((attribute(tag, "name")?, attribute(tag, "value").unwrap_or_default())));
    Some((attribute(head, "action")?, fields.collect()))
}

/// The command of a person with contexts, begun; what it says is read while it runs.
fn begin(hull: &Hull, words: &[&str]) -> Child {
    let mut command = person(hull, words);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

fn person(hull: &Hull, words: &[&str]) -> Command {
    let mut command = hull.program(env!("CARGO_BIN_EXE_hull"));
    command.args(words).env("HOME", hull.path()).env("XDG_CONFIG_HOME", hull.path().join("config"));
    for variable in ["HULL_DATA", "HULL_CONTEXT", "HULL_PROJECT", "HULL_OUTPUT"] {
        command.env_remove(variable);
    }
    command
}

/// Logs in by a flow, as a person in front of a browser does.
fn login(hull: &Hull, flow: &str, name: &str) -> Said {
    let ca = hull.data().join("pki/ca.pem");
    let server = ["--server", "https://127.0.0.1:8440", "--ca", ca.to_str().unwrap()];
    let mut child = begin(hull, &[&["login", flow][..], &server].concat());
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let url = lines.by_ref().find(|line| line.trim().starts_with(ISSUER));
    let Some(url) = url else {
        let mut said = Said::from(child.wait_with_output().unwrap());
        said.err = "it named no page".to_owned();
        return said;
    };
    Browser { hull, name }.visit(url.trim());
    let mut said = Said { code: child.wait().unwrap().code().unwrap(), out: String::new(), err: lines.collect() };
    child.stdout.take().unwrap().read_to_string(&mut said.out).unwrap();
    said
}

fn whoami(hull: &Hull) -> Value {
    let said = Said::from(person(hull, &["whoami", "-o", "json"]).output().unwrap());
    serde_json::from_str(&said.out).unwrap_or_else(|e| panic!("{e}: {said:?}"))
}

fn host() -> Hull {
    let hull = Hull::new();
    std::fs::create_dir_all(hull.data()).unwrap();
    std::fs::write(hull.data().join("oidc.yaml"), format!("issuer: {ISSUER}\nclient_id: hull\n")).unwrap();
    hull.up();
    hull
}

#[test]
fn people_log_in_at_their_provider_by_browser_and_by_device() {
    let hull = host();
    let provider = Provider::start(&hull, "one");
    hull.ok(&["project", "create", "acme"]);
    hull.ok(&["user-group", "create", "ops"]);
    hull.ok(&["role", "grant", "member", "--user-group", "ops", "--project", "acme"]);
    // Somebody else has this name here already.
    hull.ok(&["user", "create", "bob"]);

    let said = login(&hull, "--oidc", "ann");
    assert_eq!(said.code, 0, "{said:?}\n{}", hull.log_tail());
    let ann = whoami(&hull);
    assert_eq!((&ann["name"], &ann["role"]), (&"ann".into(), &"member".into()), "the group of the same name: {ann}");
    let shown = hull.json(&["user", "show", "ann"]);
    assert_eq!(shown["external"]["issuer"], ISSUER);
    assert_eq!(shown["email"], "ann@example.org");

    let said = login(&hull, "--device", "ann");
    assert_eq!(said.code, 0, "{said:?}\n{}", hull.log_tail());
    assert_eq!(whoami(&hull)["user"], ann["user"], "the same person by another way");

    let said = login(&hull, "--oidc", "bob");
    assert_eq!(said.code, 0, "{said:?}\n{}", hull.log_tail());
    assert_eq!(whoami(&hull)["name"], "bob@127.0.0.1", "a name makes nobody somebody else");
    assert!(hull.json(&["user", "show", "bob"])["external"].is_null());

    // The provider changes its keys: what they sign is believed as soon as the new ones are seen.
    drop(provider);
    let _provider = Provider::start(&hull, "rsa-two");
    let rotated = eventually_blocking("a log-in with the new key", DEADLINE, || {
        let said = login(&hull, "--oidc", "ann");
        if said.code == 0 { Ok(()) } else { Err(said) }
    });
    rotated.unwrap();
    let mut set = hull.command(&["user", "set-password", "ann", "--password-stdin"]);
    let typed = hull.file("typed");
    std::fs::write(&typed, "a password she shall not have here\n").unwrap();
    let said = Said::from(set.stdin(std::fs::File::open(&typed).unwrap()).output().unwrap());
    assert!(said.code == 4 && said.err.contains(ISSUER), "her password is the provider's affair: {said:?}");
}

/// What a browser flow would have given: an ID token, got by hand.
fn id_token(hull: &Hull, client: &str, name: &str) -> String {
    // The verifier `v…v` of 43 characters; its SHA-256.
    let verifier = "v".repeat(43);
    let challenge = hull
        .root(&format!("printf %s {verifier} | openssl dgst -sha256 -binary | base64 | tr '+/' '-_' | tr -d '=\\n'"));
    let back = "http://127.0.0.1:9/callback";
    let page = format!(
        "{ISSUER}/auth?client_id={client}&response_type=code&scope=openid%20profile%20email&state=s&nonce=n&redirect_uri={back}&code_challenge={challenge}&code_challenge_method=S256"
    );
    // Nothing listens there: the code is in the address that curl could not reach.
    let jar = hull.file(&format!("cookies-{name}"));
    let _ = std::fs::remove_file(&jar);
    let jar = jar.to_str().unwrap().to_owned();
    let ask = |words: &[&str]| {
        let mut command = hull.program("curl");
        command.args(["-sS", "--max-time", "60", "-b", &jar, "-c", &jar, "-w", "\n%{redirect_url}"]).args(words);
        let said = Said::from(command.output().unwrap());
        let (page, next) = said.out.rsplit_once('\n').unwrap();
        (page.to_owned(), next.to_owned())
    };
    let (mut page, mut next) = ask(&[&page]);
    let code = loop {
        if let Some(code) = next.strip_prefix(back).and_then(|rest| rest.split("code=").nth(1)) {
            break code.split('&').next().unwrap().to_owned();
        }
        (page, next) = if next.is_empty() {
            let (action, mut fields) = form(&page).unwrap_or_else(|| panic!("{page}"));
            fields.entry("login".to_owned()).and_modify(|it| *it = name.to_owned());
            let data: Vec<String> = fields.iter().map(|(field, value)| format!("{field}={value}")).collect();
            let action = if action.starts_with('/') { format!("{ISSUER}{action}") } else { action };
            let mut words = vec![action.as_str()];
            data.iter().for_each(|pair| words.extend(["--data-urlencode", pair]));
            ask(&words)
        } else {
            ask(&[&next.clone()])
        };
    };
    let form = format!(
        "grant_type=authorization_code&client_id={client}&code={code}&redirect_uri={back}&code_verifier={verifier}"
    );
    let (answer, _) = ask(&[&format!("{ISSUER}/token"), "-d", &form]);
    let answer: Value = serde_json::from_str(&answer).unwrap_or_else(|e| panic!("{e}: {answer}"));
    answer["id_token"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

#[test]
fn tokens_for_others_changed_or_used_before_log_nobody_in() {
    let hull = host();
    let _provider = Provider::start(&hull, "one");
    let present = |token: &str, nonce: &str| -> Value {
        let body = serde_json::json!({"id_token": token, "nonce": nonce}).to_string();
        let ca = hull.data().join("pki/ca.pem");
        let mut command = hull.program("curl");
        command.args([
            "-sS",
            "--max-time",
            "60",
            "--cacert",
            ca.to_str().unwrap(),
            "-H",
            "content-type: application/json",
        ]);
        command.args(["-d", &body, "https://127.0.0.1:8440/v1/auth/oidc"]);
        let said = Said::from(command.output().unwrap());
        serde_json::from_str(&said.out).unwrap_or_else(|e| panic!("{e}: {said:?}"))
    };
    let refused = |token: &str, nonce: &str, why: &str| {
        let answer = present(token, nonce);
        assert_eq!(answer["kind"], "unauthenticated", "{answer}");
        assert!(answer["detail"].as_str().unwrap().contains(why), "{answer}");
    };
    let token = id_token(&hull, "hull", "ann");
    refused(&token, "another", "nonce");
    refused(&id_token(&hull, "another", "ann"), "n", "not for the client");
    let [head, body, signature] = token.split('.').collect::<Vec<_>>()[..] else { panic!("{token}") };
    let flipped: String = signature.chars().rev().collect();
    refused(&format!("{head}.{body}.{flipped}"), "n", "has signed it");
    refused(&format!("{head}.{body}."), "n", "not accepted");
    refused("nonsense", "n", "no signed token");
    assert!(present(&token, "n")["token"].is_string());
    refused(&token, "n", "used already");
}
