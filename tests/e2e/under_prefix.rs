//! An application that knows nothing of the prefix that it stands under: nginx says where it leads, curl follows.

use crate::support::{Nginx, Proxy, curl_ok, is_missing};

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
