//! An application that knows nothing of the prefix that it stands under: nginx says where it leads, curl follows.

use crate::support::{Nginx, Origin, Proxy, curl_ok, is_missing};

/// Redirects by path and by URL, and lets in who has got the cookie.
const APPLICATION: &str = r#"
    location = / { return 302 /login; }
    location = /login {
        add_header Set-Cookie "session=1; Path=/; HttpOnly" always;
        add_header Set-Cookie "tree=1; Path=/home" always;
        return 303 $scheme://$http_host/home/;
    }
    location = /home/ { return 200 "cookies: $http_cookie\n"; }
    location = /base/in { return 302 /base/out; }
    location = /base/out { return 200 "out\n"; }
"#;

#[test]
fn a_client_gets_in_through_a_stripped_prefix() {
    if is_missing("curl") || is_missing("nginx") {
        return;
    }
    let nginx = Nginx::start(APPLICATION);
    let upstream = nginx.address;
    let proxy = Proxy::start(&format!(
        "workers: 1\nroutes:\n\
         - {{prefix: /app, upstream: 'http://{upstream}'}}\n\
         - {{prefix: /named, upstream: 'http://{upstream}', host: client}}\n\
         - {{prefix: /left, upstream: 'http://{upstream}', rewrite_redirects: off, rewrite_cookies: off}}\n\
         - {{prefix: /engine, upstream: 'http://{upstream}/base'}}\n"
    ));
    // A cookie jar in memory, and where the journey ended.
    let follow = |path: &str| curl_ok(&["-L", "-b", "", "-w", "%{url_effective} %{num_redirects}", &proxy.url(path)]);
    for prefix in ["/app", "/named"] {
        let end = format!("cookies: tree=1; session=1\n{} 2", proxy.url(&format!("{prefix}/home/")));
        assert_eq!(follow(&format!("{prefix}/")), end);
    }
    assert_eq!(follow("/engine/in"), format!("out\n{} 1", proxy.url("/engine/out")));

    let head = curl_ok(&["-i", &proxy.url("/left/login")]);
    assert!(head.contains(&format!("\r\nLocation: http://{upstream}/home/\r\n")), "{head}");
    assert!(head.contains("\r\nSet-Cookie: session=1; Path=/; HttpOnly\r\n"), "{head}");
}

#[test]
fn e4_a_head_that_would_outgrow_its_limit_passes_as_it_came_and_is_told() {
    let links = ["</>"; 3000].join(",");
    let origin = Origin::answering(format!(
        "HTTP/1.1 302 Found\r\nLocation: /x\r\nLink: {links}\r\nSet-Cookie: a; Path=/\r\nContent-Length: 0\r\n\r\n"
    ));
    let proxy = Proxy::start(&format!("routes: [{{prefix: /{}, upstream: '{}'}}]\n", "p".repeat(100), origin.url()));
    let mut client = proxy.connect();
    for _ in 0..3 {
        let response = client.get(&format!("/{}/", "p".repeat(100)));
        let fields = ["Location", "Link", "Set-Cookie"].map(|name| response.field(name));
        assert_eq!(fields, [Some("/x"), Some(&*links), Some("a; Path=/")]);
    }
    let is_warning = |line: &str| line.contains("larger than max_head_bytes");
    proxy.log.wait_for("a warning", is_warning);
    assert_eq!(proxy.log.all().iter().filter(|line| is_warning(line)).count(), 1, "once a minute");
    let metrics = client.get("/metrics");
    assert!(metrics.text().contains("\nmini_rproxy_unmapped_heads_total 3\n"), "{}", metrics.text());
}

/// nginx refuses a Destination that is not on its own host and scheme.
#[test]
fn a_file_is_moved_on_a_webdav_server() {
    if is_missing("curl") || is_missing("nginx") {
        return;
    }
    let nginx = Nginx::start("dav_methods PUT DELETE MOVE COPY; create_full_put_path on; dav_access user:rw;");
    let proxy = Proxy::start(&format!(
        "routes:\n- {{prefix: /dav, upstream: 'http://{0}/base'}}\n- {{prefix: /left, upstream: 'http://{0}/base', rewrite_redirects: off}}\n",
        nginx.address
    ));
    let mut client = proxy.connect();
    client.send("PUT /dav/one.txt HTTP/1.1\r\nHost: www.example\r\nContent-Length: 2\r\n\r\nhi");
    assert_eq!(client.response().status(), 201);
    for (prefix, method, from, to, status) in [
        ("/left", "COPY", "one.txt", "two.txt", 400),
        ("/dav", "COPY", "one.txt", "two.txt", 204),
        ("/dav", "MOVE", "two.txt", "deep%20er.txt", 204),
    ] {
        client.send(format!(
            "{method} {prefix}/{from} HTTP/1.1\r\nHost: www.example\r\nDestination: https://www.example{prefix}/{to}\r\n\r\n"
        ));
        assert_eq!(client.response().status(), status, "{method} {prefix}/{from}");
    }
    let found = ["one.txt", "two.txt", "deep%20er.txt"].map(|name| client.get(&format!("/dav/{name}")).status());
    assert_eq!(found, [200, 404, 200]);
}
