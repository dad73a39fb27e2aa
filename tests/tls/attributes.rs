//! What a plugin sees of connections, requests and their outcome.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use mini_rproxy_plugin::abi;
use tempfile::TempDir;

use crate::certificates::Authority;
use crate::ends::{address_of, connect, dial};
use crate::support::programs::c_plugin;
use crate::support::{Origin, Peer, Proxy, refusing_address, value};

/// The attributes of one exchange in one hook, by number.
type Attributes = BTreeMap<u32, String>;

/// What the plugin told of the request for `path`.
fn told(proxy: &Proxy, hook: &str, path: &str) -> Attributes {
    let wanted = format!("msg=\"{hook} ");
    let is_it = |line: &str| line.contains(&wanted) && value(line, "path") == Some(path);
    let line = proxy.log.wait_for("a line of the plugin", is_it);
    assert_eq!(value(&line, "plugin"), Some("sees"), "{line}");
    let text = line.split(&wanted).nth(1).and_then(|rest| rest.split('"').next()).expect("a message");
    text.split(' ')
        .filter_map(|word| word.split_once('='))
        .map(|(n, v)| (n.parse().expect("a number"), v.into()))
        .collect()
}

fn assert_has(found: &Attributes, expected: &[(u32, &str)], absent: &[u32]) {
    for (attr, value) in expected {
        assert_eq!(found.get(attr).map(String::as_str), Some(*value), "attribute {attr} of {found:?}");
    }
    for attr in absent {
        assert_eq!(found.get(attr), None, "attribute {attr} of {found:?}");
    }
}

#[test]
fn a_plugin_sees_the_connection_the_request_and_the_outcome() {
    let (authority, folder) = (Authority::new(), TempDir::new().expect("a temporary folder"));
    let Some(plugin) = c_plugin("sees", folder.path()) else { return };
    let (pair, socket) = (authority.issue(&["proxy.example"]), folder.path().join("socket"));
    let origin = Origin::start(|mut peer, _| {
        while let Some(request) = peer.request() {
            match request.target() {
                // It is answered when its client is gone.
                "/left" => return drop(peer.rest()),
                _ => peer.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"),
            }
        }
    });
    let (nobody, _held) = refusing_address();
    let yaml = format!(
        "workers: 1\nroutes:\n  - {{prefix: /, upstream: '{url}'}}\n  - {{prefix: /retry, upstreams: ['http://{nobody}', '{url}']}}\n\
         listen_addr: ['127.0.0.1:0', 'unix:{socket}']\ntls: {{listen_addr: 127.0.0.1:0, {tls}}}\n\
         plugins: [{{path: {plugin}, config: {{pair: a b}}}}]\n",
        url = origin.url(),
        socket = socket.display(),
        tls = pair.yaml(),
        plugin = plugin.display(),
    );
    let proxy = Proxy::start(&yaml);
    let plain = address_of(&proxy, "http");
    let absent_before_the_end: Vec<u32> = (abi::FINAL_STATUS..=abi::TICKET).collect();

    // Plain, with a body.
    let mut client = Peer::new(dial(plain));
    let local = client.stream().local_addr().expect("connected");
    client.send("POST /plain?q=1 HTTP/1.1\r\nHost: proxy.example:80\r\nContent-Length: 3\r\n\r\nabc");
    assert_eq!(client.response().text(), "hello");
    let port = local.port().to_string();
    let (local, upstream) = (plain.to_string(), origin.address.to_string());
    let connection = [
        (abi::SCHEME, "http"),
        (abi::PROTOCOL, "HTTP/1.1"),
        (abi::CLIENT_ADDR, "127.0.0.1"),
        (abi::CLIENT_PORT, &*port),
        (abi::LOCAL_ADDR, &*local),
        (abi::CLIENT_HOST, "proxy.example:80"),
        (abi::HAS_REQUEST_BODY, "1"),
        (abi::PLUGIN_NAME, "sees"),
    ];
    let no_tls = [abi::TLS_VERSION, abi::TLS_SERVER_NAME, abi::CAUSE];
    let found = told(&proxy, "request", "/plain");
    assert_has(&found, &connection, &[&no_tls[..], &[abi::HAS_RESPONSE_BODY, abi::RESPONSE_SOURCE]].concat());
    assert_has(&found, &[], &absent_before_the_end);
    let found = told(&proxy, "response", "/plain");
    assert_has(&found, &[(abi::HAS_RESPONSE_BODY, "1"), (abi::RESPONSE_SOURCE, "upstream")], &absent_before_the_end);
    let found = told(&proxy, "done", "/plain");
    assert_has(&found, &connection, &no_tls);
    let outcome = [
        (abi::FINAL_STATUS, "200"),
        (abi::BYTES_IN, "3"),
        (abi::BYTES_OUT, "5"),
        (abi::RETRIES, "0"),
        (abi::UPSTREAM_REUSED, "0"),
        (abi::UPSTREAM_ADDR, &*upstream),
    ];
    assert_has(&found, &outcome, &[abi::TICKET]);
    // The times are those of the line.
    let line = proxy.log.wait_for("the access line", |line| line.contains("path=/plain prefix="));
    let micros = |attr| found[&attr].parse::<f64>().expect("a number");
    let millis = |key| value(&line, key).and_then(|text| text.parse::<f64>().ok()).expect("a number");
    let mut sum = 0.0;
    for (attr, key) in [
        (abi::TIME_HEAD_US, "head_ms"),
        (abi::TIME_CONNECT_US, "connect_ms"),
        (abi::TIME_FIRST_BYTE_US, "first_byte_ms"),
    ] {
        sum += micros(attr);
        assert!((sum / 1e3 - millis(key)).abs() < 0.01, "{key}: {sum} of {found:?} in {line}");
    }
    assert!((micros(abi::TIME_TOTAL_US) / 1e3 - millis("total_ms")).abs() < 0.01, "{found:?} in {line}");
    assert!(line.contains(" seen=\"a b\""), "{line}");

    // The same upstream connection again, by TLS.
    let mut client = connect(address_of(&proxy, "https"), &authority, "proxy.example");
    client.send("GET /tls HTTP/1.1\r\nHost: proxy.example\r\n\r\n");
    assert_eq!(client.response().text(), "hello");
    let expected = [
        (abi::SCHEME, "https"),
        (abi::TLS_VERSION, "TLSv1.3"),
        (abi::TLS_SERVER_NAME, "proxy.example"),
        (abi::HAS_REQUEST_BODY, "0"),
        (abi::UPSTREAM_REUSED, "1"),
        (abi::UPSTREAM_ADDR, &*upstream),
    ];
    assert_has(&told(&proxy, "done", "/tls"), &expected, &[]);

    // HTTP/1.0 on a unix socket, without a Host.
    let mut client = UnixStream::connect(&socket).expect("it listens there");
    client.write_all(b"GET /unix HTTP/1.0\r\n\r\n").expect("is taken");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("text");
    assert!(answer.ends_with("hello"), "{answer}");
    let expected = [(abi::SCHEME, "http"), (abi::PROTOCOL, "HTTP/1.0"), (abi::FINAL_STATUS, "200")];
    let absent = [abi::CLIENT_ADDR, abi::CLIENT_PORT, abi::LOCAL_ADDR, abi::CLIENT_HOST];
    assert_has(&told(&proxy, "done", "/unix"), &expected, &absent);

    // One of two upstreams refuses: whichever is chosen first, the other one is tried in turn.
    let mut client = Peer::new(dial(plain));
    assert_eq!(client.get("/retry/1").text(), "hello");
    assert_eq!(client.get("/retry/2").text(), "hello");
    let found = ["/retry/1", "/retry/2"].map(|path| told(&proxy, "done", path));
    for found in &found {
        assert_has(found, &[(abi::FINAL_STATUS, "200"), (abi::UPSTREAM_ADDR, &upstream)], &[abi::CAUSE]);
    }
    assert!(found.iter().any(|found| found[&abi::RETRIES] == "1"), "{found:?}");

    // A client that leaves.
    let mut client = Peer::new(dial(plain));
    client.send("GET /left HTTP/1.1\r\nHost: test\r\n\r\n");
    told(&proxy, "request", "/left");
    drop(client);
    let expected = [(abi::FINAL_STATUS, "499"), (abi::CAUSE, "client_gone"), (abi::BYTES_OUT, "0")];
    let absent = [abi::STATUS, abi::RESPONSE_SOURCE, abi::TIME_FIRST_BYTE_US];
    assert_has(&told(&proxy, "done", "/left"), &expected, &absent);

    let metrics = Peer::new(dial(plain)).get("/metrics").text().to_owned();
    for line in [
        "# TYPE mini_rproxy_plugin_sees_requests_total counter",
        "mini_rproxy_plugin_sees_requests_total 6",
        "mini_rproxy_plugin_sees_level -12",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    }
}
