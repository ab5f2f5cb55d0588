//! `hull vm create`.

use std::path::PathBuf;

use base64::{Engine, engine::general_purpose::STANDARD};
use clap::{Args, ValueEnum};
use hull_types::{
    error::{Error, Result},
    flavor::Resources,
    name::Name,
    units::Bytes,
    vm::{Firmware, Profile},
    wire::{DirectBootRequest, NicRequest, VmCreate},
};

use super::{Session, Waiting, keypair, pair, vm::Restart};

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Its name; with --count they are NAME-1, NAME-2, …
    name: Name,
    /// Name or id of the image
    #[arg(long)]
    image: Option<String>,
    /// Name or id of the flavor
    #[arg(long, default_value = "small")]
    flavor: String,
    /// Virtual CPUs, instead of the flavor's
    #[arg(long, requires = "memory")]
    vcpus: Option<u16>,
    /// Memory, instead of the flavor's
    #[arg(long, requires = "vcpus")]
    memory: Option<Bytes>,
    /// Root disk, larger than the flavor's
    #[arg(long)]
    disk: Option<Bytes>,
    /// How many
    #[arg(long, default_value_t = 1)]
    count: u32,
    /// Name or id of a keypair that may log in (repeatable)
    #[arg(long = "key")]
    keypairs: Vec<String>,
    /// File with a public key that may log in (repeatable); your own default keys where no key is named
    #[arg(long = "ssh-key")]
    ssh_keys: Vec<PathBuf>,
    /// File with user data for cloud-init
    #[arg(long)]
    user_data: Option<PathBuf>,
    /// The machine it sees
    #[arg(long, value_enum, default_value_t = ProfileArg::Pc)]
    profile: ProfileArg,
    /// Start with UEFI instead of BIOS
    #[arg(long)]
    uefi: bool,
    /// Verify signatures at boot (implies --uefi)
    #[arg(long)]
    secure_boot: bool,
    /// Give it a TPM 2.0
    #[arg(long)]
    tpm: bool,
    /// Name or id of a kernel image to boot directly
    #[arg(long)]
    kernel: Option<String>,
    /// Name or id of its initial RAM disk
    #[arg(long, requires = "kernel")]
    initrd: Option<String>,
    /// The kernel's command line
    #[arg(long, requires = "kernel", default_value = "")]
    cmdline: String,
    /// A NIC on this network (repeatable), `NETWORK` or `NETWORK=ADDRESS`; one on `default` where absent
    #[arg(long = "network")]
    networks: Vec<String>,
    /// A NIC that is this port (name or id, repeatable), after those of --network
    #[arg(long = "port")]
    ports: Vec<String>,
    /// Name or id of a security group of its NICs (repeatable); `default` where absent
    #[arg(long = "security-group")]
    security_groups: Vec<String>,
    /// No NIC at all
    #[arg(long, conflicts_with_all = ["networks", "ports"])]
    no_network: bool,
    /// When it is started again by itself
    #[arg(long, value_enum, default_value_t = Restart::OnFailure)]
    restart: Restart,
    /// A label, key=value (repeatable)
    #[arg(long, value_parser = pair)]
    metadata: Vec<(String, String)>,
    /// Free text
    #[arg(long, default_value = "")]
    description: String,
    /// Create it turned off
    #[arg(long)]
    stopped: bool,
    #[command(flatten)]
    waiting: Waiting,
}

/// A NIC that is plugged in.
#[derive(Debug, Args)]
pub(crate) struct NicArgs {
    /// Name or id of the network; `default` where neither this nor a port is named
    #[arg(long, conflicts_with = "port")]
    network: Option<String>,
    /// Name or id of a port that is there already
    #[arg(long)]
    port: Option<String>,
    /// An address wanted (repeatable)
    #[arg(long = "address", conflicts_with = "port")]
    addresses: Vec<std::net::IpAddr>,
    /// MAC wanted
    #[arg(long, conflicts_with = "port")]
    mac: Option<hull_types::network::Mac>,
    /// Name or id of a security group (repeatable); `default` where absent
    #[arg(long = "security-group", conflicts_with = "port")]
    security_groups: Vec<String>,
}

impl NicArgs {
    pub(crate) fn request(self) -> NicRequest {
        let Self { network, port, addresses, mac, security_groups } = self;
        let security_groups = (!security_groups.is_empty()).then_some(security_groups);
        NicRequest { network, port, security_groups, addresses, mac }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ProfileArg {
    /// q35: any operating system
    Pc,
    /// microvm: small and fast, boots a kernel directly
    Micro,
}

impl Create {
    pub(crate) async fn run(self: Box<Self>, session: &Session) -> Result<u8> {
        let waiting = self.waiting;
        let created = session.client.vms().create(&self.request()?).await?;
        session.finish(created.items, waiting).await?;
        Ok(0)
    }

    fn request(self) -> Result<VmCreate> {
        let sized = self.vcpus.zip(self.memory);
        // The flavor stands where a size is not given; a disk alone only overrides the flavor's.
        let resources = match (sized, self.disk) {
            (Some((vcpus, memory)), disk) => Some(Resources { vcpus, memory, disk: disk.unwrap_or(Bytes::gib(10)) }),
            (None, Some(disk)) => Some(Resources { vcpus: 0, memory: Bytes::ZERO, disk }),
            (None, None) => None,
        };
        let mut ssh_keys = self.ssh_keys.iter().map(|path| keypair::public_key(path)).collect::<Result<Vec<_>>>()?;
        if ssh_keys.is_empty() && self.keypairs.is_empty() {
            ssh_keys.extend(own_keys());
        }
        let user_data = self.user_data.as_deref().map(super::read).transpose()?.map(|data| STANDARD.encode(data));
        let nics = self.nics()?;
        let kernel = self.kernel.map(|kernel| DirectBootRequest { kernel, initrd: self.initrd, cmdline: self.cmdline });
        Ok(VmCreate {
            name: self.name,
            description: self.description,
            metadata: self.metadata.into_iter().collect(),
            count: self.count,
            image: self.image,
            kernel,
            flavor: sized.is_none().then_some(self.flavor),
            resources,
            profile: match self.profile {
                ProfileArg::Pc => Profile::Pc,
                ProfileArg::Micro => Profile::Micro,
            },
            firmware: if self.uefi || self.secure_boot { Firmware::Uefi } else { Firmware::Bios },
            secure_boot: self.secure_boot,
            tpm: self.tpm,
            keypairs: self.keypairs,
            ssh_keys,
            user_data,
            nics,
            restart: self.restart.into(),
            start: !self.stopped,
        })
    }
}

impl Create {
    /// The NICs asked for; none where the server chooses.
    fn nics(&self) -> Result<Option<Vec<NicRequest>>> {
        if self.no_network {
            return Ok(Some(Vec::new()));
        }
        let groups = (!self.security_groups.is_empty()).then(|| self.security_groups.clone());
        let grouped = |nic: NicRequest| NicRequest { security_groups: groups.clone(), ..nic };
        let on = self.networks.iter().map(|text| nic(text).map(grouped));
        let is = self.ports.iter().map(|port| Ok(NicRequest { port: Some(port.clone()), ..NicRequest::default() }));
        let mut nics = on.chain(is).collect::<Result<Vec<_>>>()?;
        if nics.is_empty() {
            if groups.is_none() {
                return Ok(None);
            }
            nics.push(grouped(NicRequest::default()));
        }
        Ok(Some(nics))
    }
}

/// `NETWORK` or `NETWORK=ADDRESS`.
fn nic(text: &str) -> Result<NicRequest> {
    let (network, address) = text.split_once('=').map_or((text, None), |(network, address)| (network, Some(address)));
    let addresses = address
        .map(|address| address.parse().map_err(|_| Error::invalid(format!("{address:?} is not an IP address"))))
        .transpose()?;
    Ok(NicRequest {
        network: Some(network.to_owned()),
        addresses: addresses.into_iter().collect(),
        ..NicRequest::default()
    })
}

/// The caller's own default public keys, as ssh would offer them.
fn own_keys() -> impl Iterator<Item = hull_types::keypair::PublicKey> {
    ["id_ed25519.pub", "id_ecdsa.pub", "id_rsa.pub"]
        .into_iter()
        .filter_map(|file| keypair::public_key(&PathBuf::from("~/.ssh").join(file)).ok())
}
