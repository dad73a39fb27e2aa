//! What a chain of plugins does to an exchange, called by the interface that the proxy uses (`proxy::hooks`).
//! The numbers in front of the tests are those of the rows in the interface's test table.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mini_rproxy::http::head::{Method, ResponseHead};
use mini_rproxy::plugin::chain::Chain;
#[cfg(feature = "dlopen")]
use mini_rproxy::proxy::hooks::ChainState;
use mini_rproxy::proxy::hooks::Verdict as Decided;
use mini_rproxy_plugin::host::Limits;
use mini_rproxy_plugin::{
    Descriptor, DonePhase, Error, HostError, Level, Needs, Oversize, Plugin, RequestPause, RequestPhase, ResponsePhase,
    Setup, Side, Verdict, descriptor,
};

#[path = "plugins/common.rs"]
mod common;
#[path = "../plugin-api/tests/fixtures/faulty.rs"]
mod faulty;

use common::{Exchange, LIMITS, Lines, word};

/// A chain of linked-in plugins, with its log.
fn chain(members: &[(&'static Descriptor, &str)]) -> (Chain, Lines) {
    let lines = Lines::new();
    let mut chain = Chain::new(LIMITS, lines.logger());
    for (descriptor, config) in members {
        common::push_linked_in(&mut chain, descriptor, config, &lines.logger());
    }
    (chain, lines)
}

/// A plugin in C that leaves letters, as a shared object; one for each configuration.
#[cfg(feature = "dlopen")]
fn letters(test: &str, configs: &[&str]) -> Option<(Chain, Lines)> {
    let path = common::build_c("letters.c", &common::folder(test).join("letters.so"), &[])?;
    let lines = Lines::new();
    let mut chain = Chain::new(LIMITS, lines.logger());
    for config in configs {
        common::push_file(&mut chain, &path, config, lines.logger());
    }
    Some((chain, lines))
}

/// Runs one piece of a test inside a hook.
macro_rules! plugin {
    ($name:ident, $wants:expr, $request:expr, $response:expr) => {
        struct $name;
        impl Plugin for $name {
            const NAME: &'static str = stringify!($name);
            const NEEDS: Needs = $wants;
            fn create(_: &Setup, _: &[u8]) -> Result<Self, Error> {
                Ok($name)
            }
            fn on_request(&self, x: &mut RequestPhase<'_>) -> Result<Verdict, Error> {
                let run: fn(&mut RequestPhase<'_>) -> Result<Verdict, Error> = $request;
                run(x)
            }
            fn on_response(&self, x: &mut ResponsePhase<'_>) -> Result<Verdict, Error> {
                let run: fn(&mut ResponsePhase<'_>) -> Result<Verdict, Error> = $response;
                run(x)
            }
        }
    };
}

static FAULTY: Descriptor = descriptor::<faulty::Faulty>("1");

#[test]
fn r09_panics_are_contained_linked_in() {
    for fault in ["error", "panic", "bomb"] {
        let rows = [
            (format!("on_request:{fault}"), "fail", "continue"),
            (format!("on_response:{fault}"), "continue", "fail"),
            (format!("on_done:{fault} destroy:{fault}"), "continue", "continue"),
        ];
        for (config, request, response) in rows {
            let (chain, lines) = chain(&[(&FAULTY, &config)]);
            // Twice: the next request is none the worse.
            for _ in 0..2 {
                let mut x = Exchange::new();
                assert_eq!(word(&x.on_request(&chain)), request, "{config}");
                assert_eq!(word(&x.on_response(&chain)), response, "{config}");
                x.on_done(&chain);
            }
            drop(chain);
            let place = config.split(':').next().unwrap();
            assert!(lines.has("faulty", place), "{config}: {:?}", lines.all());
        }
    }
}

#[cfg(feature = "dlopen")]
#[test]
fn r09_panics_are_contained_in_a_shared_object() {
    let path = common::build_rust("mini-rproxy-plugin", "faulty");
    for config in ["on_request:panic", "on_request:bomb", "on_request:error", "on_done:bomb destroy:bomb"] {
        let lines = Lines::new();
        let mut chain = Chain::new(LIMITS, lines.logger());
        common::push_file(&mut chain, &path, config, lines.logger());
        let mut x = Exchange::new();
        let expected = if config.starts_with("on_request") { "fail" } else { "continue" };
        assert_eq!(word(&x.on_request(&chain)), expected, "{config}");
        x.on_done(&chain);
        drop(chain);
        let place = config.split(':').next().unwrap();
        assert!(lines.has("libfaulty", place), "{config}: {:?}", lines.all());
    }
}

#[cfg(feature = "dlopen")]
#[test]
fn r10_an_answer_in_the_request_phase() {
    let Some((chain, _)) = letters("r10", &["a", "b:r", "c"]) else { return };
    let mut x = Exchange::new();
    match x.on_request(&chain) {
        Decided::Respond(answer) => {
            assert_eq!((answer.status, answer.body.as_slice()), (403, b"letters\n".as_slice()));
            let lines: Vec<_> = answer.fields.iter().map(|line| (line.name, line.value)).collect();
            assert!(lines.contains(&(b"X-Answer", b"b")), "{lines:?}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(x.request_field("x-letters").as_deref(), Some("ab"), "the chain has stopped");
}

#[cfg(feature = "dlopen")]
#[test]
fn r11_answer_and_failure_in_the_response_phase() {
    for (order, expected) in [("b:R", "respond 418"), ("b:F", "fail")] {
        let Some((chain, _)) = letters("r11", &["a", order, "c"]) else { return };
        let mut x = Exchange::new();
        assert_eq!(word(&x.on_request(&chain)), "continue");
        assert_eq!(word(&x.on_response(&chain)), expected);
        // The response runs the other way round: a was not asked.
        assert_eq!(x.response_field("x-letters").as_deref(), Some("cb"));
    }
}

#[cfg(feature = "dlopen")]
#[test]
fn r11_an_answer_passes_the_response_hooks_of_all_or_of_those_behind() {
    let done =
        |lines: &Lines| lines.of("letters").into_iter().filter(|text| text.starts_with("done")).collect::<Vec<_>>();
    // Of on_request: all plugins, and all are told of the end.
    let Some((chain, lines)) = letters("r11d", &["a", "b:r", "c"]) else { return };
    let mut x = Exchange::new();
    assert_eq!(word(&x.on_request(&chain)), "respond 403");
    assert_eq!(word(&x.on_response(&chain)), "continue");
    assert_eq!(x.response_field("x-letters").as_deref(), Some("cba"));
    x.on_done(&chain);
    assert_eq!(done(&lines), ["done c", "done b", "done a"]);
    // Of on_response: those behind.
    let Some((chain, _)) = letters("r11d", &["a", "b:R", "c"]) else { return };
    let mut x = Exchange::new();
    assert_eq!(word(&x.on_request(&chain)), "continue");
    assert_eq!(word(&x.on_response(&chain)), "respond 418");
    x.state.skip_plugin();
    assert_eq!(word(&x.on_response(&chain)), "continue");
    assert_eq!(x.response_field("x-letters").as_deref(), Some("cba"));
    // Where one fails with the answer of another, the one between them, of which no hook ran, is told nothing.
    let Some((chain, lines)) = letters("r11d", &["a:r", "b", "c:F"]) else { return };
    let mut x = Exchange::new();
    assert_eq!(word(&x.on_request(&chain)), "respond 403");
    assert_eq!(word(&x.on_response(&chain)), "fail");
    x.on_done(&chain);
    x.on_done(&chain);
    assert_eq!(done(&lines), ["done c", "done a"]);
}

#[cfg(feature = "dlopen")]
#[test]
fn r12_verdicts_that_mean_nothing_are_failures() {
    let rows = [
        ("a:v", "fail"),
        ("a:w", "fail"),
        ("a:s99", "fail"),
        ("a:s101", "fail"),
        ("a:s199", "fail"),
        ("a:s600", "fail"),
        ("a:s204", "fail"), // a 204 with a body
        ("a:s200", "respond 200"),
        ("a:s599", "respond 599"),
    ];
    for (order, expected) in rows {
        let Some((chain, lines)) = letters("r12", &[order]) else { return };
        assert_eq!(word(&Exchange::new().on_request(&chain)), expected, "{order}");
        assert_eq!(lines.has("letters", "502"), expected == "fail", "{order}: {:?}", lines.all());
    }
}

#[cfg(feature = "dlopen")]
#[test]
fn r13_order_and_who_is_told_of_the_end() {
    let Some((chain, lines)) = letters("r13", &["a", "b", "c"]) else { return };
    let mut x = Exchange::new();
    assert_eq!(word(&x.on_request(&chain)), "continue");
    assert_eq!(word(&x.on_response(&chain)), "continue");
    x.on_done(&chain);
    assert_eq!(x.request_field("x-letters").as_deref(), Some("abc"));
    assert_eq!(x.response_field("x-letters").as_deref(), Some("cba"));
    let done =
        |lines: &Lines| lines.of("letters").into_iter().filter(|text| text.starts_with("done")).collect::<Vec<_>>();
    assert_eq!(done(&lines), ["done c", "done b", "done a"]);
    drop(chain);
    assert_eq!(lines.of("letters").iter().filter(|text| *text == "destroyed").count(), 3);

    let Some((chain, lines)) = letters("r13", &["a", "b:f", "c"]) else { return };
    let mut x = Exchange::new();
    assert_eq!(word(&x.on_request(&chain)), "fail");
    assert_eq!(x.request_field("x-letters").as_deref(), Some("ab"));
    x.on_done(&chain);
    x.on_done(&chain);
    assert_eq!(done(&lines), ["done b", "done a"], "once, and not for the one that was not reached");
}

#[cfg(feature = "dlopen")]
#[test]
fn r14_values_belong_to_one_exchange() {
    let Some((chain, _)) = letters("r14", &["a", "b"]) else { return };
    let mut x = Exchange::new();
    x.request.fields.add(b"letters.first", b"forged");
    assert_eq!(word(&x.on_request(&chain)), "continue");
    assert_eq!(word(&x.on_response(&chain)), "continue");
    assert_eq!(x.response_field("x-first").as_deref(), Some("a"), "what a left, b saw and did not replace");
    assert!(Exchange::new().state.values.is_empty());
}

#[test]
fn r15_what_breaks_framing_is_refused_and_changes_nothing() {
    plugin!(
        Breaker,
        Needs::NOTHING,
        |x| {
            let rows: &[(&[u8], &[u8], HostError)] = &[
                (b"x-a", b"a\r\nb: c", HostError::Invalid),
                (b"x-a", b"a\nb", HostError::Invalid),
                (b"x-a", b"a\0", HostError::Invalid),
                (b"x a", b"1", HostError::Invalid),
                (b"", b"1", HostError::Invalid),
                (b"x-a:", b"1", HostError::Invalid),
                (b"Content-Length", b"1", HostError::Denied),
                (b"content_length", b"1", HostError::Denied),
                (b"Transfer-Encoding", b"chunked", HostError::Denied),
                (b"Connection", b"close", HostError::Denied),
                (b"Keep-Alive", b"1", HostError::Denied),
                (b"Upgrade", b"h2c", HostError::Denied),
                (b"TE", b"trailers", HostError::Denied),
                (b"Host", b"elsewhere", HostError::Denied),
                (b"x-long", &[b'a'; 16 * 1024], HostError::Limit),
            ];
            for &(name, value, refused) in rows {
                let text = name.escape_ascii().to_string();
                assert_eq!(x.set_field(name, value), Err(refused), "set {text}");
                assert_eq!(x.add_field(name, value), Err(refused), "add {text}");
                if refused != HostError::Limit && name != b"x-a" {
                    assert_eq!(x.remove_field(name), Err(refused), "remove {text}");
                }
            }
            let attrs: &[(&[u8], HostError)] = &[
                (b"GET /x HTTP/1.1\r\nX: y", HostError::Invalid),
                (b"", HostError::Invalid),
                (b"CONNECT", HostError::Denied),
                (b"TRACE", HostError::Denied),
                (b"HEAD", HostError::Denied),
            ];
            for &(method, refused) in attrs {
                assert_eq!(x.set_method(method), Err(refused));
            }
            for target in ["", "*", "relative", "http://a/", "/a b", "/a\r\nHost: b", "/#f"] {
                assert_eq!(x.set_target(target), Err(HostError::Invalid), "{target:?}");
            }
            for authority in ["", "a b", "a,b", "u@a", "a/", "a\r\nX: y"] {
                assert_eq!(x.set_authority(authority), Err(HostError::Invalid), "{authority:?}");
            }
            assert_eq!(x.set_target(format!("/{}", "a".repeat(16 * 1024))), Err(HostError::Limit));
            for status in [0, 99, 101, 199, 600, 65535] {
                assert_eq!(x.respond(status, &[], "").unwrap_err(), HostError::Invalid, "{status}");
            }
            assert_eq!(x.respond(200, &[("content-length", "5")], "").unwrap_err(), HostError::Denied);
            assert_eq!(x.respond(200, &[("date", "now")], "").unwrap_err(), HostError::Denied);
            assert_eq!(x.respond(200, &[("x", "a\nb")], "").unwrap_err(), HostError::Invalid);
            assert_eq!(x.respond(304, &[], "body").unwrap_err(), HostError::Invalid);
            // Without the flag there is no body, whatever others asked for.
            assert_eq!(x.body(), None);
            assert_eq!(x.set_body("x"), Err(HostError::Unsupported));
            // Up to the limit of lines, and one more.
            let count = x.fields().count();
            for _ in count..256 {
                x.add_field("x-many", "1")?;
            }
            assert_eq!(x.add_field("x-many", "1"), Err(HostError::Limit));
            assert_eq!(x.set_field("x-new", "1"), Err(HostError::Limit));
            x.set_field("x-many", "2")?;
            x.remove_field("x-many")?;
            // Values: 64 keys, 64 KiB.
            assert_eq!(x.set_value("", "x"), Err(HostError::Invalid));
            assert_eq!(x.set_value("big", vec![0; 64 * 1024]), Err(HostError::Limit));
            for key in 0..64 {
                x.set_value(format!("key{key}"), "")?;
            }
            assert_eq!(x.set_value("key64", ""), Err(HostError::Limit));
            x.set_value("key63", "replaced")?;
            assert_eq!(x.value("key62"), Some(&b""[..]), "empty is not absent");
            assert_eq!(x.remove_value("key63"), Ok(true));
            assert_eq!(x.remove_value("key63"), Ok(false));
            assert_eq!(x.value("key63"), None);
            Ok(Verdict::Continue)
        },
        |x| {
            for status in [0, 100, 199, 600, 204, 304] {
                let refused = if matches!(status, 204 | 304) { HostError::Denied } else { HostError::Invalid };
                assert_eq!(x.set_status(status), Err(refused), "{status}");
            }
            assert_eq!(x.set_field("content-length", "1"), Err(HostError::Denied));
            assert_eq!(x.set_field("x-a", "a\r\nb: c"), Err(HostError::Invalid));
            x.set_status(404)?;
            Ok(Verdict::Continue)
        }
    );
    static BREAKER: Descriptor = descriptor::<Breaker>("1");
    let (chain, lines) = chain(&[(&BREAKER, "")]);
    let mut x = Exchange::new();
    assert_eq!(word(&x.on_request(&chain)), "continue", "{:?}", lines.all());
    assert_eq!(word(&x.on_response(&chain)), "continue", "{:?}", lines.all());
    assert_eq!(x.request.method, Method::Get);
    assert_eq!(x.request.target, b"/users?id=1");
    assert_eq!(x.request.authority, b"upstream.example");
    assert_eq!(x.request.fields.iter().map(|line| line.name).collect::<Vec<_>>(), [b"Accept"]);
    assert_eq!(x.response.fields.len(), 1);
    assert_eq!((x.response.status, x.response.reason.as_slice()), (404, b"Not Found".as_slice()));
}

#[cfg(feature = "dlopen")]
#[test]
fn r15_careless_arguments_are_refused() {
    let Some(path) = common::build_c("nulls.c", &common::folder("r15").join("nulls.so"), &[]) else { return };
    let lines = Lines::new();
    let mut chain = Chain::new(LIMITS, lines.logger());
    common::push_file(&mut chain, &path, "", lines.logger());
    let mut x = Exchange::new();
    assert_eq!(word(&x.on_request(&chain)), "continue", "{:?}", lines.all());
    x.on_done(&chain);
    assert!(!lines.has("nulls", "line "), "{:?}", lines.all());
}

#[test]
fn r15_attributes_are_read_and_written() {
    plugin!(
        Attributes,
        Needs::NOTHING,
        |x| {
            assert_eq!(x.method(), b"GET");
            assert_eq!((x.target(), x.path(), x.query()), (&b"/users?id=1"[..], &b"/users"[..], Some(&b"id=1"[..])));
            assert_eq!(x.authority(), b"upstream.example");
            assert_eq!(x.original_target(), b"/fitness/users?id=1");
            assert_eq!(x.route_prefix(), b"/fitness");
            assert_eq!(x.upstream(), b"upstream.example");
            let address = x.client_addr().unwrap_or("none").to_owned();
            x.set_field("x-client", address)?;
            x.set_method("PATCH")?;
            x.set_target("/other")?;
            x.set_authority("a.example:")?;
            assert_eq!(x.authority(), b"a.example", "an empty port is none");
            x.set_authority("[::1]:8080")?;
            assert_eq!((x.method(), x.path(), x.query()), (&b"PATCH"[..], &b"/other"[..], None));
            Ok(Verdict::Continue)
        },
        |x| {
            assert_eq!(x.request().method(), b"PATCH");
            assert_eq!(x.status(), 200);
            x.set_status(201)?;
            assert_eq!(x.status(), 201);
            Ok(Verdict::Continue)
        }
    );
    static ATTRIBUTES: Descriptor = descriptor::<Attributes>("1");
    let (chain, lines) = chain(&[(&ATTRIBUTES, "")]);
    let rows = [
        (Some("192.0.2.7:1"), "192.0.2.7"),
        (Some("[2001:db8::1]:1"), "2001:db8::1"),
        (Some("[::ffff:192.0.2.7]:1"), "192.0.2.7"),
        (Some("[1111:2222:3333:4444:5555:6666:7777:8888]:1"), "1111:2222:3333:4444:5555:6666:7777:8888"),
        (None, "none"),
    ];
    for (client, expected) in rows {
        let mut x = Exchange::new();
        x.log.client = client.map(|client| client.parse().unwrap());
        assert_eq!(word(&x.on_request(&chain)), "continue", "{:?}", lines.all());
        assert_eq!(word(&x.on_response(&chain)), "continue", "{:?}", lines.all());
        assert_eq!(x.request_field("x-client").as_deref(), Some(expected));
        assert_eq!((x.request.target.as_slice(), x.request.authority.as_slice()), (&b"/other"[..], &b"[::1]:8080"[..]));
        assert_eq!((x.request.method.as_bytes(), x.response.status), (&b"PATCH"[..], 201));
    }
}

#[test]
fn r16_field_operations_behave_like_a_list_of_pairs() {
    const NAMES: [&str; 6] = ["X-A", "x-a", "X-B", "x-b", "Cookie", "cookie"];
    plugin!(
        Model,
        Needs::NOTHING,
        |x| {
            let mut random = 0x9e37_79b9_7f4a_7c15_u64;
            let mut below = |bound: usize| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                (random % bound as u64) as usize
            };
            let mut model: Vec<(Vec<u8>, Vec<u8>)> = x.fields().map(|(n, v)| (n.to_vec(), v.to_vec())).collect();
            for _ in 0..if cfg!(miri) { 60 } else { 20_000 } {
                let name = NAMES[below(NAMES.len())];
                let value = vec![b'a' + below(26) as u8; below(20)];
                let is_same = |pair: &(Vec<u8>, Vec<u8>)| pair.0.eq_ignore_ascii_case(name.as_bytes());
                match below(8) {
                    0..3 if model.len() < 100 => {
                        x.add_field(name, &value)?;
                        model.push((name.into(), value));
                    }
                    0..5 => {
                        x.set_field(name, &value)?;
                        match model.iter().position(is_same) {
                            None => model.push((name.into(), value)),
                            Some(first) => {
                                model[first].1 = value;
                                let mut rest = model.split_off(first + 1);
                                rest.retain(|pair| !is_same(pair));
                                model.append(&mut rest);
                            }
                        }
                    }
                    5 => {
                        let had = model.iter().any(is_same);
                        model.retain(|pair| !is_same(pair));
                        assert_eq!(x.remove_field(name)?, had);
                    }
                    _ => {
                        let nth = below(4);
                        let expected = model.iter().filter(|pair| is_same(pair)).nth(nth).map(|pair| pair.1.as_slice());
                        assert_eq!(x.nth_field(name, nth), expected);
                    }
                }
                assert!(x.fields().eq(model.iter().map(|(name, value)| (name.as_slice(), value.as_slice()))));
            }
            Ok(Verdict::Continue)
        },
        |_| Ok(Verdict::Continue)
    );
    static MODEL: Descriptor = descriptor::<Model>("1");
    let (chain, lines) = chain(&[(&MODEL, "")]);
    assert_eq!(word(&Exchange::new().on_request(&chain)), "continue", "{:?}", lines.all());
    // The host for unit tests gives the same answers.
    let instance = mini_rproxy_plugin::testing::Instance::<Model>::new("").unwrap();
    let mut x = mini_rproxy_plugin::testing::Exchange::get("/");
    assert_eq!(x.request(&instance).status(), None, "{:?}", instance.log());
}

#[test]
fn r19_four_threads_share_one_instance() {
    const EACH: usize = if cfg!(miri) { 5 } else { 10_000 };
    struct Counter(AtomicUsize);
    impl Plugin for Counter {
        const NAME: &'static str = "counter";
        fn create(_: &Setup, _: &[u8]) -> Result<Self, Error> {
            Ok(Counter(AtomicUsize::new(0)))
        }
        fn on_request(&self, x: &mut RequestPhase<'_>) -> Result<Verdict, Error> {
            let count = self.0.fetch_add(1, Ordering::Relaxed) + 1;
            x.set_field("x-count", count.to_string())?;
            Ok(Verdict::Continue)
        }
    }
    static COUNTER: Descriptor = descriptor::<Counter>("1");
    let (chain, _) = chain(&[(&COUNTER, "")]);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..EACH {
                    assert_eq!(word(&Exchange::new().on_request(&chain)), "continue");
                }
            });
        }
    });
    let mut x = Exchange::new();
    assert_eq!(word(&x.on_request(&chain)), "continue");
    assert_eq!(x.request_field("x-count").as_deref(), Some((4 * EACH + 1).to_string().as_str()));
}

#[test]
fn r23_bodies_are_there_when_asked_for() {
    plugin!(
        Bodies,
        Needs::REQUEST_BODY.and(Needs::RESPONSE_BODY),
        |x| {
            let Some(body) = x.body() else { return Ok(Verdict::Continue) };
            let upper = body.to_ascii_uppercase();
            x.set_body(upper)?;
            assert_eq!(x.set_body(vec![0; 1025]), Err(HostError::Limit));
            Ok(Verdict::Continue)
        },
        |x| {
            match x.body().map(<[u8]>::to_ascii_uppercase) {
                Some(upper) => x.set_body(upper)?,
                None => assert_eq!(x.set_body("x"), Err(HostError::NotFound), "HEAD, 204, 304"),
            }
            Ok(Verdict::Continue)
        }
    );
    static BODIES: Descriptor = descriptor::<Bodies>("1");
    let (with, lines) = chain(&[(&BODIES, ""), (&FAULTY, "")]);
    let mut x = Exchange::new();
    assert_eq!(word(&x.on_request(&with)), "await body", "{:?}", lines.all());
    x.request_body = Some(b"hello".to_vec());
    x.response_body = Some(b"world".to_vec());
    assert_eq!(word(&x.on_request(&with)), "continue", "{:?}", lines.all());
    assert_eq!(word(&x.on_response(&with)), "continue", "{:?}", lines.all());
    assert_eq!((x.request_body.as_deref(), x.response_body.as_deref()), (Some(&b"HELLO"[..]), Some(&b"WORLD"[..])));
    let mut x = Exchange::new();
    x.response = ResponseHead { status: 204, ..ResponseHead::default() };
    assert_eq!(word(&x.on_response(&with)), "continue", "{:?}", lines.all());
}

fn note(x: &mut RequestPhase<'_>, word: &str) -> Result<Verdict, Error> {
    x.add_field("x-steps", word)?;
    Ok(Verdict::Continue)
}

/// Asks for bodies at the head, and tells what it gets.
struct Asker;

impl Plugin for Asker {
    const NAME: &'static str = "asker";
    fn create(_: &Setup, _: &[u8]) -> Result<Self, Error> {
        Ok(Asker)
    }
    fn on_request(&self, x: &mut RequestPhase<'_>) -> Result<Verdict, Error> {
        x.want_body(Side::Request, Oversize::Refuse)?;
        x.want_body(Side::Response, Oversize::Skip)?;
        assert_eq!(x.body(), None, "it is not there yet");
        assert_eq!(x.set_body("x"), Err(HostError::WrongPhase));
        note(x, "head")
    }
    fn on_request_body(&self, x: &mut RequestPhase<'_>) -> Result<Verdict, Error> {
        let body = String::from_utf8_lossy(x.body().unwrap_or(b"none")).into_owned();
        x.set_body(body.to_uppercase())?;
        note(x, &body)
    }
    fn on_response(&self, x: &mut ResponsePhase<'_>) -> Result<Verdict, Error> {
        assert_eq!(x.body(), None, "it is not there yet, whoever else has asked");
        x.set_field("x-head", "seen")?;
        Ok(Verdict::Continue)
    }
    fn on_response_body(&self, x: &mut ResponsePhase<'_>) -> Result<Verdict, Error> {
        let what = if x.body_is_too_large() { b"too large" } else { x.body().unwrap_or(b"none") }.to_vec();
        x.set_field("x-body", what)?;
        Ok(Verdict::Continue)
    }
}

/// Pauses each request, and leaves the pause where the test finds it.
struct Pauser;

static PAUSES: Mutex<Vec<RequestPause>> = Mutex::new(Vec::new());

impl Plugin for Pauser {
    const NAME: &'static str = "pauser";
    fn create(_: &Setup, _: &[u8]) -> Result<Self, Error> {
        Ok(Pauser)
    }
    fn on_request(&self, x: &mut RequestPhase<'_>) -> Result<Verdict, Error> {
        let pause = x.pause()?;
        let verdict = pause.verdict();
        PAUSES.lock().unwrap().push(pause);
        note(x, "pause").map(|_| verdict)
    }
    fn on_done(&self, x: &DonePhase<'_>) {
        x.log(Level::Info, "done");
    }
}

static ASKER: Descriptor = descriptor::<Asker>("1");
static PAUSER: Descriptor = descriptor::<Pauser>("1");

#[test]
fn a_chain_stops_for_bodies_and_pauses_and_goes_on_where_it_stopped() {
    plugin!(Last, Needs::NOTHING, |x| note(x, "last"), |_| Ok(Verdict::Continue));
    static LAST: Descriptor = descriptor::<Last>("1");
    let (chain, lines) = chain(&[(&ASKER, ""), (&PAUSER, ""), (&LAST, "")]);
    let steps = |x: &Exchange| -> Vec<String> {
        let all = x.request.fields.iter().filter(|line| line.name == b"x-steps");
        all.map(|line| String::from_utf8_lossy(line.value).into_owned()).collect()
    };
    for is_failure in [false, true] {
        let mut x = Exchange::new();
        assert_eq!(word(&x.on_request(&chain)), "await body", "{:?}", lines.all());
        assert_eq!(steps(&x), ["head"]);
        x.request_body = Some(b"hello".to_vec());
        let Decided::Pause(ticket) = x.on_request(&chain) else { panic!("{:?}", lines.all()) };
        assert_eq!((steps(&x), ticket.resumed()), (vec!["head".into(), "hello".into(), "pause".into()], None));
        let pause = PAUSES.lock().unwrap().pop().expect("it has paused");
        if is_failure {
            drop(pause);
        } else {
            assert!(pause.resume(|x| note(x, "resumed")));
        }
        assert_eq!(ticket.resumed(), Some(!is_failure));
        x.state.resume(!is_failure);
        assert_eq!(word(&x.on_request(&chain)), if is_failure { "fail" } else { "continue" }, "{:?}", lines.all());
        assert_eq!(steps(&x).len(), if is_failure { 3 } else { 5 });
        assert_eq!(x.request_body.as_deref(), Some(&b"HELLO"[..]));
        if is_failure {
            continue;
        }
        assert_eq!(steps(&x)[3..], ["resumed", "last"]);
        x.response_body = Some(b"world".to_vec());
        assert_eq!(word(&x.on_response(&chain)), "continue", "{:?}", lines.all());
        let fields = ["x-head", "x-body"].map(|name| x.response_field(name));
        assert_eq!(fields, [Some("seen".to_owned()), Some("world".to_owned())]);
    }
}

#[test]
fn slow_hooks_are_counted_and_reported() {
    plugin!(
        Slow,
        Needs::NOTHING,
        |_| {
            std::thread::sleep(Duration::from_millis(6));
            Ok(Verdict::Continue)
        },
        |_| Ok(Verdict::Continue)
    );
    static SLOW: Descriptor = descriptor::<Slow>("1");
    let (chain, lines) = chain(&[(&SLOW, "")]);
    for _ in 0..3 {
        assert_eq!(word(&Exchange::new().on_request(&chain)), "continue");
    }
    let warnings = lines.of("Slow").iter().filter(|text| text.contains("on_request took")).count();
    assert_eq!(warnings, 2, "the first and the second, but not the third");
}

#[test]
fn what_each_plugin_did_is_told_to_whoever_counts() {
    plugin!(Steady, Needs::NOTHING, |_| Ok(Verdict::Continue), |_| Ok(Verdict::Continue));
    plugin!(
        Careless,
        Needs::NOTHING,
        |_| {
            std::thread::sleep(Duration::from_millis(2));
            Ok(Verdict::Continue)
        },
        |_| panic!("on purpose")
    );
    static STEADY: Descriptor = descriptor::<Steady>("1");
    static CARELESS: Descriptor = descriptor::<Careless>("1");
    let (chain, _) = chain(&[(&STEADY, ""), (&CARELESS, ""), (&STEADY, "")]);
    let mut x = Exchange::new();
    assert_eq!(word(&x.on_request(&chain)), "continue");
    assert_eq!(word(&x.on_response(&chain)), "fail");
    x.on_done(&chain);
    let did: Vec<_> = x.state.timings.iter().map(|stint| (stint.plugin, stint.faults)).collect();
    assert_eq!(did, [("Steady", 0), ("Careless", 1), ("Steady", 0)]);
    assert!(x.state.timings[1].time >= Duration::from_millis(2), "it slept so long");
}

#[test]
fn the_end_is_read_only_and_knows_whether_there_was_a_response() {
    struct Ends;
    impl Plugin for Ends {
        const NAME: &'static str = "ends";
        fn create(_: &Setup, _: &[u8]) -> Result<Self, Error> {
            Ok(Ends)
        }
        fn on_request(&self, x: &mut RequestPhase<'_>) -> Result<Verdict, Error> {
            x.set_value("ends.seen", "yes")?;
            Ok(Verdict::Continue)
        }
        fn on_done(&self, x: &DonePhase<'_>) {
            assert_eq!(x.value("ends.seen"), Some(&b"yes"[..]));
            assert_eq!(x.request().path(), b"/users");
            assert_eq!(x.response().map(|response| response.status()), Some(200));
        }
    }
    static ENDS: Descriptor = descriptor::<Ends>("1");
    let (chain, lines) = chain(&[(&ENDS, "")]);
    let mut x = Exchange::new();
    assert_eq!(word(&x.on_request(&chain)), "continue");
    x.on_done(&chain);
    assert!(!lines.has("ends", "panicked"), "{:?}", lines.all());
}

#[test]
fn limits_are_those_of_the_host() {
    plugin!(
        Grows,
        Needs::NOTHING,
        |x| {
            while x.add_field("x-grow", "0123456789").is_ok() {}
            Ok(Verdict::Continue)
        },
        |_| Ok(Verdict::Continue)
    );
    static GROWS: Descriptor = descriptor::<Grows>("1");
    let logger = Lines::new().logger();
    let mut chain = Chain::new(Limits { head_bytes: 200, field_lines: 100, body_bytes: 0 }, logger.clone());
    common::push_linked_in(&mut chain, &GROWS, "", &logger);
    let mut x = Exchange::new();
    assert_eq!(word(&x.on_request(&chain)), "continue");
    // GET /users?id=1 HTTP/1.1, Host: upstream.example and Accept: */* take 26 + 24 + 13 bytes, each line 20.
    assert_eq!(x.request.fields.len(), 1 + (200 - 26 - 24 - 13) / 20);
}

#[test]
fn an_answer_has_the_limit_of_bodies() {
    plugin!(
        ListenerProtocol,
        Needs::NOTHING,
        |x| {
            assert_eq!(x.respond(200, &[], [b'x'; 1025]).unwrap_err(), HostError::Limit);
            Ok(x.respond(200, &[], [b'x'; 1024])?)
        },
        |x| {
            assert_eq!(x.respond(200, &[], [b'x'; 1025]).unwrap_err(), HostError::Limit);
            Ok(x.respond(200, &[], [b'x'; 1024])?)
        }
    );
    static SPEAKS: Descriptor = descriptor::<ListenerProtocol>("1");
    let (chain, _) = chain(&[(&SPEAKS, "")]);
    let mut x = Exchange::new();
    assert_eq!(word(&x.on_request(&chain)), "respond 200");
    assert_eq!(word(&x.on_response(&chain)), "respond 200");
}

/// Under valgrind or a sanitizer this shows leaks and stray accesses; by itself, that nothing wears out.
#[cfg(feature = "dlopen")]
#[test]
fn r20_ten_thousand_requests_through_rust_and_c() {
    let Some((mut chain, lines)) = letters("r20", &["a"]) else { return };
    let header_demo = common::build_rust("mini-rproxy-header-demo", "header_demo");
    common::push_file(&mut chain, &header_demo, "", lines.logger());
    common::push_linked_in(&mut chain, &FAULTY, "on_done:error", &lines.logger());
    let mut x = Exchange::new();
    for round in 0..10_000 {
        x.request.fields.clear();
        x.response.fields.clear();
        x.state = ChainState::default();
        assert_eq!(word(&x.on_request(&chain)), "continue");
        assert_eq!(word(&x.on_response(&chain)), "continue");
        // Each end of these is a panic, contained: a few are enough.
        x.state.started = if round < 100 { 3 } else { 2 };
        x.on_done(&chain);
    }
    assert_eq!(x.response_field("x-demo-response").as_deref(), Some("true"));
}

#[cfg(all(feature = "dlopen", feature = "builtin-plugins"))]
#[test]
fn r21_a_shared_object_and_a_linked_in_plugin_do_the_same() {
    let transcript = |push: &dyn Fn(&mut Chain, mini_rproxy::log::Logger)| {
        let logger = Lines::new().logger();
        let mut chain = Chain::new(LIMITS, logger.clone());
        push(&mut chain, logger);
        let mut x = Exchange::new();
        let (request, response) = (word(&x.on_request(&chain)), word(&x.on_response(&chain)));
        let (mut sent, mut received) = (Vec::new(), Vec::new());
        x.request.fields.write(&mut sent);
        x.response.fields.write(&mut received);
        (request, response, sent, received, x.state.values)
    };
    let rate = "{\"per_second\": 1, \"burst\": 1}";
    let json = "{\"remove\": [\"/a\"]}";
    for (name, config) in [("header_demo", "x"), ("rate_limit", rate), ("json_rewrite", json)] {
        let path = common::build_rust(&format!("mini-rproxy-{}", name.replace('_', "-")), name);
        let loaded = transcript(&|chain, logger| common::push_file(chain, &path, config, logger));
        let linked = transcript(&|chain, logger| {
            let descriptor = mini_rproxy::plugin::builtin::find(name).unwrap();
            common::push_linked_in(chain, descriptor, config, &logger);
        });
        assert_eq!(loaded, linked, "{name}");
    }
}
