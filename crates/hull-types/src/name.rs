//! Names people give to things, checked where they enter.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The longest name, in characters.
pub const NAME_MAX: usize = 255;

/// A resource's name: 1 to 255 characters of any script, no control characters, no `/` or `\`, no leading or trailing
/// white space, not `.` or `..`, and not the form of a UUID (which would make "name or id" ambiguous).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, min_length = 1, max_length = 255)]
pub struct Name(Arc<str>);

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing was given.
    #[error("a name needs at least one character")]
    Empty,
    /// Longer than [`NAME_MAX`].
    #[error("a name has at most {NAME_MAX} characters, this one has {0}")]
    TooLong(usize),
    /// A character that a terminal, a log or a path would take amiss.
    #[error("a name cannot contain {0:?}: control characters, '/' and '\\' are not allowed")]
    BadCharacter(char),
    /// White space at an end.
    #[error("a name cannot begin or end with white space")]
    Blank,
    /// `.` or `..`, or a UUID.
    #[error("{0:?} cannot be a name: it reads as a path or as an id")]
    Reserved(String),
}

impl Name {
    /// Parses a name.
    pub fn new(text: &str) -> Result<Self, NameError> {
        let length = text.chars().count();
        if length == 0 {
            return Err(NameError::Empty);
        }
        if length > NAME_MAX {
            return Err(NameError::TooLong(length));
        }
        if let Some(bad) = text.chars().find(|&c| c.is_control() || c == '/' || c == '\\' || is_format_control(c)) {
            return Err(NameError::BadCharacter(bad));
        }
        if text.trim() != text {
            return Err(NameError::Blank);
        }
        if text == "." || text == ".." || uuid::Uuid::parse_str(text).is_ok() {
            return Err(NameError::Reserved(text.to_owned()));
        }
        Ok(Self(text.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A host name (RFC 1123 label, at most 63 characters) derived from this name; `fallback` where nothing of it is left.
    pub fn to_hostname(&self, fallback: &str) -> String {
        let mut label = String::new();
        for c in self.0.chars() {
            match c.to_ascii_lowercase() {
                c @ ('a'..='z' | '0'..='9') => label.push(c),
                _ if label.is_empty() || label.ends_with('-') => {}
                _ => label.push('-'),
            }
            if label.len() == 63 {
                break;
            }
        }
        let label = label.trim_end_matches('-');
        if label.is_empty() { fallback.to_owned() } else { label.to_owned() }
    }
}

/// Invisible characters that reorder or hide text (bidirectional overrides, zero-width marks).
fn is_format_control(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl FromStr for Name {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::new(text)
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        Self::new(&text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0.as_ref().to_owned()
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_names_of_any_script_pass() {
        for text in ["web1", "my vm", "Übung", "名前", "a.b_c-d", "x"] {
            assert_eq!(Name::new(text).map(|n| n.as_str().to_owned()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn what_would_confuse_a_terminal_a_path_or_an_id_is_refused() {
        assert_eq!(Name::new(""), Err(NameError::Empty));
        assert_eq!(Name::new(&"a".repeat(256)), Err(NameError::TooLong(256)));
        for text in ["a\nb", "a/b", "..\\b", "a\u{1b}[31m", "a\u{202e}b", "a\0b"] {
            assert!(matches!(Name::new(text), Err(NameError::BadCharacter(_))), "{text:?}");
        }
        assert_eq!(Name::new(" a"), Err(NameError::Blank));
        assert!(matches!(Name::new(".."), Err(NameError::Reserved(_))));
        assert!(matches!(Name::new("0192f0c1-2345-7abc-8def-0123456789ab"), Err(NameError::Reserved(_))));
    }

    #[test]
    fn hostnames_are_labels() {
        let host = |text: &str| Name::new(text).unwrap().to_hostname("vm-1");
        assert_eq!(host("Web Server_1"), "web-server-1");
        assert_eq!(host("--x--"), "x");
        assert_eq!(host("名前"), "vm-1");
        assert_eq!(host(&"a".repeat(200)).len(), 63);
    }
}
