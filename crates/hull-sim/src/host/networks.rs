//! Networks: there or not, and the taps machines have open.

use std::{fs::File, net::IpAddr, os::fd::OwnedFd, time::Duration};

use async_trait::async_trait;
use hull_node::{
    hypervisor::ByteStream,
    network::{GuestMetadata, Networks},
};
use hull_types::{
    error::{Error, Result},
    id::{NetworkId, PortId, RouterId, VmId},
    link::{DesiredNetwork, DesiredRouter},
    path::{PathQuery, PathReport},
};

use super::Doors;

impl Doors {
    fn network_works(&self) -> Result<()> {
        let mut inner = self.host.lock();
        if inner.faults.networks_fail > 0 {
            inner.faults.networks_fail -= 1;
            return Err(Error::internal("the kernel refused the network: simulated"));
        }
        Ok(())
    }
}

#[async_trait]
impl Networks for Doors {
    async fn apply(&self, network: &DesiredNetwork) -> Result<()> {
        self.takes(Duration::from_secs(1)).await;
        self.network_works()?;
        self.host.lock().networks.insert(network.id);
        Ok(())
    }

    async fn remove(&self, network: NetworkId) -> Result<()> {
        self.takes(Duration::from_secs(1)).await;
        self.host.lock().networks.remove(&network);
        Ok(())
    }

    async fn list(&self) -> Result<Vec<NetworkId>> {
        self.alive().await;
        Ok(self.host.lock().networks.iter().copied().collect())
    }

    async fn apply_router(&self, router: &DesiredRouter) -> Result<()> {
        self.takes(Duration::from_secs(1)).await;
        self.network_works()?;
        let mut inner = self.host.lock();
        if let Some(absent) = router.subnets.iter().find(|subnet| !inner.networks.contains(&subnet.network)) {
            return Err(Error::unavailable(format!("network {} is not here, the router needs it", absent.network)));
        }
        inner.routers.insert(router.id);
        Ok(())
    }

    async fn remove_router(&self, router: RouterId) -> Result<()> {
        self.takes(Duration::from_secs(1)).await;
        self.host.lock().routers.remove(&router);
        Ok(())
    }

    async fn routers(&self) -> Result<Vec<RouterId>> {
        self.alive().await;
        Ok(self.host.lock().routers.iter().copied().collect())
    }

    async fn tap(&self, network: NetworkId, port: PortId) -> Result<OwnedFd> {
        self.takes(Duration::from_millis(300)).await;
        if !self.host.lock().networks.contains(&network) {
            return Err(Error::not_found(format!("network {network} is not here, port {port} needs it")));
        }
        let file = File::open("/dev/null").map_err(|e| Error::internal(format!("cannot open a stand-in: {e}")))?;
        Ok(file.into())
    }

    async fn set_metadata(&self, metadata: GuestMetadata) -> Result<()> {
        self.alive().await;
        self.host.lock().metadata.insert(metadata.vm);
        Ok(())
    }

    async fn forget_metadata(&self, vm: VmId) -> Result<()> {
        self.alive().await;
        self.host.lock().metadata.remove(&vm);
        Ok(())
    }

    async fn connect(&self, _network: NetworkId, _address: IpAddr, _port: u16) -> Result<Box<dyn ByteStream>> {
        Err(Error::unsupported("not simulated"))
    }

    async fn explain(&self, _network: NetworkId, _port: PortId) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    async fn explain_path(&self, _query: PathQuery) -> Result<PathReport> {
        Err(Error::unsupported("not simulated"))
    }
}
