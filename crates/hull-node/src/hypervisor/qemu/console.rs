//! The serial console for several people at once.
//!
//! QEMU's socket takes one connection. A task holds it while at least one client is there, copies what the guest says to
//! all of them, and what any of them types to the guest. With no client there is no connection, so that a Hull that hangs
//! can never hold up a guest that prints; QEMU writes the console log by itself.

use std::{io, path::PathBuf};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, duplex},
    net::unix::{OwnedReadHalf, OwnedWriteHalf},
    sync::{broadcast, mpsc, oneshot},
};

use super::sockets;

/// What a client may lag behind, in bytes of its own pipe and in pieces of the guest's output; beyond it, it misses some.
const CLIENT_BUFFER: usize = 64 << 10;
const PIECES: usize = 256;
const PIECE: usize = 4096;

type Request = oneshot::Sender<io::Result<DuplexStream>>;

/// Gives out console streams.
pub(super) struct Hub {
    requests: mpsc::Sender<Request>,
}

impl Hub {
    /// The hub of this socket. Connects when the first client comes.
    pub(super) fn open(socket: PathBuf) -> Self {
        let (requests, received) = mpsc::channel(8);
        tokio::spawn(serve(socket, received));
        Self { requests }
    }

    /// A new client's end.
    pub(super) async fn attach(&self) -> io::Result<DuplexStream> {
        let (request, answer) = oneshot::channel();
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        self.requests.send(request).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

async fn serve(socket: PathBuf, mut requests: mpsc::Receiver<Request>) {
    let mut left_over = None;
    loop {
        let first = match left_over.take() {
            Some(request) => request,
            None => match requests.recv().await {
                Some(request) => request,
                None => return,
            },
        };
        match sockets::connect(&socket).await {
            Ok(stream) => {
                let (from_guest, to_guest) = stream.into_split();
                left_over = share(first, &mut requests, from_guest, to_guest).await;
            }
            Err(error) => answer(first, Err(error)),
        }
    }
}

fn answer(request: Request, outcome: io::Result<DuplexStream>) {
    // The client may have given up.
    let _ = request.send(outcome);
}

/// Shares one connection until its last client leaves or the guest's side closes. A client that came just as the last
/// one left is given back, for the next connection.
async fn share(
    first: Request,
    requests: &mut mpsc::Receiver<Request>,
    mut from_guest: OwnedReadHalf,
    to_guest: OwnedWriteHalf,
) -> Option<Request> {
    let (output, _) = broadcast::channel(PIECES);
    let (input, typed) = mpsc::channel(8);
    // Ends when no client is left to type.
    let mut typist = tokio::spawn(type_to_guest(typed, to_guest));
    answer(first, Ok(client(output.subscribe(), input.clone())));
    let input = {
        let weak = input.downgrade();
        drop(input);
        weak
    };
    let mut buffer = [0; PIECE];
    loop {
        tokio::select! {
            count = from_guest.read(&mut buffer) => match count {
                Ok(0) | Err(_) => return None,
                // The last client may just have left.
                Ok(count) => drop(output.send(Bytes::copy_from_slice(&buffer[..count]))),
            },
            _ = &mut typist => return None,
            request = requests.recv() => match (request, input.upgrade()) {
                (Some(request), Some(input)) => answer(request, Ok(client(output.subscribe(), input))),
                (request, _) => return request,
            },
        }
    }
}

async fn type_to_guest(mut typed: mpsc::Receiver<Vec<u8>>, mut to_guest: OwnedWriteHalf) {
    while let Some(bytes) = typed.recv().await {
        if to_guest.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

fn client(output: broadcast::Receiver<Bytes>, input: mpsc::Sender<Vec<u8>>) -> DuplexStream {
    let (theirs, ours) = duplex(CLIENT_BUFFER);
    let (reader, writer) = tokio::io::split(ours);
    let show = tokio::spawn(show(output, writer));
    tokio::spawn(async move {
        hear(reader, input).await;
        // It left: nobody looks any more.
        show.abort();
    });
    theirs
}

async fn show(mut output: broadcast::Receiver<Bytes>, mut writer: WriteHalf<DuplexStream>) {
    loop {
        match output.recv().await {
            Ok(bytes) if writer.write_all(&bytes).await.is_ok() => {}
            Err(broadcast::error::RecvError::Lagged(_)) => {}
            Ok(_) => return,
            Err(broadcast::error::RecvError::Closed) => break,
        }
    }
    // Says "end" to a client that only reads; one that is gone does not mind.
    let _ = writer.shutdown().await;
}

async fn hear(mut reader: ReadHalf<DuplexStream>, input: mpsc::Sender<Vec<u8>>) {
    let mut buffer = [0; PIECE];
    while let Ok(count @ 1..) = reader.read(&mut buffer).await {
        if input.send(buffer[..count].to_vec()).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn clients_see_the_same_bytes_and_type_to_the_same_guest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("serial.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let hub = Hub::open(path);
        let (mut one, accepted) = tokio::join!(hub.attach(), listener.accept());
        let (one, mut guest) = (one.as_mut().unwrap(), accepted.unwrap().0);
        let mut two = hub.attach().await.unwrap();
        guest.write_all(b"login: ").await.unwrap();
        for client in [&mut *one, &mut two] {
            let mut seen = [0; 7];
            client.read_exact(&mut seen).await.unwrap();
            assert_eq!(&seen, b"login: ");
        }
        two.write_all(b"root\n").await.unwrap();
        let mut heard = [0; 5];
        guest.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"root\n");
    }

    #[tokio::test]
    async fn a_client_that_comes_as_the_last_one_leaves_is_served() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("serial.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let hub = Hub::open(path);
        for _ in 0..100 {
            let mut client = hub.attach().await.unwrap();
            let mut guest = listener.accept().await.unwrap().0;
            guest.write_all(b"x").await.unwrap();
            assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 1);
        }
    }

    #[tokio::test]
    async fn the_connection_goes_with_the_last_client_and_comes_with_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("serial.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let hub = Hub::open(path);
        let (one, accepted) = tokio::join!(hub.attach(), listener.accept());
        let mut guest = accepted.unwrap().0;
        drop(one);
        assert_eq!(guest.read(&mut [0; 1]).await.unwrap(), 0, "left alone");
        let (two, accepted) = tokio::join!(hub.attach(), listener.accept());
        let (mut two, guest) = (two.unwrap(), accepted.unwrap().0);
        drop(guest);
        assert_eq!(two.read(&mut [0; 1]).await.unwrap(), 0, "the guest's end is the stream's end");
    }
}
