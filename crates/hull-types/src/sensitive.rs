//! Text that must not be seen: passwords, tokens, keys. It goes over the wire and into the store like any text, but never into a log:
//! its `Debug` form is three dots, it has no `Display`, and whoever wants the text says so with [`Sensitive::expose`].

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A secret.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = String, format = Password)]
pub struct Sensitive(String);

impl Sensitive {
    /// Keeps a text from being seen.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for who needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Sensitive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl From<String> for Sensitive {
    fn from(text: String) -> Self {
        Self(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_printed_and_travels_as_text() {
        let secret = Sensitive::new("hunter2");
        assert_eq!(format!("{secret:?} {:?}", Some(&secret)), "… Some(…)");
        assert_eq!(serde_json::to_string(&secret).ok().as_deref(), Some("\"hunter2\""));
        assert_eq!(secret.expose(), "hunter2");
    }
}
