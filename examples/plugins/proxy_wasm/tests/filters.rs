//! The filters of `filters/`: written in Rust on the SDK of the Proxy-Wasm project (and one in AssemblyScript), compiled to
//! WebAssembly, and run here. `filters/build.sh` makes them.

mod support;

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
