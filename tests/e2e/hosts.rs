//! Several sites on one address.

use super::reload::reload;
use crate::support::{Origin, Proxy, curl_ok, is_missing};

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
