//! The files of `examples/recipes` are started as they stand, but for ports and paths, and asked for what
//! docs/recipes.md promises.

#![allow(unused_imports, reason = "the helpers export more than these tests use")]

#[path = "support/mod.rs"]
mod support;

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use support::{Launch, Origin, Peer, Proxy, curl, free_address, is_missing, value, wait_until};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/recipes")
}

/// A file of the folder with other ports and paths. What is to be replaced has to be there, once.
fn recipe(name: &str, replaced: &[(&str, &str)]) -> String {
    let mut text = fs::read_to_string(folder().join(name)).expect("a recipe");
    for (from, to) in replaced {
        assert_eq!(text.matches(from).count(), 1, "{name} has {from:?} not once");
        text = text.replace(from, to);
    }
    text
}

/// A listening address that the system chooses, in the place of the recipe's.
const ANY_8080: (&str, &str) = ("listen_addr: \":8080\"", "listen_addr: 127.0.0.1:0");

fn upstream(origin: &Origin) -> String {
    origin.address.to_string()
}

#[test]
fn the_page_shows_each_file_as_it_is_and_each_has_a_test() {
    let page = include_str!("../docs/recipes.md");
    let mut count = 0;
    for entry in fs::read_dir(folder()).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
        let text = fs::read_to_string(&path).expect("a recipe");
        assert!(page.contains(&format!("\n{text}```\n")), "docs/recipes.md does not show {name} as it is");
        assert!(page.contains(&format!("(../examples/recipes/{name})")), "docs/recipes.md has no link to {name}");
        assert!(include_str!("recipes.rs").contains(&format!("\"{name}\",")), "no test starts {name}");
        count += 1;
    }
    assert!(count > 0, "no recipes");
}

/// The directives of nginx have their keys in the table: each of them is one that the configuration takes.
#[cfg(all(feature = "tls", feature = "dlopen"))]
#[test]
fn what_the_table_of_nginx_names_is_configuration() {
    let page = include_str!("../docs/recipes.md");
    let (_, part) = page.split_once("\n## From nginx").expect("a section");
    let part = part.split("\n## ").next().unwrap_or(part);
    let mut count = 0;
    for row in part.lines().filter(|line| line.starts_with("| `")) {
        let ["", _, ours, _, ""] = row.split('|').collect::<Vec<_>>()[..] else { panic!("not three columns: {row}") };
        for yaml in ours.split('`').skip(1).step_by(2).filter(|code| code.contains(": ")) {
            is_taken(yaml, row);
            count += 1;
        }
    }
    assert!(count > 20, "{count} keys");
}

/// Whether this is a part of a route, or else of the top level.
#[cfg(all(feature = "tls", feature = "dlopen"))]
fn is_taken(yaml: &str, row: &str) {
    use mini_rproxy::config::Config;
    // A whole route, or some keys.
    let yaml = yaml.strip_prefix('{').and_then(|inner| inner.strip_suffix('}')).unwrap_or(yaml);
    let route = if yaml.contains("prefix:") { "" } else { "prefix: /, " };
    let target = if yaml.contains("upstream") || yaml.contains("redirect:") { "" } else { ", upstream: 'http://a'" };
    let in_a_route = format!("routes: [{{{route}{yaml}{target}}}]\n");
    let at_the_top = format!("routes: [{{prefix: /, upstream: 'http://a'}}]\n{yaml}\n");
    let errors = [in_a_route, at_the_top].map(|text| Config::parse(&text, "it").err().map(|error| error.to_string()));
    assert!(errors.iter().any(Option::is_none), "{row}: {errors:?}");
}

#[test]
fn websockets_pass_and_are_refused_where_none_belong() {
    let server = Origin::start(|peer, _| {
        #[expect(clippy::result_large_err, reason = "the library's own type")]
        let check = |request: &tungstenite::handshake::server::Request, response| {
            assert_eq!(request.headers()["Host"], "chat.example.com");
            Ok(response)
        };
        let mut socket = tungstenite::accept_hdr(peer.into_parts().0, check).expect("a handshake");
        let message = socket.read().expect("a message");
        socket.send(message).expect("the echo is taken");
    });
    let files = Origin::echo();
    let proxy = Proxy::start(&recipe(
        "websocket.yaml",
        &[ANY_8080, ("127.0.0.1:9001", &upstream(&server)), ("127.0.0.1:9002", &upstream(&files))],
    ));
    let (stream, _) = proxy.connect().into_parts();
    let (mut socket, _) = tungstenite::client("ws://chat.example.com/room", stream).expect("a handshake");
    socket.send(tungstenite::Message::text("hello")).expect("is taken");
    assert_eq!(socket.read().expect("comes back"), tungstenite::Message::text("hello"));

    let mut client = proxy.connect();
    client.send("GET /files/x HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    let answer = client.response();
    assert!(answer.status() == 200 && !answer.text().contains("Upgrade"), "{answer:?}");
}

#[test]
fn behind_a_balancer_the_client_is_the_one_that_it_names() {
    let origin = Origin::echo();
    let yaml = recipe(
        "load-balancer.yaml",
        &[
            ANY_8080,
            ("\":9090\"", "127.0.0.1:0"),
            ("10.0.0.0/8", "127.0.0.0/8"),
            ("127.0.0.1:9001", &upstream(&origin)),
        ],
    );
    let proxy = Proxy::start(&yaml);
    let mut client = proxy.connect();
    client.send("PROXY TCP4 192.0.2.1 198.51.100.1 4711 443\r\n");
    let seen = client.get("/x");
    assert!(seen.text().contains("X-Forwarded-For: 192.0.2.1\n") && seen.text().contains("Host: test\n"), "{seen:?}");
    // One that says nothing of a client is refused, and the operator's address asks for no header.
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    assert!(client.is_closed());
    proxy.log.wait_for("the cause", |line| value(line, "why") == Some("bad_proxy_header"));
    assert_eq!(Peer::connect(proxy.address_of("admin")).get("/health").status(), 200);
}

#[test]
fn a_router_runs_two_routes_without_a_file() {
    let (camera, home) = (Origin::answering("HTTP/1.1 204 No Content\r\n\r\n"), Origin::echo());
    let script = recipe(
        "openwrt.init",
        &[
            ("-listen :8080", "-listen 127.0.0.1:0"),
            ("192.168.1.10:8123", &upstream(&home)),
            ("192.168.1.11:80", &upstream(&camera)),
            ("/usr/sbin/mini-rproxy", support::proxy::BINARY),
        ],
    );
    let stubs = "procd_open_instance() { :; }; procd_close_instance() { :; }; procd_set_param() { echo \"$*\"; }";
    let output = Command::new("sh").args(["-euc", &format!("{stubs}\n{script}\nstart_service")]).output();
    let said = String::from_utf8(output.expect("sh runs").stdout).expect("text");
    let command = said.lines().find_map(|line| line.strip_prefix("command ")).expect("a command");
    let words: Vec<String> = command.split(' ').map(str::to_owned).collect();
    let proxy = Launch::with("", |_| {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        command
    });
    let proxy = proxy.start();
    proxy.log.wait_for("the budget", |line| value(line, "memory_budget") == Some("2MiB"));
    assert!(proxy.connect().get("/x").text().starts_with("GET /x HTTP/1.1\n"));
    assert_eq!(proxy.connect().get("/cam/x").status(), 204);
}

#[test]
fn prometheus_and_fail2ban_get_what_they_read() {
    let origin = Origin::answering("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n");
    let yaml =
        recipe("metrics.yaml", &[ANY_8080, ("127.0.0.1:9090", "127.0.0.1:0"), ("127.0.0.1:9001", &upstream(&origin))]);
    let proxy = Launch::quiet(&yaml).start();
    assert_eq!(proxy.connect().get("/login").status(), 401);
    // It is counted when it is over, which may be after its answer is here.
    let mut prometheus = Peer::connect(proxy.address_of("admin"));
    let counted = "mini_rproxy_requests_total{route=\"/\",code=\"4xx\"} 1\n";
    wait_until("the request's count", || prometheus.get("/metrics").text().contains(counted));
    assert_eq!(proxy.connect().get("/metrics").status(), 401, "the upstream's own, elsewhere");

    let text = proxy.access("/login");
    let proxy = Proxy::start(&yaml.replace("access: true", "format: combined"));
    assert_eq!(proxy.connect().get("/login").status(), 401);
    let combined = proxy.log.wait_for("the line", |line| line.contains("\"GET /login HTTP/1.1\" 401"));
    if is_missing("python3") {
        return;
    }
    for (line, status) in [(text, "status=401"), (combined, "\" 401 ")] {
        let other = line.replace(status, &status.replace("401", "200"));
        let forged = other.replace("/login", "/\"status=401\"401");
        let ipv6 = line.replace("client=127.0.0.1", "client=[2001:db8::1]").replace("127.0.0.1 -", "2001:db8::1 -");
        // As a trusted proxy tells it.
        let (before, client) = line.split_at(line.find("127.0.0.1").expect("a client"));
        let no_port = format!("{before}127.0.0.1{}", &client[client.find(' ').expect("more")..]);
        for (line, expected) in
            [(&no_port, "127.0.0.1"), (&line, "127.0.0.1"), (&ipv6, "2001:db8::1"), (&other, ""), (&forged, "")]
        {
            assert_eq!(banned(line), [expected; 2], "{line}");
        }
    }
}

/// The address that fail2ban finds in a line: of a file, whose time it cuts out before, and of the journal, which puts two
/// names in front.
fn banned(line: &str) -> [String; 2] {
    const FILTER: &str = r#"
import configparser, re, sys
filter = configparser.ConfigParser()
filter.read_string(sys.argv[1])
fails = filter["Definition"]["failregex"].replace("<ADDR>", "(?P<address>(?:[0-9]{1,3}[.]){3}[0-9]{1,3}|[0-9a-fA-F]*:[0-9a-fA-F:.]*)").strip().split("\n")
line = sys.argv[2]
dated = re.sub(r"\d{4}-\d\d-\d\dT[0-9:.]+Z|\d\d/[A-Z][a-z]{2}/[0-9: +]+", "", line, count=1)
assert dated != line
for form in dated, "host mini-rproxy[1]: " + line:
    print(next((found["address"] for found in (re.search(fail, form) for fail in fails) if found), ""))
"#;
    let output = Command::new("python3").args(["-c", FILTER, &recipe("fail2ban-filter.conf", &[]), line]).output();
    let output = output.expect("python3 runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).expect("text");
    let mut addresses = said.lines().map(str::to_owned);
    [addresses.next(), addresses.next()].map(|address| address.expect("a line for each form"))
}

#[test]
fn each_site_has_its_routes_and_other_names_have_none() {
    let sites = ["www", "api", "apps"]
        .map(|name| Origin::answering(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len())));
    let [www, api, apps] = [0, 1, 2].map(|number: usize| upstream(&sites[number]));
    let replaced = [ANY_8080, ("127.0.0.1:9001", &www), ("127.0.0.1:9002", &api), ("127.0.0.1:9003", &apps)];
    let proxy = Proxy::start(&recipe("hosts.yaml", &replaced));
    for (host, path, expected) in [
        ("www.example.com", "/x", "www"),
        ("www.example.com:8080", "/apix", "www"),
        ("WWW.example.com", "/api/x", "api"),
        ("a.b.apps.example.com", "/api/x", "apps"),
        ("apps.example.com", "/", "Not Found\n"),
        ("192.0.2.1", "/", "Not Found\n"),
    ] {
        let mut client = proxy.connect();
        client.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(client.response().text(), expected, "{host}{path}");
    }
    proxy.log.wait_for("the cause", |line| value(line, "why") == Some("no_route"));
    let mut client = proxy.connect();
    client.send("GET /api/x?y HTTP/1.1\r\nHost: example.com\r\n\r\n");
    let answer = client.response();
    assert_eq!((answer.status(), answer.field("Location")), (308, Some("https://www.example.com/api/x?y")));
}

#[test]
fn an_application_on_a_unix_socket_is_asked_for_the_clients_host() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let path = folder.path().join("app.sock");
    let listener = UnixListener::bind(&path).expect("a free path");
    thread::spawn(move || {
        let (stream, _) = listener.accept().expect("the proxy connects");
        let mut application = Peer::over(stream);
        while let Some(request) = application.request() {
            let host = request.field("Host").expect("a Host");
            application.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{host}", host.len()));
        }
    });
    let proxy =
        Proxy::start(&recipe("unix-socket.yaml", &[ANY_8080, ("/run/app/app.sock", &path.display().to_string())]));
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.1\r\nHost: shop.example.com\r\n\r\n");
    assert_eq!(client.response().text(), "shop.example.com");
}

/// Certificates and what listens with them.
#[cfg(feature = "tls")]
mod tls {
    use super::*;

    /// A certificate for this name and its key, in files of these names.
    fn certificate(name: &str, folder: &Path, names: [&str; 2]) {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
        fs::write(folder.join(names[0]), made.cert.pem()).expect("a file");
        fs::write(folder.join(names[1]), made.signing_key.serialize_pem()).expect("a file");
    }

    /// The answer to `https://NAME/`, if it is given by somebody who has the certificate in `file`.
    fn ask(proxy: &Proxy, name: &str, file: &Path) -> Option<String> {
        let address = proxy.address_of("https");
        let connect_to = format!("::{address}");
        let url = format!("https://{name}/");
        let output = curl(&["-i", "--connect-to", &connect_to, "--cacert", &file.display().to_string(), &url]);
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    #[test]
    fn a_site_with_https_passes_challenges_on_and_the_hook_brings_a_new_certificate() {
        if is_missing("curl") {
            return;
        }
        let (challenges, site) = (Origin::echo(), Origin::echo());
        let folder = tempfile::TempDir::new().expect("a folder");
        let at = folder.path();
        certificate("www.example.com", at, ["cert.pem", "key.pem"]);
        fs::copy(at.join("cert.pem"), at.join("old.pem")).expect("a copy");
        let (path, secure) = (at.display().to_string(), free_address());
        let proxy = Proxy::start(&recipe(
            "https.yaml",
            &[
                ("\":80\"", "127.0.0.1:0"),
                ("\":443\"", &secure.to_string()),
                ("/etc/mini-rproxy/tls/cert.pem", &format!("{path}/cert.pem")),
                ("/etc/mini-rproxy/tls/key.pem", &format!("{path}/key.pem")),
                ("127.0.0.1:8402", &upstream(&challenges)),
                ("127.0.0.1:9001", &upstream(&site)),
            ],
        ));
        let ask_plain = |target: &str| {
            let mut client = Peer::connect(proxy.address_of("http"));
            client.send(format!("GET {target} HTTP/1.1\r\nHost: www.example.com\r\n\r\n"));
            client.response()
        };
        let seen = ask_plain("/.well-known/acme-challenge/token");
        let expected = "GET /.well-known/acme-challenge/token HTTP/1.1\n";
        assert!(seen.text().starts_with(expected) && seen.text().contains("Host: www.example.com\n"), "{seen:?}");
        assert_eq!(challenges.connections(), 1);
        let seen = ask_plain("/x?y");
        let expected = format!("https://www.example.com:{}/x?y", secure.port());
        assert_eq!((seen.status(), seen.field("Location")), (308, Some(expected.as_str())));
        let seen = ask(&proxy, "www.example.com", &at.join("cert.pem")).expect("it is trusted");
        assert!(seen.contains("\r\nStrict-Transport-Security: max-age=31536000\r\n"), "{seen}");
        assert!(seen.contains("X-Forwarded-Proto: https\n"), "{seen}");

        for (number, names) in [["fullchain.pem", "privkey.pem"], ["new.crt", "new.key"]].into_iter().enumerate() {
            certificate("www.example.com", at, names);
            assert!(ask(&proxy, "www.example.com", &at.join(names[0])).is_none());
            let reload = format!("kill -HUP {}", proxy.pid());
            let script = recipe(
                "acme-hook.sh",
                &[("/etc/mini-rproxy/tls", &path), (" -g ssl-cert", ""), ("systemctl reload mini-rproxy", &reload)],
            );
            let mut hook = Command::new("sh");
            hook.arg("-c").arg(script);
            match number {
                0 => hook.env("RENEWED_LINEAGE", at),
                _ => hook.env("LEGO_CERT_PATH", at.join(names[0])).env("LEGO_CERT_KEY_PATH", at.join(names[1])),
            };
            assert!(hook.status().expect("sh runs").success());
            proxy.log.wait_for_many("reloads", number + 1, |line| line.contains("configuration reloaded"));
            assert!(ask(&proxy, "www.example.com", &at.join(names[0])).is_some(), "the new one is served");
            assert!(ask(&proxy, "www.example.com", &at.join("old.pem")).is_none(), "and not the old one");
        }
    }
}
