//! Values as JSON documents, the form all of Hull's nouns are stored in.

use serde::{Serialize, de::DeserializeOwned};

use crate::{Entry, Key, Revision, Store, StoreError, Txn};

/// A document with the revision it was last changed at, ready for [`crate::Compare::Modified`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document<T> {
    /// The document.
    pub value: T,
    /// When it was last changed.
    pub modified: Revision,
}

/// Reads one document.
///
/// # Errors
/// The store's, and [`StoreError::Document`] where the value is not a `T`.
pub async fn get_json<T: DeserializeOwned>(store: &dyn Store, key: &str) -> crate::Result<Option<Document<T>>> {
    store.get(key).await?.as_ref().map(parse).transpose()
}

/// Reads an entry as a document.
///
/// # Errors
/// [`StoreError::Document`] where the value is not a `T`.
pub fn parse<T: DeserializeOwned>(entry: &Entry) -> crate::Result<Document<T>> {
    let value = serde_json::from_slice(&entry.value).map_err(|e| unreadable(&entry.key, &e))?;
    Ok(Document { value, modified: entry.modified })
}

impl Txn {
    /// Adds a put of a JSON document without a lease.
    ///
    /// # Errors
    /// [`StoreError::Document`] where `value` has no JSON form.
    pub fn put_json(self, key: impl Into<Key>, value: &impl Serialize) -> crate::Result<Self> {
        let key = key.into();
        let json = serde_json::to_vec(value).map_err(|e| unreadable(&key, &e))?;
        Ok(self.put(key, json))
    }
}

fn unreadable(key: &str, why: &serde_json::Error) -> StoreError {
    StoreError::Document { key: key.to_owned(), why: why.to_string() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::memory::MemoryStore;

    #[tokio::test]
    async fn a_document_comes_back_with_its_revision_and_a_wrong_one_is_named() {
        let store = MemoryStore::new();
        assert_eq!(get_json::<Vec<u8>>(&store, "list/1").await.unwrap(), None);
        store.txn(Txn::new().put_json("list/1", &[1, 2]).unwrap()).await.unwrap();
        let found = get_json::<Vec<u8>>(&store, "list/1").await.unwrap().unwrap();
        assert_eq!(found, Document { value: vec![1, 2], modified: Revision(1) });
        let error = get_json::<String>(&store, "list/1").await.unwrap_err();
        assert!(error.to_string().starts_with("list/1 does not hold the document"), "{error}");
    }
}
