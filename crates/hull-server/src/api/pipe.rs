//! A WebSocket as a byte stream. Bytes travel in binary frames; an empty one says that its sender will send no more; a
//! close frame with a code other than 1000 carries the reason.

use std::pin::pin;

use axum::{
    body::Bytes,
    extract::ws::{CloseFrame, Message, WebSocket, close_code},
};
use futures::{SinkExt, StreamExt};
use hull_types::error::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::hub::Io;

/// Bytes read at once.
const CHUNK: usize = 16 * 1024;

/// Copies both ways until the stream has ended and all was told, either side breaks, or it is `over` before that.
pub(crate) async fn pipe(socket: WebSocket, io: Box<dyn Io>, over: impl Future<Output = Error>) {
    let (mut sink, mut source) = socket.split();
    let (mut reader, mut writer) = tokio::io::split(io);
    let inward = async {
        while let Some(Ok(message)) = source.next().await {
            let done = match message {
                Message::Binary(bytes) if bytes.is_empty() => writer.shutdown().await.is_err(),
                Message::Binary(bytes) => writer.write_all(&bytes).await.is_err() || writer.flush().await.is_err(),
                Message::Text(text) => writer.write_all(text.as_bytes()).await.is_err(),
                Message::Close(_) => true,
                Message::Ping(_) | Message::Pong(_) => false,
            };
            if done {
                return;
            }
        }
    };
    let outward = async {
        let mut buffer = vec![0; CHUNK];
        let mut over = pin!(over);
        let end = loop {
            let read = tokio::select! {
                read = reader.read(&mut buffer) => read,
                error = &mut over => break Err(error.detail),
            };
            match read {
                Ok(0) => break Ok(()),
                Ok(read) => {
                    let bytes = Bytes::copy_from_slice(&buffer[..read]);
                    if sink.send(Message::Binary(bytes)).await.is_err() {
                        return;
                    }
                }
                Err(error) => break Err(error.to_string()),
            }
        };
        // The other side may be gone; then there is nobody to tell.
        _ = sink.send(Message::Close(Some(frame(end)))).await;
    };
    tokio::select! {
        () = inward => {}
        () = outward => {}
    }
}

fn frame(end: Result<(), String>) -> CloseFrame {
    match end {
        Ok(()) => CloseFrame { code: close_code::NORMAL, reason: "".into() },
        Err(mut why) => {
            // RFC 6455 section 5.5: a control frame carries at most 125 bytes, two of them the code.
            let end = (0..=123.min(why.len())).rev().find(|&at| why.is_char_boundary(at)).unwrap_or_default();
            why.truncate(end);
            CloseFrame { code: close_code::ERROR, reason: why.into() }
        }
    }
}
