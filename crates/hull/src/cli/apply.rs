//! `hull apply -f`: makes things be as a file says.
//!
//! The file is one or more YAML documents, each a `kind` and the body its create call takes. What is not there is created; what is
//! there is brought to the file as far as its own update and resize go; what cannot change is refused, saying so. Nothing is deleted.

use std::path::PathBuf;

use clap::Args;
use hull_types::{
    error::{Error, ErrorKind, Result},
    flavor::Flavor,
    keypair::Keypair,
    units::Bytes,
    wire::{
        FlavorCreate, KeypairCreate, VmAction, VmCreate, VmUpdate, VmView,
        network::{NetworkCreate, PortCreate, RouterCreate, SecurityGroupCreate, SubnetCreate},
    },
};
use serde::Deserialize;

use super::{Session, Waiting};
use crate::{output, wait};

#[derive(Debug, Args)]
pub(crate) struct Apply {
    /// The file; `-` for standard input
    #[arg(short, long)]
    file: PathBuf,
    #[command(flatten)]
    waiting: Waiting,
}

/// A document of the file.
#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
enum Document {
    Flavor(FlavorCreate),
    Keypair(KeypairCreate),
    Vm(Box<VmCreate>),
    Network(Box<NetworkCreate>),
    Subnet(Box<SubnetCreate>),
    Port(Box<PortCreate>),
    SecurityGroup(Box<SecurityGroupCreate>),
    Router(Box<RouterCreate>),
}

impl Apply {
    pub(crate) async fn run(self, session: &Session) -> Result<u8> {
        let text = super::read(&self.file)?;
        // All documents are read before the first is applied: a mistake in the last changes nothing.
        let documents = serde_norway::Deserializer::from_slice(&text)
            .enumerate()
            .map(|(index, document)| {
                Document::deserialize(document).map_err(|e| {
                    Error::invalid(format!("document {} of {} cannot be read: {e}", index + 1, self.file.display()))
                })
            })
            .collect::<Result<Vec<_>>>()?;
        for document in documents {
            session.apply(document, self.waiting).await?;
        }
        Ok(0)
    }
}

impl Session {
    async fn apply(&self, document: Document, waiting: Waiting) -> Result<()> {
        match document {
            Document::Flavor(wanted) => self.apply_flavor(wanted).await,
            Document::Keypair(wanted) => self.apply_keypair(wanted).await,
            Document::Vm(wanted) => self.apply_vm(*wanted, waiting).await,
            Document::Network(wanted) => self.apply_network(*wanted).await,
            Document::Subnet(wanted) => self.apply_subnet(*wanted).await,
            Document::Port(wanted) => self.apply_port(*wanted).await,
            Document::SecurityGroup(wanted) => self.apply_security_group(*wanted).await,
            Document::Router(wanted) => self.apply_router(*wanted).await,
        }
    }

    async fn apply_flavor(&self, wanted: FlavorCreate) -> Result<()> {
        let flavors = self.client.nouns("flavors");
        match found(flavors.show::<Flavor>(wanted.name.as_str()).await)? {
            None => {
                flavors.create::<_, Flavor>(&wanted).await?;
                output::line(format!("flavor {} created", wanted.name));
            }
            Some(flavor) if flavor.resources == wanted.resources => {
                output::line(format!("flavor {} unchanged", wanted.name))
            }
            Some(_) => {
                return Err(Error::conflict(format!(
                    "flavor {} is there with another size; flavors do not change, give it another name",
                    wanted.name
                )));
            }
        }
        Ok(())
    }

    async fn apply_keypair(&self, wanted: KeypairCreate) -> Result<()> {
        let keypairs = self.client.nouns("keypairs");
        match found(keypairs.show::<Keypair>(wanted.name.as_str()).await)? {
            None => {
                keypairs.create::<_, Keypair>(&wanted).await?;
                output::line(format!("keypair {} created", wanted.name));
            }
            Some(keypair) if keypair.public_key.blob() == wanted.public_key.blob() => {
                output::line(format!("keypair {} unchanged", wanted.name));
            }
            Some(_) => {
                return Err(Error::conflict(format!(
                    "keypair {} is there with another key; delete it first, or give another name",
                    wanted.name
                )));
            }
        }
        Ok(())
    }

    async fn apply_vm(&self, wanted: VmCreate, waiting: Waiting) -> Result<()> {
        let name = wanted.name.clone();
        let view = match found(self.client.vms().show(name.as_str()).await)? {
            None => {
                let created = self.client.vms().create(&wanted).await?;
                output::line(format!("vm {name} created"));
                created.items.into_iter().next()
            }
            Some(view) => {
                let changed = self.bring(&view, wanted).await?;
                output::line(format!("vm {name} {}", if changed { "changed" } else { "unchanged" }));
                Some(view)
            }
        };
        if let (true, Some(view)) = (waiting.wait, view) {
            wait::settled(&self.client, &view.vm.id.to_string(), waiting.deadline()).await?;
        }
        Ok(())
    }

    /// Brings a VM that is there to what the file says; whether anything had to change.
    async fn bring(&self, view: &VmView, wanted: VmCreate) -> Result<bool> {
        let vm = &view.vm;
        let image = vm.boot.image.as_ref();
        if wanted
            .image
            .as_ref()
            .is_some_and(|name| image.is_none_or(|i| *name != i.name.as_str() && *name != i.id.to_string()))
        {
            return Err(Error::conflict(format!(
                "vm {} is made from another image; `hull vm rebuild {0} --image {}` throws its disk away and makes it anew",
                vm.meta.name,
                wanted.image.unwrap_or_default()
            )));
        }
        let update = VmUpdate {
            name: None,
            description: (wanted.description != vm.meta.description).then_some(wanted.description),
            metadata: (wanted.metadata != vm.meta.metadata).then_some(wanted.metadata),
            restart: (wanted.restart != vm.restart).then_some(wanted.restart),
        };
        let id = vm.id.to_string();
        let mut changed = false;
        if update != VmUpdate::default() {
            self.client.vms().update(&id, &update).await?;
            changed = true;
        }
        if let Some(resize) = self.resize(view, wanted.flavor, wanted.resources).await? {
            self.client.vms().act(&id, &resize).await?;
            changed = true;
        }
        Ok(changed)
    }

    /// The resize that brings a VM to the wanted size, where it has another.
    async fn resize(
        &self,
        view: &VmView,
        flavor: Option<String>,
        resources: Option<hull_types::flavor::Resources>,
    ) -> Result<Option<VmAction>> {
        let now = view.vm.resources;
        if let Some(name) = flavor {
            let size = self.client.nouns("flavors").show::<Flavor>(&name).await?.resources;
            let same = size.vcpus == now.vcpus && size.memory == now.memory && size.disk <= now.disk;
            return Ok((!same).then_some(VmAction::Resize {
                flavor: Some(name),
                vcpus: None,
                memory: None,
                disk: None,
            }));
        }
        let Some(size) = resources.filter(|size| *size != now) else { return Ok(None) };
        let changed = |wanted: Bytes, now: Bytes| (wanted != now).then_some(wanted);
        Ok(Some(VmAction::Resize {
            flavor: None,
            vcpus: (size.vcpus != now.vcpus).then_some(size.vcpus),
            memory: changed(size.memory, now.memory),
            disk: changed(size.disk, now.disk),
        }))
    }
}

/// A document, or none where there is none of the name.
pub(crate) fn found<T>(shown: Result<T>) -> Result<Option<T>> {
    match shown {
        Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}
