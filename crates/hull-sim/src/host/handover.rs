//! VMs that go from host to host.

use async_trait::async_trait;
use hull_node::{
    plan::record::Carried,
    vm::handover::{Handover, Progress},
};
use hull_types::{
    error::{Error, Result},
    id::VmId,
};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Doors;

#[async_trait]
impl Handover for Doors {
    async fn give(&self, _vm: VmId, _carried: Carried, _to: &mut (dyn AsyncWrite + Send + Unpin)) -> Result<()> {
        Err(Error::unsupported("not simulated"))
    }

    async fn take(&self, _vm: VmId, _from: &mut (dyn AsyncRead + Send + Unpin), _: &Progress) -> Result<Carried> {
        Err(Error::unsupported("not simulated"))
    }
}
