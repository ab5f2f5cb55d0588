//! The API by noun.

use bytes::Bytes;
use futures::{Stream, StreamExt};
use hull_types::{
    error::Result,
    image::{Image, ImageFormat},
    link::ExecResult,
    migration::Migration,
    path::PathExplanation,
    vm::VmState,
    wire::{
        ExecRequest, Explanation, ImageCreate, ImageUpdate, List, MigrationCreate, PasswordRequest, VmAction, VmCreate,
        VmUpdate, VmView, WatchEvent,
    },
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    http::{Client, Query},
    socket::Socket,
};

/// A noun whose documents are listed, shown, created and deleted alike.
pub struct Nouns<'a> {
    client: &'a Client,
    plural: &'static str,
}

impl Client {
    /// Any noun by its plural: `flavors`, `keypairs`, `networks`, `nodes`, `projects`, `events`, …
    pub fn nouns(&self, plural: &'static str) -> Nouns<'_> {
        Nouns { client: self, plural }
    }

    /// VMs.
    pub fn vms(&self) -> Vms<'_> {
        Vms(self)
    }

    /// Images.
    pub fn images(&self) -> Images<'_> {
        Images(self)
    }

    /// Migrations.
    pub fn migrations(&self) -> Migrations<'_> {
        Migrations(self)
    }
}

/// A name as one segment of a path.
pub fn segment(name: &str) -> String {
    url::form_urlencoded::byte_serialize(name.as_bytes()).collect::<String>().replace('+', "%20")
}

impl Nouns<'_> {
    /// All of them: page after page until the end.
    pub async fn list<T: DeserializeOwned>(&self, query: &Query<'_>) -> Result<Vec<T>> {
        let mut items = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let mut query = query.to_vec();
            query.extend(after.take().map(|after| ("after", after)));
            let page: List<T> = self.client.get(&format!("v1/{}", self.plural), &query).await?;
            items.extend(page.items);
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(items),
            }
        }
    }

    /// One, by name or id.
    pub async fn show<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        self.client.get(&format!("v1/{}/{}", self.plural, segment(name)), &[]).await
    }

    /// A new one.
    pub async fn create<B: Serialize + Sync, T: DeserializeOwned>(&self, body: &B) -> Result<T> {
        self.client.post(&format!("v1/{}", self.plural), body).await
    }

    /// Changes one.
    pub async fn update<B: Serialize + Sync, T: DeserializeOwned>(&self, name: &str, body: &B) -> Result<T> {
        self.client.patch(&format!("v1/{}/{}", self.plural, segment(name)), body).await
    }

    /// Deletes one.
    pub async fn delete(&self, name: &str) -> Result<()> {
        self.client.delete(&format!("v1/{}/{}", self.plural, segment(name))).await
    }

    /// Adds a part to one: a rule to a security group, a subnet to a router.
    pub async fn add<B: Serialize + Sync, T: DeserializeOwned>(&self, name: &str, part: &str, body: &B) -> Result<T> {
        self.client.post(&format!("v1/{}/{}/{part}", self.plural, segment(name)), body).await
    }

    /// Removes a part of one.
    pub async fn remove(&self, name: &str, part: &str, id: &str) -> Result<()> {
        self.client.delete(&format!("v1/{}/{}/{part}/{}", self.plural, segment(name), segment(id))).await
    }
}

/// Images.
pub struct Images<'a>(&'a Client);

impl Images<'_> {
    /// Makes the record.
    pub async fn create(&self, body: &ImageCreate) -> Result<Image> {
        self.0.nouns("images").create(body).await
    }

    /// One, by name or id.
    pub async fn show(&self, name: &str) -> Result<Image> {
        self.0.nouns("images").show(name).await
    }

    /// Changes one.
    pub async fn update(&self, name: &str, body: &ImageUpdate) -> Result<Image> {
        self.0.nouns("images").update(name, body).await
    }

    /// Uploads the bytes; returns when they are ready to boot from.
    pub async fn upload<S>(&self, name: &str, body: S) -> Result<Image>
    where
        S: Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    {
        self.0.upload(&format!("v1/images/{}/content", segment(name)), body).await
    }

    /// Downloads the bytes in this format.
    pub async fn download(
        &self,
        name: &str,
        format: ImageFormat,
    ) -> Result<(Option<u64>, impl Stream<Item = Result<Bytes>> + Unpin + use<>)> {
        let format = serde_json::to_value(format).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default();
        self.0.download(&format!("v1/images/{}/content", segment(name)), &[("format", format)]).await
    }
}

/// Migrations.
pub struct Migrations<'a>(&'a Client);

impl Migrations<'_> {
    /// Sends a VM to another node.
    pub async fn begin(&self, body: &MigrationCreate) -> Result<Migration> {
        self.0.nouns("migrations").create(body).await
    }

    /// One, by id.
    pub async fn show(&self, migration: &str) -> Result<Migration> {
        self.0.nouns("migrations").show(migration).await
    }

    /// All that the filters let through.
    pub async fn list(&self, query: &Query<'_>) -> Result<Vec<Migration>> {
        self.0.nouns("migrations").list(query).await
    }

    /// Ends one; the VM goes on where it is.
    pub async fn cancel(&self, migration: &str) -> Result<Migration> {
        self.0.nouns("migrations").add(migration, "cancel", &serde_json::json!({})).await
    }

    /// Waits until it is as wanted, or over, however it ended. `wanted` sees every state on the way. Polls the watch, so it
    /// costs nothing while nothing happens.
    pub async fn until(&self, migration: &str, mut wanted: impl FnMut(&Migration) -> bool) -> Result<Migration> {
        let query = [("id", migration.to_owned())];
        loop {
            // A watch begins with what is, and is begun again where the server restarted.
            let mut changes = self.0.watch::<Migration>("v1/migrations", &query, None).await?;
            while let Some(Ok(change)) = changes.next().await {
                if let WatchEvent::Put { object, .. } = change
                    && (wanted(&object) || object.phase.is_over())
                {
                    return Ok(object);
                }
            }
            let now = self.show(migration).await?;
            if wanted(&now) || now.phase.is_over() {
                return Ok(now);
            }
        }
    }
}

/// VMs.
pub struct Vms<'a>(&'a Client);

impl Vms<'_> {
    /// New VMs: one, or `count`.
    pub async fn create(&self, body: &VmCreate) -> Result<List<VmView>> {
        self.0.nouns("vms").create(body).await
    }

    /// One, by name or id.
    pub async fn show(&self, vm: &str) -> Result<VmView> {
        self.0.nouns("vms").show(vm).await
    }

    /// All that the filters let through.
    pub async fn list(&self, query: &Query<'_>) -> Result<Vec<VmView>> {
        self.0.nouns("vms").list(query).await
    }

    /// Changes one.
    pub async fn update(&self, vm: &str, body: &VmUpdate) -> Result<VmView> {
        self.0.nouns("vms").update(vm, body).await
    }

    /// Marks one for deletion.
    pub async fn delete(&self, vm: &str) -> Result<()> {
        self.0.nouns("vms").delete(vm).await
    }

    /// Acts on one.
    pub async fn act(&self, vm: &str, action: &VmAction) -> Result<VmView> {
        self.0.post(&self.path(vm, "actions"), action).await
    }

    /// Runs a program inside.
    pub async fn exec(&self, vm: &str, body: &ExecRequest) -> Result<ExecResult> {
        self.0.post(&self.path(vm, "exec"), body).await
    }

    /// Sets a user's password inside.
    pub async fn password(&self, vm: &str, body: &PasswordRequest) -> Result<()> {
        self.0.post(&self.path(vm, "password"), body).await
    }

    /// A call without a body: `quiesce`, `thaw`, `agent-ping`.
    pub async fn call<T: DeserializeOwned>(&self, vm: &str, verb: &str) -> Result<T> {
        self.0.post(&self.path(vm, verb), &serde_json::json!({})).await
    }

    /// The newest bytes of the console log.
    pub async fn console_log(&self, vm: &str, tail: u32) -> Result<Bytes> {
        self.0.bytes(&self.path(vm, "console-log"), &[("tail", tail.to_string())]).await
    }

    /// The screen, as PNG.
    pub async fn screenshot(&self, vm: &str) -> Result<Bytes> {
        self.0.bytes(&self.path(vm, "screenshot"), &[]).await
    }

    /// Why it is as it is.
    pub async fn explain(&self, vm: &str) -> Result<Explanation> {
        self.0.get(&self.path(vm, "explain"), &[]).await
    }

    /// How far a packet from it gets; `query` as the API names it.
    pub async fn path_to(&self, vm: &str, query: &[(&str, String)]) -> Result<PathExplanation> {
        self.0.get(&self.path(vm, "path"), query).await
    }

    /// The serial console.
    pub async fn console(&self, vm: &str) -> Result<Socket> {
        self.0.socket(&self.path(vm, "console"), &[]).await
    }

    /// Its screen, keyboard and pointer: the VNC protocol (RFB).
    pub async fn vnc(&self, vm: &str) -> Result<Socket> {
        self.0.socket(&self.path(vm, "vnc"), &[]).await
    }

    /// A TCP connection to one of its ports, made from inside its network.
    pub async fn tcp(&self, vm: &str, port: u16) -> Result<Socket> {
        self.0.socket(&self.path(vm, &format!("tcp/{port}")), &[]).await
    }

    /// Waits until the VM rests as asked, or is in a state the closure accepts, or is gone; `on_change` sees every state
    /// on the way. Polls the watch, so it costs nothing while nothing happens.
    pub async fn settle(&self, vm: &str, mut on_change: impl FnMut(&VmView)) -> Result<Option<VmView>> {
        use hull_types::error::ErrorKind;
        let mut view = match self.show(vm).await {
            Err(error) if error.kind == ErrorKind::NotFound => return Ok(None),
            shown => shown?,
        };
        let id = view.vm.id.to_string();
        let mut changes = self.0.watch::<VmView>("v1/vms", &[("id", id.clone())], None).await?;
        loop {
            on_change(&view);
            if view.settled && view.state != VmState::Deleting {
                return Ok(Some(view));
            }
            match changes.next().await {
                Some(Ok(WatchEvent::Put { object, .. })) if object.vm.id.to_string() == id => view = object,
                Some(Ok(WatchEvent::Delete { id: gone, .. })) if gone == id => return Ok(None),
                Some(Ok(_)) => {}
                // The server restarted or compacted: look again, watch again.
                Some(Err(_)) | None => {
                    view = match self.show(&id).await {
                        Err(error) if error.kind == ErrorKind::NotFound => return Ok(None),
                        shown => shown?,
                    };
                    changes = self.0.watch::<VmView>("v1/vms", &[("id", id.clone())], None).await?;
                }
            }
        }
    }

    fn path(&self, vm: &str, verb: &str) -> String {
        format!("v1/vms/{}/{verb}", segment(vm))
    }
}
