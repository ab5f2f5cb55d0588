//! Every answer that any test of the API gets is held against the description: the status must be one of the operation's,
//! and the body must be what it promises there.

use std::sync::LazyLock;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

static DESCRIPTION: LazyLock<Value> = LazyLock::new(|| serde_json::to_value(hull_server::api::openapi()).unwrap());

/// Fails the test where an answer is not as described. What is not described (the nodes' own paths) may be anything.
#[track_caller]
pub(crate) fn check(method: &Method, path: &str, status: StatusCode, content: Option<&str>, body: &Value) {
    let Some(operation) = operation(method, path) else { return };
    let responses = &operation["responses"];
    let refused = status.is_client_error() || status.is_server_error();
    let at = status.as_u16().to_string();
    let response = if refused { responses.get(&at).or(responses.get("default")) } else { responses.get(&at) };
    let response = response.unwrap_or_else(|| panic!("{method} {path} answers {status}, which is not described"));
    let Some(promised) = response["content"].as_object() else {
        assert_eq!(content, None, "{method} {path} answers {status} with a body, which is not described");
        return;
    };
    // A stream of JSON lines is read by who asked for it.
    let Some(content) = content.filter(|content| *content != "application/x-ndjson") else { return };
    let schema = promised.get(content).map(|promised| &promised["schema"]);
    let schema = schema.unwrap_or_else(|| panic!("{method} {path} answers {content}, which is not described"));
    if !content.ends_with("json") {
        return;
    }
    let schema = json!({"allOf": [schema], "components": DESCRIPTION["components"]});
    let validator = jsonschema::validator_for(&schema).unwrap();
    let wrong: Vec<String> =
        validator.iter_errors(body).map(|error| format!("{} at {}", error, error.instance_path())).collect();
    assert!(wrong.is_empty(), "{method} {path} answers {status} otherwise than described: {wrong:#?}\n{body:#}");
}

fn operation(method: &Method, path: &str) -> Option<&'static Value> {
    let fits = |template: &str| {
        template.split('/').count() == path.split('/').count()
            && template
                .split('/')
                .zip(path.split('/'))
                .all(|(wanted, given)| wanted == given || wanted.starts_with('{'))
    };
    let all = DESCRIPTION["paths"].as_object()?;
    // A path that is written out comes before one with a parameter in its place.
    let found = all.get_key_value(path).or_else(|| all.iter().find(|(template, _)| fits(template)));
    found?.1.get(method.as_str().to_lowercase())
}
