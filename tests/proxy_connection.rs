//! What the event loop asks a connection for, beside bytes and commands: what it waits for, what it owns, whether there is
//! something to do, and what becomes of it when its place or its configuration is needed.

use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mini_rproxy::config::Config;
use mini_rproxy::proxy::hooks::{HookContext, Hooks, Phase, Verdict};
use mini_rproxy::proxy::proxy_connection::{
    Command, ConnectError, Input, Peer, PeerDetails, ProxyConnection, ReadPurpose, Side,
};
use mini_rproxy::proxy::runtime::Runtime;

mod testkit;

use testkit::plugin::{Op, Ops, Plugin, Wants};
use testkit::wire::{Ending, Entry, Pool, Setup, Split, Wire};

const ROUTES: &str =
    "routes: [{prefix: /a, upstream: http://origin.example}, {prefix: /b, upstream: http://b.example}]\n";
const UPGRADE: &str = "GET /a HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
const SECOND: Duration = Duration::from_secs(1);

fn config(text: &str) -> Arc<Config> {
    Arc::new(Config::parse(text, "test").expect("a configuration"))
}

fn wire_with(text: &str, plugin: Option<Plugin>) -> Wire {
    let peer = Peer { address: Some("192.0.2.1:5000".parse().expect("an address")), ..Peer::default() };
    Wire::new(&Setup { config: config(text), peer, plugin: plugin.map(Arc::new), split: Split::Whole, lane: false })
}

fn wire() -> Wire {
    wire_with(ROUTES, None)
}

/// One whose observer wants timelines.
fn traced(plugin: Option<Plugin>) -> Wire {
    let mut wire = wire_with(ROUTES, plugin);
    wire.log.timelines = Some(Vec::new());
    wire
}

impl Wire {
    /// Everything that can move moves.
    fn settle(&mut self) {
        self.run().expect("no invariant is broken");
    }

    /// A peer sends this.
    fn say(&mut self, side: Side, text: &str) {
        self.send(side, text.as_bytes());
        self.settle();
    }

    /// A tunnel, from an idle connection.
    fn upgrade(&mut self) {
        self.say(Side::Client, UPGRADE);
        self.say(Side::Upstream, SWITCHED);
        assert!(self.exchange.is_tunnel());
    }

    /// Of the requests so far, where a wire is [`traced`].
    fn timelines(&mut self) -> String {
        self.log.timelines.take().expect("they are wanted").concat()
    }

    fn wait(&mut self) {
        self.advance(SECOND).expect("no invariant is broken");
    }

    /// The notes since the last call: commands, lines of the log.
    fn notes(&mut self) -> Vec<String> {
        let entries = std::mem::take(&mut self.transcript).into_iter();
        entries.filter_map(|entry| if let Entry::Note(note) = entry { Some(note) } else { None }).collect()
    }
}

#[test]
fn the_timeline_says_what_is_waited_for() {
    let mut wire = traced(None);
    wire.connect(Pool::Pending);
    wire.say(Side::Client, "POST /a HTTP/1.1\r\n");
    wire.wait();
    wire.say(Side::Client, "Host: h\r\nContent-Length: 4\r\n\r\n");
    wire.wait();
    wire.takes(Side::Upstream, Some(0));
    wire.connect(Pool::New);
    wire.settle();
    wire.wait();
    wire.takes(Side::Upstream, None);
    wire.settle();
    wire.wait();
    wire.say(Side::Client, "body");
    wire.wait();
    wire.say(Side::Upstream, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n");
    wire.wait();
    wire.takes(Side::Client, Some(0));
    wire.say(Side::Upstream, "done");
    wire.wait();
    wire.takes(Side::Client, None);
    wire.settle();
    let expected = "    0.000 ms  the client sent 18 bytes; waiting for the client's request head
 1000.000 ms  the client sent 30 bytes; waiting for a connection to the upstream
 2000.000 ms  a new connection; waiting for the upstream to take the request
 3000.000 ms  the upstream took 180 bytes; waiting for the client's request body
 4000.000 ms  the client sent 4 bytes; waiting for the upstream to take the request
 4000.000 ms  the upstream took 4 bytes; waiting for the upstream's response head
 5000.000 ms  the upstream sent 42 bytes in 2 pieces, until 6000.000 ms; waiting for the client to take the response
 5000.000 ms  the client took 75 bytes; waiting for the upstream's response body
 7000.000 ms  the client took 4 bytes
 7000.000 ms  over; waited 1000.000 ms for the client's request head, 1000.000 ms for a connection to the upstream, \
1000.000 ms for the upstream to take the request, 1000.000 ms for the client's request body, 1000.000 ms for the \
upstream's response head, 1000.000 ms for the client to take the response, 1000.000 ms for the upstream's response body
";
    assert_eq!(format!("\n{}", wire.timelines()), format!("\n{expected}"));
}

#[test]
fn the_timeline_knows_plugins_and_tunnels() {
    let ops = Ops { on_request: vec![Op::Pause], ..Ops::default() };
    let mut wire = traced(Some(Plugin { ops, ..Plugin::default() }));
    wire.say(Side::Client, UPGRADE);
    wire.wait();
    wire.resume(true);
    wire.settle();
    wire.say(Side::Upstream, SWITCHED);
    wire.wait();
    assert!(wire.exchange.is_tunnel());
    wire.with_env(|exchange, worker| exchange.evict(worker));
    wire.settle();
    let timeline = wire.timelines();
    assert!(
        timeline.contains("waited 1000.000 ms for a plugin, 1000.000 ms for either end of the tunnel"),
        "{timeline}"
    );
}

#[test]
fn the_client_body_is_waited_for_only_when_the_upstream_is_there() {
    let mut wire = traced(None);
    wire.connect(Pool::Pending);
    wire.say(Side::Client, "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody");
    wire.advance(Duration::from_secs(60)).expect("no invariant is broken");
    let timeline = wire.timelines();
    assert!(timeline.contains("; waited 5000.000 ms for a connection to the upstream\n"), "{timeline}");
}

#[test]
fn who_is_evicted_ends_or_says_so_with_its_response() {
    let mut idle = wire();
    idle.with_env(|exchange, worker| exchange.evict(worker));
    idle.wait();
    assert_eq!(idle.notes(), ["X close downstream"], "between two requests");

    let mut active = wire();
    active.say(Side::Client, "GET /a HTTP/1.1\r\nHost: h\r\n\r\n");
    active.with_env(|exchange, worker| exchange.evict(worker));
    active.say(Side::Upstream, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    active.wait();
    let answer = &active.answered.messages[0];
    assert_eq!(answer.head.members("Connection"), ["close"]);

    let mut tunnel = wire();
    tunnel.upgrade();
    tunnel.notes();
    tunnel.with_env(|exchange, worker| exchange.evict(worker));
    tunnel.settle();
    assert!(tunnel.notes().iter().any(|note| note.contains("why=tunnel_evicted")));
    assert!(tunnel.is_over);
}

/// How many hold a configuration, beside the test.
fn holders(runtime: &Rc<Runtime>) -> usize {
    Rc::strong_count(runtime) - 1
}

#[test]
fn a_new_configuration_leaves_the_old_one_to_those_who_need_it() {
    let new = Rc::new(Runtime::new(config(ROUTES), None));
    let start = |text: &str, what: &[(Side, &str)]| {
        let mut wire = wire_with(text, None);
        let old = Rc::clone(&wire.runtime);
        what.iter().for_each(|(side, text)| wire.say(*side, text));
        wire.runtime = Rc::clone(&new);
        wire.exchange.use_config(&new);
        (wire, old)
    };
    let request = (Side::Client, "GET /b HTTP/1.1\r\nHost: h\r\n\r\n");
    let begun = (Side::Upstream, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha");
    let rest = (Side::Upstream, "lf");

    let (_wire, old) = start(ROUTES, &[]);
    assert_eq!(holders(&old), 0, "an idle connection takes the new one");
    let (_wire, old) = start(ROUTES, &[request, begun, rest]);
    assert_eq!(holders(&old), 0, "and one that idles again");
    let (mut wire, old) = start(ROUTES, &[request]);
    assert_eq!(holders(&old), 1, "a request keeps what it began with");
    wire.say(begun.0, begun.1);
    wire.say(rest.0, rest.1);
    assert_eq!(holders(&old), 0, "until it is over");
    let (mut wire, old) = start(ROUTES, &[request, begun]);
    assert_eq!(holders(&old), 0, "a response that has begun keeps its own route only");
    wire.say(rest.0, rest.1);
    assert_eq!(wire.answered.final_responses().count(), 1);
    assert!(wire.exchange.is_idle());
    let one = "routes: [{prefix: /, upstream: http://origin.example}]\n";
    let (_wire, old) = start(one, &[request, begun]);
    assert_eq!(holders(&old), 1, "where there is no other, there is nothing to leave");
}

#[test]
fn the_details_of_a_peer_are_wanted_where_somebody_asks_for_them() {
    let hosts = "routes: [{hosts: a.example, prefix: /, upstream: http://origin.example}]\n";
    let wants = |text: &str, is_tls: bool, plugin: Option<Plugin>| {
        let mut wire = wire_with(text, plugin);
        wire.exchange.set_client(None, is_tls);
        let wants = wire.exchange.wants_peer_details(&wire.runtime);
        wire.exchange.set_peer_details(PeerDetails::default());
        assert!(!wire.exchange.wants_peer_details(&wire.runtime), "they are known now");
        wants
    };
    assert!(!wants(ROUTES, false, None));
    assert!(!wants(ROUTES, true, None));
    assert!(!wants(hosts, false, None), "no handshake, no name");
    assert!(wants(hosts, true, None));
    assert!(wants(ROUTES, false, Some(Plugin::default())));
}

#[test]
fn what_waits_is_told_and_is_not_told_when_it_is_gone() {
    let mut wire = wire();
    let get = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n";
    let tells = |exchange: &ProxyConnection| (exchange.has_command(), exchange.has_output());
    assert_eq!(tells(&wire.exchange), (false, false));
    wire.handle(Input::Bytes(Side::Client, get));
    assert_eq!(tells(&wire.exchange), (true, true), "a connection is asked for, and the request waits for it");
    assert_eq!(wire.exchange.output(Side::Upstream), b"");
    assert!(matches!(wire.exchange.poll_command(), Some(Command::Connect { .. })));
    assert_eq!(tells(&wire.exchange), (false, true));
    wire.handle(Input::Connected { reused: false });
    let len = wire.exchange.output(Side::Upstream).len();
    wire.with_env(|exchange, worker| exchange.sent(worker, Side::Upstream, len));
    assert_eq!(tells(&wire.exchange), (false, false));
    let answer = b"HTTP/1.1 204 No Content\r\n\r\n";
    wire.handle(Input::Bytes(Side::Upstream, answer));
    assert!(wire.exchange.has_output(), "the response");
}

#[test]
fn what_is_held_and_owned_is_counted() {
    let mut wire = wire();
    assert_eq!((wire.exchange.held(Side::Client), wire.exchange.memory()), (0, 0), "nothing, between two requests");
    wire.say(Side::Client, "GET /a HTTP/1.1\r\n");
    assert_eq!(wire.exchange.held(Side::Client), 17);
    let owned = wire.exchange.memory();
    assert!(owned > 17, "{owned}");
    wire.say(Side::Client, "Host: h\r\n\r\nGET /b ");
    assert_eq!((wire.exchange.held(Side::Client), wire.exchange.held(Side::Upstream)), (7, 0), "pipelined");
    wire.say(Side::Upstream, "HTTP/1.1 2");
    assert_eq!(wire.exchange.held(Side::Upstream), 10);
}

#[test]
fn bytes_pass_unseen_where_nothing_is_to_be_seen_in_them() {
    let limits = |wire: &Wire| [Side::Client, Side::Upstream].map(|side| wire.exchange.bypass_limit(side));
    let upload = "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n";
    let begin = |plugin, is_traced: bool| {
        let mut wire = wire_with(ROUTES, plugin);
        wire.log.timelines = is_traced.then(Vec::new);
        wire.connect(Pool::Pending);
        wire.say(Side::Client, upload);
        assert_eq!(limits(&wire), [0, 0], "there is no upstream yet");
        wire.connect(Pool::New);
        wire.settle();
        wire
    };
    let mut plain = begin(None, false);
    assert_eq!(limits(&plain), [1000, 0]);
    plain.say(Side::Client, "four");
    assert_eq!(limits(&plain), [996, 0]);
    plain.say(Side::Upstream, "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n");
    assert_eq!(limits(&plain), [996, 500]);
    let mut chunked = wire();
    chunked.say(Side::Client, "GET /a HTTP/1.1\r\nHost: h\r\n\r\n");
    chunked.say(Side::Upstream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!(limits(&chunked), [0, 0], "chunks are read");
    assert_eq!(limits(&begin(None, true)), [0, 0], "a timeline tells of each piece");

    let ops = Ops { on_response: vec![Op::Pause], ..Ops::default() };
    let mut paused = begin(Some(Plugin { ops, ..Plugin::default() }), false);
    assert_eq!(limits(&paused), [1000, 0]);
    paused.say(Side::Upstream, "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n");
    assert_eq!(limits(&paused), [0, 0], "a plugin decides first");
    assert_eq!(paused.exchange.read_interest(Side::Client), None);

    let mut tunnel = wire();
    tunnel.upgrade();
    assert_eq!(limits(&tunnel), [u64::MAX, u64::MAX]);
}

#[test]
fn the_time_for_the_last_bytes_is_that_of_the_route() {
    let text = "timeouts: {write_idle: 9s, connect: {address: 2s}}\nroutes:\n- prefix: /a\n  upstream: http://o\n  \
                timeouts: {write_idle: 7s, connect: {address: 1s}}\n";
    let mut wire = wire_with(text, None);
    assert_eq!((wire.exchange.last_write_idle(), wire.exchange.connect_address_timeout()), (9 * SECOND, 2 * SECOND));
    wire.say(Side::Client, "GET /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    assert_eq!(wire.exchange.connect_address_timeout(), SECOND);
    wire.say(Side::Upstream, "HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(wire.exchange.last_write_idle(), 7 * SECOND);
}

#[test]
fn e4_bodies_that_plugins_read_are_reserved_before_they_are_read() {
    // Twice the length of each, since one may be written while the other is there.
    let answer = |bodies: usize| {
        let wants = Wants { request: true, ..Wants::default() };
        let mut wire = wire_with(ROUTES, Some(Plugin { wants, ..Plugin::default() }));
        wire.limit_bodies(bodies);
        wire.say(Side::Client, "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n");
        if bodies == 2000 {
            assert_eq!(wire.exchange.read_interest(Side::Client), Some(ReadPurpose::Reserved));
        }
        wire.say(Side::Client, &"x".repeat(1000));
        wire.say(Side::Upstream, "HTTP/1.1 204 No Content\r\n\r\n");
        wire.answered.final_responses().next().expect("an answer").head.status()
    };
    assert_eq!([answer(2000), answer(1999), answer(0)], [204, 503, 503]);
}

#[test]
fn an_event_that_is_late_or_early_changes_nothing() {
    let mut wire = wire();
    wire.handle(Input::Tick);
    assert!(wire.exchange.is_idle(), "its time has not come");
    wire.handle(Input::Eof(Side::Upstream));
    assert!(wire.exchange.is_idle(), "of an upstream that it has given back");
    wire.handle(Input::Eof(Side::Client));
    assert!(matches!(wire.exchange.poll_command(), Some(Command::Close(Side::Client, _))));
    for input in [Input::Eof(Side::Client), Input::Reset(Side::Client), Input::Tick, Input::Bytes(Side::Client, b"G")] {
        wire.handle(input);
        assert!(!wire.exchange.has_command(), "it is closed");
    }
}

#[test]
fn the_binary_proxy_header_is_known_where_nobody_expects_it() {
    let mut wire = wire();
    wire.say(Side::Client, "\r\n\r\n\0\r\nQUIT\n!\x11\0\x0c\x7f\0\0\x09\x7f\0\0\x01\x13\x08\0PGET / HTTP/1.1\r\n\r\n");
    assert!(wire.notes().iter().any(|note| note.ends_with("why=bad_proxy_header")));
}

/// Writes down the status that its last hook sees.
#[derive(Default)]
struct Last(Mutex<Vec<Option<u16>>>);

impl Hooks for Last {
    fn call(&self, phase: Phase, context: &mut HookContext<'_>) -> Verdict {
        context.state.started = 1;
        if phase == Phase::Done {
            self.0.lock().expect("no hook panics").push(context.response.as_ref().map(|response| response.status));
        }
        Verdict::Continue
    }
}

#[test]
fn the_last_hook_sees_the_response_where_there_was_one() {
    let last = Arc::new(Last::default());
    let mut wire = wire();
    let hooks = Some(Arc::clone(&last) as Arc<dyn Hooks>);
    wire.runtime = Rc::new(Runtime::new(config(ROUTES), hooks));
    let request = "GET /a HTTP/1.1\r\nHost: h\r\n\r\n";
    wire.say(Side::Client, request);
    wire.say(Side::Upstream, "HTTP/1.1 299 Served\r\nContent-Length: 0\r\n\r\n");
    wire.say(Side::Client, request);
    wire.say(Side::Upstream, "HTTP/1.1 nonsense\r\n\r\n");
    wire.say(Side::Client, request);
    wire.say(Side::Upstream, "HTTP/1.1 103 Early Hints\r\n\r\n");
    wire.stop(Side::Client, Ending::Rst);
    wire.settle();
    assert_eq!(*last.0.lock().expect("no hook panics"), [Some(299), Some(502), None]);
}

#[test]
fn the_log_has_the_details_that_it_shows() {
    let notes = |log: &str| {
        let mut wire = wire_with(&format!("{ROUTES}{log}"), None);
        wire.say(Side::Client, "GET /none HTTP/1.1\r\nHost: h\r\nUser-Agent: curl\r\n\r\n");
        wire.notes().concat()
    };
    for log in ["log: {access: true, fields: full}\n", "log: {access: true, format: combined}\n"] {
        assert!(notes(log).contains(" host=h user_agent=curl"), "{log}");
    }
    for log in ["", "log: {access: true, format: json}\n", "log: {fields: full}\n"] {
        assert!(!notes(log).contains("host="), "{log}");
    }
}

#[test]
fn the_log_knows_whether_there_was_a_body_and_may_show_the_query() {
    let facts = |log: &str| {
        // Plugins may ask whether there is a body, in errors of ours, too.
        let mut wire = wire_with(&format!("{ROUTES}{log}"), Some(Plugin::default()));
        for method in ["GET", "HEAD"] {
            let request = format!("{method} /a?x HTTP/1.1\r\nHost: h\r\n\r\n");
            wire.connect(Pool::Fails(ConnectError::Refused));
            wire.say(Side::Client, &request);
            wire.say(Side::Client, &request);
            let body = if method == "GET" { "ok" } else { "" };
            wire.say(Side::Upstream, &format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{body}"));
        }
        wire.say(Side::Client, "GET /a HTTP/1.1\r\nHost: h\r\n\r\n");
        wire.say(Side::Upstream, "HTTP/1.1 204 No Content\r\n\r\n");
        wire.log.facts
    };
    let expected = |target: &str| {
        [(target, true), (target, true), (target, false), (target, false), ("/a", false)]
            .map(|(target, has)| (target.to_owned(), has))
    };
    assert_eq!(facts(""), expected("/a?x"));
    assert_eq!(facts("log: {query: false}\n"), expected("/a"));
}

#[test]
fn a_head_that_would_outgrow_its_limit_when_it_is_mapped_is_told() {
    let mut wire = wire_with(&format!("limits: {{max_head_bytes: 1KiB, max_request_line: 1KiB}}\n{ROUTES}"), None);
    let told = ["LOG a head of /a is left as it is".to_owned()];
    let field = |len: usize| format!("Location: /{}\r\n", "x".repeat(len));
    for (len, is_told) in [(10, false), (933, false), (934, true)] {
        wire.say(Side::Client, "GET /a HTTP/1.1\r\nHost: h\r\n\r\n");
        wire.notes();
        wire.say(Side::Upstream, &format!("HTTP/1.1 302 Found\r\n{}Content-Length: 0\r\n\r\n", field(len)));
        assert_eq!(wire.notes().starts_with(&told), is_told, "{len}");
    }
}

#[test]
fn who_is_silent_is_known_by_who_has_to_move() {
    let timeouts = "timeouts: {response_idle: 5s, write_idle: 30s}\n";
    let end = |media_type: &str, takes| {
        let mut wire = wire_with(&format!("{timeouts}{ROUTES}"), None);
        wire.say(Side::Client, "GET /a HTTP/1.1\r\nHost: h\r\n\r\n");
        wire.takes(Side::Client, takes);
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {media_type}\r\nContent-Length: 9\r\n\r\n");
        wire.say(Side::Upstream, &format!("{head}some"));
        wire.advance(40 * SECOND).expect("no invariant is broken");
        let log = wire.notes().into_iter().find(|note| note.starts_with("LOG")).unwrap_or_default();
        log.split_once(" total=").map(|(_, end)| end.to_owned()).unwrap_or_default()
    };
    assert_eq!(end("text/plain", None), "5s why=response_idle_timeout");
    assert_eq!(end("text/plain", Some(0)), "30s why=client_write_timeout");
    assert_eq!(end("text/event-stream; a=b", None), "", "news may take long");
    assert_eq!(end("text/event-streams", None), "5s why=response_idle_timeout");
    assert_eq!(end("text/event_stream;", None), "5s why=response_idle_timeout");
}

#[test]
fn g15_a_reset_behind_the_end_of_a_tunnel_is_a_loss() {
    let mut tunnel = wire();
    tunnel.upgrade();
    tunnel.stop(Side::Upstream, Ending::Fin);
    tunnel.settle();
    tunnel.notes();
    tunnel.handle(Input::Eof(Side::Upstream));
    tunnel.settle();
    assert_eq!(tunnel.notes(), [""; 0], "it has ended already");
    tunnel.handle(Input::Reset(Side::Upstream));
    tunnel.settle();
    assert!(tunnel.notes().iter().any(|note| note.ends_with("why=upstream_truncated")));
}

#[test]
fn g11_what_comes_through_a_tunnel_is_delivered_after_both_sides_stopped_the_other_direction() {
    let mut tunnel = wire();
    tunnel.upgrade();
    tunnel.break_off(Side::Upstream);
    tunnel.settle();
    // It is not read any more; an end that was seen already changes nothing.
    tunnel.handle(Input::Eof(Side::Client));
    tunnel.notes();
    tunnel.takes(Side::Client, Some(0));
    tunnel.say(Side::Upstream, "the rest");
    assert_eq!((tunnel.exchange.output(Side::Client), tunnel.exchange.has_command()), (&b"the rest"[..], false));
}

#[test]
fn g20_an_upload_whose_answer_is_there_ends_when_nobody_takes_it() {
    let mut wire = wire();
    wire.say(Side::Client, "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nhalf");
    wire.say(Side::Upstream, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    wire.notes();
    wire.break_off(Side::Upstream);
    wire.settle();
    assert!(wire.notes().contains(&"X close upstream".to_owned()));
}

#[test]
fn a_response_that_has_begun_is_no_failure_of_its_upstream() {
    let mut wire = wire_with(
        "health: {failures: 1}\nroutes: [{prefix: /a, upstreams: ['http://one:81', 'http://two:82']}]\n",
        None,
    );
    wire.say(Side::Client, "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n");
    wire.say(Side::Upstream, "HTTP/1.1 2");
    wire.stop(Side::Upstream, Ending::Rst);
    wire.settle();
    let notes = wire.notes().concat();
    assert!(notes.contains("why=upstream_truncated") && !notes.contains("left alone"), "{notes}");
}

#[test]
fn a_bad_proxy_header_is_logged_with_the_address_that_sent_it() {
    let mut wire = wire();
    let address = wire.with_env(|exchange, worker| exchange.reject_proxy_header(worker, "a PROXY header"));
    assert_eq!(address, Some("192.0.2.1:5000".parse().expect("an address")));
    assert!(wire.notes().concat().ends_with("why=bad_proxy_header"));
    assert!(matches!(wire.exchange.poll_command(), Some(Command::Close(Side::Client, _))));
}

#[test]
fn the_whole_configuration_is_for_this_host_only() {
    let body = |address: &str| {
        let mut wire = wire_with(ROUTES, None);
        wire.exchange.set_client(Some(address.parse().expect("an address")), false);
        wire.say(Side::Client, "GET /configz?outline HTTP/1.1\r\nHost: h\r\n\r\n");
        wire.answered.final_responses().next().expect("an answer").body.clone()
    };
    assert!(body("127.0.0.1:1").starts_with(b"{\"settings\""));
    assert!(body("192.0.2.1:1").starts_with(b"[{\"prefix\""));
}

#[test]
fn e4_the_first_thousand_routes_are_counted_by_prefix() {
    let routes: String = (0..1001).map(|at| format!("- {{prefix: /{at:04}, upstream: 'http://o'}}\n")).collect();
    let mut wire = wire_with(&format!("routes:\n{routes}"), None);
    let counted = ["0000", "0999", "1000", "none"].map(|prefix| {
        wire.say(Side::Client, &format!("GET /{prefix} HTTP/1.1\r\nHost: h\r\n\r\n"));
        wire.say(Side::Upstream, "HTTP/1.1 204 No Content\r\n\r\n");
        wire.log.is_counted_by_prefix
    });
    assert_eq!(counted, [true, true, false, false]);
}

#[test]
fn a_body_that_a_plugin_has_collected_does_not_go_to_head() {
    let ops = Ops {
        on_request: vec![Op::Method("GET".to_owned())],
        on_response_body: vec![Op::Body("another".to_owned())],
        ..Ops::default()
    };
    let wants = Wants { response: true, ..Wants::default() };
    let mut wire = wire_with(ROUTES, Some(Plugin { wants, ops, ..Plugin::default() }));
    wire.say(Side::Client, "HEAD /a HTTP/1.1\r\nHost: h\r\n\r\n");
    wire.takes(Side::Client, Some(0));
    wire.say(Side::Upstream, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let answer = wire.exchange.output(Side::Client);
    assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n") && answer.ends_with(b"\r\n\r\n"), "{}", answer.escape_ascii());
}
