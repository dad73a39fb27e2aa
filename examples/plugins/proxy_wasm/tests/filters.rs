//! The filters of `filters/`: written in Rust on the SDK of the Proxy-Wasm project (and one in AssemblyScript), compiled to
//! WebAssembly, and run here. `filters/build.sh` makes them.

mod support;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mini_rproxy_plugin::testing::{Exchange, Outcome};
use support::Wasm;

fn filter(name: &str, config: &str) -> Wasm {
    let path = format!("{}/filters/{name}.wasm", env!("CARGO_MANIFEST_DIR"));
    Wasm::try_new(&std::fs::read(path).unwrap(), config).unwrap()
}

#[test]
fn headers_are_set_removed_and_renamed() {
    let rules = r#""config": "request set x-team blue\nrequest remove cookie\nresponse rename server x-served-by\nresponse set x-a 1","#;
    let wasm = filter("headers", rules);
    let mut x = Exchange::get("/").field("Cookie", "a=b");
    assert_eq!(wasm.request(&mut x), Outcome::Continue, "{:?}", wasm.log());
    assert_eq!((x.request_field("x-team"), x.request_field("cookie")), (Some("blue"), None));
    x.upstream_answers(200, &[("Server", "s")], "");
    assert_eq!(wasm.response(&mut x), Outcome::Continue);
    let fields = ["server", "x-served-by", "x-a"].map(|name| x.response_field(name));
    assert_eq!(fields, [None, Some("s"), Some("1")]);
    wasm.done(&mut x);
    assert!(wasm.errors().is_empty());
}

#[test]
fn a_configuration_that_a_filter_refuses_is_told_with_its_own_words() {
    let path = format!("{}/filters/deny.wasm", env!("CARGO_MANIFEST_DIR"));
    let error = Wasm::try_new(&std::fs::read(path).unwrap(), r#""config": "refuse /x","#).err().expect("refused");
    assert!(error.contains("no rule: refuse /x") && error.contains("proxy_on_configure returned false"), "{error}");
}

#[test]
fn paths_are_denied_and_redirected() {
    let wasm = filter("deny", r#""config": "deny /private\nredirect /old /new","#);
    assert_eq!(wasm.request(&mut Exchange::get("/public")), Outcome::Continue);
    assert_eq!(wasm.request(&mut Exchange::get("/private/x")).status(), Some(403));
    let moved = wasm.request(&mut Exchange::get("/old/a?b"));
    assert_eq!((moved.status(), moved.field("location")), (Some(302), Some("/new/a?b")));
}

/// What the filter `token` takes for a good token.
fn token(key: &str, expiry: u64) -> String {
    let expiry = format!("{expiry:x}");
    let fnv = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let signature = key.bytes().chain(expiry.bytes()).fold(0xcbf2_9ce4_8422_2325, fnv);
    format!("Bearer {expiry}.{signature:x}")
}

#[test]
fn tokens_are_checked() {
    let wasm = filter("token", r#""config": "key secret","#);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let (later, before) = ((now + Duration::from_secs(3600)).as_secs(), now.as_secs() - 3600);
    let mut good = Exchange::get("/").field("Authorization", token("secret", later));
    assert_eq!(wasm.request(&mut good), Outcome::Continue);
    assert_eq!(good.request_field("authorization"), None);
    assert_eq!(good.request_field("x-token-expires"), Some(later.to_string().as_str()));
    for bad in [token("other", later), token("secret", before), "Bearer".to_owned(), String::new()] {
        let answer = wasm.request(&mut Exchange::get("/").field("Authorization", &bad));
        assert_eq!((answer.status(), answer.field("www-authenticate")), (Some(401), Some("Bearer")), "{bad}");
    }
}

/// A service that knows two users, and says so on `/verify`.
fn login_service() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let answer = |question: &str| match question.lines().find_map(|line| line.strip_prefix("authorization: ")) {
        Some("Bearer ann") if question.starts_with("GET /verify HTTP/1.1") => "200 OK\r\nX-User: ann",
        Some("Bearer bob") => "403 Forbidden\r\nX-No: 1",
        Some("Bearer broken") => "500 Oh\r\nX-No: 1",
        _ => "401 Who\r\nWWW-Authenticate: Bearer realm=a",
    };
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let (mut question, mut buf) = (Vec::new(), [0; 1024]);
            while !question.ends_with(b"\r\n\r\n") {
                let len = stream.read(&mut buf).unwrap();
                question.extend_from_slice(&buf[..len]);
            }
            let answer = answer(std::str::from_utf8(&question).unwrap());
            write!(stream, "HTTP/1.1 {answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
        }
    });
    address
}

#[test]
fn a_service_is_asked_who_may_pass() {
    let clusters = format!("\"clusters\": {{\"auth\": \"http://{}\"}},", login_service());
    let wasm = filter("auth", &format!("\"config\": \"cluster auth\\npath /verify\", {clusters}"));
    for (token, status) in [("ann", None), ("bob", Some(403)), ("eve", Some(401)), ("broken", Some(503)), ("ann", None)]
    {
        let mut x = Exchange::get("/").field("Authorization", format!("Bearer {token}")).field("X-User", "forged");
        assert_eq!(wasm.request(&mut x), Outcome::Pause, "{:?}", wasm.log());
        let outcome = wasm.resumed(&mut x);
        assert_eq!(outcome.status(), status, "{token}: {:?}", wasm.log());
        assert_eq!(outcome.field("www-authenticate"), (status == Some(401)).then_some("Bearer realm=a"));
        assert_eq!(x.request_field("x-user"), (token == "ann").then_some("ann"));
        wasm.done(&mut x);
    }
    // A cluster that is not there.
    let other = filter("auth", &format!("\"config\": \"cluster other\\npath /verify\", {clusters}"));
    assert_eq!(other.request(&mut Exchange::get("/")).status(), Some(503));
}

#[test]
fn signatures_and_claims_of_jwt_are_checked() {
    let wasm = filter("jwt", r#""config": "secret 0123456789abcdef0123456789abcdef\nissuer https://issuer.example","#);
    // Signed elsewhere. HS256 of sub ann that expires in the year 2100; then, with one change each and, but for the first
    // two, with a good signature: another secret, a changed claim, expired, another issuer, not valid yet, without exp, "none".
    let good = "eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjQxMDI0NDQ4MDAsImlzcyI6Imh0dHBzOi8vaXNzdWVyLmV4YW1wbGUiLCJzdWIiOiJhbm4ifQ.yZAPFHLWbfFE_ju7UemzFD1P_rNEUjiyNdDoef8qczI";
    let bad = [
        "eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjQxMDI0NDQ4MDAsImlzcyI6Imh0dHBzOi8vaXNzdWVyLmV4YW1wbGUiLCJzdWIiOiJhbm4ifQ.xaRE6IXY1_12dCDvy2WCm3yVS2Q_NJmSTYhXebigx-0",
        "eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjQxMDI0NDQ4MDAsImlzcyI6Imh0dHBzOi8vaXNzdWVyLmV4YW1wbGUiLCJzdWIiOiJib2IifQ.yZAPFHLWbfFE_ju7UemzFD1P_rNEUjiyNdDoef8qczI",
        "eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjEwMDAwMDAwMDAsImlzcyI6Imh0dHBzOi8vaXNzdWVyLmV4YW1wbGUifQ.2haLS7Xf8rLmm8lkwT7onSdTwjVV1Q_4als2QPOoRak",
        "eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjQxMDI0NDQ4MDAsImlzcyI6Imh0dHBzOi8vb3RoZXIuZXhhbXBsZSJ9.JWTddGlyj4md2l8v_Ukt1adMq9tF7biPfxc-pk7WZmA",
        "eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjQxMDI0NDQ4MDAsIm5iZiI6NDEwMjQ0NDAwMCwiaXNzIjoiaHR0cHM6Ly9pc3N1ZXIuZXhhbXBsZSJ9.O873glcXu_m-a_B5NtRlYifandMJDBSp62zjSV5inGw",
        "eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIn0.iJ2LYITS-4-fekoHE021F-1RDf2deN1ACBdo355NrRo",
        "eyJhbGciOiJub25lIn0.eyJleHAiOjQxMDI0NDQ4MDAsImlzcyI6Imh0dHBzOi8vaXNzdWVyLmV4YW1wbGUiLCJzdWIiOiJhbm4ifQ._zTER4Mu3OfcrqJvoYubAuYgDmzQJueGeNXxeL2ebzM",
    ];
    let mut x = Exchange::get("/").field("Authorization", format!("bearer {good}")).field("X-JWT-Sub", "forged");
    assert_eq!(wasm.request(&mut x), Outcome::Continue, "{:?}", wasm.log());
    assert_eq!(x.request_field("x-jwt-sub"), Some("ann"));
    let unsigned = good.rsplit_once('.').unwrap().0;
    let others = [format!("{unsigned}."), unsigned.to_owned(), format!("{good}A"), String::new(), "a.b.c".to_owned()];
    for bad in bad.into_iter().chain(others.iter().map(String::as_str)) {
        let answer = wasm.request(&mut Exchange::get("/").field("Authorization", format!("Bearer {bad}")));
        assert_eq!(answer.status(), Some(401), "{bad}");
        assert!(answer.field("www-authenticate").is_some_and(|value| value.starts_with("Bearer")));
    }
    let basic = wasm.request(&mut Exchange::get("/").field("Authorization", format!("Basic {good}")));
    assert_eq!(basic.status(), Some(401));
    let log = wasm.log().join("\n");
    for why in
        ["another signature", "expired", "another issuer", "not valid yet", "claims without", "another algorithm"]
    {
        assert!(log.contains(&format!("refused: {why}")), "{why}: {log}");
    }
    assert!(wasm.errors().is_empty());
}

#[test]
fn clients_are_counted_by_all_threads_together() {
    // A minute may end in between: then there is room for one limit more.
    let wasm = filter("rate", r#""config": "limit 20", "vm_id": "rate-test","#);
    let from = |client: &'static str| wasm.request(&mut Exchange::get("/").client(Some(client))).status();
    let admitted = std::thread::scope(|scope| {
        let count = || (0..40).filter(|_| from("192.0.2.7").is_none()).count();
        let threads = [scope.spawn(count), scope.spawn(count)];
        threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
    });
    assert!(admitted == 20 || admitted == 40, "{admitted}");
    assert_eq!(from("192.0.2.8"), None);
    assert!(wasm.errors().is_empty(), "{:?}", wasm.errors());
}

#[test]
fn a_filter_in_assemblyscript() {
    // On the SDK of solo.io, which picks the filter by its root id and traps by `abort`.
    let wasm = filter("add", r#""config": "hello", "root_id": "add","#);
    for _ in 0..3 {
        let mut x = Exchange::get("/");
        wasm.request(&mut x);
        x.upstream_answers(200, &[], "");
        assert_eq!(wasm.response(&mut x), Outcome::Continue, "{:?}", wasm.log());
        assert_eq!(x.response_field("x-as"), Some("hello"));
        wasm.done(&mut x);
    }
    assert!(wasm.errors().is_empty());
}

#[test]
fn a_text_is_put_into_pages() {
    let wasm = filter("inject", r#""config": "<b>new</b>", "bodies": ["response"],"#);
    let mut x = Exchange::get("/").field("Accept-Encoding", "gzip");
    wasm.request(&mut x);
    assert_eq!(x.request_field("accept-encoding"), None);
    x.upstream_answers(200, &[("Content-Type", "text/html")], "<body>old</body></html>");
    assert_eq!(wasm.response(&mut x), Outcome::Continue, "{:?}", wasm.log());
    assert_eq!(x.response_body(), b"<body>old<b>new</b></body></html>");
    x.upstream_answers(200, &[("Content-Type", "text/plain")], "</body>");
    wasm.response(&mut x);
    assert_eq!(x.response_body(), b"</body>");
}
