//! One connection: plain bytes on one side, a socket with records on the other.
//!
//! ```text
//!   handshake ──complete──► open ──close_notify──► ended      (the peer has said so)
//!       │                     └──anything else───► failed     (cut off, or not what was agreed)
//!       ├──failed──► failed
//!       └──a client that speaks plain HTTP──► discarding      (it got an answer in plain HTTP)
//! ```
//!
//! Invariants:
//! 1. Nothing that came before the handshake was complete is ever read as content (rule S19): rustls gives none out.
//! 2. An end without close_notify is a failure and not an end, so that a body which the end delimits cannot be cut
//!    unnoticed (rule G11).
//! 3. Little waits inside: decrypted bytes of about one record, encrypted ones of one write. The last byte of a write counts
//!    as sent only when all has left: nobody takes a message for sent, and closes, while its end is here (rule M9).
//! 4. What rustls wants to send is sent as soon as the socket takes it, whether or not there is anything else to write
//!    (rule M11).
//! 5. A failure of the socket is told once, whichever call met it.

use std::cell::RefCell;
use std::io::{self, ErrorKind, IoSlice, Read as _, Write};
use std::task::Poll;

use rustls::{Connection, Error, ProtocolVersion};

use crate::proxy::proxy_connection::PeerDetails;

use crate::net::socket::{ReadOutcome, Socket, SocketFlags, WriteOutcome};

use super::subject::subject_of;
use super::{HandshakeError, TlsLayer};

/// A full one fills the worker's read buffer.
const RECORD_BUF: usize = 65 * 1024;
/// Less is not asked for: records that are read in pieces cost more.
const MIN_READ: usize = 8 * 1024;
/// What a record adds to its content, at most, generously.
const OVERHEAD: usize = 1024;
/// What is encrypted at once, and while the peer is slow.
const MAX_WRITE: usize = 64 * 1024;
const SLOW_WRITE: usize = 16 * 1024;

/// The answer to a client that speaks plain HTTP.
const PLAIN_ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 87\r\n\
    Connection: close\r\n\r\n\
    This port speaks HTTPS, and this request came in plain HTTP: begin its URL with https:\n";

thread_local! {
    /// What a read of a socket brings. All connections of a worker share it: an idle one owns no buffer.
    static RECORDS: RefCell<Vec<u8>> = RefCell::new(vec![0; RECORD_BUF]);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReadState {
    Open,
    /// `Eof` by close_notify, or `Failed`; the reader was not told yet.
    Ending(ReadOutcome),
    /// The reader was told.
    Closed,
    /// The client does not speak TLS. What it sends is thrown away, so that a reset does not overtake our answer.
    Discarding,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WriteState {
    Open,
    /// close_notify waits to be sent; FIN follows it.
    Closing,
    /// The writer was not told yet.
    Failed,
    Closed,
}

/// The TLS session of one connection.
#[derive(Debug)]
pub(super) struct TlsStream {
    session: Connection,
    /// Decrypted bytes that the last read had no room for.
    decrypted: Vec<u8>,
    read_state: ReadState,
    write_state: WriteState,
    /// The last byte of what was encrypted does not count as sent yet.
    holds_last: bool,
    /// Why the handshake has failed.
    error: Option<HandshakeError>,
    has_received: bool,
}

impl TlsStream {
    pub fn new(session: Connection) -> TlsStream {
        TlsStream {
            session,
            decrypted: Vec::new(),
            read_state: ReadState::Open,
            write_state: WriteState::Open,
            holds_last: false,
            error: None,
            has_received: false,
        }
    }

    fn take_decrypted(&mut self, buf: &mut [u8]) -> usize {
        let len = buf.len().min(self.decrypted.len());
        buf[..len].copy_from_slice(&self.decrypted[..len]);
        self.decrypted.drain(..len);
        if self.decrypted.is_empty() {
            // An idle connection owns no buffer.
            self.decrypted = Vec::new();
        }
        len
    }

    fn take_end(&mut self) -> Option<ReadOutcome> {
        let ReadState::Ending(outcome) = self.read_state else { return None };
        self.read_state = ReadState::Closed;
        Some(outcome)
    }

    fn take_error(&mut self) -> HandshakeError {
        self.error.take().unwrap_or_else(|| match self.read_state {
            ReadState::Open => HandshakeError::new("unfinished", "the handshake was not finished in time"),
            _ => HandshakeError::new("cut_off", "the connection ended within the handshake"),
        })
    }

    fn read_records(&mut self, socket: &mut Socket, records: &mut [u8], buf: &mut [u8]) -> ReadOutcome {
        let max = (buf.len() + OVERHEAD).clamp(MIN_READ, records.len());
        let received = match socket.read(&mut records[..max]) {
            ReadOutcome::Bytes(len) | ReadOutcome::Overhead(len) => len,
            ReadOutcome::Blocked => return ReadOutcome::Blocked,
            // Without close_notify it is no end.
            ReadOutcome::Eof | ReadOutcome::Failed => {
                self.read_state = ReadState::Closed;
                return ReadOutcome::Failed;
            }
        };
        let is_first = !std::mem::replace(&mut self.has_received, true);
        // A method begins with a letter, a TLS handshake with the byte 22.
        if is_first && matches!(self.session, Connection::Server(_)) && records[0].is_ascii_uppercase() {
            self.reject_plain_http(socket);
            return ReadOutcome::Overhead(received);
        }
        let len = self.process_records(&records[..received], buf);
        // What rustls answers: its part of the handshake, an alert.
        self.send_records(socket);
        match len {
            0 => self.take_end().unwrap_or(ReadOutcome::Overhead(received)),
            len => ReadOutcome::Bytes(len),
        }
    }

    /// Decrypts `records` into `buf`, and what that has no room for into `self.decrypted`.
    fn process_records(&mut self, mut records: &[u8], buf: &mut [u8]) -> usize {
        let mut len = 0;
        while self.read_state == ReadState::Open && !records.is_empty() {
            let taken = self.session.read_tls(&mut records).map_err(|error| Error::General(error.to_string()));
            let processed = taken.and_then(|_| self.session.process_new_packets());
            // An error of the reader says that there is nothing more now.
            len += self.session.reader().read(&mut buf[len..]).unwrap_or(0);
            if len == buf.len() {
                let _ = self.session.reader().read_to_end(&mut self.decrypted);
            }
            match processed {
                Ok(state) if state.peer_has_closed() => self.read_state = ReadState::Ending(ReadOutcome::Eof),
                Ok(_) => {}
                Err(error) => {
                    if self.session.is_handshaking() {
                        let is_agreed = self.session.negotiated_cipher_suite().is_some();
                        self.error = Some(HandshakeError::of(&error, is_agreed));
                    }
                    self.read_state = ReadState::Ending(ReadOutcome::Failed);
                }
            }
        }
        len
    }

    /// Writes what rustls has for the peer, as far as the socket takes it; returns how many bytes that were. A failure is
    /// left for `flush` to tell.
    fn send_records(&mut self, socket: &mut Socket) -> usize {
        let mut written = 0;
        while self.session.wants_write() && socket.can_write() {
            match self.session.write_tls(&mut SocketWriter(socket)) {
                Ok(len) => written += len,
                Err(_) if socket.has(SocketFlags::WRITE_CLOSED) => self.write_state = WriteState::Failed,
                Err(_) => break,
            }
        }
        if self.write_state == WriteState::Closing && !self.session.wants_write() {
            socket.shutdown_write();
            self.write_state = WriteState::Closed;
        }
        written
    }

    fn reject_plain_http(&mut self, socket: &mut Socket) {
        // The socket is new: it takes all of this, or the client is gone.
        let _ = socket.write(PLAIN_ANSWER);
        socket.shutdown_write();
        self.error = Some(HandshakeError::new("plain_http", "it speaks plain HTTP on a port for TLS"));
        self.read_state = ReadState::Discarding;
        self.write_state = WriteState::Closed;
    }
}

impl TlsLayer for TlsStream {
    fn is_handshaking(&self) -> bool {
        self.read_state == ReadState::Open && self.session.is_handshaking()
    }

    fn handshake(&mut self, socket: &mut Socket) -> Poll<Result<(), HandshakeError>> {
        loop {
            self.send_records(socket);
            if !self.session.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            if !self.can_read(socket) {
                return Poll::Pending;
            }
            match self.read(socket, &mut []) {
                ReadOutcome::Bytes(_) | ReadOutcome::Overhead(_) => {}
                ReadOutcome::Blocked => return Poll::Pending,
                ReadOutcome::Eof | ReadOutcome::Failed => return Poll::Ready(Err(self.take_error())),
            }
        }
    }

    fn session_details(&self) -> PeerDetails {
        let tls_version = match self.session.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => Some("TLSv1.2"),
            Some(ProtocolVersion::TLSv1_3) => Some("TLSv1.3"),
            _ => None,
        };
        let Connection::Server(session) = &self.session else {
            return PeerDetails { tls_version, ..PeerDetails::default() };
        };
        let certificate = session.peer_certificates().and_then(|chain| chain.first());
        PeerDetails {
            tls_version,
            server_name: session.server_name().map(str::to_owned),
            client_subject: certificate.map(|certificate| subject_of(certificate).unwrap_or_default()),
            ..PeerDetails::default()
        }
    }

    fn take_handshake_error(&mut self) -> Option<HandshakeError> {
        (self.has_received && self.session.is_handshaking()).then(|| self.take_error())
    }

    fn can_read(&self, socket: &Socket) -> bool {
        match self.read_state {
            ReadState::Open | ReadState::Discarding => !self.decrypted.is_empty() || socket.can_read(),
            ReadState::Ending(_) => true,
            ReadState::Closed => false,
        }
    }

    fn can_write(&self, socket: &Socket) -> bool {
        self.write_state == WriteState::Open
            && !self.session.is_handshaking()
            && !self.session.wants_write()
            && socket.can_write()
    }

    fn read(&mut self, socket: &mut Socket, buf: &mut [u8]) -> ReadOutcome {
        let len = self.take_decrypted(buf);
        if len > 0 {
            return ReadOutcome::Bytes(len);
        }
        RECORDS.with_borrow_mut(|records| match self.read_state {
            ReadState::Open => self.read_records(socket, records, buf),
            ReadState::Ending(_) | ReadState::Closed => self.take_end().unwrap_or(ReadOutcome::Blocked),
            ReadState::Discarding => match socket.read(records) {
                ReadOutcome::Bytes(len) => ReadOutcome::Overhead(len),
                outcome => outcome,
            },
        })
    }

    fn write(&mut self, socket: &mut Socket, bytes: &[u8]) -> WriteOutcome {
        if !self.can_write(socket) {
            return WriteOutcome::Blocked;
        }
        if std::mem::take(&mut self.holds_last) {
            return WriteOutcome::Bytes(1);
        }
        let max = if socket.is_slow() { SLOW_WRITE } else { MAX_WRITE };
        let taken = self.session.writer().write(&bytes[..bytes.len().min(max)]).unwrap_or(0);
        let outcome = self.flush(socket);
        self.holds_last = self.session.wants_write();
        match outcome {
            WriteOutcome::Bytes(_) | WriteOutcome::Blocked if taken > 0 => {
                written(taken - usize::from(self.holds_last))
            }
            // The keys are used up, or the peer is gone.
            _ => WriteOutcome::Failed,
        }
    }

    fn flush(&mut self, socket: &mut Socket) -> WriteOutcome {
        let sent = self.send_records(socket);
        if self.write_state == WriteState::Failed {
            self.write_state = WriteState::Closed;
            return WriteOutcome::Failed;
        }
        written(sent)
    }

    fn needs_flush(&self, socket: &Socket) -> bool {
        self.write_state == WriteState::Failed || (self.session.wants_write() && !socket.has(SocketFlags::WRITE_CLOSED))
    }

    fn shutdown_write(&mut self, socket: &mut Socket) {
        if self.write_state == WriteState::Open && !self.session.is_handshaking() {
            self.session.send_close_notify();
            self.write_state = WriteState::Closing;
            self.send_records(socket);
        }
    }
}

fn written(len: usize) -> WriteOutcome {
    if len > 0 { WriteOutcome::Bytes(len) } else { WriteOutcome::Blocked }
}

/// A socket as rustls writes to it.
struct SocketWriter<'a>(&'a mut Socket);

impl Write for SocketWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self.0.write_slices(slices) {
            WriteOutcome::Bytes(len) => Ok(len),
            WriteOutcome::Blocked => Err(ErrorKind::WouldBlock.into()),
            WriteOutcome::Failed => Err(ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::sync::Arc;

    use rustls::pki_types::{PrivateKeyDer, ServerName};
    use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};

    /// A server's end, and its client in front of it; the handshake is complete.
    fn pair() -> (TlsStream, Socket, StreamOwned<ClientConnection, TcpStream>) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let (certificate, key) = (made.cert.der().clone(), made.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
        let server = server.expect("versions").with_no_client_auth();
        let key = PrivateKeyDer::try_from(key).expect("a key");
        let server = server.with_single_cert(vec![certificate.clone()], key).expect("a pair");
        let mut roots = RootCertStore::empty();
        roots.add(certificate).expect("a root");
        let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let client = client.expect("versions").with_root_certificates(roots).with_no_client_auth();
        let name = ServerName::try_from("localhost").expect("a name");
        let client = ClientConnection::new(Arc::new(client), name).expect("a session");

        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let mut peer =
            StreamOwned::new(client, TcpStream::connect(listener.local_addr().expect("bound")).expect("loopback"));
        let (socket, _) = listener.accept().expect("a connection");
        socket.set_nonblocking(true).expect("a socket");
        let mut socket = Socket::accepted(socket.into());
        let mut stream = TlsStream::new(ServerConnection::new(Arc::new(server)).expect("a session").into());
        peer.sock.set_nonblocking(true).expect("a socket");
        while peer.conn.is_handshaking() || stream.is_handshaking() {
            let _ = peer.conn.complete_io(&mut peer.sock);
            socket.on_event(SocketFlags::READABLE);
            assert!(!matches!(stream.handshake(&mut socket), Poll::Ready(Err(_))));
        }
        peer.sock.set_nonblocking(false).expect("a socket");
        (stream, socket, peer)
    }

    /// Closing right after the last write would cut off what still waits in the session.
    #[test]
    fn m9_the_last_byte_of_a_write_counts_as_sent_when_all_has_left() {
        let (mut stream, mut socket, mut peer) = pair();
        let text = vec![b'x'; 40_000];
        let (mut given, mut sent) = (0, 0);
        let last = loop {
            given += text.len();
            match stream.write(&mut socket, &text) {
                WriteOutcome::Bytes(len) if len == text.len() => sent += len,
                outcome => break outcome,
            }
        };
        assert!(stream.needs_flush(&socket), "the peer reads nothing: some of the last write waits");
        sent += last.written();
        // A slow peer is given less at once.
        let held = last.written() + 1;
        given -= text.len() - held;
        assert_eq!(stream.write(&mut socket, b"x"), WriteOutcome::Blocked, "until all has left");
        let reader = std::thread::spawn(move || {
            let mut all = vec![0; given];
            peer.read_exact(&mut all).map(|()| (all, peer))
        });
        while stream.needs_flush(&socket) {
            socket.on_event(SocketFlags::WRITABLE);
            stream.flush(&mut socket);
            std::thread::yield_now();
        }
        let (all, mut peer) = reader.join().expect("no panic").expect("all that was given");
        assert_eq!(all.len(), sent + 1);
        assert_eq!(
            stream.write(&mut socket, b"xyz"),
            WriteOutcome::Bytes(1),
            "the byte that was held is not sent again"
        );
        assert_eq!(stream.write(&mut socket, b"yz"), WriteOutcome::Bytes(2));
        let mut rest = [0; 2];
        peer.read_exact(&mut rest).expect("the rest");
        assert_eq!(&rest, b"yz");
    }
}
