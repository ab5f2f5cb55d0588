//! Answers with their revision as `ETag`.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use hull_types::wire::{Revised, VmView};
use serde::Serialize;

/// An answer that knows its revision.
pub(crate) trait Tagged: Serialize {
    /// The revision.
    fn revision(&self) -> u64;
}

impl<T: Serialize> Tagged for Revised<T> {
    fn revision(&self) -> u64 {
        self.revision
    }
}

impl Tagged for VmView {
    fn revision(&self) -> u64 {
        self.revision
    }
}

/// 200 with the document and its `ETag`.
pub(crate) fn shown(document: &impl Tagged) -> Response {
    tagged(StatusCode::OK, document)
}

/// 201 with the document and its `ETag`.
pub(crate) fn made(document: &impl Tagged) -> Response {
    tagged(StatusCode::CREATED, document)
}

fn tagged(status: StatusCode, document: &impl Tagged) -> Response {
    let mut response = (status, Json(document)).into_response();
    // Digits in quotes are a valid header value.
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{}\"", document.revision())) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}
