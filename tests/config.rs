//! Each mistake in a configuration is told as one sentence: file, line, column, what is wrong, how to mend it.

use std::path::Path;

use mini_rproxy::config::{Config, ListenAddr};

/// A file that is valid, for the tables that are about something else than routes.
const ROUTES: &str = "routes: [{prefix: /a, upstream: 'http://a'}]\n";

#[track_caller]
fn refused(text: &str, expected: &str) {
    match Config::parse(text, "config.yaml") {
        Ok(_) => panic!("accepted: {text:.500}"),
        Err(error) => assert_eq!(error.to_string(), expected, "\nin:\n{text:.500}"),
    }
}

#[test]
fn mistakes_in_the_plugins_of_a_route() {
    let with = |list: &str, plugins: &str| {
        format!("routes:\n  - prefix: /a\n    upstream: http://a\n    plugins: {list}\nplugins: {plugins}\n")
    };
    let two = "[{path: /lib/auth.so}, {builtin: header_demo, name: demo}]";
    for (list, plugins, expected) in [
        ("[auht]", two, r#"config.yaml:4:15: there is no plugin "auht"; did you mean "auth"?"#),
        ("[demo, zzz]", two, r#"config.yaml:4:21: there is no plugin "zzz"; the plugins are auth, demo"#),
        ("[header_demo]", two, r#"config.yaml:4:15: there is no plugin "header_demo"; the plugins are auth, demo"#),
        ("[demo, auth, demo]", two, r#"config.yaml:4:27: the plugin "demo" stands twice in this list: remove one"#),
        (
            "[auth]",
            "[]",
            r#"config.yaml:4:15: there is no plugin "auth": add it to the list "plugins:" at the top level"#,
        ),
        (
            "{a: b}",
            two,
            r#"config.yaml:4:14: expected the name of a plugin: 1 to 64 letters, digits, "_", "-" and ".", or a list of them, found a mapping"#,
        ),
    ] {
        refused(&with(list, plugins), expected);
    }
}

#[test]
fn mistakes_in_changes_to_headers() {
    let with = |edits: &str| format!("{ROUTES}request_headers: {edits}\n");
    for (edits, expected) in [
        (
            "{set: {Host: a}}",
            "config.yaml:2:25: \"Host\" cannot be changed here: the Host that an upstream sees is said by the key host of a route",
        ),
        ("{st: {A: b}}", "config.yaml:2:19: unknown key \"st\"; the keys known here are remove, set, add"),
        (
            "{set: {'A B': c}}",
            "config.yaml:2:25: expected the name of a header field such as X-Frame-Options, found \"A B\"",
        ),
        (
            "{set: {A: \"b\\r\\nC: d\"}}",
            "config.yaml:2:28: \"b\\r\\nC: d\": a field has one line, and no control characters in it",
        ),
        (
            "{add: {A: []}}",
            "config.yaml:2:18: \"A\" has no value: write \"\" for an empty one, or put the name into remove",
        ),
    ] {
        refused(&with(edits), expected);
    }
    let many: String = (0..65).map(|number| format!("A{number}: b, ")).collect();
    let long = format!("A: [{}]", vec!["x".repeat(4096); 4].join(", "));
    for lines in [many, long] {
        let error = Config::parse(&with(&format!("{{set: {{{lines}}}}}")), "f").expect_err("too much");
        assert!(error.contains("too many for a head: write at most 64 of 16384"), "{error}");
    }
    let text = "routes: [{prefix: /, upstream: 'http://u:p@a', request_headers: {add: {authorization: x}}}]";
    assert!(Config::parse(text, "f").is_err_and(|error| error.contains("and request_headers have credentials")));
}

/// Each name that frames a message, or that a rule or another key writes, whatever stands between its letters.
#[test]
fn headers_that_rules_own_cannot_be_changed() {
    for name in [
        "Content-Length",
        "content_length",
        "Transfer-Encoding",
        "TRANSFER.ENCODING",
        "TE",
        "Trailer",
        "Connection",
        "Keep-Alive",
        "Proxy-Connection",
        "Upgrade",
        "HTTP2-Settings",
        "Expect",
        "Host",
        "Via",
        "Date",
        "Forwarded",
        "X-Forwarded-For",
        "x_forwarded_for",
        "X-Forwarded-Host",
        "X-Forwarded-Proto",
        "X-Forwarded-Prefix",
        "X-Real-IP",
        "Proxy-Authenticate",
        "Proxy-Authorization",
        "X-Client-Cert-Verify",
        "x_client_cert_subject",
    ] {
        for key in ["request_headers", "response_headers"] {
            for edits in
                [format!("{{remove: [{name}]}}"), format!("{{set: {{{name}: x}}}}"), format!("{{add: {{{name}: x}}}}")]
            {
                for text in [
                    format!("{ROUTES}{key}: {edits}"),
                    format!("routes: [{{prefix: /, upstream: 'http://a', {key}: {edits}}}]"),
                ] {
                    let error = Config::parse(&text, "f").expect_err(&text);
                    assert!(error.contains("cannot be changed here: "), "{text}: {error}");
                }
            }
        }
    }
}

#[test]
fn changes_to_headers_are_printed_and_read_again() {
    let text = "request_headers: {remove: [A, B], set: {C: 1, D: \"\", E: ' f '}, add: {Set-Cookie: [g, 'h: \"i\"']}}\n\
                response_headers: {set: {X-Forwarded-Port: \"443\"}}\n\
                routes:\n\
                - {prefix: /a, upstream: 'http://a', request_headers: {set: {J: k}}}\n\
                - {prefix: /b, upstream: 'http://a', response_headers: {add: {L: [m, n]}}}\n";
    let config = Config::parse(text, "f").unwrap_or_else(|error| panic!("{error}"));
    let printed = config.to_yaml();
    assert_eq!(Config::parse(&printed, "f").as_ref(), Ok(&config), "{printed}");
    let edits = config.request_headers.expect("some");
    assert_eq!(edits.removed().collect::<Vec<_>>(), ["A", "B", "C", "D", "E"]);
    let lines: Vec<_> = edits.lines().collect();
    assert_eq!(lines, [("C", "1"), ("D", ""), ("E", "f"), ("Set-Cookie", "g"), ("Set-Cookie", "h: \"i\"")]);
}

#[test]
fn mistakes_in_ranges_and_error_pages() {
    let with = |keys: &str| format!("routes: [{{prefix: /a, upstream: 'http://a', {keys}}}]\n");
    for (text, expected) in [
        (
            with("allow: [10.0.0.1/8]"),
            "config.yaml:1:53: 10.0.0.1/8 is an address inside a range: write 10.0.0.0/8 for the range",
        ),
        (
            with("allow: "),
            "config.yaml:1:10: a route's hosts, allow and deny need a value: write a list, or remove the key",
        ),
        (
            with("hosts: "),
            "config.yaml:1:10: a route's hosts, allow and deny need a value: write a list, or remove the key",
        ),
        (
            with("deny: ['::ffff:192.0.2.1']"),
            "config.yaml:1:52: ::ffff:192.0.2.1/128: IPv4 addresses are written as such, also where they come in by IPv6: write 192.0.2.1",
        ),
        (
            format!("{ROUTES}error_pages: {{404: a.html, 6xx: b.html}}\n"),
            "config.yaml:2:28: expected a status from 400 to 599, or 4xx or 5xx, found \"6xx\"",
        ),
        (
            format!("{ROUTES}error_pages: {{399: a.html}}\n"),
            "config.yaml:2:15: expected a status from 400 to 599, or 4xx or 5xx, found \"399\"",
        ),
        (
            format!("{ROUTES}log: {{format: apache}}\n"),
            "config.yaml:2:15: expected one of text, json, combined, found \"apache\"",
        ),
    ] {
        refused(&text, expected);
    }
    let text = format!(
        "{}error_pages: {{404: a.html, 5xx: b.txt}}\nvia: false\nlog: {{format: combined, fields: full, query: false}}\n",
        with("allow: [], deny: [192.0.2.1, '2001:db8::/32']")
    );
    let config = Config::parse(&text, "f").unwrap_or_else(|error| panic!("{error}"));
    let printed = config.to_yaml();
    assert_eq!(Config::parse(&printed, "f").as_ref(), Ok(&config), "{printed}");
    let options = &config.routes[0].options;
    assert!(options.allow.as_ref().is_some_and(Vec::is_empty));
}

#[test]
fn plugins_have_names_and_routes_choose_among_them() {
    let text = "plugins: [{path: /lib/auth.so}, {path: /lib/auth.so, name: auth-2}, {path: '/lib/od d.2.so'}, {builtin: demo}]\n\
                routes:\n\
                - {prefix: /all, upstream: 'http://a'}\n\
                - {prefix: /none, upstream: 'http://a', plugins: []}\n\
                - {prefix: /two, upstream: 'http://a', plugins: [demo, auth]}\n\
                - {prefix: /one, upstream: 'http://a', plugins: auth}\n\
                - {prefix: /empty, upstream: 'http://a', plugins: }\n";
    let config = Config::parse(text, "f").unwrap_or_else(|error| panic!("{error}"));
    let names = |route: usize| -> Vec<&str> {
        config.plugins_of(&config.routes[route].options).iter().map(|plugin| plugin.name.as_str()).collect()
    };
    assert_eq!(names(0), ["auth", "auth-2", "od_d.2", "demo"]);
    assert_eq!(names(1), [""; 0]);
    assert_eq!(names(2), ["demo", "auth"]);
    assert_eq!(names(3), ["auth"]);
    assert_eq!(names(4), names(0));
}

/// Those of `-plugindir` come behind the list, without the files that it has already, whatever it calls them.
#[test]
fn the_plugins_of_a_folder_are_known_by_their_files() {
    let folder = std::env::temp_dir().join(format!("mini-rproxy-config-folder-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let files = ["a.so", "b.so"].map(|name| folder.join(name));
    files.iter().for_each(|file| std::fs::write(file, "").unwrap());
    let yaml = folder.join("config.yaml");
    let load = |plugins: &str| {
        let text = format!("routes: [{{prefix: /, upstream: 'http://a', plugins: [b]}}]\nplugins: {plugins}\n");
        std::fs::write(&yaml, text).unwrap();
        Config::load(&yaml, &files)
    };
    let names = |config: &Config| config.plugins.iter().map(|plugin| plugin.name.clone()).collect::<Vec<_>>();
    let config = load("[{builtin: x}]").unwrap();
    assert_eq!(names(&config), ["x", "a", "b"]);
    assert!(config.plugins[0].required && !config.plugins[2].required);
    assert_eq!(config.warnings(), [""; 0]);
    let config = load(&format!(
        "[{{path: {}/../{}/a.so, name: first}}]",
        folder.display(),
        folder.file_name().unwrap().to_str().unwrap()
    ));
    let config = config.unwrap();
    assert_eq!(names(&config), ["first", "b"]);
    let warning = format!("{} of -plugindir is left out, because the list of plugins has it", files[0].display());
    assert_eq!(config.warnings(), [warning]);
    let error = load("[{path: /elsewhere/b.so}]").unwrap_err();
    assert!(error.contains("two plugins have the name \"b\"") && error.contains("name: b_2"), "{error}");
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn mistakes_in_routes_and_syntax() {
    for (text, expected) in [
        (
            "",
            r#"config.yaml:1:1: there are no routes: add one, for example {prefix: /api, upstream: "http://127.0.0.1:9001"}"#,
        ),
        (
            "# only a comment\n",
            r#"config.yaml:2:1: there are no routes: add one, for example {prefix: /api, upstream: "http://127.0.0.1:9001"}"#,
        ),
        (
            "routes:\n",
            r#"config.yaml:1:8: there are no routes: add one, for example {prefix: /api, upstream: "http://127.0.0.1:9001"}"#,
        ),
        (
            "routes: []\n",
            r#"config.yaml:1:9: there are no routes: add one, for example {prefix: /api, upstream: "http://127.0.0.1:9001"}"#,
        ),
        (
            "routes: 5\n",
            r#"config.yaml:1:9: expected a list of routes, each "- prefix: /api" with its "upstream:" in the line below, found the number 5"#,
        ),
        (
            "routes: {prefix: /a}\n",
            r#"config.yaml:1:9: expected a list of routes, each "- prefix: /api" with its "upstream:" in the line below, found a mapping"#,
        ),
        ("5\n", r#"config.yaml:1:1: expected a mapping of settings such as "routes:", found the number 5"#),
        ("- a\n", r#"config.yaml:1:1: expected a mapping of settings such as "routes:", found a list"#),
        ("hello\n", r#"config.yaml:1:1: expected a mapping of settings such as "routes:", found "hello""#),
        (
            "listen_addr: :8080\n",
            r#"config.yaml:1:1: there are no routes: add one, for example {prefix: /api, upstream: "http://127.0.0.1:9001"}"#,
        ),
        (
            "routes:\n  - prefix: /a\n    upstram: http://a\n",
            r#"config.yaml:3:5: unknown key "upstram"; did you mean "upstream"?"#,
        ),
        (
            "routes:\n  - prefix: /a\n    upstream: http://a\n    zzz: 1\n",
            r#"config.yaml:4:5: unknown key "zzz"; the keys known here are hosts, prefix, upstream, upstreams, redirect, strip_prefix, host, rewrite_redirects, rewrite_cookies, redirect_to_slash, upgrade, max_body_bytes, timeouts, upstream_tls, plugins, request_headers, response_headers, allow, deny"#,
        ),
        (
            "routes:\n  - prefix: /a\n    prefix: /b\n    upstream: http://a\n",
            r#"config.yaml:3:5: the key "prefix" stands twice in this mapping: remove one"#,
        ),
        ("routes:\n  - upstream: http://a\n", r#"config.yaml:2:5: this route has no prefix: add "prefix: /path""#),
        (
            "routes:\n  - prefix: /a\n",
            r#"config.yaml:2:5: this route has no upstream: add "upstream: http://host:port", or "redirect: URL""#,
        ),
        (
            "routes:\n  - {prefix: /a, upstream: http://a, upstreams: [http://b]}\n",
            "config.yaml:2:5: this route has both: put its upstream into upstreams",
        ),
        (
            "routes:\n  - {prefix: /a, upstreams: []}\n",
            "config.yaml:2:5: a route has 1 to 64 upstreams: add or remove some",
        ),
        (
            "routes:\n  - {prefix: /a, upstreams: [http://a, http://b, http://A:80/]}\n",
            r#"config.yaml:2:5: "http://a": this upstream stands twice in the route: remove one"#,
        ),
        (
            "routes:\n  - {prefix: /a, upstreams: [http://a/x, http://b]}\n",
            r#"config.yaml:2:5: "http://b": all upstreams of a route have the same path; make them routes of their own"#,
        ),
        (
            "routes:\n  - {prefix: /a, upstreams: [http://a, http://u:p@b]}\n",
            r#"config.yaml:2:5: "http://b": either all upstreams of a route have credentials or none"#,
        ),
        (
            "routes:\n  - {prefix: /a, upstreams: [http://a, b//c]}\n",
            "config.yaml:2:40: the URL of an upstream begins with http:// or https://: write http://127.0.0.1:9001/base or http://unix:/run/app.sock, for example",
        ),
        (
            "routes:\n  - {prefix: /a, upstream: 'unix:run/app.sock'}\n",
            "config.yaml:2:28: a unix socket is written http://unix:/run/app.sock, or http://unix:/run/app.sock:/base: an absolute path of at most 107 bytes without \":\"",
        ),
        (
            "routes:\n  - {prefix: /a, upstream: 'https://unix:/run/app.sock'}\n",
            "config.yaml:2:28: TLS is not spoken over a unix socket: write http://unix:/path",
        ),
        ("listen: ':8080'\nroutes: []\n", r#"config.yaml:1:1: unknown key "listen"; did you mean "listen_addr"?"#),
        ("routes:\n  -\n", r#"config.yaml:2:4: this route has no prefix: add "prefix: /path""#),
        ("routes:\n  - /a\n", r#"config.yaml:2:5: expected a mapping with the keys prefix and upstream, found "/a""#),
        ("routes:\n  - []\n", "config.yaml:2:5: expected a mapping with the keys prefix and upstream, found a list"),
        (
            "routes:\n  - {prefix: /a, upstream: http://a}\n  - {prefix: /b, upstream: http://a}\n  - {prefix: /%61/, upstream: http://b}\n",
            r#"config.yaml:4:5: the prefix "/%61/" is that of route number 1, "/a", too: remove one of them"#,
        ),
        (
            "routes:\n  - prefix: /a\n    upstream: http://a\n  - prefix: /a\n    upstream: http://a\n",
            r#"config.yaml:4:5: the prefix "/a" is that of route number 1, "/a", too: remove one of them"#,
        ),
        (
            "routes:\n  - {prefix: /a, redirect: new.example}\n",
            "config.yaml:2:5: redirect: a redirect leads to a URL that begins with http:// or https://, or to a path that begins with one slash: write https://new.example/base, for example",
        ),
        (
            "routes:\n  - {prefix: /a, redirect: '//new.example'}\n",
            "config.yaml:2:5: redirect: a redirect leads to a URL that begins with http:// or https://, or to a path that begins with one slash: write https://new.example/base, for example",
        ),
        (
            "routes:\n  - {prefix: /a, redirect: 'ftp://new.example'}\n",
            "config.yaml:2:5: redirect: a redirect leads to a URL that begins with http:// or https://, or to a path that begins with one slash: write https://new.example/base, for example",
        ),
        (
            "routes:\n  - {prefix: /a, redirect: 'https://'}\n",
            "config.yaml:2:5: redirect: a redirect leads to a URL that begins with http:// or https://, or to a path that begins with one slash: write https://new.example/base, for example",
        ),
        (
            "routes:\n  - {prefix: /a, redirect: 'https://user:secret@new.example'}\n",
            "config.yaml:2:5: redirect: a redirect leads to a URL that begins with http:// or https://, or to a path that begins with one slash: write https://new.example/base, for example",
        ),
        (
            "routes:\n  - {prefix: /a, redirect: 'https://new.example:x/'}\n",
            "config.yaml:2:5: redirect: a redirect leads to a URL that begins with http:// or https://, or to a path that begins with one slash: write https://new.example/base, for example",
        ),
        (
            "routes:\n  - {prefix: /a, redirect: 'javascript:alert(1)'}\n",
            "config.yaml:2:5: redirect: a redirect leads to a URL that begins with http:// or https://, or to a path that begins with one slash: write https://new.example/base, for example",
        ),
        (
            "routes:\n  - {prefix: /a, redirect: /x?y}\n",
            "config.yaml:2:5: redirect: the query of the request comes behind it: remove what begins with ? or #, or add keep_path: false",
        ),
        (
            "routes:\n  - {prefix: /a, redirect: \"/x\\r\\nSet-Cookie: a\"}\n",
            "config.yaml:2:5: redirect: only visible ASCII but ? # and \\ can stand here, and two hexadecimal digits after each %: percent-encode a path (a space is %20, % is %25), write a name as xn--...",
        ),
        (
            "routes:\n  - {prefix: /a, redirect: '/\\evil.example'}\n",
            "config.yaml:2:5: redirect: only visible ASCII but ? # and \\ can stand here, and two hexadecimal digits after each %: percent-encode a path (a space is %20, % is %25), write a name as xn--...",
        ),
        (
            "routes:\n  - {prefix: /a, redirect: {to: /x, status: 304}}\n",
            "config.yaml:2:5: redirect: 304 is no status that redirects to one place: write 301, 302, 303, 307 or 308",
        ),
        (
            "routes:\n  - {prefix: /a, redirect: {to: /x, status: 200}}\n",
            "config.yaml:2:45: 200 is out of range: write one from 301 to 308",
        ),
        (
            "routes:\n  - {prefix: /a, redirect: {}}\n",
            "config.yaml:2:5: redirect: a redirect leads to a URL that begins with http:// or https://, or to a path that begins with one slash: write https://new.example/base, for example",
        ),
        (
            "routes:\n  - {prefix: /a, redirect: [/x]}\n",
            "config.yaml:2:28: expected a URL such as https://new.example/base, a path, or {to: /new, status: 308, keep_path: true}, found a list",
        ),
        (
            "routes:\n  - {prefix: /a, redirect: /x, upstream: http://a}\n",
            "config.yaml:2:5: this route redirects and asks no upstream: remove upstream, or redirect",
        ),
        (
            "routes:\n  - {prefix: /a, redirect: /x, host: client}\n",
            "config.yaml:2:5: this route redirects and asks no upstream: remove host, or redirect",
        ),
        (
            "routes:\n  - {prefix: /a, redirect: /x, redirect_to_slash: false}\n",
            "config.yaml:2:5: this route redirects and asks no upstream: remove redirect_to_slash, or redirect",
        ),
        (
            "routes:\n  - {hosts: [a, b], prefix: /a, upstream: http://a}\n  - {hosts: [c, B], prefix: /a/, upstream: http://a}\n",
            r#"config.yaml:3:5: the prefix "/a/" for the host b is that of route number 1, "/a", too: remove one of them"#,
        ),
        (
            "routes:\n  - {hosts: [a, A.], prefix: /a, upstream: http://a}\n",
            "config.yaml:2:13: the host a stands twice in this list: remove one",
        ),
        (
            "routes:\n  - {hosts: [], prefix: /a, upstream: http://a}\n",
            "config.yaml:2:13: this list is empty: name a host, or remove the key for all hosts",
        ),
        (
            "routes:\n  - {hosts: a.example:80, prefix: /a, upstream: http://a}\n",
            r#"config.yaml:2:13: "a.example:80": a host stands here without a port, and is meant with any: remove the port"#,
        ),
        (
            "routes:\n  - {prefix: a, upstream: http://a}\n",
            r#"config.yaml:2:14: "a": a prefix begins with "/": write "prefix: /path""#,
        ),
        (
            "routes:\n  - {prefix: 5, upstream: http://a}\n",
            r#"config.yaml:2:14: "5": a prefix begins with "/": write "prefix: /path""#,
        ),
        (
            "routes:\n  - {prefix: /a, upstream: ftp://user:secret@a}\n",
            "config.yaml:2:28: the URL of an upstream begins with http:// or https://: write http://127.0.0.1:9001/base or http://unix:/run/app.sock, for example",
        ),
        (
            "routes:\n  - {prefix: /a, upstream: http://a, upstream_tls: {ca_file: x.pem}}\n",
            "config.yaml:2:5: upstream_tls has no effect on an http:// upstream: write https://, or remove it",
        ),
        (
            "routes: http://u:secret@b\n",
            r#"config.yaml:1:9: expected a list of routes, each "- prefix: /api" with its "upstream:" in the line below, found "http://...@b""#,
        ),
        (
            "routes:\n  - {prefix: http://u:secret@b}\n",
            r#"config.yaml:2:14: "http://...@b": a prefix begins with "/": write "prefix: /path""#,
        ),
        (
            "routes:\n  - {prefix: /a, upstream: }\n",
            "config.yaml:2:28: expected one upstream URL such as http://127.0.0.1:9001/base, found nothing",
        ),
        (
            "routes:\n  - {prefix: /a, upstream: [http://a]}\n",
            r#"config.yaml:2:28: expected one upstream URL such as http://127.0.0.1:9001/base, found a list: several are written as "upstreams:""#,
        ),
        (
            "routes:\n  - {prefix: /a, upstream: http://a, upgrade: [h2c]}\n",
            "config.yaml:2:48: upgrading to h2c is never allowed: requests in it would pass unseen (rule G14)",
        ),
        (
            "routes:\n  - {prefix: /a, upstream: http://a, host: 'a b'}\n",
            r#"config.yaml:2:44: expected upstream, client or a host name, found "a b""#,
        ),
        (
            "routes:\n  - {prefix: /a, upstream: http://a, rewrite_redirects: no}\n",
            r#"config.yaml:2:57: expected auto or off, found "no""#,
        ),
        (
            "routes:\n  - {prefix: /a, upstream: http://a, rewrite_cookies: false}\n",
            "config.yaml:2:55: expected auto or off, found \"false\"",
        ),
        (
            "routes:\n  - {prefix: /a, upstream: http://a, strip_prefix: yes}\n",
            r#"config.yaml:2:52: expected true or false, found "yes""#,
        ),
        (
            "routes:\n  - {prefix: /a, upstream: http://a, timeouts: {drain: 1s}}\n",
            r#"config.yaml:2:49: unknown key "drain"; the keys known here are body_idle, write_idle, connect, response_head, response_idle, tunnel_idle, tunnel_half_closed, plugin"#,
        ),
        (
            "routes:\n  - {prefix: /a, upstream: http://a, max_body_bytes: lots}\n",
            r#"config.yaml:2:54: expected a size such as 65536, 64KiB or 1MiB, or unlimited, found "lots""#,
        ),
        (
            "routes:\n\t- prefix: /a\n",
            r#"config.yaml:2:1: not YAML: found character that cannot start any token; check indentation (spaces, no tabs), colons and quotes here and on the lines above: a value that begins with a special character or holds ": " needs quotes"#,
        ),
        (
            "routes:\n  - prefix: /a\n\tupstream: http://a\n",
            r#"config.yaml:3:1: not YAML: found a tab character that violates indentation; check indentation (spaces, no tabs), colons and quotes here and on the lines above: a value that begins with a special character or holds ": " needs quotes"#,
        ),
        (
            "routes:\n  - prefix: /a\n   upstream: http://a\n",
            r#"config.yaml:3:4: not YAML: did not find expected '-' indicator; check indentation (spaces, no tabs), colons and quotes here and on the lines above: a value that begins with a special character or holds ": " needs quotes"#,
        ),
        (
            "routes:\n  - prefix: /a upstream: http://a\n",
            r#"config.yaml:2:24: not YAML: mapping values are not allowed in this context; check indentation (spaces, no tabs), colons and quotes here and on the lines above: a value that begins with a special character or holds ": " needs quotes"#,
        ),
        (
            "routes: [\n",
            r#"config.yaml:2:1: not YAML: did not find expected node content; check indentation (spaces, no tabs), colons and quotes here and on the lines above: a value that begins with a special character or holds ": " needs quotes"#,
        ),
        (
            "routes: \"abc\n",
            r#"config.yaml:2:1: not YAML: found unexpected end of stream; check indentation (spaces, no tabs), colons and quotes here and on the lines above: a value that begins with a special character or holds ": " needs quotes"#,
        ),
        (
            "a: @b\n",
            r#"config.yaml:1:4: not YAML: found character that cannot start any token; check indentation (spaces, no tabs), colons and quotes here and on the lines above: a value that begins with a special character or holds ": " needs quotes"#,
        ),
        (
            "a: *b\n",
            "config.yaml:1:4: an alias (*name) needs its anchor (&name) further up; a value that begins with * needs quotes",
        ),
        (
            "routes: [{prefix: /a, upstream: 'http://a'}]\n---\nroutes: [{prefix: /a, upstream: 'http://a'}]\n",
            r#"config.yaml: a file is one YAML document: remove the line "---" inside it"#,
        ),
        (
            "workers: !x 2\n",
            r#"config.yaml:1:10: expected a whole number, found a YAML tag: remove the word that begins with "!", or put the value in quotes"#,
        ),
        ("routes: \u{1}\n", "config.yaml:1:9: a control character, which YAML does not allow: remove it"),
        (
            "routes: \"\\0\"\n",
            r#"config.yaml:1:9: expected a list of routes, each "- prefix: /api" with its "upstream:" in the line below, found "\0""#,
        ),
        ("routes: &a [*a]\n", "config.yaml:1:9: expected a mapping with the keys prefix and upstream, found a list"),
        (
            "<<: {a: 1}\n",
            r#"config.yaml:1:1: unknown key "<<"; the keys known here are listen_addr, routes, workers, limits, timeouts, pool, dns, health, tls, upstream_tls, forwarded, proxy_protocol, rewrite_redirects, rewrite_cookies, redirect_to_slash, request_headers, response_headers, via, error_pages, admin, plugins, plugin_body_limit, log"#,
        ),
    ] {
        refused(text, expected);
    }
}

#[test]
fn mistakes_in_other_settings() {
    for (text, expected) in [
        ("tlss: {}\n", r#"config.yaml:2:1: unknown key "tlss"; did you mean "tls"?"#),
        (
            "upstream_tls: {server_name: 'https://a'}\n",
            r#"config.yaml:2:29: expected a host name, or an address without brackets, found "https://a""#,
        ),
        (
            "1: 2\n",
            r#"config.yaml:2:1: unknown key "1"; the keys known here are listen_addr, routes, workers, limits, timeouts, pool, dns, health, tls, upstream_tls, forwarded, proxy_protocol, rewrite_redirects, rewrite_cookies, redirect_to_slash, request_headers, response_headers, via, error_pages, admin, plugins, plugin_body_limit, log"#,
        ),
        (
            "[a]: 2\n",
            "config.yaml:2:1: a key is one word, not a list or a mapping; a value that begins with [ or { needs quotes",
        ),
        (
            "? {a: 1}\n: 2\n",
            "config.yaml:2:3: a key is one word, not a list or a mapping; a value that begins with [ or { needs quotes",
        ),
        ("workers: 1\nworkers: 2\n", r#"config.yaml:3:1: the key "workers" stands twice in this mapping: remove one"#),
        ("timeouts: {keep_alive: 0}\n", "config.yaml:2:24: 0ms is out of range: write one from 1ms to 365d"),
        (
            "timeouts: {keep_alive: 10}\n",
            "config.yaml:2:24: 10 has no unit: write 10s for seconds, or use ms, m, h or d",
        ),
        (
            "timeouts: {keep_alive: 10parsec}\n",
            r#"config.yaml:2:24: expected a duration such as 500ms, 10s, 1m or 1h, found "10parsec""#,
        ),
        (
            "timeouts: {keep_alive: -1}\n",
            "config.yaml:2:24: expected a duration such as 500ms, 10s, 1m or 1h, found the number -1",
        ),
        (
            "timeouts: {keep_alive: 1.5}\n",
            "config.yaml:2:24: expected a duration such as 500ms, 10s, 1m or 1h, found the number 1.5",
        ),
        (
            "timeouts: 5s\n",
            r#"config.yaml:2:11: expected a mapping of time-outs such as "request_head: 10s", found "5s""#,
        ),
        (
            "timeouts: {connect: {address: 9s, total: 5s}}\n",
            "config.yaml:2:21: address (9s) is above total (5s): lower the one, or raise the other",
        ),
        ("limits: {max_head_bytes: 100}\n", "config.yaml:2:26: 100 is out of range: write one from 1KiB to 64KiB"),
        ("limits: {max_head_bytes: 65KiB}\n", "config.yaml:2:26: 65KiB is out of range: write one from 1KiB to 64KiB"),
        (
            "limits: {max_head_bytes: 2KiB, max_request_line: 4KiB}\n",
            "config.yaml:2:9: max_request_line (4KiB) is above max_head_bytes (2KiB): lower the one, or raise the other",
        ),
        ("limits: {max_header_fields: 0}\n", "config.yaml:2:29: 0 is out of range: write one from 1 to 256"),
        ("limits: {max_header_fields: 257}\n", "config.yaml:2:29: 257 is out of range: write one from 1 to 256"),
        ("limits: {max_connections: many}\n", r#"config.yaml:2:27: expected a whole number, or auto, found "many""#),
        ("limits: {max_connections: 0}\n", "config.yaml:2:27: 0 is out of range: write one from 1 to 1000000"),
        (
            "workers: 99999999999999999999999\n",
            "config.yaml:2:10: expected a whole number, found the number 99999999999999999999999",
        ),
        ("workers: two\n", r#"config.yaml:2:10: expected a whole number, found "two""#),
        (
            "listen_addr: localhost:8080\n",
            r#"config.yaml:2:14: "localhost:8080": a listening address is a number, not a name, with a port from 0 to 65535, such as ":8080", 127.0.0.1:8080 or "[::1]:8080", or unix:/run/proxy.sock"#,
        ),
        (
            "listen_addr: 8080\n",
            r#"config.yaml:2:14: 8080 is a port alone: write ":8080" for all addresses, or 127.0.0.1:8080"#,
        ),
        (
            "listen_addr: [::1]:8080\n",
            r#"config.yaml:2:15: not YAML: did not find expected node content; check indentation (spaces, no tabs), colons and quotes here and on the lines above: a value that begins with a special character or holds ": " needs quotes"#,
        ),
        ("listen_addr: []\n", "config.yaml:2:14: this list is empty: write at least one address"),
        (
            "listen_addr: [':1', ':1']\n",
            r#"config.yaml:2:14: ":1" in listen_addr and ":1" in listen_addr overlap: remove one, or choose another"#,
        ),
        (
            "admin: {listen_addr: [':1', '9090']}\n",
            r#"config.yaml:2:29: 9090 is a port alone: write ":9090" for all addresses, or 127.0.0.1:9090"#,
        ),
        (
            "listen_addr: [':1', '[::]:1']\n",
            r#"config.yaml:2:14: ":1" in listen_addr and "[::]:1" in listen_addr overlap: remove one, or choose another"#,
        ),
        (
            "listen_addr: ['unix:/x?mode=0660', 'unix:/x']\n",
            r#"config.yaml:2:14: "unix:/x?mode=0660" in listen_addr and "unix:/x" in listen_addr overlap: remove one, or choose another"#,
        ),
        (
            "admin: {listen_addr: ':8080'}\n",
            r#"config.yaml:2:22: ":8080" in listen_addr and ":8080" in admin.listen_addr overlap: remove one, or choose another"#,
        ),
        (
            "listen_addr: '127.0.0.1:1'\nadmin: {listen_addr: [':2', '127.0.0.1:1']}\n",
            r#"config.yaml:3:22: "127.0.0.1:1" in listen_addr and "127.0.0.1:1" in admin.listen_addr overlap: remove one, or choose another"#,
        ),
        (
            "listen_addr: unix:/x?mode=9\n",
            r#"config.yaml:2:14: "unix:/x?mode=9": the mode of a unix socket is three or four octal digits, at most 0777, and lets somebody write, without which nobody can connect: write ?mode=0660"#,
        ),
        (
            "forwarded: {trusted_proxies: [10.0.0.1/8]}\n",
            "config.yaml:2:31: 10.0.0.1/8 is an address inside a range: write 10.0.0.0/8 for the range",
        ),
        (
            "forwarded: {trusted_proxies: [all]}\n",
            r#"config.yaml:2:31: expected an address or a range such as 10.0.0.0/8, found "all""#,
        ),
        ("log: {format: xml}\n", r#"config.yaml:2:15: expected one of text, json, combined, found "xml""#),
        (
            "health: {eject: 10s, max_eject: 5s}\n",
            "config.yaml:2:9: eject (10s) is above max_eject (5s): lower the one, or raise the other",
        ),
        (
            "health: {eject: 2m, max_eject: 60s}\n",
            "config.yaml:2:9: eject (2m) is above max_eject (1m): lower the one, or raise the other",
        ),
        (
            "limits: {max_head_bytes: 4KiB, max_request_line: 8KiB}\n",
            "config.yaml:2:9: max_request_line (8KiB) is above max_head_bytes (4KiB): lower the one, or raise the other",
        ),
        ("health: {failures: 0}\n", "config.yaml:2:20: 0 is out of range: write one from 1 to 1000"),
        ("admin: {configz: \"true\"}\n", "config.yaml:2:18: expected true, local or false, found \"true\""),
        (
            "limits: {max_request_line: 32KiB}\n",
            "config.yaml:2:9: max_request_line (32KiB) is above max_head_bytes (16KiB): lower the one, or raise the other",
        ),
        (
            "listen_addr: [':80', '0.0.0.0:80']\n",
            r#"config.yaml:2:14: ":80" in listen_addr and "0.0.0.0:80" in listen_addr overlap: remove one, or choose another"#,
        ),
        (
            "listen_addr: '0.0.0.0:80'\nadmin: {listen_addr: '127.0.0.1:80'}\n",
            r#"config.yaml:3:22: "0.0.0.0:80" in listen_addr and "127.0.0.1:80" in admin.listen_addr overlap: remove one, or choose another"#,
        ),
        ("admin: {health: up}\n", "config.yaml:2:17: expected true, false or a path such as /healthz, found \"up\""),
        (
            "admin: {health: /configz}\n",
            "config.yaml:2:17: expected true, false or a path such as /healthz, found \"/configz\"",
        ),
        ("error_pages: 404.html\n", "config.yaml:2:14: expected a mapping, found \"404.html\""),
        ("log: {fields: all}\n", "config.yaml:2:15: expected short or full, found \"all\""),
        ("log: combined\n", "config.yaml:2:6: expected a mapping such as \"access: true\", found \"combined\""),
        ("via: off\n", "config.yaml:2:6: expected true or false, found \"off\""),
        (
            "limits: {max_connections_per_client: 0}\n",
            "config.yaml:2:38: 0 is out of range: write one from 1 to 1000000",
        ),
        (
            "limits: {max_connections_per_client: auto}\n",
            "config.yaml:2:38: expected a whole number, or unlimited, found \"auto\"",
        ),
        ("admin: {configz: 1}\n", "config.yaml:2:18: expected true, local or false, found the number 1"),
        ("admin: {metric: true}\n", r#"config.yaml:2:9: unknown key "metric"; did you mean "metrics"?"#),
        (
            "plugins:\n  - required: true\n",
            "config.yaml:3:5: a plugin has either a path or a builtin: write one of them",
        ),
        (
            "plugins:\n  - {path: /a, builtin: b}\n",
            "config.yaml:3:5: a plugin has either a path or a builtin: write one of them",
        ),
        (
            "plugins:\n  - {path: /a, name: a b}\n",
            r#"config.yaml:3:22: expected the name of a plugin: 1 to 64 letters, digits, "_", "-" and ".", found "a b""#,
        ),
        (
            "plugins:\n  - path: /a/x.so\n  - path: /b/x.so\n",
            r#"config.yaml:4:5: two plugins have the name "x", /a/x.so and /b/x.so: give one of them another, for example "name: x_2""#,
        ),
        (
            "plugins:\n  - path: /a/x.so\n  - builtin: y\n    name: x\n",
            r#"config.yaml:4:5: two plugins have the name "x", /a/x.so and y: give one of them another, for example "name: x_2""#,
        ),
        (
            "plugins:\n  - {path: /a, config: {a: 1, a: 2}}\n",
            r#"config.yaml:3:24: the key "a" stands twice in this mapping: remove one"#,
        ),
        (
            "plugins:\n  - path: /a\n    config:\n      a: 1\n      b: 2\n      a: 3\n",
            r#"config.yaml:7:7: the key "a" stands twice in this mapping: remove one"#,
        ),
        (
            "plugins:\n  - {path: /a, config: {[x]: 1}}\n",
            "config.yaml:3:5: a key is one word, not a list or a mapping; a value that begins with [ or { needs quotes",
        ),
        (
            "plugins:\n  - {path: /a, config: [.inf]}\n",
            "config.yaml:3:5: plugins get JSON, which has no tags, no infinity and no NaN: put the value in quotes",
        ),
        (
            "plugins:\n  - {path: /a, config: {a: !t x}}\n",
            "config.yaml:3:5: plugins get JSON, which has no tags, no infinity and no NaN: put the value in quotes",
        ),
        (
            "timeouts: &t {keep_alive: 5}\npool: *t\n",
            "config.yaml:2:27: 5 has no unit: write 5s for seconds, or use ms, m, h or d",
        ),
        ("# \u{80}", "config.yaml:2:3: a control character, which YAML does not allow: remove it"),
        ("# \u{fffe}", "config.yaml:2:3: a control character, which YAML does not allow: remove it"),
    ] {
        refused(&format!("{ROUTES}{text}"), expected);
    }
}

/// What TLS needs is told at its place; and where this build has none, that.
#[test]
fn mistakes_about_tls() {
    let has_tls = cfg!(feature = "tls");
    let missing = r#"this build cannot listen with TLS: remove tls, or build it with the feature "tls""#;
    let unpaired = r#"tls needs both: add "certificate: cert.pem" and "key: key.pem""#;
    for (text, expected) in [
        ("tls: {}", unpaired),
        ("tls: {certificates: []}", unpaired),
        ("tls: {certificate: a}", r#"this certificate has no key: add "key: key.pem" beside it"#),
        ("tls: {key: a}", r#"this key has no certificate: add "certificate: cert.pem" beside it"#),
    ] {
        let expected = if has_tls { expected } else { missing };
        refused(&format!("{ROUTES}{text}\n"), &format!("config.yaml:2:6: {expected}"));
    }
    for text in ["tls: {certificates: [{key: a}]}", "tls: {certificates: [{}]}"] {
        let expected = r#"config.yaml:2:22: the key "certificate" is missing in this mapping: add it"#;
        refused(&format!("{ROUTES}{text}\n"), expected);
    }
    let https = "routes:\n  - {prefix: /a, upstream: https://a}\n";
    if has_tls {
        refused(
            &format!("{ROUTES}tls: {{listen_addr: ':8080', certificate: a, key: b}}\n"),
            r#"config.yaml:2:20: ":8080" in listen_addr and ":8080" in tls.listen_addr overlap: remove one, or choose another"#,
        );
        let config = Config::parse(https, "f").unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(config.routes[0].upstreams()[0].endpoint.to_string(), "a:443");
        let text = format!("{ROUTES}tls: {{certificate: a, key: b, certificates: [{{certificate: c, key: d}}]}}\n");
        let config = Config::parse(&text, "f").unwrap_or_else(|error| panic!("{error}"));
        let names = config.tls.expect("it is there").certificates.into_iter().map(|pair| pair.certificate);
        assert!(names.eq(["a", "c"].map(std::path::PathBuf::from)), "the first is the default");
    } else {
        let expected = "this build cannot speak TLS to an upstream: use http://, or build it with the feature \"tls\"";
        refused(https, &format!("config.yaml:2:28: {expected}"));
    }
}

#[test]
fn what_grows_without_end_is_refused() {
    let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
    refused(
        &format!("routes: {deep}\n"),
        "config.yaml:1:10: expected a mapping with the keys prefix and upstream, found a list",
    );
    refused(
        &format!("{ROUTES}plugins: [{{path: a, config: {deep}}}]\n"),
        "config.yaml:2:154: lists and mappings are nested too deeply: at most 128 levels",
    );
    let mut laughs = format!("{ROUTES}plugins: [{{path: a, config: {{a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]");
    for (name, before) in ('b'..='k').zip('a'..) {
        laughs.push_str(&format!(", {name}: &{name} [{}]", vec![format!("*{before}"); 10].join(", ")));
    }
    laughs.push_str("}}]\n");
    refused(&laughs, "config.yaml: aliases (*name) repeat too much of the file: write it out instead");
}

#[test]
fn files_that_cannot_be_read_are_named_with_a_remedy() {
    let missing = Path::new("/nowhere/config.yaml");
    let expected =
        "/nowhere/config.yaml: no such file; copy config.example.yml to make one, or name another with -config PATH";
    assert_eq!(Config::load(missing, &[]).map(drop).map_err(|error| error.to_string()), Err(expected.to_owned()));
    let expected =
        "/: cannot be read: this is no regular file, and a reload has to read it again; name another with -config PATH";
    let directory = Config::load(Path::new("/"), &[]).map(drop).map_err(|error| error.to_string());
    assert_eq!(directory, Err(expected.to_owned()));
    let latin1 = std::env::temp_dir().join(format!("mini-rproxy-latin1-{}.yaml", std::process::id()));
    std::fs::write(&latin1, b"# ok\n# caf\xe9\n").expect("the temporary directory is writable");
    let refused = Config::load(&latin1, &[]).map(drop).map_err(|error| error.to_string());
    let expected = format!("{}:2:6: this byte is not UTF-8: save the file as UTF-8 text", latin1.display());
    std::fs::remove_file(&latin1).expect("it was just made");
    assert_eq!(refused, Err(expected));
}

#[test]
fn spellings_that_are_accepted() {
    for text in [
        "\u{feff}routes: [{prefix: /a, upstream: 'http://a'}]\n",
        "routes:\r\n  - prefix: /a\r\n    upstream: http://a\r\n",
        "---\nroutes:\n- prefix: /a\n  upstream: http://a\n",
        "{\"routes\": [{\"prefix\": \"/a\", \"upstream\": \"http://a\"}]}",
        "routes:\n  - {prefix: /a, upstreams: http://a, upgrade: websocket}\nforwarded: {trusted_proxies: '::1'}\nworkers: '2'\n",
        "routes:\n  - &a {prefix: /a, upstream: &u http://a, timeouts: &t {connect: 1s}}\n  - {prefix: /b, upstream: *u, timeouts: *t}\n",
    ] {
        let config = Config::parse(text, "f").unwrap_or_else(|error| panic!("{error}\nin:\n{text}"));
        assert_eq!(config.routes[0].prefix, "/a", "{text}");
        assert_eq!(config.listen_addr, [ListenAddr::any(8080)], "{text}");
    }
}

#[test]
fn the_example_file_is_valid_with_every_key_as_it_stands_there() {
    let example = include_str!("../config.example.yml");
    let plain = Config::parse(example, "config.example.yml").unwrap_or_else(|error| panic!("{error}"));
    let prefixes: Vec<_> = plain.routes.iter().map(|route| route.prefix.as_str()).collect();
    assert_eq!(prefixes, ["/fitness", "/engine", "/connect"]);
    // "#key: value" is a setting with its default; prose has a space after its "#".
    let uncommented: String = example
        .lines()
        .map(|line| {
            let code = line.trim_start();
            match code.strip_prefix('#') {
                Some(rest) if !rest.starts_with(' ') && !rest.is_empty() => {
                    format!("{}{rest}\n", &line[..line.len() - code.len()])
                }
                Some(_) | None => format!("{line}\n"),
            }
        })
        .collect();
    let full = Config::parse(&uncommented, "config.example.yml, uncommented").unwrap_or_else(|error| panic!("{error}"));
    let mut plain = plain;
    plain.workers = full.workers;
    assert_eq!(full, plain, "the example shows the defaults");
}

/// 100,000 routes load in well under a second in release; here only that they load, and share what they can.
#[test]
fn many_routes_share_what_they_say_alike() {
    let mut text = "routes:\n".to_owned();
    for number in 0..10_000 {
        text.push_str(&format!("  - prefix: /p{number}\n    upstream: http://h{}:9000\n", number % 3));
    }
    let config = Config::parse(&text, "f").unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(config.routes.len(), 10_000);
    assert!(std::ptr::eq(config.routes[0].upstreams(), config.routes[9_999].upstreams()));
    assert!(std::sync::Arc::ptr_eq(&config.routes[0].options, &config.routes[9_999].options));
}

/// Cuts, doubles and swaps pieces of a valid file, and puts in what YAML finds special.
#[test]
fn no_text_makes_it_panic() {
    let example = Config::parse(include_str!("../config.example.yml"), "f").unwrap_or_else(|error| panic!("{error}"));
    let printed = example.to_yaml();
    let seeds = [
        printed.as_str(),
        "routes:\n  - &a {prefix: /a, upstream: &u http://u:p@a, timeouts: &t {connect: {address: 1s, total: 2s}}}\n  - *a\n\
         plugins: [{path: x, config: {a: [1, -2, 3.5, ~, !t x, \"\\u1234\"], b: |\n  text\n}}]\nlisten_addr: ['unix:/x?mode=0660', \"[::]:1\"]\n",
    ];
    let special = [
        "&a ", "*a ", "- ", ": ", "? ", "!x ", "|", ">", "[", "]", "{", "}", "\"", "'", "\t", "\n", "---\n", "...\n",
        "%", "~", "<<: *a\n", "\u{e9}", "0x", "#",
    ];
    // xorshift64: the same run each time.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut below = |end: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % end.max(1) as u64).unwrap_or(0)
    };
    for round in 0..rounds() {
        let mut text: Vec<char> = seeds[round % seeds.len()].chars().collect();
        for _ in 0..1 + below(4) {
            let (from, to) = (below(text.len()), below(text.len()));
            match below(3) {
                0 => drop(text.drain(from.min(to)..from.max(to).min(from.min(to) + 20))),
                1 => drop(text.splice(from..from, special[below(special.len())].chars())),
                _ => {
                    let piece: Vec<char> = text[from..text.len().min(from + 15)].to_vec();
                    text.splice(to..to, piece);
                }
            }
        }
        let text: String = text.into_iter().collect();
        match Config::parse(&text, "f") {
            Err(error) => {
                let message = error.to_string();
                let is_ours = !message.contains(" at line ") && !message.contains(char::is_control);
                assert!(is_ours, "{message}\nin:\n{text}");
            }
            Ok(config) => {
                let printed = config.to_yaml();
                let again = Config::parse(&printed, "printed").unwrap_or_else(|error| panic!("{error}\n{printed}"));
                assert_eq!(again.to_yaml(), printed, "in:\n{text}");
            }
        }
    }
}

/// More rounds: `CONFIG_ROUNDS=1000000`.
fn rounds() -> usize {
    std::env::var("CONFIG_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(500)
}

/// What depends on another key follows it where it is left out, whatever is a default.
#[test]
fn defaults_follow_the_keys_they_depend_on() {
    let parse = |text: &str| Config::parse(&format!("{ROUTES}{text}\n"), "f").unwrap_or_else(|error| panic!("{error}"));
    let seconds = |text: &str| {
        let health = parse(text).health;
        (health.eject.as_secs_f32(), health.max_eject.as_secs_f32())
    };
    assert_eq!(seconds("health: {}"), (1.0, 60.0));
    assert_eq!(seconds("health: {eject: 2m}"), (120.0, 120.0));
    assert_eq!(seconds("health: {max_eject: 500ms}"), (0.5, 0.5));
    let line = |text: &str| parse(text).limits.max_request_line;
    assert_eq!([line("limits:"), line("limits: {max_head_bytes: 4KiB}")], [8192, 4096]);
    let connect = |text: &str| {
        let connect = parse(&format!("timeouts: {{connect: {text}}}")).timeouts.connect;
        (connect.address.as_secs_f32(), connect.total.as_secs_f32())
    };
    assert_eq!([connect("1s"), connect("9s")], [(1.0, 1.0), (3.0, 9.0)]);
    assert_eq!([connect("{address: 9s}"), connect("{total: 1.5s}")], [(9.0, 9.0), (1.5, 1.5)]);
    let keys = ["limits", "timeouts", "pool", "dns", "health", "upstream_tls", "forwarded", "proxy_protocol", "admin"];
    for key in keys.into_iter().chain(["log", "plugins"]) {
        assert_eq!(parse(&format!("{key}:")), parse(""), "{key}");
    }
}

/// Keys of nginx, HAProxy, Caddy and others.
#[test]
fn names_from_other_proxies_lead_to_ours() {
    for (theirs, ours) in [
        ("proxy_pass", "upstream"),
        ("backend", "upstream"),
        ("server", "upstream"),
        ("path", "prefix"),
        ("location", "prefix"),
        ("server_name", "hosts"),
        ("return", "redirect"),
        ("rewrite", "strip_prefix"),
        ("websocket", "upgrade"),
        ("headers", "request_headers"),
        ("proxy_set_header", "request_headers"),
        ("add_header", "response_headers"),
    ] {
        let expected = format!("config.yaml:1:11: unknown key \"{theirs}\"; did you mean \"{ours}\"?");
        refused(&format!("routes: [{{{theirs}: x, host: client}}]\n"), &expected);
    }
    for (theirs, ours) in [
        ("server", "routes"),
        ("location", "routes"),
        ("backend", "routes"),
        ("frontend", "routes"),
        ("path", "routes"),
        ("http", "routes"),
        ("listen", "listen_addr"),
        ("port", "listen_addr"),
        ("ssl", "tls"),
        ("https", "tls"),
    ] {
        let expected = format!("config.yaml:2:1: unknown key \"{theirs}\"; did you mean \"{ours}\"?");
        refused(&format!("{ROUTES}{theirs}: x\n"), &expected);
    }
}

#[test]
fn routes_that_do_not_get_what_they_seem_to_are_warned_of() {
    let warnings = |more: &str, prefix: &str| {
        let text = format!(
            "{more}\nroutes:\n- {{prefix: '{prefix}', upstream: 'http://a'}}\n- {{hosts: b, prefix: /b, upstream: 'http://b'}}\n"
        );
        Config::parse(&text, "f").unwrap_or_else(|error| panic!("{error}\nin:\n{text}")).warnings()
    };
    for (more, prefix, expected) in [
        (
            "",
            "/health",
            "the proxy itself answers /health to all clients, not the route /health: set admin.health to false or to another path",
        ),
        (
            "",
            "/%68ealth/",
            "the proxy itself answers /health to all clients, not the route /%68ealth/: set admin.health to false or to another path",
        ),
        (
            "admin: {health: /up}",
            "/up",
            "the proxy itself answers /up to all clients, not the route /up: set admin.health to false or to another path",
        ),
        (
            "",
            "/configz",
            "the proxy itself answers /configz to all clients, not the route /configz: set admin.configz to false",
        ),
        (
            "admin: {configz: local}",
            "/configz",
            "the proxy itself answers /configz to clients on this host, not the route /configz: set admin.configz to false",
        ),
        (
            "",
            "/metrics",
            "the proxy itself answers /metrics to clients on this host, not the route /metrics: set admin.metrics to false",
        ),
        (
            "admin: {health: /b}",
            "/a",
            "the proxy itself answers /b to all clients, not the route /b: set admin.health to false or to another path",
        ),
        (
            "",
            "/a*",
            "the prefix \"/a*\" takes paths that begin with just these characters: no character in a prefix stands for others, and all paths below it belong to it",
        ),
        (
            "",
            "/a/$1",
            "the prefix \"/a/$1\" takes paths that begin with just these characters: no character in a prefix stands for others, and all paths below it belong to it",
        ),
        (
            "",
            "/{id}",
            "the prefix \"/{id}\" takes paths that begin with just these characters: no character in a prefix stands for others, and all paths below it belong to it",
        ),
        (
            "",
            "/^a",
            "the prefix \"/^a\" takes paths that begin with just these characters: no character in a prefix stands for others, and all paths below it belong to it",
        ),
    ] {
        assert_eq!(warnings(more, prefix), [expected], "{more} {prefix}");
    }
    for (more, prefix) in [
        ("", "/"),
        ("", "/healthz"),
        ("", "/health/x"),
        ("", "/~user/a.b;v=1"),
        ("admin: {health: false}", "/health"),
        ("admin: {health: /up}", "/health"),
        ("admin: {configz: false}", "/configz"),
        ("admin: {metrics: false}", "/metrics"),
        ("admin: {listen_addr: ':9090'}", "/metrics"),
    ] {
        assert_eq!(warnings(more, prefix), [""; 0], "{more} {prefix}");
    }
}
