//! Whom the proxy believes, and what it says about the others.

use crate::certificates::{Authority, Pair};
use crate::ends::{config, echo, origin};
use crate::support::{Launch, Origin, Proxy, value};

fn get(proxy: &Proxy) -> u16 {
    proxy.connect().get("/").status()
}

#[test]
fn what_cannot_be_verified_is_answered_with_502_and_told_with_its_remedy() {
    let authority = Authority::new();
    let stranger = Authority::new();
    let table: [(&str, Pair, &str, &str); 5] = [
        ("wrong name", authority.issue(&["other.test"]), "is for another name", "not valid for name"),
        ("expired", authority.issue_for_years(&["localhost"], 2010, 2011), "has expired", "expired"),
        ("from the future", authority.issue_for_years(&["localhost"], 2090, 2091), "is not valid yet", "not valid yet"),
        ("self-signed", authority.self_signed(&["localhost"]), "nobody who is trusted here", "UnknownIssuer"),
        ("unknown issuer", stranger.issue(&["localhost"]), "nobody who is trusted here", "invalid peer"),
    ];
    for (name, pair, detail, warning) in table {
        let origin = echo(&pair);
        let proxy = Proxy::start(&config(&origin, &authority, ""));
        assert_eq!(get(&proxy), 502, "{name}");
        let line = proxy.access("/");
        assert_eq!(value(&line, "why"), Some("tls_untrusted"), "{name}: {line}");
        assert!(value(&line, "detail").is_some_and(|text| text.contains(detail)), "{name}: {line}");
        let told = |line: &str| line.contains("no TLS connection to upstream localhost") && line.contains(warning);
        proxy.log.wait_for(name, told);
        // Once is enough for a while.
        assert_eq!(get(&proxy), 502, "{name}");
        proxy.log.wait_for_many("access lines", 2, |line| line.contains("why=tls_untrusted"));
        assert_eq!(proxy.log.all().iter().filter(|line| told(line)).count(), 1, "{name}");
    }
}

#[test]
fn g8_the_name_and_the_verification_are_the_routes_own() {
    let authority = Authority::new();
    let origin = echo(&authority.issue(&["inner.test", "127.0.0.1"]));
    let (port, ca) = (origin.address.port(), authority.file.display());
    let yaml = format!(
        "workers: 1
routes:
  - {{ prefix: /plain, upstream: 'https://localhost:{port}', upstream_tls: {{ ca_file: {ca} }} }}
  - {{ prefix: /named, upstream: 'https://localhost:{port}', upstream_tls: {{ ca_file: {ca}, server_name: inner.test }} }}
  - {{ prefix: /any, upstream: 'https://localhost:{port}', upstream_tls: {{ insecure_skip_verify: true }} }}
  - {{ prefix: /literal, upstream: 'https://127.0.0.1:{port}', upstream_tls: {{ ca_file: {ca} }} }}
"
    );
    let proxy = Proxy::start(&yaml);
    let mut client = proxy.connect();
    // In an order that would show connections which were verified differently but shared.
    for (path, status) in
        [("/plain", 502), ("/any", 200), ("/plain", 502), ("/named", 200), ("/plain", 502), ("/literal", 200)]
    {
        let response = client.get(path);
        assert_eq!(response.status(), status, "{path}");
        if status == 200 {
            let host = if path == "/literal" { "127.0.0.1" } else { "localhost" };
            assert!(response.text().contains(&format!("Host: {host}:{port}\n")), "{path}: {}", response.text());
        }
    }
    let warnings: Vec<String> =
        proxy.log.all().into_iter().filter(|line| line.contains("insecure_skip_verify")).collect();
    assert!(warnings.len() == 1 && warnings[0].contains("prefix=/any"), "{warnings:?}");
}

#[test]
fn g8_each_of_several_upstreams_is_verified_whatever_stands_first() {
    let authority = Authority::new();
    let secure = echo(&authority.issue(&["localhost"]));
    let plain = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nplain");
    let (plain, port, ca) = (plain.url(), secure.address.port(), authority.file.display());
    let yaml = format!(
        "workers: 1
routes:
  - prefix: /
    upstreams: ['{plain}', 'https://localhost:{port}']
    upstream_tls: {{ ca_file: {ca} }}
"
    );
    let proxy = Proxy::start(&yaml);
    proxy.log.wait_for("the line about roots", |line| line.contains("https upstreams are verified"));
    let mut client = proxy.connect();
    // Ties go in turn, so both are asked.
    let answers: Vec<String> = (0..4).map(|_| client.get("/").text().to_owned()).collect();
    assert!(answers.iter().any(|answer| answer == "plain"), "{answers:?}");
    assert!(answers.iter().any(|answer| answer.contains(&format!("Host: localhost:{port}\n"))), "{answers:?}");
    assert!(!proxy.log.all().iter().any(|line| line.contains("tls_failed")), "{:?}", proxy.log.all());
}

#[test]
fn e2_the_start_report_says_whom_it_trusts() {
    let authority = Authority::new();
    let pair = authority.issue(&["localhost"]);
    let origin = echo(&pair);
    let port = origin.address.port();
    let yaml = format!("routes: [{{ prefix: /, upstream: 'https://localhost:{port}' }}]\n");
    let ca = authority.file.display().to_string();
    let nowhere = authority.folder().join("nothing").display().to_string();
    let said = |proxy: &Proxy| {
        let line = proxy.log.wait_for("the line about roots", |line| line.contains("https upstreams are verified"));
        value(&line, "by").expect("a phrase").to_owned()
    };

    let proxy = Proxy::start(&config(&origin, &authority, ""));
    assert_eq!(said(&proxy), format!("the one authority of {ca}"));
    assert_eq!(get(&proxy), 200);

    // The system's store, as this variable has it.
    let proxy = Launch::new(&yaml).env("SSL_CERT_FILE", &ca).env("SSL_CERT_DIR", &nowhere).start();
    assert_eq!(said(&proxy), "the one authority of this system");
    assert_eq!(get(&proxy), 200);

    let proxy = Launch::new(&yaml).env("SSL_CERT_FILE", &nowhere).env("SSL_CERT_DIR", &nowhere).start();
    let phrase = said(&proxy);
    assert!(phrase.contains("built in") && phrase.contains("upstream_tls.ca_file"), "{phrase}");
    assert_eq!(get(&proxy), 502);

    let plain = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let proxy = Proxy::start(&plain.config(""));
    assert_eq!(get(&proxy), 200);
    assert!(!proxy.log.all().iter().any(|line| line.contains("verified")), "nothing to verify, nothing to say");
}

#[test]
fn what_is_wrong_with_the_files_is_told_at_start() {
    let authority = Authority::new();
    let (one, other) = (authority.issue(&["localhost"]), authority.issue(&["localhost"]));
    let text = authority.folder().join("text");
    std::fs::write(&text, "no PEM").expect("a file");
    let cut = authority.folder().join("cut.pem");
    let whole = std::fs::read_to_string(&one.certificate).expect("a file");
    std::fs::write(&cut, &whole[..whole.len() / 2]).expect("a file");
    let (cert, key) = (one.certificate.display().to_string(), one.key.display().to_string());
    let (other_key, text, cut) = (other.key.display().to_string(), text.display(), cut.display());
    let missing = "/does/not/exist.pem";
    let listen = |cert: &str, key: &str| format!("tls: {{ certificate: {cert}, key: {key} }}\n");
    for (name, yaml, expected) in [
        (
            "wrong key",
            listen(&cert, &other_key),
            format!("{other_key}: this key does not belong to the certificate in"),
        ),
        ("no certificate file", listen(missing, &key), format!("{missing}: cannot be read: No such file")),
        ("no key file", listen(&cert, missing), format!("{missing}: cannot be read: No such file")),
        ("swapped", listen(&key, &cert), format!("{key}: there is no \"-----BEGIN CERTIFICATE-----\" in it")),
        ("key without a key", listen(&cert, &text.to_string()), format!("{text}: there is no private key in it")),
        ("no PEM", listen(&text.to_string(), &key), format!("{text}: there is no \"-----BEGIN CERT")),
        ("cut PEM", listen(&cut.to_string(), &key), format!("{cut}: ")),
        ("no CA", format!("upstream_tls: {{ ca_file: {missing} }}\n"), format!("{missing}: cannot be read")),
    ] {
        let yaml = format!("{yaml}routes: [{{ prefix: /, upstream: 'https://localhost:1' }}]\n");
        for arg in ["-verbose", "-check"] {
            let mut proxy = Launch::new(&yaml).arg(arg).spawn();
            assert_eq!(proxy.wait().code(), Some(1), "{name} {arg}");
            let said = proxy.log.all().join("\n");
            assert!(said.contains(&expected), "{name} {arg}: {said}");
        }
    }
}

#[test]
fn resumed_sessions_do_not_outlive_the_trust_that_they_began_with() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let origin = origin(&stranger.issue(&["localhost"]), |mut peer, _| {
        while peer.head().is_some() {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let (port, ca) = (origin.address.port(), authority.file.display());
    let yaml = format!(
        "workers: 1
pool: {{ max_idle: 0 }}
routes:
  - {{ prefix: /any, upstream: 'https://localhost:{port}', upstream_tls: {{ insecure_skip_verify: true }} }}
  - {{ prefix: /, upstream: 'https://localhost:{port}', upstream_tls: {{ ca_file: {ca} }} }}
"
    );
    let proxy = Proxy::start(&yaml);
    let mut client = proxy.connect();
    for _ in 0..3 {
        assert_eq!(client.get("/any").status(), 200);
        assert_eq!(client.get("/").status(), 502);
    }
}
