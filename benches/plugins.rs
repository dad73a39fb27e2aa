//! What plugins cost: a request through the chain (all three moments), with a browser's head of 16 field lines.
//!
//! The target is one microsecond for one header plugin. Without plugins the proxy asks nobody: `Runtime::hooks` is `None`.

use std::hint::black_box;
use std::sync::Arc;

use divan::Bencher;
use mini_rproxy::config::LogFormat;
use mini_rproxy::http::head::{RequestHead, ResponseHead};
use mini_rproxy::log;
use mini_rproxy::mono_time::MonoTime;
use mini_rproxy::plugin::chain::Chain;
use mini_rproxy::plugin::instances::Instance;
use mini_rproxy::proxy::hooks::{ChainState, HookBody, HookContext, Hooks, Phase, Verdict as Decided};
use mini_rproxy::proxy::proxy_connection::Peer;
use mini_rproxy::proxy::request_log::RequestLog;
use mini_rproxy::proxy::tickets::await_resume;
use mini_rproxy_plugin::host::Limits;
use mini_rproxy_plugin::{Descriptor, Error, Plugin, RequestPhase, ResponsePhase, Setup, Verdict, descriptor};

/// Sets a field on both messages, as header_demo does.
struct Header;

impl Plugin for Header {
    const NAME: &'static str = "header";
    fn create(_: &Setup, _: &[u8]) -> Result<Self, Error> {
        Ok(Header)
    }
    fn on_request(&self, x: &mut RequestPhase<'_>) -> Result<Verdict, Error> {
        x.set_field("X-Demo-Request", "true")?;
        Ok(Verdict::Continue)
    }
    fn on_response(&self, x: &mut ResponsePhase<'_>) -> Result<Verdict, Error> {
        x.set_field("X-Demo-Response", "true")?;
        Ok(Verdict::Continue)
    }
}

/// Does nothing: what remains is the price of the calls and of the clock.
struct Nothing;

impl Plugin for Nothing {
    const NAME: &'static str = "nothing";
    fn create(_: &Setup, _: &[u8]) -> Result<Self, Error> {
        Ok(Nothing)
    }
}

static HEADER: Descriptor = descriptor::<Header>("1");
static NOTHING: Descriptor = descriptor::<Nothing>("1");

const LINES: [(&str, &str); 16] = [
    ("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
    ("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    ("Accept-Language", "en-US,en;q=0.5"),
    ("Accept-Encoding", "gzip, deflate, br, zstd"),
    ("Referer", "https://www.example.com/some/page"),
    ("DNT", "1"),
    ("Sec-GPC", "1"),
    ("Cookie", "session=0123456789abcdef0123456789abcdef; theme=dark"),
    ("Upgrade-Insecure-Requests", "1"),
    ("Sec-Fetch-Dest", "document"),
    ("Sec-Fetch-Mode", "navigate"),
    ("Sec-Fetch-Site", "same-origin"),
    ("Priority", "u=0, i"),
    ("X-Forwarded-For", "192.0.2.1"),
    ("X-Forwarded-Proto", "https"),
    ("Via", "1.1 mini-rproxy"),
];

fn run(bencher: Bencher<'_, '_>, members: &[&'static Descriptor]) {
    let logger = log::Logger::start(LogFormat::Text, std::io::sink()).expect("a thread");
    let limits = Limits { head_bytes: 16384, field_lines: 256, body_bytes: 1 << 20 };
    let mut chain = Chain::new(limits, logger.clone());
    for descriptor in members {
        chain.push(Arc::new(Instance::linked_in(descriptor, "", &logger).expect("it asks for no configuration")));
    }
    let hooks: Option<Arc<dyn Hooks>> = if members.is_empty() { None } else { Some(Arc::new(chain)) };
    let (mut request, mut response, mut state) =
        (RequestHead::default(), ResponseHead::default(), ChainState::default());
    request.target.extend_from_slice(b"/users/123?q=1");
    request.authority.extend_from_slice(b"upstream.example");
    response.status = 200;
    for (name, value) in LINES {
        request.fields.add(name.as_bytes(), value.as_bytes());
        response.fields.add(name.as_bytes(), value.as_bytes());
    }
    let (peer, log) = (Peer::default(), RequestLog { status: 200, ..RequestLog::default() });
    bencher.bench_local(|| {
        let Some(hooks) = black_box(&hooks) else { return };
        let mut view = HookContext {
            request: &mut request,
            response: None,
            request_body: HookBody::Coming,
            response_body: HookBody::None,
            original_target: b"/fitness/users/123?q=1",
            client_host: b"proxy.example",
            peer: &peer,
            details: None,
            log: &log,
            now: MonoTime::FIRST,
            route_prefix: "/fitness",
            upstream: "upstream.example",
            state: &mut state,
        };
        if let Decided::Pause(ticket) = black_box(hooks.call(Phase::Request, &mut view)) {
            await_resume(ticket.number(), Box::new(|| ()));
            view.state.resume(ticket.resumed() == Some(true));
            black_box(hooks.call(Phase::Request, &mut view));
        }
        view.response = Some(&mut response);
        black_box(hooks.call(Phase::Response, &mut view));
        hooks.call(Phase::Done, &mut view);
        // So that the field is new each time.
        request.fields.remove(b"X-Demo-Request");
        response.fields.remove(b"X-Demo-Response");
    });
}

#[divan::bench]
fn no_plugin(bencher: Bencher<'_, '_>) {
    run(bencher, &[]);
}

#[divan::bench]
fn one_that_does_nothing(bencher: Bencher<'_, '_>) {
    run(bencher, &[&NOTHING]);
}

#[divan::bench]
fn one_header_plugin(bencher: Bencher<'_, '_>) {
    run(bencher, &[&HEADER]);
}

#[divan::bench]
fn four_header_plugins(bencher: Bencher<'_, '_>) {
    run(bencher, &[&HEADER, &HEADER, &HEADER, &HEADER]);
}

/// Pauses, and resumes at once: what a pause costs beside the waiting. The wake-up of the worker is not part of it.
struct Pausing;

impl Plugin for Pausing {
    const NAME: &'static str = "pausing";
    fn create(_: &Setup, _: &[u8]) -> Result<Self, Error> {
        Ok(Pausing)
    }
    fn on_request(&self, x: &mut RequestPhase<'_>) -> Result<Verdict, Error> {
        let pause = x.pause()?;
        let verdict = pause.verdict();
        pause.resume(|_| Ok(Verdict::Continue));
        Ok(verdict)
    }
}

static PAUSING: Descriptor = descriptor::<Pausing>("1");

#[divan::bench]
fn one_that_pauses_and_is_resumed(bencher: Bencher<'_, '_>) {
    run(bencher, &[&PAUSING]);
}

fn main() {
    divan::main();
}
