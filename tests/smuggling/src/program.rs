//! The program that is judged: any proxy that is started as `PROGRAM LISTEN UPSTREAM [PREFIX]`.

use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::ops::Range;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long a program may take until it listens.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// How often it is looked whether it does.
const START_INTERVAL: Duration = Duration::from_millis(10);

/// Another process may have taken the port meanwhile.
const ATTEMPTS: usize = 5;

/// How much of what a program writes to its standard error is kept.
const MAX_STDERR_BYTES: u64 = 64 * 1024;

/// A running program; killed when dropped.
#[derive(Debug)]
pub struct Program {
    child: Child,
    stderr: Option<JoinHandle<String>>,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Program {
    /// Starts `command`, a line for the shell, with the arguments appended, and waits until it listens.
    pub fn start(command: &str, upstream: SocketAddr, prefix: Option<&str>) -> io::Result<Program> {
        let mut error = io::Error::other("not started");
        for _ in 0..ATTEMPTS {
            match Program::try_start(command, upstream, prefix) {
                Ok(program) => return Ok(program),
                Err(found) => error = found,
            }
        }
        Err(error)
    }

    fn try_start(command: &str, upstream: SocketAddr, prefix: Option<&str>) -> io::Result<Program> {
        let address = free_address()?;
        // exec: it is the program that is killed in the end, and not a shell around it.
        let line = format!("exec {command} \"$@\"");
        let mut child = Command::new("sh")
            .args(["-c", &line, "sh", &address.to_string(), &upstream.to_string()])
            .args(prefix)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let stderr = child.stderr.take().map(|stderr| thread::spawn(move || read_stderr(stderr)));
        let mut program = Program { child, stderr, address };
        if program.wait_until_it_listens()? {
            return Ok(program);
        }
        let said = program.stop();
        Err(io::Error::other(format!("{command}: it does not listen on {address}\n{}", said.trim_end())))
    }

    fn wait_until_it_listens(&mut self) -> io::Result<bool> {
        let deadline = Instant::now() + START_TIMEOUT;
        while Instant::now() < deadline && self.is_running()? {
            if let Ok(stream) = TcpStream::connect(self.address)
                // A connection to a port that nobody listens on may, by chance, be one to itself.
                && stream.local_addr()? != self.address
            {
                return self.is_running();
            }
            thread::sleep(START_INTERVAL);
        }
        Ok(false)
    }

    /// Whether it has not ended by itself.
    pub fn is_running(&mut self) -> io::Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Ends it; returns what it wrote to its standard error.
    pub fn stop(&mut self) -> String {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.stderr.take().and_then(|reader| reader.join().ok()).unwrap_or_default()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Ports that the kernel gives to nobody who does not ask for them: those that it chooses by itself are above.
const PORTS: Range<u32> = 10_000..30_000;

/// An address on which nothing listens now. Each is given out once: two programs that start at the same time would otherwise
/// be taken for each other. Another process of the judge begins elsewhere.
pub fn free_address() -> io::Result<SocketAddr> {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id().wrapping_mul(211);
    for _ in PORTS {
        let offset = first.wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed)) % (PORTS.end - PORTS.start);
        let port = u16::try_from(PORTS.start + offset).map_err(io::Error::other)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        // Not by listening there: a process that another thread starts at this moment would have the socket for a moment longer.
        if TcpStream::connect(address).is_err() {
            return Ok(address);
        }
    }
    Err(io::Error::other("no port is free"))
}

/// Reads to the end, and keeps the beginning.
fn read_stderr(mut stderr: ChildStderr) -> String {
    let mut kept = Vec::new();
    let _ = stderr.by_ref().take(MAX_STDERR_BYTES).read_to_end(&mut kept);
    let _ = io::copy(&mut stderr, &mut io::sink());
    String::from_utf8_lossy(&kept).into_owned()
}
