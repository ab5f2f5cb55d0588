//! The task behind a [`super::Client`]: one connection after another to the same socket.

use std::{
    collections::{HashMap, VecDeque},
    io::{self, ErrorKind, IoSlice},
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde_json::{Value, json};
use tokio::{
    io::Interest,
    net::UnixStream,
    sync::{broadcast, mpsc, oneshot},
    time::{sleep, timeout},
};

use super::{
    Command, Notice, QmpError,
    message::{Lines, MAX_LINE, Message},
};

/// QEMU listens before it is ready to speak; a loaded host may take this long to start it.
const GREETING_DEADLINE: Duration = Duration::from_secs(30);
const RETRY_FIRST: Duration = Duration::from_millis(10);
const RETRY_MOST: Duration = Duration::from_secs(1);
/// Commands written but not yet answered; beyond it new ones wait in the channel.
const MOST_UNDER_WAY: usize = 64;

/// Keeps a connection until the last client is gone, or the machine.
pub(super) async fn keep(
    socket: PathBuf,
    commands: mpsc::Receiver<Command>,
    notices: broadcast::Sender<Notice>,
    ended: impl Future<Output = ()>,
) {
    tokio::select! {
        () = reconnect(&socket, commands, &notices) => {}
        // Whoever waits for an answer finds its channel closed.
        () = ended => {}
    }
}

async fn reconnect(socket: &Path, mut commands: mpsc::Receiver<Command>, notices: &broadcast::Sender<Notice>) {
    let mut pause = RETRY_FIRST;
    while !commands.is_closed() {
        match Connection::open(socket).await {
            Ok((connection, version)) => {
                pause = RETRY_FIRST;
                // Nobody listening is fine.
                let _ = notices.send(Notice::Connected { version });
                let end = connection.serve(&mut commands, notices).await;
                let _ = notices.send(Notice::Disconnected);
                match end {
                    Ok(()) => return,
                    Err(error) => tracing::debug!(socket = %socket.display(), %error, "QMP connection ended"),
                }
            }
            Err(error) => tracing::trace!(socket = %socket.display(), %error, "QMP connection failed"),
        }
        sleep(pause).await;
        pause = (pause * 2).min(RETRY_MOST);
    }
}

struct Connection {
    stream: UnixStream,
    lines: Lines,
    next_id: u64,
    /// Bytes to be written, each chunk with the descriptor that travels with its first byte.
    outgoing: VecDeque<(Vec<u8>, Option<OwnedFd>)>,
    under_way: HashMap<u64, (String, oneshot::Sender<Result<Value, QmpError>>)>,
}

impl Connection {
    /// Connects, reads the greeting, agrees on capabilities.
    async fn open(socket: &Path) -> io::Result<(Self, String)> {
        let stream = crate::hypervisor::qemu::sockets::connect(socket).await?;
        let mut connection = Self {
            stream,
            lines: Lines::new(MAX_LINE),
            next_id: 1,
            outgoing: VecDeque::new(),
            under_way: HashMap::new(),
        };
        let version = timeout(GREETING_DEADLINE, connection.shake_hands()).await??;
        Ok((connection, version))
    }

    async fn shake_hands(&mut self) -> io::Result<String> {
        let mut version = String::new();
        loop {
            for message in self.read().await? {
                match message {
                    Message::Greeting { version: greeted } => {
                        version = greeted;
                        self.outgoing.push_back((line("qmp_capabilities", &Value::Null, 0), None));
                        while !self.outgoing.is_empty() {
                            self.stream.writable().await?;
                            self.write()?;
                        }
                    }
                    Message::Return { id: 0, .. } => return Ok(version),
                    Message::Refusal { id: 0, desc, .. } => return Err(io::Error::other(desc)),
                    Message::Return { .. } | Message::Refusal { .. } | Message::Event(_) | Message::Other => {}
                }
            }
        }
    }

    /// Serves until the clients are gone (`Ok`) or the connection ends.
    async fn serve(
        mut self,
        commands: &mut mpsc::Receiver<Command>,
        notices: &broadcast::Sender<Notice>,
    ) -> io::Result<()> {
        let end = self.exchange(commands, notices).await;
        for (_, (command, answer)) in self.under_way.drain() {
            // The caller may have given up.
            let _ = answer.send(Err(QmpError::Disconnected { command }));
        }
        end
    }

    async fn exchange(
        &mut self,
        commands: &mut mpsc::Receiver<Command>,
        notices: &broadcast::Sender<Notice>,
    ) -> io::Result<()> {
        loop {
            // Callers that gave up do not count, so that a hung QEMU cannot fill the table for good.
            self.under_way.retain(|_, (_, answer)| !answer.is_closed());
            let interest =
                if self.outgoing.is_empty() { Interest::READABLE } else { Interest::READABLE | Interest::WRITABLE };
            tokio::select! {
                ready = self.stream.ready(interest) => {
                    let ready = ready?;
                    if ready.is_writable() {
                        self.write()?;
                    }
                    if ready.is_readable() {
                        for message in self.read_available()? {
                            self.deliver(message, notices);
                        }
                    }
                }
                command = commands.recv(), if self.under_way.len() < MOST_UNDER_WAY => match command {
                    Some(command) => self.accept(command),
                    None => return Ok(()),
                },
            }
        }
    }

    fn accept(&mut self, command: Command) {
        // A caller that gave up while we were disconnected does not want it done now.
        if command.answer.is_closed() {
            return;
        }
        let id = self.next_id;
        self.next_id += 1;
        self.outgoing.push_back((line(&command.name, &command.arguments, id), command.fd));
        self.under_way.insert(id, (command.name, command.answer));
    }

    fn deliver(&mut self, message: Message, notices: &broadcast::Sender<Notice>) {
        match message {
            Message::Return { id, value } => self.answer(id, |_| Ok(value)),
            Message::Refusal { id, class, desc } => {
                self.answer(id, |command| Err(QmpError::Refused { command, class, desc }));
            }
            Message::Event(event) => {
                // Nobody listening is fine.
                let _ = notices.send(Notice::Event(event));
            }
            Message::Greeting { .. } | Message::Other => {}
        }
    }

    fn answer(&mut self, id: u64, outcome: impl FnOnce(String) -> Result<Value, QmpError>) {
        if let Some((command, answer)) = self.under_way.remove(&id) {
            // The caller may have given up.
            let _ = answer.send(outcome(command));
        }
    }

    async fn read(&mut self) -> io::Result<Vec<Message>> {
        self.stream.readable().await?;
        self.read_available()
    }

    fn read_available(&mut self) -> io::Result<Vec<Message>> {
        let mut buffer = [0; 16 << 10];
        match self.stream.try_read(&mut buffer) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                let lines = self.lines.push(&buffer[..count]).map_err(io::Error::other)?;
                Ok(lines.iter().map(|line| Message::parse(line)).collect())
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Writes what the socket takes now.
    fn write(&mut self) -> io::Result<()> {
        while let Some((bytes, fd)) = self.outgoing.front_mut() {
            match self.stream.try_io(Interest::WRITABLE, || send(&self.stream, bytes, fd.as_ref())) {
                Ok(count) => {
                    // The descriptor went along with the first byte.
                    *fd = None;
                    bytes.drain(..count);
                    if bytes.is_empty() {
                        self.outgoing.pop_front();
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn line(command: &str, arguments: &Value, id: u64) -> Vec<u8> {
    let mut object = json!({"execute": command, "id": id});
    if !arguments.is_null() {
        object["arguments"] = arguments.clone();
    }
    let mut bytes = object.to_string().into_bytes();
    bytes.push(b'\n');
    bytes
}

fn send(stream: &UnixStream, bytes: &[u8], fd: Option<&OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = fd.map(|fd| [fd.as_fd()]);
    if let Some(fds) = &fds
        && !ancillary.push(SendAncillaryMessage::ScmRights(fds))
    {
        return Err(io::Error::other("no room for a descriptor"));
    }
    Ok(rustix::net::sendmsg(stream, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?)
}
