//! PCAP-over-IP: the capture as a stream for clients.
//!
//! A client first gets the file's header and all interfaces. A client that connects later gets the packets of
//! connections that begin after that, because half a stream is not dissected. The capture never waits for a
//! client: one that falls behind is disconnected, which is reported on standard error.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};

use super::blocks::{PACKET, each, packets, word};
use crate::printable;

/// Clients at the same time; another one is refused.
const CLIENTS_MAX: usize = 8;
/// Refused clients that are reported.
const REFUSALS_TOLD: usize = 3;
/// Bytes that may wait for a client.
const BEHIND_MAX: usize = 32 << 20;
/// Bytes of header and interfaces; beyond that, new clients are refused.
const START_MAX: usize = 16 << 20;
/// Time between two checks whether a client is still connected.
const LOOK: Duration = Duration::from_millis(500);
/// How long clients may take for the rest at the end.
const FAREWELL: Duration = Duration::from_millis(500);

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
/// See `sink::pcapng`.
const PROCESS: u32 = 0x8000_0001;
/// `epb_queue`, which holds the connection's number.
const OPTION_QUEUE: u16 = 6;

/// Listens, and serves.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<Clients>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Clients {
    /// Header and interfaces so far.
    start: Vec<u8>,
    /// Highest number of a connection so far.
    last: u32,
    clients: Vec<Client>,
    /// A client was too slow, and none has connected since.
    is_missed: bool,
    /// See [`Unserved::packets`].
    unserved: u64,
    ended: bool,
}

#[derive(Debug)]
struct Client {
    peer: SocketAddr,
    /// Connections up to this one began before it connected.
    after: u32,
    blocks: Sender<Piece>,
    behind: Arc<Behind>,
    stream: TcpStream,
}

/// Whole blocks for a client.
#[derive(Debug)]
struct Piece {
    blocks: Bytes,
    packets: u64,
}

/// What waits for a client.
#[derive(Debug, Default)]
struct Behind {
    bytes: AtomicUsize,
    packets: AtomicU64,
}

/// What no client got, though one wanted it.
#[derive(Clone, Debug)]
pub struct Unserved(Arc<Shared>);

impl Unserved {
    /// Packets that no client got because it was too slow. All are counted when the server is dropped.
    pub fn packets(&self) -> u64 {
        self.0.state().unserved
    }
}

impl Server {
    /// Starts to listen. `tell`: report clients that connect, leave, and are disconnected.
    ///
    /// # Errors
    /// If it cannot listen on the address.
    pub fn listen(address: SocketAddr, tell: bool) -> io::Result<Server> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let accepting = Arc::clone(&shared);
        thread::spawn(move || accept(&listener, &accepting, tell));
        Ok(Server { address, shared })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until a client is there, but not longer than half a second; whether one is.
    pub fn wait_for_client(&self) -> bool {
        let state = self.shared.state();
        let waited = self.shared.changed.wait_timeout_while(state, LOOK, |state| state.clients.is_empty());
        !waited.unwrap_or_else(|e| e.into_inner()).0.clients.is_empty()
    }

    /// What no client gets.
    pub fn unserved(&self) -> Unserved {
        Unserved(Arc::clone(&self.shared))
    }

    /// Passes whole blocks on.
    pub fn blocks(&self, blocks: &[u8]) {
        let mut guard = self.shared.state();
        let state = &mut *guard;
        let parts = parts(blocks);
        // What the best of the disconnected clients lacks.
        let mut missed = None;
        // Shared by all clients that get everything.
        let mut whole: Option<Bytes> = None;
        state.clients.retain(|client| {
            let wanted = if parts.first_connection > client.after {
                let blocks = whole.get_or_insert_with(|| Bytes::copy_from_slice(blocks)).clone();
                Piece { blocks, packets: parts.packets }
            } else {
                Piece::of(since(blocks, client.after))
            };
            match client.take(wanted) {
                Taken::Yes => true,
                Taken::Gone => false,
                Taken::TooSlow { packets } => {
                    missed = Some(missed.unwrap_or(u64::MAX).min(packets));
                    false
                }
            }
        });
        if state.clients.is_empty() {
            state.unserved += missed.or(state.is_missed.then_some(parts.packets)).unwrap_or(0);
        }
        state.is_missed |= missed.is_some();
        state.last = state.last.max(parts.last_connection);
        for block in parts.start {
            if state.start.len() <= START_MAX {
                state.start.extend_from_slice(block);
            }
        }
    }
}

impl Drop for Server {
    /// Gives the clients a moment to take the rest.
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.ended = true;
        let behind: Vec<_> = state.clients.iter().map(|client| Arc::clone(&client.behind)).collect();
        let streams: Vec<_> = state.clients.drain(..).map(|client| client.stream).collect();
        let waiting = |_: &mut Clients| behind.iter().any(|behind| behind.bytes.load(Ordering::Acquire) > 0);
        let waited = self.shared.changed.wait_timeout_while(state, FAREWELL, waiting);
        let mut state = waited.unwrap_or_else(|e| e.into_inner()).0;
        state.unserved +=
            behind.iter().map(|behind| behind.packets.load(Ordering::Acquire)).min().unwrap_or(0);
        drop(state);
        for stream in streams {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, Clients> {
        // A thread that panicked has left a consistent state.
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Piece {
    fn of(blocks: Bytes) -> Piece {
        Piece { packets: packets(&blocks), blocks }
    }
}

/// Whether a client stays.
enum Taken {
    Yes,
    /// It left.
    Gone,
    /// It is disconnected, and lacks this many packets.
    TooSlow {
        packets: u64,
    },
}

impl Client {
    fn take(&self, piece: Piece) -> Taken {
        let len = piece.blocks.len();
        let packets = self.behind.packets.fetch_add(piece.packets, Ordering::AcqRel) + piece.packets;
        let behind = self.behind.bytes.fetch_add(len, Ordering::AcqRel) + len;
        if behind > BEHIND_MAX {
            printable::say(&format!("tls2pcap: {}: too slow, sent away\n", self.peer));
            let _ = self.stream.shutdown(Shutdown::Both);
            Taken::TooSlow { packets }
        } else if len == 0 || self.blocks.send(piece).is_ok() {
            Taken::Yes
        } else {
            Taken::Gone
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>, tell: bool) {
    let mut refused = 0;
    for stream in listener.incoming() {
        let Ok(stream) = stream else {
            // Out of descriptors, perhaps: wait before trying again.
            thread::sleep(LOOK);
            continue;
        };
        if let Err(why) = welcome(stream, shared, tell) {
            refused += 1;
            // Whoever tries again and again must not fill the terminal.
            if tell && refused <= REFUSALS_TOLD {
                let last = if refused == REFUSALS_TOLD { "; later refusals are not reported" } else { "" };
                printable::say(&format!("tls2pcap: a client was refused: {why}{last}\n"));
            }
        }
    }
}

fn welcome(stream: TcpStream, shared: &Arc<Shared>, tell: bool) -> io::Result<()> {
    let peer = stream.peer_addr()?;
    let writing = stream.try_clone()?;
    let mut state = shared.state();
    if state.ended || state.clients.len() >= CLIENTS_MAX || state.start.len() > START_MAX {
        return Err(io::Error::other("there are too many clients or interfaces"));
    }
    let (sender, blocks) = unbounded();
    let behind = Arc::new(Behind::default());
    let client = Client { peer, after: state.last, blocks: sender, behind: Arc::clone(&behind), stream };
    client.take(Piece::of(Bytes::copy_from_slice(&state.start)));
    state.clients.push(client);
    state.is_missed = false;
    drop(state);
    shared.changed.notify_all();
    let shared = Arc::clone(shared);
    thread::spawn(move || {
        serve(writing, &blocks, &behind, &shared);
        // No client gets the rest.
        behind.packets.store(0, Ordering::Release);
        behind.bytes.store(0, Ordering::Release);
        shared.state().clients.retain(|client| client.peer != peer);
        shared.changed.notify_all();
    });
    if tell {
        printable::say(&format!("tls2pcap: {peer} is connected\n"));
    }
    Ok(())
}

/// Until the client or the capture ends.
fn serve(mut stream: TcpStream, pieces: &Receiver<Piece>, behind: &Behind, shared: &Shared) {
    let mut listening = Listening::Perhaps { has_bytes: false };
    loop {
        match pieces.recv_timeout(LOOK) {
            Ok(Piece { blocks, packets }) => {
                if stream.write_all(&blocks).is_err() {
                    return;
                }
                if let Listening::Perhaps { has_bytes } = &mut listening {
                    *has_bytes |= !blocks.is_empty();
                }
                behind.packets.fetch_sub(packets, Ordering::AcqRel);
                if behind.bytes.fetch_sub(blocks.len(), Ordering::AcqRel) == blocks.len() {
                    // With the lock, so that no waiting thread misses it.
                    drop(shared.state());
                    shared.changed.notify_all();
                }
            }
            Err(RecvTimeoutError::Timeout) => {
                listening = match (is_closed(&mut stream), listening) {
                    (false, before) => before,
                    // It sends nothing more, but may still read: if it does not, sending to it causes an error.
                    (true, Listening::Perhaps { has_bytes: true }) if stream.write_all(&EMPTY).is_ok() => {
                        Listening::Only
                    }
                    (true, Listening::Only) if !is_reset(&stream) => Listening::Only,
                    _ => return,
                };
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// What a client still does.
#[derive(Clone, Copy)]
enum Listening {
    /// It has not closed its side.
    Perhaps { has_bytes: bool },
    /// It has.
    Only,
}

/// A block of names, with none in it: readers pass over it.
const EMPTY: [u8; 16] = [4, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0];

/// Whether the last data sent caused an error.
fn is_reset(stream: &TcpStream) -> bool {
    let mut poll = libc::pollfd { fd: stream.as_raw_fd(), events: 0, revents: 0 };
    // SAFETY: one valid pollfd, whose descriptor the stream owns.
    unsafe { libc::poll(&mut poll, 1, 0) == 1 && poll.revents & (libc::POLLERR | libc::POLLHUP) != 0 }
}

/// Whether the client has closed its side. What it sends is discarded.
fn is_closed(stream: &mut TcpStream) -> bool {
    let mut bytes = [0; 512];
    if stream.set_nonblocking(true).is_err() {
        return true;
    }
    let closed = match stream.read(&mut bytes) {
        Ok(n) => n == 0,
        Err(error) => error.kind() != io::ErrorKind::WouldBlock,
    };
    stream.set_nonblocking(false).is_err() || closed
}

/// The contents of some blocks.
struct Parts<'b> {
    /// Header and interfaces.
    start: Vec<&'b [u8]>,
    /// Lowest and highest number of a connection; `u32::MAX` and 0 without packets.
    first_connection: u32,
    last_connection: u32,
    packets: u64,
}

fn parts(blocks: &[u8]) -> Parts<'_> {
    let mut parts = Parts { start: Vec::new(), first_connection: u32::MAX, last_connection: 0, packets: 0 };
    for (kind, block) in each(blocks) {
        match kind {
            SECTION | INTERFACE | PROCESS => parts.start.push(block),
            _ => {
                parts.packets += u64::from(kind == PACKET);
                if let Some(connection) = connection(kind, block) {
                    parts.first_connection = parts.first_connection.min(connection);
                    parts.last_connection = parts.last_connection.max(connection);
                }
            }
        }
    }
    parts
}

/// The blocks without packets of connections up to `after`.
fn since(blocks: &[u8], after: u32) -> Bytes {
    let wanted = each(blocks).filter(|(kind, block)| connection(*kind, block).is_none_or(|c| c > after));
    wanted.flat_map(|(_, block)| block).copied().collect()
}

/// Number of a packet's connection; `None` for all other blocks.
fn connection(kind: u32, block: &[u8]) -> Option<u32> {
    if kind != PACKET {
        return None;
    }
    let mut at = 28 + (word(block, 20)? as usize).next_multiple_of(4);
    loop {
        let head = word(block, at)?;
        let (code, len) = (head as u16, (head >> 16) as usize);
        match code {
            OPTION_QUEUE => return word(block, at + 4),
            0 => return None,
            _ => at += 4 + len.next_multiple_of(4),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::event::ProcessKey;
    use crate::sink::{Header, PcapngWriter};
    use crate::synth::packet::{Packet, PacketDirection};
    use crate::track::segment::{ConnectionId, Process};

    const LOOPBACK: &str = "127.0.0.1:0";

    fn server() -> Arc<Server> {
        Arc::new(Server::listen(LOOPBACK.parse().unwrap(), false).unwrap())
    }

    /// Returns when the server knows the client.
    fn connect(server: &Server) -> TcpStream {
        let before = server.shared.state().clients.len();
        let stream = TcpStream::connect(server.address()).unwrap();
        let few = |state: &mut Clients| state.clients.len() <= before;
        drop(server.shared.changed.wait_while(server.shared.state(), few).unwrap());
        stream
    }

    struct To(Arc<Server>);

    impl Write for To {
        fn write(&mut self, blocks: &[u8]) -> io::Result<usize> {
            self.0.blocks(blocks);
            Ok(blocks.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn packet(writer: &mut PcapngWriter<To>, pid: u32, connection: u64, payload: &[u8]) {
        let key = ProcessKey { pid, generation: 1 };
        let process = Arc::new(Process {
            key,
            comm: format!("p{pid}"),
            exe: String::new(),
            args: vec![],
            uid: 0,
            container: None,
        });
        let packet = Packet {
            process: &process,
            tid: pid,
            connection: ConnectionId(connection),
            time: 1,
            after: 0,
            direction: PacketDirection::Outbound,
            headers: &[],
            payload,
            original_len: 0,
            dropped: u64::from(pid == 2),
            comments: &["a comment".to_owned()],
            about: "",
            calls: "",
        };
        writer.packet(&packet).unwrap();
    }

    fn rest(mut stream: TcpStream) -> Vec<u8> {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn who_comes_late_gets_all_interfaces_and_whole_connections() {
        let server = server();
        let early = connect(&server);
        let mut writer = PcapngWriter::new(To(Arc::clone(&server)), &Header::default(), false)
            .unwrap()
            .with_process_blocks(true);
        packet(&mut writer, 1, 1, b"one");
        packet(&mut writer, 2, 2, b"two");
        writer.flush().unwrap();
        let late = connect(&server);
        packet(&mut writer, 1, 1, b"more of one");
        packet(&mut writer, 2, 3, b"three");
        packet(&mut writer, 3, 2, b"more of two");
        writer.finish(9, &[]).unwrap();
        drop(server);
        let of = |bytes: &[u8]| {
            each(bytes).map(|(kind, block)| (kind, connection(kind, block))).collect::<Vec<_>>()
        };
        let (early, late) = (rest(early), rest(late));
        let [head, face, name, statistics] = [SECTION, INTERFACE, PROCESS, 5].map(|kind| (kind, None));
        let packet = |connection| (PACKET, Some(connection));
        let whole =
            [head, face, name, packet(1), face, name, packet(2), packet(1), packet(3), face, name, packet(2)];
        assert_eq!(of(&early), [&whole[..], &[statistics; 3]].concat());
        let expected =
            [head, face, name, face, name, packet(3), face, name, statistics, statistics, statistics];
        assert_eq!(of(&late), expected);
        assert_eq!(early.len(), each(&early).map(|(_, block)| block.len()).sum::<usize>(), "whole blocks");
    }

    #[test]
    fn who_does_not_read_is_sent_away_and_stops_nobody() {
        let server = server();
        let (slow, fast) = (connect(&server), connect(&server));
        let reading = thread::spawn(move || rest(fast).len());
        let mut block = vec![0; 1 << 20];
        block[..4].copy_from_slice(&99u32.to_le_bytes());
        block[4..8].copy_from_slice(&(1u32 << 20).to_le_bytes());
        let of = |port| move |client: &&Client| client.peer.port() == port;
        let (slow_port, mut count) = (slow.local_addr().unwrap().port(), 0);
        while server.shared.state().clients.iter().any(|client| of(slow_port)(&client)) {
            // The one that reads is not to be overrun by a test.
            let behind = |state: &mut Clients| {
                let client = state.clients.iter().find(|client| !of(slow_port)(client));
                client.is_some_and(|client| client.behind.bytes.load(Ordering::Acquire) > BEHIND_MAX / 2)
            };
            drop(server.shared.changed.wait_while(server.shared.state(), behind).unwrap());
            server.blocks(&block);
            count += 1;
        }
        assert!(count <= 64, "{count} MiB were kept for it");
        drop(server);
        assert_eq!(reading.join().unwrap(), count << 20);
        drop(slow);
    }

    #[test]
    fn what_no_client_got_is_counted() {
        let write = |server: Arc<Server>, count: u64| {
            let mut writer = PcapngWriter::new(To(server), &Header::default(), false).unwrap();
            let payload = vec![0; 1 << 20];
            (0..count).for_each(|_| packet(&mut writer, 1, 1, &payload));
            writer.finish(9, &[]).unwrap();
        };
        // The first is sent away, the second has not taken the rest when the capture is over.
        for count in [60, 20] {
            let server = server();
            let (slow, unserved) = (connect(&server), server.unserved());
            write(server, count);
            assert!(unserved.packets() > 0, "of {count}");
            assert_eq!(packets(&rest(slow)) + unserved.packets(), count);
        }
        let both = server();
        let (slow, fast, unserved) = (connect(&both), connect(&both), both.unserved());
        let reading = thread::spawn(move || rest(fast));
        write(both, 15);
        assert_eq!((packets(&reading.join().unwrap()), unserved.packets()), (15, 0));
        drop(slow);
        let left = server();
        let unserved = left.unserved();
        drop(connect(&left));
        let one = |state: &mut Clients| !state.clients.is_empty();
        drop(left.shared.changed.wait_while(left.shared.state(), one).unwrap());
        write(left, 3);
        assert_eq!(unserved.packets(), 0, "nobody wanted them");
    }

    #[test]
    fn too_many_are_sent_away_and_the_place_of_one_that_went_is_free() {
        let server = server();
        let mut clients: Vec<TcpStream> = (0..CLIENTS_MAX).map(|_| connect(&server)).collect();
        assert_eq!(rest(TcpStream::connect(server.address()).unwrap()), b"");
        drop(clients.pop());
        let full = |state: &mut Clients| state.clients.len() == CLIENTS_MAX;
        drop(server.shared.changed.wait_while(server.shared.state(), full).unwrap());
        connect(&server);
    }

    #[test]
    fn who_says_no_more_is_served_on_and_who_has_gone_leaves_a_place() {
        let server = server();
        let (mut half, gone) = (connect(&server), connect(&server));
        let mut writer = PcapngWriter::new(To(Arc::clone(&server)), &Header::default(), false).unwrap();
        packet(&mut writer, 1, 1, b"one");
        writer.flush().unwrap();
        half.shutdown(Shutdown::Write).unwrap();
        // It has read everything, so its end is not a reset.
        let mut begin = [0; 64];
        (&gone).read_exact(&mut begin).unwrap();
        drop(gone);
        let both = |state: &mut Clients| state.clients.len() == 2;
        drop(server.shared.changed.wait_while(server.shared.state(), both).unwrap());
        // A block without names shows that the client's side is known to be closed.
        let mut bytes = Vec::new();
        while !each(&bytes).any(|(_, block)| block == EMPTY) {
            let mut more = [0; 512];
            let n = half.read(&mut more).unwrap();
            assert_ne!(n, 0, "it was sent away");
            bytes.extend_from_slice(&more[..n]);
        }
        packet(&mut writer, 1, 2, b"two");
        writer.finish(9, &[]).unwrap();
        drop(server);
        bytes.extend(rest(half));
        let packets = each(&bytes).filter_map(|(kind, block)| connection(kind, block));
        assert_eq!(packets.collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn cut_blocks_are_no_blocks() {
        let mut block = vec![0; 40];
        block[..4].copy_from_slice(&PACKET.to_le_bytes());
        block[4..8].copy_from_slice(&40u32.to_le_bytes());
        block[20..24].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(connection(PACKET, &block), None);
        for end in 0..block.len() {
            assert_eq!(each(&block[..end]).count(), 0);
        }
    }
}
