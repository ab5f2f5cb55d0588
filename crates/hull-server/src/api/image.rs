//! `/v1/images` and their bytes.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::TryStreamExt;
use hull_image::Source;
use hull_types::{
    image::{Image, ImageFormat},
    wire::{ImageCreate, ImageUpdate, List, Revised},
};
use serde::Deserialize;
use tokio_util::io::ReaderStream;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    answer::{made, shown},
    extract::{Json, Path, Query},
    list::ListQuery,
    problem::Answer,
};
use crate::app::{App, ctx::Ctx, image::LISTING};

pub(crate) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(show, update, delete))
        .routes(routes!(upload, download))
}

/// Lists a project's images, and public ones.
#[utoipa::path(get, path = "/v1/images", tag = "images", params(ListQuery),
    responses((status = 200, body = List<Revised<Image>>)))]
async fn list(State(app): State<Arc<App>>, ctx: Ctx, Query(query): Query<ListQuery>) -> Answer<Response> {
    let hidden = query.hidden;
    query.only(&["hidden"])?.serve(&app, &ctx, LISTING, move |_, image| hidden || !image.hidden)
}

/// Makes a record. Its bytes are uploaded next, or fetched from `source_url`.
#[utoipa::path(post, path = "/v1/images", tag = "images", request_body = ImageCreate,
    responses((status = 201, body = Revised<Image>)))]
async fn create(State(app): State<Arc<App>>, ctx: Ctx, Json(body): Json<ImageCreate>) -> Answer<Response> {
    Ok(made(&app.create_image(&ctx, &body).await?))
}

/// Shows an image.
#[utoipa::path(get, path = "/v1/images/{image}", tag = "images",
    params(("image" = String, Path, description = "Name or id")), responses((status = 200, body = Revised<Image>)))]
async fn show(State(app): State<Arc<App>>, ctx: Ctx, Path(image): Path<String>) -> Answer<Response> {
    Ok(shown(&app.image(&ctx, &image)?))
}

/// Changes an image's record.
#[utoipa::path(patch, path = "/v1/images/{image}", tag = "images", request_body = ImageUpdate,
    params(("image" = String, Path, description = "Name or id")), responses((status = 200, body = Revised<Image>)))]
async fn update(
    State(app): State<Arc<App>>,
    ctx: Ctx,
    Path(image): Path<String>,
    Json(body): Json<ImageUpdate>,
) -> Answer<Response> {
    Ok(shown(&app.update_image(&ctx, &image, &body).await?))
}

/// Deletes an image; refused while it is used.
#[utoipa::path(delete, path = "/v1/images/{image}", tag = "images",
    params(("image" = String, Path, description = "Name or id")), responses((status = 204)))]
async fn delete(State(app): State<Arc<App>>, ctx: Ctx, Path(image): Path<String>) -> Answer<Response> {
    app.delete_image(&ctx, &image).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Uploads an image's bytes, of any length; answers once it is ready to boot from.
#[utoipa::path(put, path = "/v1/images/{image}/content", tag = "images",
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    params(("image" = String, Path, description = "Name or id")), responses((status = 200, body = Revised<Image>)))]
async fn upload(
    State(app): State<Arc<App>>,
    ctx: Ctx,
    Path(image): Path<String>,
    request: Request,
) -> Answer<Response> {
    let length =
        request.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
    let body = request.into_body().into_data_stream().map_err(std::io::Error::other);
    let source = Source::Stream { pieces: Box::pin(body), size: length };
    Ok(shown(&app.upload_image(&ctx, &image, source).await?))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Wanted {
    /// The format; as stored where absent.
    format: Option<ImageFormat>,
}

/// Downloads an image's bytes.
#[utoipa::path(get, path = "/v1/images/{image}/content", tag = "images",
    params(("image" = String, Path, description = "Name or id"), Wanted),
    responses((status = 200, content_type = "application/octet-stream", body = Vec<u8>)))]
async fn download(
    State(app): State<Arc<App>>,
    ctx: Ctx,
    Path(image): Path<String>,
    Query(wanted): Query<Wanted>,
) -> Answer<Response> {
    let stream = app.export_image(&ctx, &image, wanted.format).await?;
    let length = stream.size;
    let body = Body::from_stream(ReaderStream::with_capacity(stream, 256 << 10));
    let mut response = ([(header::CONTENT_TYPE, "application/octet-stream")], body).into_response();
    if let Some(length) = length {
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(response)
}
