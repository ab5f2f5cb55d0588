//! Watch streams: newline-delimited JSON.

use futures::{Stream, StreamExt};
use hull_types::{
    error::{Error, Result},
    wire::WatchEvent,
};
use serde::de::DeserializeOwned;

use crate::http::{Client, Query};

impl Client {
    /// Changes of a listing as they happen, from after `since` where given.
    pub async fn watch<T: DeserializeOwned + Send + 'static>(
        &self,
        path: &str,
        query: &Query<'_>,
        since: Option<u64>,
    ) -> Result<impl Stream<Item = Result<WatchEvent<T>>> + Unpin + use<T>> {
        let mut query = query.to_vec();
        query.push(("watch", "true".to_owned()));
        if let Some(since) = since {
            query.push(("since", since.to_string()));
        }
        let (_, mut chunks) = self.download(path, &query).await?;
        Ok(async_stream::try_stream! {
            let mut pending = Vec::new();
            while let Some(chunk) = chunks.next().await {
                pending.extend_from_slice(&chunk?);
                while let Some(end) = pending.iter().position(|&b| b == b'\n') {
                    let line: Vec<u8> = pending.drain(..=end).collect();
                    if line.len() > 1 {
                        yield serde_json::from_slice(&line)
                            .map_err(|e| Error::internal(format!("a line of the watch could not be read: {e}")))?;
                    }
                }
            }
        }
        .boxed())
    }
}
