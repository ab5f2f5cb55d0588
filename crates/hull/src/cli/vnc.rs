//! `hull vm vnc`: a VM's screen for any VNC viewer, by way of the API.
//!
//! ```text
//!   viewer ── TCP, loopback ──► hull vm vnc ── WebSocket (token, TLS) ──► server ── node ──► QEMU
//! ```
//!
//! Each viewer gets a stream of its own. VNC's own passwords are worth little, so there is none: who may connect to the
//! address may use the screen, which is why it is a loopback one unless the user says otherwise.

use std::net::{Ipv4Addr, SocketAddr};

use clap::Args;
use hull_client::Client;
use hull_types::error::{Error, Result};
use tokio::net::{TcpListener, TcpStream};

use crate::output;

#[derive(Debug, Args)]
pub(crate) struct Viewing {
    /// Name or id
    vm: String,
    /// Where viewers connect; port 0 takes a free one. Whoever reaches it uses the screen without a password
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))]
    listen: SocketAddr,
}

impl Viewing {
    pub(crate) async fn run(self, client: &Client) -> Result<()> {
        // A VM that does not run or has no screen is said here, and not to each viewer.
        drop(client.vms().vnc(&self.vm).await?);
        let refuse = |e| Error::invalid(format!("cannot listen on {}: {e}; name another with --listen", self.listen));
        let listener = TcpListener::bind(self.listen).await.map_err(refuse)?;
        let address = listener.local_addr().map_err(refuse)?;
        if !address.ip().is_loopback() {
            output::note(
                "Everyone who reaches this address can use the screen: VNC is neither encrypted nor authenticated.",
            );
        }
        output::line(format!("vnc://{address}"));
        output::note("Open this address in a VNC viewer. Ctrl-C ends.");
        tokio::select! {
            failed = serve(&listener, client, &self.vm) => failed,
            _ = tokio::signal::ctrl_c() => Ok(()),
        }
    }
}

/// Takes viewers until the listener fails.
async fn serve(listener: &TcpListener, client: &Client, vm: &str) -> Result<()> {
    loop {
        let (viewer, from) = listener.accept().await.map_err(|e| Error::internal(format!("the listener: {e}")))?;
        let (client, vm) = (client.clone(), vm.to_owned());
        tokio::spawn(async move {
            if let Err(error) = view(viewer, &client, &vm).await {
                output::note(format!("The viewer at {from}: {}", error.detail));
            }
        });
    }
}

async fn view(viewer: TcpStream, client: &Client, vm: &str) -> Result<()> {
    // Pointer moves are small and should not wait for each other. Without it they only come later.
    let _ = viewer.set_nodelay(true);
    let (from, to) = viewer.into_split();
    client.vms().vnc(vm).await?.pipe(from, to).await
}
