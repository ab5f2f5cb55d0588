//! The resolver's sockets: guests' inside the network, the host's resolvers' outside.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hickory_proto::op::ResponseCode;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Semaphore,
    time::timeout,
};

use super::{
    super::dns::{LARGEST, Verdict, belongs, refusal, resolvers, respond},
    Shop, http,
    seats::Seats,
};

/// Questions to the host's resolvers under way at a time, for one network; those beyond are refused at once.
const UNDER_WAY: usize = 256;
/// Connections of guests at a time.
const CONNECTIONS: usize = 64;
/// Those of one guest; further ones are hung up on.
const SHARE: usize = 8;
/// How long a connection may live, however much is asked on it.
const LONGEST: Duration = Duration::from_secs(120);
/// How long one resolver may take; a guest's own patience is 5 s.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a connection may stay silent.
const SILENCE: Duration = Duration::from_secs(10);
/// What fits a datagram to or from a guest.
const DATAGRAM: usize = 4096;

pub(super) async fn serve(shop: Shop, own: IpAddr) {
    let room = Arc::new(Semaphore::new(UNDER_WAY));
    let address = SocketAddr::new(own, 53);
    tokio::join!(datagrams(shop.clone(), address, Arc::clone(&room)), connections(shop, address, room));
}

async fn datagrams(shop: Shop, address: SocketAddr, room: Arc<Semaphore>) {
    let open = move || {
        let socket = std::net::UdpSocket::bind(address)?;
        socket.set_nonblocking(true)?;
        UdpSocket::from_std(socket)
    };
    let socket = Arc::new(shop.open("DNS", open).await);
    let mut packet = [0; DATAGRAM];
    loop {
        let Ok((length, peer)) = socket.recv_from(&mut packet).await else { continue };
        let query = &packet[..length];
        match respond(&shop.view(), query) {
            Verdict::Ignore => {}
            // Whoever does not wait for the answer asks again.
            Verdict::Answer(answer) => drop(socket.send_to(&answer, peer).await),
            Verdict::Forward => {
                let Ok(permit) = Arc::clone(&room).try_acquire_owned() else { continue };
                let (shop, socket, query) = (shop.clone(), Arc::clone(&socket), query.to_vec());
                tokio::spawn(async move {
                    let answer = ask(&shop, &query, false).await;
                    let _ = socket.send_to(&answer, peer).await;
                    drop(permit);
                });
            }
        }
    }
}

async fn connections(shop: Shop, address: SocketAddr, room: Arc<Semaphore>) {
    let listener: TcpListener = shop.open("DNS over TCP", move || http::listen(address)).await;
    let seats = Arc::new(Semaphore::new(CONNECTIONS));
    let shares = Seats::new(SHARE);
    loop {
        let Ok(seat) = Arc::clone(&seats).acquire_owned().await else { return };
        let Ok((stream, peer)) = listener.accept().await else { continue };
        let Some(own) = shares.take(peer.ip()) else { continue };
        let (shop, room) = (shop.clone(), Arc::clone(&room));
        tokio::spawn(async move {
            let _ = timeout(LONGEST, converse(&shop, stream, &room)).await;
            drop((seat, own));
        });
    }
}

async fn converse(shop: &Shop, mut stream: TcpStream, room: &Semaphore) -> io::Result<()> {
    loop {
        let query = timeout(SILENCE, receive(&mut stream)).await??;
        let answer = match respond(&shop.view(), &query) {
            Verdict::Ignore => return Ok(()),
            Verdict::Answer(answer) => answer,
            Verdict::Forward => {
                let Ok(_permit) = room.try_acquire() else { return Ok(()) };
                ask(shop, &query, true).await
            }
        };
        timeout(SILENCE, send(&mut stream, &answer)).await??;
    }
}

/// RFC 1035, section 4.2.2: over TCP each message comes behind its length.
async fn receive(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn send(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    stream.write_all(&[&length.to_be_bytes()[..], message].concat()).await
}

/// The first answer of the host's resolvers, under the guest's id; "server failure" where none answers.
async fn ask(shop: &Shop, query: &[u8], over_tcp: bool) -> Vec<u8> {
    let conf = tokio::fs::read_to_string(&shop.resolv_conf).await.unwrap_or_default();
    // Another id than the guest's, so that the guest cannot help anybody to forge the answer.
    let mut asked = query.to_vec();
    let id: [u8; 2] = rand::random();
    asked[..2].copy_from_slice(&id);
    for resolver in resolvers(&conf) {
        let attempt = async {
            let target = SocketAddr::new(resolver, 53);
            if over_tcp { ask_stream(shop, target, &asked).await } else { ask_datagram(shop, target, &asked).await }
        };
        if let Ok(Ok(mut answer)) = timeout(PATIENCE, attempt).await {
            answer[..2].copy_from_slice(&query[..2]);
            return answer;
        }
    }
    refusal(query, ResponseCode::ServFail).unwrap_or_default()
}

async fn ask_datagram(shop: &Shop, resolver: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let open = move || {
        // A port of the kernel's choosing, anew for each question.
        let any: IpAddr = if resolver.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() };
        let socket = std::net::UdpSocket::bind((any, 0))?;
        socket.set_nonblocking(true)?;
        UdpSocket::from_std(socket)
    };
    let socket = shop.host.run(open).await.map_err(io::Error::other)??;
    socket.connect(resolver).await?;
    socket.send(query).await?;
    let mut answer = vec![0; LARGEST];
    loop {
        let length = socket.recv(&mut answer).await?;
        if belongs(query, &answer[..length]) {
            answer.truncate(length);
            return Ok(answer);
        }
    }
}

async fn ask_stream(shop: &Shop, resolver: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let open = move || match resolver {
        SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4(),
        SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6(),
    };
    let socket = shop.host.run(open).await.map_err(io::Error::other)??;
    let mut stream = socket.connect(resolver).await?;
    send(&mut stream, query).await?;
    let answer = receive(&mut stream).await?;
    if belongs(query, &answer) { Ok(answer) } else { Err(io::ErrorKind::InvalidData.into()) }
}
