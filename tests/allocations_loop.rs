//! The same question as `allocations.rs`, asked of the whole proxy with real sockets: a keep-alive request allocates
//! nothing in the event loop either, once it is warm.
//!
//! A global allocator counts for the whole process, so this crate has one test and its client and origin allocate
//! nothing while it counts.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use mini_rproxy::config::Config;
use mini_rproxy::net::dns::SystemLookup;
use mini_rproxy::net::server::{Server, ServerOptions};
use mini_rproxy::proxy::proxy_connection::{AccessRecord, Observer};

struct Counting;

static COUNT: AtomicU64 = AtomicU64::new(0);

// SAFETY: everything is handed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::SeqCst);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::SeqCst);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Silent;

impl Observer for Silent {
    fn access(&mut self, _: &AccessRecord<'_>) {}
    fn warn(&mut self, message: fmt::Arguments<'_>) {
        panic!("nothing to warn of, but: {message}");
    }
}

const REQUEST: &[u8] = b"GET /a/index.html HTTP/1.1\r\nHost: www.example.com\r\nUser-Agent: Mozilla/5.0 (X11; Linux)\r\n\
    Accept: text/html,*/*;q=0.8\r\nAccept-Language: en\r\nCookie: session=0123456789abcdef\r\nConnection: keep-alive\r\n\r\n";
const RESPONSE: &[u8] =
    b"HTTP/1.1 200 OK\r\nServer: o\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Length: 5\r\n\r\nhello";

/// Reads until `end` has come.
fn read_until(stream: &mut TcpStream, buf: &mut [u8; 4096], end: &[u8]) -> bool {
    let mut len = 0;
    while !buf[..len].ends_with(end) {
        match stream.read(&mut buf[len..]).expect("a connection that lives") {
            0 => return false,
            more => len += more,
        }
    }
    true
}

fn ask(client: &mut TcpStream, buf: &mut [u8; 4096], times: u32) {
    for _ in 0..times {
        client.write_all(REQUEST).expect("is taken");
        assert!(read_until(client, buf, b"hello"), "an answer");
    }
}

#[test]
fn a_keep_alive_request_allocates_nothing_in_the_whole_proxy() {
    let origin = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = origin.local_addr().expect("an address");
    thread::spawn(move || {
        let (mut stream, _) = origin.accept().expect("the proxy");
        let mut buf = [0; 4096];
        while read_until(&mut stream, &mut buf, b"\r\n\r\n") {
            stream.write_all(RESPONSE).expect("is taken");
        }
    });
    let yaml = format!(
        "listen_addr: 127.0.0.1:0\nworkers: 1\nlimits: {{max_requests_per_connection: 0}}\n\
         routes: [{{prefix: /a, upstream: 'http://{address}'}}]\n"
    );
    let mut server = Server::start(ServerOptions {
        config: Arc::new(Config::parse(&yaml, "test").expect("valid")),
        inherited: Vec::new(),
        takeover: false,
        hooks: None.into(),
        lookup: Box::new(SystemLookup),
        new_log: Arc::new(|| Box::new(Silent)),
        on_end: Box::new(|| {}),
    })
    .expect("starts");
    let mut client = TcpStream::connect(server.addresses()[0].0).expect("connects");
    let mut buf = [0; 4096];
    ask(&mut client, &mut buf, 200);
    let before = COUNT.load(Ordering::SeqCst);
    ask(&mut client, &mut buf, 500);
    // The text of the Date field is made anew once a second, and the test's own runner may do something meanwhile.
    let spent = COUNT.load(Ordering::SeqCst) - before;
    assert!(spent <= 10, "{spent} allocations in 500 requests");
    drop(client);
    server.drain();
    server.join().expect("no worker failed");
}
