//! Socket activation and readiness notification: listening sockets that a service manager opened, and a datagram to it
//! when the proxy is ready, reloads and stops.
//!
//! Sockets come as descriptors from 3 on; `LISTEN_PID` says for which process, `LISTEN_FDS` how many they are and
//! `LISTEN_FDNAMES` what they are called. They are used instead of the addresses in the configuration: one that is named
//! `https` speaks TLS, one that is named `admin` takes the place of `admin.listen_addr`. A port below 1024 needs no rights
//! then, and a restart loses no connection, because the manager holds the socket.
//!
//! Notifications go to the unix socket that `NOTIFY_SOCKET` names. See sd_listen_fds(3) and sd_notify(3), which promise that
//! this protocol stays as it is. The crate sd-notify knows no abstract names, which containers use, none of our error
//! messages, and waits for a manager that does not read.
#![allow(unsafe_code, reason = "a descriptor that came with the process is a bare number")]

use std::env;
use std::ffi::OsStr;
use std::iter;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use rustix::io::{FdFlags, fcntl_setfd};
use socket2::{Socket, Type};

/// The first descriptor that is handed over.
const FIRST_FD: RawFd = 3;
/// A manager that does not read must not hold up the start.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// A listening socket that the service manager opened.
#[derive(Debug)]
pub struct Inherited {
    /// `FileDescriptorName=` of the socket unit; `unknown` where it has none.
    pub name: String,
    pub(super) socket: Socket,
}

/// Takes the sockets that were handed over to this process; usually none. To be called once, before anything is opened.
pub fn take_sockets() -> Result<Vec<Inherited>, String> {
    let is_ours = env::var("LISTEN_PID").is_ok_and(|pid| pid == std::process::id().to_string());
    let Some(count) = env::var_os("LISTEN_FDS").filter(|_| is_ours) else { return Ok(Vec::new()) };
    // More than 255 are a mistake.
    let number = count.to_str().and_then(|count| count.parse::<u8>().ok());
    let wrong_count = || format!("socket activation: LISTEN_FDS={} is not a number of sockets", count.display());
    let number = RawFd::from(number.ok_or_else(wrong_count)?);
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let names = names.split(':').filter(|name| !name.is_empty()).chain(iter::repeat("unknown"));
    let take = |(fd, name): (RawFd, &str)| Ok(Inherited { name: name.to_owned(), socket: take(fd)? });
    (FIRST_FD..FIRST_FD + number).zip(names).map(take).collect()
}

/// Makes a socket of a bare number.
fn take(fd: RawFd) -> Result<Socket, String> {
    // SAFETY: the borrow ends with the next statement, and a number that is no open descriptor only makes the call fail.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    fcntl_setfd(borrowed, FdFlags::CLOEXEC).map_err(|_| {
        let what = "which is not open; clear LISTEN_FDS";
        format!("socket activation: LISTEN_FDS promises a socket at descriptor {fd}, {what}")
    })?;
    // SAFETY: it is open, as was just seen, and nothing else owns it: LISTEN_PID says that it was opened for this process
    // before it began, and this is called before the process opens anything that it keeps.
    let socket = Socket::from(unsafe { OwnedFd::from_raw_fd(fd) });
    let is_stream = socket.is_listener().is_ok_and(|yes| yes) && socket.r#type().is_ok_and(|t| t == Type::STREAM);
    if !is_stream || socket.set_nonblocking(true).is_err() {
        let remedy = "use ListenStream= and Accept=no in the socket unit";
        return Err(format!("socket activation: descriptor {fd} is no stream socket that listens; {remedy}"));
    }
    Ok(socket)
}

/// Tells the service manager how the process stands: `READY=1`, `STOPPING=1`; or see [`notify_reload`]. Without `NOTIFY_SOCKET`, a
/// path or a name after `@`, nothing is sent; and a manager that does not get it will see for itself.
pub fn notify(state: &str) {
    let Some(name) = env::var_os("NOTIFY_SOCKET") else { return };
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        path => SocketAddr::from_pathname(OsStr::from_bytes(path)),
    };
    let _ = address.and_then(|address| {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(SEND_TIMEOUT))?;
        socket.send_to_addr(state.as_bytes(), &address)
    });
}

/// The proxy reads its configuration again; `READY=1` says that this is over. systemd wants to know when, on the clock of its
/// own log. Valgrind has no such clock, and where nobody asks it is not read.
pub fn notify_reload() {
    if env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    let now = Duration::try_from(rustix::time::clock_gettime(rustix::time::ClockId::Monotonic)).unwrap_or_default();
    notify(&format!("RELOADING=1\nMONOTONIC_USEC={}", now.as_micros()));
}
