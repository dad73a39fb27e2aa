//! nginx and HAProxy, each with one address for each entry, so that what their origins hear is told apart.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use selftest::entry::Entry;
use selftest::judge::Observed;
use selftest::runner::run_entry;
use selftest::strict::Strictness;
use tempfile::TempDir;

use crate::support::PATIENCE;
use crate::support::programs::command;

/// A client of a peer waits so long for bytes that may never come.
const SHORT: Duration = Duration::from_millis(700);

/// Another program that does the same work.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    pub name: &'static str,
    config: &'static str,
    args: &'static [&'static str],
}

pub const NGINX: Peer =
    Peer { name: "nginx", config: include_str!("nginx.conf"), args: &["-e", "stderr", "-p", "FOLDER", "-c", "CONFIG"] };
pub const HAPROXY: Peer =
    Peer { name: "haproxy", config: include_str!("haproxy.cfg"), args: &["-db", "-q", "-f", "CONFIG"] };

impl Peer {
    /// `nginx version: nginx/1.22.1`
    pub fn version(&self) -> String {
        let output = self.command().arg("-v").output().expect("it tells its version");
        let text = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned()
    }

    /// Plays all of these entries at the same time, most of which is waiting.
    pub fn play(&self, entries: &[Entry]) -> Vec<Observed> {
        let origins: Vec<TcpListener> =
            entries.iter().map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
        // Another process may take a port in between.
        let (mut child, addresses, _folder) = (0..5).find_map(|_| self.start(&origins)).expect("the peer starts");
        let observed = thread::scope(|scope| {
            let players: Vec<_> = (entries.iter().zip(&origins).zip(addresses))
                .map(|((entry, origin), address)| {
                    scope.spawn(move || {
                        run_entry(TcpStream::connect(address)?, origin, entry, Strictness::Lenient, SHORT)
                    })
                })
                .collect();
            players.into_iter().map(|player| player.join().expect("no panic").expect("the peer listens")).collect()
        });
        child.kill().expect("it runs");
        child.wait().expect("it is ours");
        observed
    }

    fn command(&self) -> Command {
        let mut command = command(self.name);
        command.stdin(Stdio::null());
        command
    }

    /// A process in the foreground, and the address for each origin.
    fn start(&self, origins: &[TcpListener]) -> Option<(Child, Vec<SocketAddr>, TempDir)> {
        let folder = TempDir::new().expect("a temporary folder");
        let free: Vec<TcpListener> =
            origins.iter().map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
        let addresses: Vec<SocketAddr> = free.iter().map(|one| one.local_addr().expect("an address")).collect();
        drop(free);
        let parts: Vec<&str> = self.config.split("# each entry\n").collect();
        let [before, each, after] = parts[..] else { panic!("{}: one part is repeated", self.name) };
        let blocks = origins.iter().zip(&addresses).enumerate().map(|(number, (origin, peer))| {
            let origin = origin.local_addr().expect("an address").to_string();
            each.replace("NUMBER", &number.to_string()).replace("PEER", &peer.to_string()).replace("ORIGIN", &origin)
        });
        let text = before.to_owned() + &blocks.collect::<String>() + after;
        let place = folder.path().to_str().expect("a path of ours");
        let config = folder.path().join("config");
        fs::write(&config, text.replace("FOLDER", place)).expect("a configuration file");
        let config = config.to_str().expect("a path of ours");
        let args = self.args.iter().map(|arg| arg.replace("FOLDER", place).replace("CONFIG", config));
        let child = self.command().args(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut child = child.expect("it starts");
        let deadline = Instant::now() + PATIENCE;
        let last = addresses.last().expect("there are entries");
        // Neither tells when it is ready, so it is asked until it answers.
        while TcpStream::connect(last).is_err() {
            if child.try_wait().expect("it is ours").is_some() || Instant::now() > deadline {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
            thread::sleep(Duration::from_millis(10));
        }
        Some((child, addresses, folder))
    }
}
