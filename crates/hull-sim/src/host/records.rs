//! Records: what a node's runtime finds again after a crash, as JSON, so that what cannot be written is noticed.

use std::{path::PathBuf, time::Duration};

use async_trait::async_trait;
use hull_node::{plan::record::Record, vm::records::Records};
use hull_types::{
    error::{Error, Result},
    id::VmId,
    link::{DesiredNetwork, DesiredRouter},
};
use serde::{Serialize, de::DeserializeOwned};

use super::Doors;

fn to_json<T: Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::internal(format!("a record cannot be written: {e}")))
}

fn from_json<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|e| Error::internal(format!("a record cannot be read: {e}")))
}

#[async_trait]
impl Records for Doors {
    async fn dir(&self, vm: VmId) -> Result<PathBuf> {
        self.alive().await;
        Ok(PathBuf::from(format!("/sim/{}/{vm}", self.host.name)))
    }

    async fn load(&self) -> Result<Vec<Record>> {
        self.alive().await;
        self.host.lock().records.values().map(|text| from_json(text)).collect()
    }

    async fn save(&self, record: &Record) -> Result<()> {
        self.takes(Duration::from_millis(50)).await;
        let text = to_json(record)?;
        self.host.lock().records.insert(record.vm, text);
        Ok(())
    }

    async fn remove(&self, vm: VmId) -> Result<()> {
        self.takes(Duration::from_millis(50)).await;
        let prefix = PathBuf::from(format!("/sim/{}/{vm}", self.host.name));
        let mut inner = self.host.lock();
        inner.records.remove(&vm);
        inner.saved.retain(|path, _| !path.starts_with(&prefix));
        Ok(())
    }

    async fn remove_saved(&self, vm: VmId) -> Result<()> {
        self.takes(Duration::from_millis(50)).await;
        let prefix = PathBuf::from(format!("/sim/{}/{vm}", self.host.name));
        self.host.lock().saved.retain(|path, _| !path.starts_with(&prefix));
        Ok(())
    }

    async fn load_networks(&self) -> Result<Vec<DesiredNetwork>> {
        self.alive().await;
        self.host.lock().told.as_deref().map_or(Ok(Vec::new()), from_json)
    }

    async fn save_networks(&self, networks: &[DesiredNetwork]) -> Result<()> {
        self.alive().await;
        self.host.lock().told = Some(to_json(&networks)?);
        Ok(())
    }

    async fn load_routers(&self) -> Result<Vec<DesiredRouter>> {
        self.alive().await;
        self.host.lock().told_routers.as_deref().map_or(Ok(Vec::new()), from_json)
    }

    async fn save_routers(&self, routers: &[DesiredRouter]) -> Result<()> {
        self.alive().await;
        self.host.lock().told_routers = Some(to_json(&routers)?);
        Ok(())
    }
}
