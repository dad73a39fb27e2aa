//! The other ends of TLS connections: clients and origins over rustls, openssl as a client.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, ConnectionCommon, RootCertStore, ServerConfig, ServerConnection, SideData,
    StreamOwned,
};

use crate::certificates::{Authority, Pair};
use crate::support::lines::Lines;
use crate::support::{Origin, PATIENCE, Peer, Proxy, free_address};

pub type Client = Peer<StreamOwned<ClientConnection, TcpStream>>;
pub type Served = Peer<StreamOwned<ServerConnection, TcpStream>>;

/// A socket that takes no longer than a test may wait.
pub fn dial(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, PATIENCE).expect("connects");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket takes a time-out");
    stream.set_write_timeout(Some(PATIENCE)).expect("a socket takes a time-out");
    stream.set_nodelay(true).expect("a socket takes nodelay");
    stream
}

pub fn client_config(authority: &Authority) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&authority.file).expect("PEM")).expect("a root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    builder.expect("versions").with_root_certificates(roots).with_no_client_auth()
}

pub fn session(config: ClientConfig, name: &str) -> ClientConnection {
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    ClientConnection::new(Arc::new(config), name).expect("a session")
}

/// A client that trusts `authority` and asks for `name`; its handshake is complete.
pub fn connect(address: SocketAddr, authority: &Authority, name: &str) -> Client {
    let mut stream = StreamOwned::new(session(client_config(authority), name), dial(address));
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock).expect("a handshake");
    }
    Peer::over(stream)
}

pub fn server_config(pair: &Pair) -> ServerConfig {
    let chain: Vec<_> = CertificateDer::pem_file_iter(&pair.certificate).expect("PEM").flatten().collect();
    let key = PrivateKeyDer::from_pem_file(&pair.key).expect("PEM");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    builder.expect("versions").with_no_client_auth().with_single_cert(chain, key).expect("a pair")
}

/// An origin with TLS. Handshakes that fail are the client's business.
pub fn origin(pair: &Pair, serve: impl Fn(Served, usize) + Send + Sync + 'static) -> Origin {
    let config = Arc::new(server_config(pair));
    Origin::start(move |peer, number| {
        let (mut socket, _) = peer.into_parts();
        let mut session = ServerConnection::new(Arc::clone(&config)).expect("a session");
        while session.is_handshaking() {
            if session.complete_io(&mut socket).is_err() {
                return;
            }
        }
        serve(Peer::over(StreamOwned::new(session, socket)), number);
    })
}

/// An origin that tells each request back as text: start line and field lines.
pub fn echo(pair: &Pair) -> Origin {
    origin(pair, |mut peer, _| {
        // What a request is, is judged by the tests of plain connections.
        while let Ok(Some(request)) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| peer.request())) {
            let fields: String = request.fields.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
            let body = format!("{}\n{fields}", request.start);
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
        }
    })
}

/// Says that this is the end, and closes.
pub fn end<D: SideData>(stream: &mut StreamOwned<impl std::ops::DerefMut<Target = ConnectionCommon<D>>, TcpStream>) {
    stream.conn.send_close_notify();
    let _ = stream.flush();
}

/// `https://localhost:port` of an origin, and a configuration with a route to it that trusts `authority`.
pub fn config(origin: &Origin, authority: &Authority, more: &str) -> String {
    format!(
        "workers: 1\nroutes:\n  - prefix: /\n    upstream: https://localhost:{}\nupstream_tls: {{ ca_file: {} }}\n{more}\n",
        origin.address.port(),
        authority.file.display()
    )
}

/// A line of configuration: TLS on every listening address.
pub fn listen(pair: &Pair) -> String {
    format!("tls: {{ {} }}\n", pair.yaml())
}

/// Both kinds of listeners, on free ports.
pub fn listen_both(pair: &Pair) -> String {
    format!("listen_addr: 127.0.0.1:0\ntls: {{ listen_addr: 127.0.0.1:0, {} }}\n", pair.yaml())
}

/// Where a proxy listens for a protocol.
pub fn address_of(proxy: &Proxy, protocol: &str) -> SocketAddr {
    proxy.address_of(protocol)
}

/// Starts `openssl` and collects what it prints.
fn spawn(mut openssl: Command) -> (Child, Lines) {
    let mut child = openssl.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("openssl runs");
    let lines = Lines::default();
    lines.collect(child.stdout.take().expect("piped"));
    lines.collect(child.stderr.take().expect("piped"));
    (child, lines)
}

/// `openssl s_client`, to be talked to.
pub struct SClient {
    child: Child,
    pub lines: Lines,
}

impl SClient {
    pub fn start(address: SocketAddr, args: &[&str]) -> SClient {
        let mut openssl = Command::new("openssl");
        openssl.args(["s_client", "-connect", &address.to_string()]).args(args).stdin(Stdio::piped());
        let (child, lines) = spawn(openssl);
        SClient { child, lines }
    }

    pub fn send(&mut self, text: &str) {
        let stdin = self.child.stdin.as_mut().expect("piped");
        stdin.write_all(text.as_bytes()).and_then(|()| stdin.flush()).expect("openssl listens");
    }
}

impl Drop for SClient {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs openssl to make something in `folder`; what it prints matters only when it fails.
pub fn openssl(folder: &Path, args: &[&str]) {
    let output = Command::new("openssl").args(args).current_dir(folder).output().expect("openssl runs");
    assert!(output.status.success(), "openssl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// `openssl s_server`, which answers each GET with a page.
pub struct SServer {
    child: Child,
    pub address: SocketAddr,
}

impl SServer {
    pub fn start(pair: &Pair, args: &[&str]) -> SServer {
        let address = free_address();
        let mut openssl = Command::new("openssl");
        openssl.args(["s_server", "-www", "-accept", &address.to_string()]);
        openssl.arg("-cert").arg(&pair.certificate).arg("-key").arg(&pair.key).args(args).stdin(Stdio::null());
        let (child, lines) = spawn(openssl);
        lines.wait_for("openssl listens", |line| line.contains("ACCEPT"));
        SServer { child, address }
    }
}

impl Drop for SServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Everything up to the end, and whether that was a true one.
pub fn rest(client: &mut Client) -> (Vec<u8>, io::Result<()>) {
    let mut bytes = Vec::new();
    let result = client.read_to_end(&mut bytes).map(drop);
    (bytes, result)
}

pub fn copy(from: &Path, to: &Path) {
    fs::copy(from, to).expect("a copy");
}
