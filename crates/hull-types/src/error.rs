//! Errors as they cross a border: a closed list of kinds for programs, one sentence that says what to do for people.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What kind of error this is; fixes the HTTP status and the command line's exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorKind {
    /// The request is malformed or a value is out of range.
    Invalid,
    /// No valid credentials came with the call.
    Unauthenticated,
    /// The caller may not do this.
    Forbidden,
    /// No such resource (or none the caller may see).
    NotFound,
    /// The name or address is taken.
    AlreadyExists,
    /// The resource's state does not allow this now (in use, locked, wrong power state).
    Conflict,
    /// `If-Match` named an older revision.
    PreconditionFailed,
    /// A quota would be exceeded.
    QuotaExceeded,
    /// The body is larger than the endpoint takes.
    TooLarge,
    /// The caller asks too often.
    TooManyRequests,
    /// A part that is needed does not answer now; trying again may help.
    Unavailable,
    /// The other side did not answer in time; the outcome is not known.
    Timeout,
    /// The host lacks what this needs (disk space, memory, a program).
    InsufficientResources,
    /// Not supported by this machine profile or host.
    Unsupported,
    /// A defect of Hull's.
    Internal,
}

impl ErrorKind {
    /// The HTTP status this kind is answered with.
    pub const fn status(self) -> u16 {
        match self {
            Self::Invalid => 400,
            Self::Unauthenticated => 401,
            Self::Forbidden | Self::QuotaExceeded => 403,
            Self::NotFound => 404,
            Self::AlreadyExists | Self::Conflict => 409,
            Self::PreconditionFailed => 412,
            Self::TooLarge => 413,
            Self::TooManyRequests => 429,
            Self::Internal => 500,
            Self::Unsupported => 501,
            Self::Unavailable => 503,
            Self::Timeout => 504,
            Self::InsufficientResources => 507,
        }
    }

    /// A short title, the same for every error of this kind.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Invalid => "Invalid request",
            Self::Unauthenticated => "Not authenticated",
            Self::Forbidden => "Not allowed",
            Self::NotFound => "Not found",
            Self::AlreadyExists => "Already exists",
            Self::Conflict => "Not possible in this state",
            Self::PreconditionFailed => "Changed since you read it",
            Self::QuotaExceeded => "Quota exceeded",
            Self::TooLarge => "Too large",
            Self::TooManyRequests => "Too many requests",
            Self::Internal => "Internal error",
            Self::Unsupported => "Not supported",
            Self::Unavailable => "Not available now",
            Self::Timeout => "No answer in time",
            Self::InsufficientResources => "Not enough resources",
        }
    }
}

/// An error with its kind and the sentence a person acts on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize, ToSchema)]
#[error("{detail}")]
pub struct Error {
    /// What kind of error.
    pub kind: ErrorKind,
    /// What was attempted on what, why it failed, what to do next. Never repeats an inner error's text twice.
    pub detail: String,
    /// The field of the request at fault, as a JSON pointer, where one is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// When trying again may help, in seconds, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u32>,
}

/// The result of anything that may be refused.
pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $kind:ident;)*) => {
        impl Error {$(
            $(#[$doc])*
            pub fn $name(detail: impl Into<String>) -> Self {
                Self::new(ErrorKind::$kind, detail)
            }
        )*}
    };
}

constructors! {
    /// The request is malformed.
    invalid => Invalid;
    /// No valid credentials.
    unauthenticated => Unauthenticated;
    /// Not allowed.
    forbidden => Forbidden;
    /// No such resource.
    not_found => NotFound;
    /// The name is taken.
    already_exists => AlreadyExists;
    /// The state does not allow it.
    conflict => Conflict;
    /// A quota would be exceeded.
    quota_exceeded => QuotaExceeded;
    /// Something needed does not answer now.
    unavailable => Unavailable;
    /// No answer in time.
    timeout => Timeout;
    /// The host lacks what this needs.
    insufficient => InsufficientResources;
    /// Not supported here.
    unsupported => Unsupported;
    /// A defect.
    internal => Internal;
}

impl Error {
    /// An error of this kind.
    pub fn new(kind: ErrorKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), field: None, retry_after: None }
    }

    /// Names the request's field at fault, as a JSON pointer (`/resources/memory`).
    #[must_use]
    pub fn at(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// Says when trying again may help, in seconds.
    #[must_use]
    pub fn after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }
}

/// An RFC 9457 problem document, the body of every refused call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `urn:hull:error:<kind>`.
    #[serde(rename = "type")]
    pub type_: String,
    /// The kind's title.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened and what to do next.
    pub detail: String,
    /// The kind, for programs.
    pub kind: ErrorKind,
    /// The request's field at fault, as a JSON pointer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// When trying again may help, in seconds, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u32>,
    /// The request's id, to find it in the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let kind =
            serde_json::to_value(error.kind).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default();
        Self {
            type_: format!("urn:hull:error:{kind}"),
            title: error.kind.title().to_owned(),
            status: error.kind.status(),
            detail: error.detail,
            kind: error.kind,
            field: error.field,
            retry_after: error.retry_after,
            request_id: None,
        }
    }
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        Self { kind: problem.kind, detail: problem.detail, field: problem.field, retry_after: problem.retry_after }
    }
}
