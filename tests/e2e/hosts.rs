//! Several sites on one address.

use super::reload::reload;
use crate::support::{Origin, Peer, Proxy, curl_ok, is_missing};

fn get(proxy: &Proxy, target: &str, host: &str) -> (u16, String) {
    let mut client = proxy.connect();
    client.send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    let response = client.response();
    (response.status(), response.text().to_owned())
}

#[test]
fn g7_each_site_has_its_routes_and_a_reload_changes_them() {
    let [one, two, all] = ["one", "two", "all"]
        .map(|name| Origin::answering(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len())));
    let config = |first: &str| {
        format!(
            "workers: 1\nlog: {{access: true}}\nroutes:\n\
             - {{hosts: {first}, prefix: /x, upstream: '{}'}}\n\
             - {{hosts: '*.example', prefix: /x, upstream: '{}'}}\n\
             - {{prefix: /, upstream: '{}'}}\n",
            one.url(),
            two.url(),
            all.url()
        )
    };
    let proxy = Proxy::start(&config("a.example"));
    for (target, host, expected) in [
        ("/x", "A.EXAMPLE:8080", "one"),
        ("http://a.example./x", "a.example.", "one"),
        ("/x", "b.a.example", "two"),
        ("/y", "a.example", "all"),
        ("/x", "example", "all"),
    ] {
        assert_eq!(get(&proxy, target, host), (200, expected.to_owned()), "{target} of {host}");
    }
    proxy.log.wait_for("its line", |line| line.contains(" prefix=/x route_host=a.example upstream="));
    proxy.log.wait_for("its line", |line| line.contains(" prefix=/x route_host=*.example upstream="));
    let metrics = proxy.connect().get("/metrics").text().to_owned();
    for (labels, count) in
        [(r#"route="/x",host="a.example""#, 2), (r#"route="/x",host="*.example""#, 1), (r#"route="/""#, 2)]
    {
        let line = format!("mini_rproxy_requests_total{{{labels},code=\"2xx\"}} {count}");
        assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    }
    let shown = proxy.connect().get("/configz").text().to_owned();
    assert!(shown.starts_with(r#"[{"hosts":["a.example"],"prefix":"/x","upstream":""#), "{shown}");
    reload(&proxy, &config("b.example"), 0);
    assert_eq!(get(&proxy, "/x", "b.example"), (200, "one".to_owned()));
    assert_eq!(get(&proxy, "/x", "a.example"), (200, "two".to_owned()));
}

#[test]
fn a_client_follows_a_redirect_of_a_route() {
    if is_missing("curl") {
        return;
    }
    let origin = Origin::echo();
    let config = |to: &str| {
        format!(
            "workers: 1\nlog: {{access: true}}\nroutes:\n- {{prefix: /old, redirect: {to}}}\n\
             - {{prefix: /new, upstream: '{}'}}\n",
            origin.url()
        )
    };
    let proxy = Proxy::start(&config("{to: /new/base, status: 307}"));
    let follow = |path: &str| curl_ok(&["-L", "-d", "x", "-w", "%{url_effective} %{num_redirects}", &proxy.url(path)]);
    let seen = follow("/old/x?y=1");
    assert!(seen.starts_with("POST /base/x?y=1 HTTP/1.1\n"), "{seen}");
    assert!(seen.ends_with(&format!("{} 1", proxy.url("/new/base/x?y=1"))), "{seen}");
    proxy.log.wait_for("its line", |line| line.contains(" prefix=/old status=307 "));
    reload(&proxy, &config("/new/other"), 0);
    let what = "what=\"route /old: redirect.to /new/base -> /new/other\"";
    proxy.log.wait_for("the difference", |line| line.contains(what));
    let seen = follow("/old");
    assert!(seen.starts_with("POST /other HTTP/1.1\n"), "{seen}");
}

/// The client of a dual-stack socket, told and untold.
#[test]
fn a_route_serves_the_addresses_that_it_allows_whatever_family_the_socket_has() {
    let origin = Origin::echo();
    let routes: String = [
        ("/v4", "allow: 127.0.0.0/8"),
        ("/v6", "allow: '::1'"),
        ("/not-v4", "deny: 127.0.0.1"),
        ("/told", "allow: [192.0.2.0/24, '2001:db8::/32'], deny: [192.0.2.66, '2001:db8:0:66::/64']"),
        ("/nobody", "allow: []"),
    ]
    .map(|(prefix, keys)| format!("- {{prefix: {prefix}, upstream: '{}', {keys}}}\n", origin.url()))
    .concat();
    let yaml = format!(
        "forwarded: {{trusted_proxies: [127.0.0.1]}}\nlog: {{access: true}}\nlisten_addr: '[::]:0'\nroutes:\n{routes}"
    );
    let proxy = Proxy::start(&yaml);
    let port = proxy.address.port();
    let status = |from: &str, path: &str, told: &str| {
        let mut client = Peer::connect(format!("{from}:{port}").parse().expect("an address"));
        client.send(format!("GET {path} HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: {told}\r\n\r\n"));
        client.response().status()
    };
    for (from, path, told, expected) in [
        ("127.0.0.1", "/v4", "", 200),
        ("127.0.0.1", "/v6", "", 403),
        ("127.0.0.1", "/not-v4", "", 403),
        ("[::1]", "/v4", "", 403),
        ("[::1]", "/v6", "", 200),
        ("[::1]", "/not-v4", "", 200),
        ("127.0.0.1", "/nobody", "", 403),
        // A trusted proxy speaks for others, and nobody else does.
        ("127.0.0.1", "/told", "192.0.2.1", 200),
        ("127.0.0.1", "/told", "::ffff:192.0.2.1", 200),
        ("127.0.0.1", "/told", "192.0.2.66", 403),
        ("127.0.0.1", "/told", "::ffff:192.0.2.66", 403),
        ("127.0.0.1", "/told", "2001:db8::1", 200),
        ("127.0.0.1", "/told", "2001:db8:0:66::1", 403),
        ("127.0.0.1", "/told", "192.0.2.1, 198.51.100.1", 403),
        ("127.0.0.1", "/v4", "192.0.2.1", 403),
        ("[::1]", "/told", "192.0.2.1", 403),
    ] {
        assert_eq!(status(from, path, told), expected, "{from} {path} {told}");
    }
    proxy.log.wait_for("the cause", |line| {
        line.contains("client=192.0.2.66 ") && line.contains("status=403") && line.contains("why=forbidden")
    });
}

/// What a client sends cannot lead it, or others, to another host, nor end a line.
#[test]
fn redirects_keep_odd_paths_and_lead_to_no_other_host() {
    let origin = Origin::echo();
    let proxy = Proxy::start(&format!(
        "redirect_to_slash: true\nroutes:\n- {{prefix: /old, redirect: 'https://new.example'}}\n- {{prefix: /root, redirect: /}}\n\
         - {{prefix: /slash, upstream: '{}'}}\n",
        origin.url()
    ));
    for (target, status, location) in [
        ("/old/a%0d%0ab?c=%0d%0ad&e", 308, Some("https://new.example/a%0d%0ab?c=%0d%0ad&e")),
        ("/old/@evil.example", 308, Some("https://new.example/@evil.example")),
        ("/old//evil.example/", 308, Some("https://new.example//evil.example/")),
        ("/old?//evil.example", 308, Some("https://new.example/?//evil.example")),
        ("/root//evil.example", 308, Some("/.//evil.example")),
        ("/root/\\evil.example", 308, Some("/./\\evil.example")),
        ("/root?x", 308, Some("/?x")),
        ("/slash?//evil.example/", 301, Some("/slash/?//evil.example/")),
        ("//slash", 404, None),
        ("/old/..//evil.example", 400, None),
        ("/old/a\rb", 400, None),
        ("/old/a b", 400, None),
        ("/old/a\nLocation:b", 400, None),
    ] {
        let mut client = proxy.connect();
        client.send(format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n"));
        let response = client.response();
        assert_eq!((response.status(), response.field("Location")), (status, location), "{target:?}");
        assert!(response.all("Location").len() <= 1, "{target:?}");
    }
}
