//! One entry through this build: a proxy of its own on a free port, an origin behind it, a client in front.
//!
//! Each entry gets a new proxy, so that nothing which one leaves behind can help or harm another, and so that everything
//! has been said when the proxy has ended.

use std::fmt::Display;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{fmt, thread};

use super::client::ask;
use super::entry::Entry;
use super::judge::{Account, Ending, Seen};
use super::origin::{record, wake};
use super::strict::{Parser, Whose};
use crate::config::Config;
use crate::net::listen::UsePort;
use crate::net::observer::Journal;
use crate::net::resolve::SystemResolver;
use crate::net::server::{Parts, Server};
use crate::proxy::proxy_connection::{AccessRecord, Observer};

/// So long the client waits for bytes. Where all goes well it never waits.
const PATIENCE: Duration = Duration::from_secs(2);

/// The configuration that the catalogue is written for, with its origin at `authority`. Everything else is the default.
pub fn config_for(authority: &str) -> String {
    format!(
        "listen_addr: 127.0.0.1:0\nworkers: 1\nroutes:\n  - {{prefix: /, upstream: \"http://{authority}\"}}\n  - {{prefix: \
         /sub, upstream: \"http://{authority}/base\"}}\n"
    )
}

/// Why a round could not be played at all.
#[derive(Debug)]
pub struct CannotPlay(String);

impl fmt::Display for CannotPlay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for CannotPlay {}

/// Which step failed, and why.
fn cannot<E: Display>(what: &'static str) -> impl Fn(E) -> CannotPlay {
    move |error| CannotPlay(format!("{what}: {error}"))
}

/// Plays an entry and tells what was seen.
pub fn play(entry: &Entry) -> Result<Seen, CannotPlay> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(cannot("cannot listen on 127.0.0.1"))?;
    let origin = listener.local_addr().map_err(cannot("cannot listen on 127.0.0.1"))?;
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let recording = scope.spawn(|| record(&listener, entry, Whose::Written, &is_over));
        let asked = through_this_build(entry, origin);
        is_over.store(true, Ordering::Release);
        wake(origin);
        let heard = recording.join().map_err(|_| CannotPlay("the origin has failed".to_owned()))?;
        let (answered, ending, accounts) = asked?;
        Ok(Seen { answered, ending, forwarded: heard.messages, sins: heard.sins, tunnelled: heard.tunnelled, accounts })
    })
}

/// What the client saw, and what the proxy accounts for. When it returns, the proxy has ended.
fn through_this_build(entry: &Entry, origin: SocketAddr) -> Result<(Parser, Ending, Vec<Account>), CannotPlay> {
    let config = Config::parse(&config_for(&origin.to_string()), "selftest").map_err(cannot("the configuration"))?;
    let accounts = Arc::new(Mutex::new(Vec::new()));
    let book = Arc::clone(&accounts);
    let server = Server::start(Parts {
        config: Arc::new(config),
        inherited: Vec::new(),
        port: UsePort::Alone,
        hooks: None,
        names: Box::new(SystemResolver),
        journals: Arc::new(move || Box::new(Book(Arc::clone(&book)))),
        on_end: Arc::new(|| {}),
    })
    .map_err(cannot("the proxy"))?;
    let address = server.addresses().first().and_then(|(address, _)| address.parse().ok());
    let asked = address.ok_or_else(|| CannotPlay("the proxy listens nowhere".to_owned())).and_then(|address| {
        ask(address, entry, Whose::Written, PATIENCE).map_err(cannot("cannot connect to the proxy"))
    });
    server.stop();
    server.join().map_err(|_| CannotPlay("a worker of the proxy has failed".to_owned()))?;
    let (answered, ending) = asked?;
    let accounts = std::mem::take(&mut *accounts.lock().unwrap_or_else(PoisonError::into_inner));
    Ok((answered, ending, accounts))
}

/// Keeps the accounts of a proxy.
struct Book(Arc<Mutex<Vec<Account>>>);

impl Journal for Book {
    /// Warnings are about the host, which is not what is tested.
    fn warn(&mut self, _: fmt::Arguments<'_>) {}
}

impl Observer for Book {
    fn access(&mut self, record: &AccessRecord<'_>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Account::of(record));
    }
}
