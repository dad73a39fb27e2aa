//! Socket activation and readiness notification: listening sockets that a service manager opened, and a datagram to it
//! when the proxy is ready, reloads and stops.
//!
//! Sockets come as descriptors from 3 on; `LISTEN_PID` says for which process, `LISTEN_FDS` how many they are and
//! `LISTEN_FDNAMES` what they are called. They are used instead of the addresses in the configuration: one that is named
//! `https` speaks TLS, one that is named `admin` takes the place of `admin.listen_addr`. A port below 1024 needs no rights
//! then, and a restart loses no connection, because the manager holds the socket.
//!
//! Notifications go to the unix socket that `NOTIFY_SOCKET` names. See sd_listen_fds(3) and sd_notify(3), which promise that
//! this protocol stays as it is. The crate sd-notify does not know our error messages and waits for a manager that does not
//! read.
#![allow(unsafe_code, reason = "a descriptor that came with the process is a bare number")]

use std::env;
use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use socket2::{Socket, Type};

use crate::config::TlsListen;

use super::acceptor::ListenerProtocol;

/// The first descriptor that is handed over.
const FIRST_FD: RawFd = 3;
/// More sockets than this are a mistake.
const MAX_SOCKETS: RawFd = 1024;
/// A manager that does not read must not hold up the start.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// A listening socket that the service manager opened.
#[derive(Debug)]
pub struct Inherited {
    /// `FileDescriptorName=` of the socket unit; `unknown` where it has none.
    pub name: String,
    pub(super) socket: Socket,
}

/// Why a socket that was handed over cannot be used, with the remedy.
#[derive(Debug)]
pub struct ActivationError(String);

impl fmt::Display for ActivationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "socket activation: {}", self.0)
    }
}

impl std::error::Error for ActivationError {}

impl From<io::Error> for ActivationError {
    fn from(error: io::Error) -> Self {
        ActivationError(error.to_string())
    }
}

/// Takes the sockets that were handed over to this process; usually none. To be called once, before anything is opened.
pub fn take_sockets() -> Result<Vec<Inherited>, ActivationError> {
    let is_ours = env::var("LISTEN_PID").is_ok_and(|pid| pid == std::process::id().to_string());
    let Some(count) = env::var_os("LISTEN_FDS").filter(|_| is_ours) else { return Ok(Vec::new()) };
    let number =
        count.to_str().and_then(|count| count.parse().ok()).filter(|number| (0..=MAX_SOCKETS).contains(number));
    let wrong_count = || ActivationError(format!("LISTEN_FDS={} is not a number of sockets", count.display()));
    let number: RawFd = number.ok_or_else(wrong_count)?;
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':').filter(|name| !name.is_empty());
    (FIRST_FD..FIRST_FD + number)
        .map(|fd| {
            let name = names.next().unwrap_or("unknown").to_owned();
            Ok(Inherited { name, socket: take(fd)? })
        })
        .collect()
}

/// Makes a socket of a bare number.
fn take(fd: RawFd) -> Result<Socket, ActivationError> {
    // SAFETY: the borrow ends with the next statement, and a number that is no open descriptor only makes the call fail.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    fcntl_getfd(borrowed).map_err(|_| {
        let message = format!("LISTEN_FDS promises a socket at descriptor {fd}, which is not open; clear LISTEN_FDS");
        ActivationError(message)
    })?;
    // SAFETY: it is open, as was just seen, and nothing else owns it: LISTEN_PID says that it was opened for this process
    // before it began, and this is called before the process opens anything that it keeps.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    fcntl_setfd(&owned, FdFlags::CLOEXEC).map_err(io::Error::from)?;
    let socket = Socket::from(owned);
    let is_listening = socket.is_listener().is_ok_and(|yes| yes) && socket.r#type().is_ok_and(|t| t == Type::STREAM);
    if !is_listening {
        let remedy = "use ListenStream= and Accept=no in the socket unit";
        return Err(ActivationError(format!("descriptor {fd} is no stream socket that listens; {remedy}")));
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// The protocol of a socket with this name: TLS where all addresses of the configuration speak it; where some do, on sockets
/// with the name `https`. A socket of that name never speaks anything else.
pub fn protocol(name: &str, tls: Option<&TlsListen>) -> Result<ListenerProtocol, ActivationError> {
    if is_admin(name) {
        return Ok(ListenerProtocol::Admin);
    }
    match (tls, name == "https") {
        (None, true) => {
            let message = "a socket is named https, but there is no certificate; add tls to the configuration";
            Err(ActivationError(message.to_owned()))
        }
        (None, false) => Ok(ListenerProtocol::Plain),
        (Some(tls), false) if !tls.listen_addr.is_empty() => Ok(ListenerProtocol::Plain),
        (Some(_), _) => Ok(ListenerProtocol::Tls),
    }
}

/// Whether a socket with this name is for the operator.
pub fn is_admin(name: &str) -> bool {
    name == "admin"
}

/// Tells the service manager how the process stands.
#[derive(Debug, Default)]
pub struct Notifier(Option<(UnixDatagram, SocketAddr)>);

impl Notifier {
    /// A notifier for the socket that `NOTIFY_SOCKET` names: a path, or a name after `@`. Without one, nothing is sent.
    pub fn from_env() -> Notifier {
        Notifier(env::var_os("NOTIFY_SOCKET").and_then(|name| {
            let address = match name.as_bytes() {
                [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
                path @ [b'/', ..] => SocketAddr::from_pathname(OsStr::from_bytes(path)),
                _ => return None,
            };
            let socket = UnixDatagram::unbound().ok()?;
            socket.set_write_timeout(Some(SEND_TIMEOUT)).ok()?;
            Some((socket, address.ok()?))
        }))
    }

    /// The proxy accepts connections.
    pub fn ready(&self) {
        self.notify("READY=1");
    }

    /// The proxy reads its configuration again; [`Notifier::ready`] says that this is over.
    pub fn reloading(&self) {
        // systemd wants to know when, on the clock of its own log.
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let micros = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1000;
        self.notify(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    /// The proxy takes no more connections and will end.
    pub fn stopping(&self) {
        self.notify("STOPPING=1");
    }

    fn notify(&self, state: &str) {
        if let Some((socket, address)) = &self.0 {
            // A manager that does not get it will see for itself.
            let _ = socket.send_to_addr(state.as_bytes(), address);
        }
    }
}
