//! What a request costs in heap allocations: nothing, once a worker is warm.
//!
//! A global allocator counts for the thread that runs the test; the exchange is driven as the event loop drives it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use mini_rproxy::config::Config;
use mini_rproxy::mono_time::MonoTime;
use mini_rproxy::proxy::hooks::{HookBody, HookContext, Hooks, Phase, Side as HookSide, Verdict, WantedBody};
use mini_rproxy::proxy::proxy_connection::{
    AccessRecord, Balance, Command, Input, Now, Observer, Peer, ProxyConnection, Side, TransactionPool, WorkerContext,
};
use mini_rproxy::proxy::request_log::PluginTiming;
use mini_rproxy::proxy::runtime::Runtime;

struct Counting;

thread_local! {
    // Constant and without a destructor: looking at it allocates nothing.
    static COUNT: Cell<u64> = const { Cell::new(0) };
    /// The size of the largest one.
    static LARGEST: Cell<usize> = const { Cell::new(0) };
    /// How many bytes are allocated.
    static LIVE: Cell<usize> = const { Cell::new(0) };
}

/// Memory of `more` bytes takes the place of one of `less`; 0 is none.
fn count(more: usize, less: usize) {
    if more > 0 {
        COUNT.with(|count| count.set(count.get() + 1));
        LARGEST.with(|largest| largest.set(largest.get().max(more)));
    }
    // Another thread may free what this one has allocated.
    LIVE.with(|live| live.set(live.get().wrapping_add(more).wrapping_sub(less)));
}

// SAFETY: everything is handed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(0, layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size, layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// As browsers send them.
const BROWSER: &str = "Host: www.example.com\r\n\
    Connection: keep-alive\r\n\
    sec-ch-ua: \"Chromium\";v=\"124\", \"Not-A.Brand\";v=\"99\"\r\n\
    sec-ch-ua-mobile: ?0\r\n\
    sec-ch-ua-platform: \"Linux\"\r\n\
    Upgrade-Insecure-Requests: 1\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/124.0.0.0 Safari/537.36\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n\
    Sec-Fetch-Site: none\r\n\
    Sec-Fetch-Mode: navigate\r\n\
    Referer: https://www.example.com/somewhere/else\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Accept-Language: en-GB,en;q=0.9\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef; theme=dark; consent=1\r\n";

/// A usual response head, without framing.
const ORIGIN: &str = "HTTP/1.1 200 OK\r\n\
    Server: nginx\r\n\
    Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
    Content-Type: text/html; charset=utf-8\r\n\
    Connection: keep-alive\r\n\
    Cache-Control: max-age=60\r\n\
    Set-Cookie: a=b; Path=/\r\n\
    ETag: \"0123456789\"\r\n";

struct Quiet(u64);

impl Observer for Quiet {
    fn access(&mut self, _record: &AccessRecord<'_>) {
        self.0 += 1;
    }
}

struct Bench {
    exchange: ProxyConnection,
    runtime: Rc<Runtime>,
    transactions: TransactionPool,
    balance: Balance,
    log: Quiet,
    now: Now,
}

impl Bench {
    fn new() -> Bench {
        Bench::with(None)
    }

    fn with(hooks: Option<Arc<dyn Hooks>>) -> Bench {
        Bench::of("", hooks)
    }

    fn of(more: &str, hooks: Option<Arc<dyn Hooks>>) -> Bench {
        let routes =
            "routes: [{prefix: /app, upstream: 'http://127.0.0.1:9000/base'}, {prefix: /, upstream: 'http://o'}]\n";
        let config = Config::parse(&format!("{routes}{more}"), "test").expect("the test's configuration is valid");
        let runtime = Rc::new(Runtime::new(Arc::new(config), hooks));
        let now = Now { instant: MonoTime::now(), date: *b"Sun, 06 Nov 1994 08:49:37 GMT" };
        let peer =
            Peer { address: Some("192.0.2.1:5000".parse().expect("an address")), is_tls: false, ..Peer::default() };
        let exchange = ProxyConnection::new(&now, peer, Rc::clone(&runtime));
        Bench {
            exchange,
            runtime,
            transactions: TransactionPool::default(),
            balance: Balance::default(),
            log: Quiet(0),
            now,
        }
    }

    fn handle(&mut self, input: Input<'_>) {
        let Bench { exchange, runtime, transactions, balance, log, now } = self;
        now.instant = now.instant + Duration::from_micros(10);
        let mut env = WorkerContext { now, runtime, balance, transactions, observer: log };
        exchange.handle(&mut env, input);
        loop {
            while let Some(command) = exchange.poll_command() {
                if let Command::Connect { .. } = command {
                    exchange.handle(&mut env, Input::Connected { reused: true });
                }
            }
            let mut moved = false;
            for side in [Side::Client, Side::Upstream] {
                let len = exchange.output(side).len();
                if len > 0 {
                    exchange.sent(&mut env, side, len);
                    moved = true;
                }
            }
            if !moved {
                return;
            }
        }
    }

    /// One request with its response, each in pieces of at most `piece` bytes.
    fn serve(&mut self, request: &[u8], response: &[u8], piece: usize) {
        let before = self.log.0;
        for part in request.chunks(piece) {
            self.handle(Input::Bytes(Side::Client, part));
        }
        for part in response.chunks(piece) {
            self.handle(Input::Bytes(Side::Upstream, part));
        }
        assert_eq!(self.log.0, before + 1, "one request was served");
        assert!(self.exchange.is_idle());
    }
}

#[test]
fn a_request_allocates_nothing_in_the_steady_state() {
    let get = format!("GET /app/page?x=1 HTTP/1.1\r\n{BROWSER}\r\n").into_bytes();
    let ok = format!("{ORIGIN}Content-Length: 1000\r\n\r\n{}", "x".repeat(1000)).into_bytes();
    let chunked =
        format!("{ORIGIN}Transfer-Encoding: chunked\r\n\r\n3e8\r\n{}\r\n5;a=b\r\nhello\r\n0\r\n\r\n", "x".repeat(1000));
    let post = format!("POST /app/form HTTP/1.1\r\n{BROWSER}Content-Length: 11\r\n\r\nhello=world");
    let upload =
        format!("PUT /app/file HTTP/1.1\r\n{BROWSER}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
    let head = format!("HEAD /app/page HTTP/1.1\r\n{BROWSER}\r\n");
    let lost = format!("GET /app/../x HTTP/1.1\r\n{BROWSER}\r\n").replace("..", "%41");
    let health = "GET /health HTTP/1.1\r\nHost: h\r\n\r\n";
    let early =
        format!("HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n{ORIGIN}Content-Length: 0\r\n\r\n");
    let unchanged = format!("{}\r\n", ORIGIN.replace("200 OK", "304 Not Modified"));
    for (name, request, response) in [
        ("a page", &get[..], &ok[..]),
        ("a chunked page", &get, chunked.as_bytes()),
        ("a form", post.as_bytes(), &ok),
        ("a chunked upload", upload.as_bytes(), &ok),
        ("HEAD", head.as_bytes(), b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"),
        ("another route", lost.as_bytes(), &ok),
        ("early hints", &get, early.as_bytes()),
        ("304", &get, unchanged.as_bytes()),
        ("/health", health.as_bytes(), b""),
    ] {
        for piece in [usize::MAX, 100, 7] {
            let mut bench = Bench::new();
            for _ in 0..3 {
                bench.serve(request, response, piece);
            }
            let before = COUNT.with(Cell::get);
            for _ in 0..100 {
                bench.serve(request, response, piece);
            }
            let allocated = COUNT.with(Cell::get) - before;
            assert_eq!(allocated, 0, "{name}, in pieces of {piece}: allocations in 100 requests");
        }
    }
}

#[test]
fn an_idle_connection_owns_no_buffer() {
    // The memory of the transaction went back to the spares: a second connection takes it over and allocates nothing.
    let request = format!("GET /app/page HTTP/1.1\r\n{BROWSER}\r\n");
    let response = format!("{ORIGIN}Content-Length: 5\r\n\r\nhello");
    let mut first = Bench::new();
    for _ in 0..3 {
        first.serve(request.as_bytes(), response.as_bytes(), usize::MAX);
    }
    let mut second = Bench::new();
    second.transactions = std::mem::take(&mut first.transactions);
    let before = COUNT.with(Cell::get);
    second.serve(request.as_bytes(), response.as_bytes(), usize::MAX);
    // The list of spares itself is there already.
    assert_eq!(COUNT.with(Cell::get) - before, 0);
}

#[test]
fn what_is_kept_for_the_next_requests_goes_when_it_is_asked_for() {
    let mut bench = Bench::new();
    bench.transactions = TransactionPool::of(0, usize::MAX);
    let (request, response) = (b"GET /app HTTP/1.1\r\nHost: h\r\n\r\n", b"HTTP/1.1 204 No Content\r\n\r\n");
    bench.serve(request, response, usize::MAX);
    let before = LIVE.with(Cell::get);
    bench.transactions = TransactionPool::default();
    bench.serve(request, response, usize::MAX);
    let kept = LIVE.with(Cell::get).wrapping_sub(before);
    bench.transactions.clear();
    let left = LIVE.with(Cell::get).wrapping_sub(before);
    // The list of what is kept.
    assert!(kept > 2048 && left < 512, "{kept} bytes, then {left}");
}

/// A plugin that reads all bodies.
struct Reader;

impl Hooks for Reader {
    fn call(&self, phase: Phase, context: &mut HookContext<'_>) -> Verdict {
        let body = if phase == Phase::Request { &context.request_body } else { &context.response_body };
        if let HookBody::Coming = body { Verdict::AwaitBody } else { Verdict::Continue }
    }
}

#[test]
fn e4_a_declared_body_owns_no_memory_before_it_comes() {
    let mut bench = Bench::with(Some(Arc::new(Reader)));
    LARGEST.with(|largest| largest.set(0));
    bench.handle(Input::Bytes(Side::Client, b"PUT /app HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc"));
    bench.handle(Input::Bytes(Side::Upstream, b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"));
    let mut other = Bench::with(Some(Arc::new(Reader)));
    other.handle(Input::Bytes(Side::Client, b"PUT /app HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n"));
    let largest = LARGEST.with(Cell::get);
    assert!(largest < 64 * 1024, "{largest} bytes at once");
    // They are reserved all the same.
    assert!(bench.exchange.memory() > 1_000_000 && other.exchange.memory() > 1_000_000);
}

/// A plugin that leaves something in each list that plugins have.
struct Hoarder;

impl Hooks for Hoarder {
    fn call(&self, phase: Phase, context: &mut HookContext<'_>) -> Verdict {
        let chain = &mut *context.state;
        for list in [&mut chain.values, &mut chain.pairs] {
            list.push((b"a key".to_vec(), vec![b'x'; 1000]));
            list.push((Vec::new(), vec![b'y'; 10]));
        }
        chain.wanted.push(WantedBody { plugin: 0, side: HookSide::Request, is_optional: true, is_given: true });
        chain.timings.push(PluginTiming { plugin: "hoarder", time: Duration::ZERO, faults: 0 });
        let body = if phase == Phase::Request { &context.request_body } else { &context.response_body };
        if let HookBody::Coming = body { Verdict::AwaitBody } else { Verdict::Continue }
    }
}

/// Rule E4: what is not counted would be in no limit.
#[test]
fn e4_a_connection_owns_what_it_says() {
    let upload = format!("FOO /app/%7Euser/page?x=1 HTTP/1.1\r\n{BROWSER}Content-Length: 3000\r\n\r\n");
    let response = format!("{ORIGIN}Content-Length: 5000\r\nConnection: x-odd\r\nX-Odd: 1\r\n\r\n");
    let hoarder = || Some(Arc::new(Hoarder) as Arc<dyn Hooks>);
    for (name, hooks) in [("without plugins", None), ("with one", hoarder())] {
        let mut bench = Bench::of("log: {access: true, fields: full}\n", hooks);
        // Lists of commands and of balances are there, and nothing is kept of the first request.
        bench.transactions = TransactionPool::of(0, usize::MAX);
        bench.serve(b"GET /app HTTP/1.1\r\nHost: h\r\n\r\n", b"HTTP/1.1 204 No Content\r\n\r\n", usize::MAX);
        let before = LIVE.with(Cell::get);
        for (side, text, len) in [
            (Side::Client, "FOO /app/%7Eus", 0),
            (Side::Client, &upload["FOO /app/%7Eus".len()..], 2000),
            (Side::Client, "", 1000),
            (Side::Upstream, "HTTP/1.1 2", 0),
            (Side::Upstream, &response["HTTP/1.1 2".len()..], 4000),
        ] {
            bench.handle(Input::Bytes(side, &[text.as_bytes(), &vec![b'z'; len]].concat()));
            let owned = LIVE.with(Cell::get).wrapping_sub(before);
            assert_eq!(owned, bench.exchange.memory(), "{name}: after {text:?} and {len} bytes");
        }
    }
}

#[test]
fn a_connection_slot_is_small() {
    assert!(size_of::<ProxyConnection>() <= 128, "{} bytes", size_of::<ProxyConnection>());
}
