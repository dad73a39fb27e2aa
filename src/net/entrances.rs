//! What the process listens on, over all workers: opened at start, and changed by a reload without closing what stays.
//!
//! A reload has two steps. [`Entrances::plan`] does everything that can fail and changes nothing that is in use;
//! [`Entrances::carry_out`] cannot fail.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::config::{Config, ListenAddr, TlsListen};

use super::activation::{self, Inherited};
use super::door::{Change, Holder, Opening};
use super::listen::{Bound, ListenError, SocketFile, Speaks, UsePort, listen};
use super::start_error::StartError;

/// One address.
struct ListenerKind {
    /// How the workers' doors call it.
    number: u32,
    place: Place,
    /// As people should see it.
    address: String,
    speaks: Speaks,
    /// Removed when this is dropped.
    file: Option<SocketFile>,
}

/// Where it comes from.
enum Place {
    /// From the configuration.
    Configured(ListenAddr),
    /// It was handed over, with this name.
    HandedOver(String),
}

/// All of them.
pub struct Entrances {
    all: Vec<ListenerKind>,
    /// The number of the next one.
    next: u32,
    workers: usize,
    /// Whether ports may be had that an older instance has.
    port: UsePort,
}

/// For each worker something about its door.
type ByWorker<T> = Vec<Vec<T>>;

/// What a reload will do.
pub struct Plan {
    /// For each entrance that there is, what is to be spoken there; `None`: it closes.
    fates: Vec<Option<Speaks>>,
    new: Vec<(Place, Speaks, Bound)>,
}

impl Entrances {
    /// At start: all addresses of the configuration, or in their place the sockets that were handed over; for the
    /// operator's entrance and for all others each.
    pub fn open(
        config: &Config,
        handed_over: Vec<Inherited>,
        workers: usize,
        port: UsePort,
    ) -> Result<(Entrances, ByWorker<Opening>), StartError> {
        let mut entrances = Entrances { all: Vec::new(), next: 0, workers, port };
        let adopt = |socket: Inherited| {
            let speaks = activation::speaks(&socket.name, config.tls.as_ref())?;
            Ok((Place::HandedOver(socket.name.clone()), speaks, socket.into_bound(workers)?))
        };
        let adopted = handed_over.into_iter().map(adopt).collect::<Result<Vec<_>, StartError>>()?;
        let mut doors = entrances.install(adopted);
        let rest = entrances.plan(config)?;
        for (door, more) in doors.iter_mut().zip(entrances.install(rest.new)) {
            door.extend(more);
        }
        // Only at start: whoever has a port later is a stranger.
        entrances.port = UsePort::Alone;
        Ok((entrances, doors))
    }

    /// What has to change for `config`. What is new is bound, but nobody is let in there yet.
    pub fn plan(&self, config: &Config) -> Result<Plan, StartError> {
        let mut wanted: Vec<(&ListenAddr, Speaks)> = addresses(config).collect();
        let mut fates = Vec::with_capacity(self.all.len());
        let mut modes = Vec::new();
        for entrance in &self.all {
            fates.push(match &entrance.place {
                Place::HandedOver(name) => {
                    // It takes the place of those addresses that serve the same.
                    wanted.retain(|(_, speaks)| (*speaks == Speaks::Admin) != activation::is_admin(name));
                    Some(activation::speaks(name, config.tls.as_ref())?)
                }
                Place::Configured(address) => {
                    let stays = wanted.iter().position(|(other, _)| is_same_place(address, other));
                    stays.map(|at| wanted.remove(at)).map(|(wanted, speaks)| {
                        modes.extend(mode_change(address, wanted));
                        speaks
                    })
                }
            });
        }
        let mut new = Vec::with_capacity(wanted.len());
        for (address, speaks) in wanted {
            let port = if self.has_port_of(address) { UsePort::WithOthers } else { self.port };
            new.push((Place::Configured(address.clone()), speaks, listen(address, self.workers, port)?));
        }
        // The last thing that can fail.
        change_modes(&modes)?;
        Ok(Plan { fates, new })
    }

    /// Does it. What closes has its file removed here, so that nobody new comes; the workers let in whoever waits.
    pub fn carry_out(&mut self, plan: Plan) -> ByWorker<Change> {
        let mut doors: ByWorker<Change> = (0..self.workers).map(|_| Vec::new()).collect();
        let mut tell_all = |change: fn(u32, Speaks) -> Change, number, speaks| {
            doors.iter_mut().for_each(|door| door.push(change(number, speaks)));
        };
        let mut fates = plan.fates.into_iter();
        self.all.retain_mut(|entrance| match fates.next().flatten() {
            None => {
                tell_all(|number, _| Change::Close(number), entrance.number, entrance.speaks);
                false
            }
            Some(speaks) => {
                if speaks != entrance.speaks {
                    entrance.speaks = speaks;
                    tell_all(Change::Speak, entrance.number, speaks);
                }
                true
            }
        });
        for (door, openings) in doors.iter_mut().zip(self.install(plan.new)) {
            door.extend(openings.into_iter().map(Change::Open));
        }
        doors
    }

    fn install(&mut self, new: Vec<(Place, Speaks, Bound)>) -> ByWorker<Opening> {
        let mut doors: ByWorker<Opening> = (0..self.workers).map(|_| Vec::new()).collect();
        for (place, speaks, Bound { address, listeners, file }) in new {
            let number = self.next;
            self.next += 1;
            let holder = match &place {
                Place::Configured(_) => Holder::Us,
                Place::HandedOver(_) => Holder::Manager,
            };
            for (door, listener) in doors.iter_mut().zip(listeners) {
                door.push(Opening { number, listener, speaks, holder });
            }
            self.all.push(ListenerKind { number, place, address, speaks, file });
        }
        doors
    }

    /// Where people can connect, with real port numbers, and what is expected of them there.
    pub fn addresses(&self) -> impl Iterator<Item = (&str, Speaks)> {
        self.all.iter().map(|entrance| (entrance.address.as_str(), entrance.speaks))
    }

    /// Takes over the files of another instance's unix sockets. The last step of a start.
    pub fn publish(&mut self) -> Result<(), ListenError> {
        self.all.iter_mut().filter_map(|entrance| entrance.file.as_mut()).try_for_each(SocketFile::publish)
    }

    /// Nobody can connect any more: the files of unix sockets are removed.
    pub fn close(&mut self) {
        self.all.clear();
    }

    /// Whether a port of ours is wanted a second time, for example first on all addresses and then on one. Then it is no
    /// other program that has it.
    fn has_port_of(&self, wanted: &ListenAddr) -> bool {
        let port = |address: &ListenAddr| match address {
            ListenAddr::Tcp { addr, .. } if addr.port() != 0 => Some(addr.port()),
            ListenAddr::Tcp { .. } | ListenAddr::Unix { .. } => None,
        };
        let ours = self.all.iter().filter_map(|entrance| match &entrance.place {
            Place::Configured(address) => port(address),
            Place::HandedOver(_) => None,
        });
        port(wanted).is_some_and(|wanted| ours.into_iter().any(|port| port == wanted))
    }
}

/// All addresses of a configuration, and what is spoken there.
fn addresses(config: &Config) -> impl Iterator<Item = (&ListenAddr, Speaks)> {
    let (first, with_tls) = match &config.tls {
        None => (Speaks::Plain, &[][..]),
        Some(TlsListen { listen_addr, .. }) if listen_addr.is_empty() => (Speaks::Tls, &[][..]),
        Some(TlsListen { listen_addr, .. }) => (Speaks::Plain, &listen_addr[..]),
    };
    let first = config.listen_addr.iter().map(move |address| (address, first));
    let admin = config.admin.listen_addr.iter().map(|address| (address, Speaks::Admin));
    first.chain(with_tls.iter().map(|address| (address, Speaks::Tls))).chain(admin)
}

/// Whether one socket serves both.
fn is_same_place(one: &ListenAddr, other: &ListenAddr) -> bool {
    match (one, other) {
        (ListenAddr::Tcp { addr: a, dual_stack: c, .. }, ListenAddr::Tcp { addr: b, dual_stack: d, .. }) => {
            a == b && c == d
        }
        (ListenAddr::Unix { path: a, .. }, ListenAddr::Unix { path: b, .. }) => a == b,
        (ListenAddr::Tcp { .. }, ListenAddr::Unix { .. }) | (ListenAddr::Unix { .. }, ListenAddr::Tcp { .. }) => false,
    }
}

/// Other permissions for a socket that stays.
fn mode_change<'a>(old: &ListenAddr, new: &'a ListenAddr) -> Option<(&'a Path, u32)> {
    match (old, new) {
        (ListenAddr::Unix { mode: old, .. }, ListenAddr::Unix { path, mode: Some(mode) }) if *old != Some(*mode) => {
            Some((path, *mode))
        }
        (ListenAddr::Unix { .. } | ListenAddr::Tcp { .. }, _) => None,
    }
}

/// Changes all of them or none.
fn change_modes(modes: &[(&Path, u32)]) -> Result<(), ListenError> {
    let mut changed = Vec::with_capacity(modes.len());
    for (path, mode) in modes {
        let change = fs::metadata(path).and_then(|file| {
            fs::set_permissions(path, Permissions::from_mode(*mode))?;
            changed.push((*path, file.permissions()));
            Ok(())
        });
        if let Err(error) = change {
            for (path, before) in changed {
                // It was possible a moment ago.
                let _ = fs::set_permissions(path, before);
            }
            return Err(ListenError::new(format!("unix:{}", path.display()), error));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(listen: &str) -> Config {
        let text = format!("listen_addr: {listen}\nroutes: [{{prefix: /, upstream: 'http://a'}}]\n");
        Config::parse(&text, "test").unwrap_or_else(|error| panic!("{error}"))
    }

    /// What one worker's door is told.
    fn told(doors: &ByWorker<Change>) -> Vec<String> {
        let words = |change: &Change| match change {
            Change::Open(opening) => format!("open {}", opening.number),
            Change::Close(number) => format!("close {number}"),
            Change::Speak(number, speaks) => format!("speak {number} {speaks:?}"),
        };
        let all: Vec<Vec<String>> = doors.iter().map(|door| door.iter().map(words).collect()).collect();
        assert!(all.iter().all(|door| *door == all[0]), "all workers are told the same");
        all[0].clone()
    }

    #[test]
    fn what_stays_is_not_touched_what_is_new_opens_and_what_is_gone_closes() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let socket = folder.path().join("a.sock");
        let unix = |mode: &str| format!("'unix:{}{mode}'", socket.display());
        let (mut entrances, doors) =
            Entrances::open(&config("'127.0.0.1:0'"), Vec::new(), 2, UsePort::Alone).expect("loopback");
        let numbers: Vec<Vec<u32>> = doors.iter().map(|door| door.iter().map(|gate| gate.number).collect()).collect();
        assert_eq!(numbers, [[0], [0]]);
        let mode = || fs::metadata(&socket).map(|file| file.permissions().mode() & 0o777).ok();
        for (name, listen, expected, expected_mode) in [
            ("nothing changes", "'127.0.0.1:0'".to_owned(), &[][..], None),
            ("one more", format!("['127.0.0.1:0', {}]", unix("?mode=0600")), &["open 1"], Some(0o600)),
            ("other rights", format!("[{}, '127.0.0.1:0']", unix("?mode=0660")), &[], Some(0o660)),
            ("one less", "'127.0.0.1:0'".to_owned(), &["close 1"], None),
            ("another", "'[::1]:0'".to_owned(), &["close 0", "open 2"], None),
        ] {
            let plan = entrances.plan(&config(&listen)).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(told(&entrances.carry_out(plan)), expected, "{name}");
            assert_eq!(mode(), expected_mode, "{name}");
        }
    }

    #[test]
    fn a_plan_that_fails_changes_no_mode() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let [first, second] = ["a", "b"].map(|name| folder.path().join(name));
        let with =
            |mode: &str| config(&format!("['unix:{}{mode}', 'unix:{}{mode}']", first.display(), second.display()));
        let (entrances, _doors) =
            Entrances::open(&with("?mode=0600"), Vec::new(), 1, UsePort::Alone).expect("two sockets");
        fs::remove_file(&second).expect("it is there");
        let error = entrances.plan(&with("?mode=0666")).err().expect("the second one is gone").to_string();
        assert!(error.contains(&format!("unix:{}", second.display())), "{error}");
        assert_eq!(fs::metadata(&first).expect("it is there").permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_port_of_ours_can_move_between_addresses_but_one_of_others_cannot_be_had() {
        let (mut entrances, first) =
            Entrances::open(&config("'127.0.0.1:0'"), Vec::new(), 1, UsePort::Alone).expect("loopback");
        let port = entrances.addresses().next().and_then(|(address, _)| address.rsplit(':').next()).expect("a port");
        let plan = entrances.plan(&config(&format!("'127.0.0.1:{port}'")));
        assert!(plan.is_err(), "it was port 0 that was asked for: nobody knows that this is the same one");
        drop(first);
        let (port, other) = (format!("127.0.0.1:{port}"), std::net::TcpListener::bind("127.0.0.1:0").expect("a port"));
        let fixed = config(&format!("'{port}'"));
        drop(entrances);
        (entrances, _) = Entrances::open(&fixed, Vec::new(), 1, UsePort::Alone).expect("it is free again");
        let everywhere = config(&format!("'0.0.0.0:{}'", port.rsplit(':').next().expect("a port")));
        entrances.plan(&everywhere).expect("our own port");
        let taken = config(&format!("'{}'", other.local_addr().expect("bound")));
        let error = entrances.plan(&taken).err().expect("somebody else's").to_string();
        assert!(error.contains("address in use"), "{error}");
    }
}
