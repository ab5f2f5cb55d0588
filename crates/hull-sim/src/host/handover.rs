//! VMs that go from host to host, as JSON in pieces, so that what cannot be written is noticed and the stream can break
//! anywhere.
//!
//! A disk that came half, or that a guest ran on while it was read, is marked torn: whoever starts from it breaks a promise.

use std::time::Duration;

use async_trait::async_trait;
use hull_node::{
    plan::record::Carried,
    vm::handover::{Handover, Progress},
};
use hull_types::{
    error::{Error, Result},
    id::VmId,
};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

use super::{DiskSet, Doors, Saved};

/// The file that memory is saved to, in the VM's directory.
const MEMORY: &str = "memory.saved";
/// Pieces a disk goes in.
const PIECES: u32 = 8;
/// The longest that reading or writing a piece takes.
const PIECE: Duration = Duration::from_secs(4);
/// A sender that sends nothing for so long is gone.
const SILENT_AT_MOST: Duration = Duration::from_secs(60);
/// The longest message.
const MOST: u32 = 1 << 16;

/// What is sent, in this order: a beginning, pieces, the end.
#[derive(Serialize, Deserialize)]
enum Sent {
    Begins { carried: Box<Carried>, disks: DiskSet },
    Piece,
    Ends { memory: Option<Saved>, torn: bool },
}

impl Doors {
    /// The VM's disk as it is, whether a guest may be writing to it, and its saved memory.
    fn held(&self, vm: VmId) -> (DiskSet, bool, Option<Saved>) {
        let inner = self.host.lock();
        let disks = inner.disks.get(&vm).cloned().unwrap_or_default();
        let lives = inner.machines.get(&vm).is_some_and(|machine| machine.is_alive());
        (disks, lives, inner.saved.get(&self.path(vm, MEMORY)).cloned())
    }

    /// Throws away what is here; what comes is torn until all of it is here.
    fn clear_for(&self, vm: VmId, disks: DiskSet) -> Result<()> {
        for generation in self.held(vm).0.roots.into_keys() {
            self.may_remove(vm, &format!("root-{generation}"));
        }
        let memory = self.path(vm, MEMORY);
        let mut inner = self.host.lock();
        inner.saved.remove(&memory);
        inner.disks.remove(&vm);
        drop(inner);
        self.space()?;
        self.host.lock().disks.insert(vm, DiskSet { torn: true, ..disks });
        Ok(())
    }
}

#[async_trait]
impl Handover for Doors {
    async fn give(&self, vm: VmId, carried: Carried, to: &mut (dyn AsyncWrite + Send + Unpin)) -> Result<()> {
        self.takes(PIECE).await;
        let (all, lives, memory) = self.held(vm);
        let generation = carried.disk.map(|disk| disk.generation);
        let roots = all.roots.clone().into_iter().filter(|(held, _)| Some(*held) == generation).collect();
        let disks = DiskSet { roots, rescue: false, seed: false, ..all.clone() };
        let memory = memory.filter(|_| carried.saved.is_some());
        send(to, &Sent::Begins { carried: Box::new(carried), disks }).await?;
        for _ in 0..PIECES {
            self.takes(PIECE).await;
            send(to, &Sent::Piece).await?;
        }
        let (now, lives_now, _) = self.held(vm);
        let torn = all.torn || lives || lives_now || now.runs != all.runs || now.roots != all.roots;
        send(to, &Sent::Ends { memory, torn }).await?;
        to.shutdown().await.map_err(|error| broke(&error))
    }

    async fn take(&self, vm: VmId, from: &mut (dyn AsyncRead + Send + Unpin), progress: &Progress) -> Result<Carried> {
        let Sent::Begins { carried, disks } = receive(from).await? else { return Err(strange()) };
        self.takes(PIECE).await;
        self.clear_for(vm, disks)?;
        for come in 0.. {
            progress.at(come, u64::from(PIECES));
            let sent = receive(from).await?;
            self.takes(PIECE).await;
            self.space()?;
            match sent {
                Sent::Piece => {}
                Sent::Begins { .. } => return Err(strange()),
                Sent::Ends { memory, torn } => {
                    let file = self.path(vm, MEMORY);
                    let mut inner = self.host.lock();
                    if let Some(memory) = memory {
                        inner.saved.insert(file, memory);
                    }
                    inner.disks.entry(vm).or_default().torn = torn;
                    break;
                }
            }
        }
        // Even where the runtime dies before it notes that it has everything, it is there.
        self.takes(Duration::from_secs(1)).await;
        Ok(*carried)
    }
}

async fn send(to: &mut (dyn AsyncWrite + Send + Unpin), sent: &Sent) -> Result<()> {
    let text = serde_json::to_vec(sent).map_err(|e| Error::internal(format!("a VM cannot be written: {e}")))?;
    let length = u32::try_from(text.len()).map_err(|_| Error::internal("a VM is too long"))?;
    to.write_all(&length.to_le_bytes()).await.map_err(|error| broke(&error))?;
    to.write_all(&text).await.map_err(|error| broke(&error))
}

async fn receive(from: &mut (dyn AsyncRead + Send + Unpin)) -> Result<Sent> {
    let mut length = [0; 4];
    fill(from, &mut length).await?;
    let length = u32::from_le_bytes(length);
    if length > MOST {
        return Err(strange());
    }
    let mut text = vec![0; length as usize];
    fill(from, &mut text).await?;
    serde_json::from_slice(&text).map_err(|e| Error::internal(format!("a VM cannot be read: {e}")))
}

async fn fill(from: &mut (dyn AsyncRead + Send + Unpin), bytes: &mut [u8]) -> Result<()> {
    let read = timeout(SILENT_AT_MOST, from.read_exact(bytes)).await;
    let silent = || Error::unavailable(format!("the other node sent nothing for {} s", SILENT_AT_MOST.as_secs()));
    read.map_err(|_| silent())?.map(drop).map_err(|error| broke(&error))
}

fn strange() -> Error {
    Error::internal("what the other node sent is not a VM")
}

fn broke(error: &std::io::Error) -> Error {
    Error::unavailable(format!("the stream from node to node broke: {error}"))
}
