//! Whom the proxy believes, and what it says about the others.

use rcgen::{BasicConstraints, CertificateParams, IsCa, date_time_ymd};

use crate::certificates::{Authority, Pair};
use crate::ends::{SServer, config, echo, openssl, origin};
use crate::support::{Launch, Origin, Proxy, is_missing, value};

fn get(proxy: &Proxy) -> u16 {
    proxy.connect().get("/").status()
}

#[test]
fn what_cannot_be_verified_is_answered_with_502_and_told_with_its_remedy() {
    let authority = Authority::new();
    let stranger = Authority::new();
    let ca = |params: &mut CertificateParams| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let table: [(&str, Pair, &str, &str); 6] = [
        ("wrong name", authority.issue(&["other.test"]), "is for another name", "not valid for name"),
        ("expired", authority.issue_for_years(&["localhost"], 2010, 2011), "has expired", "expired"),
        ("from the future", authority.issue_for_years(&["localhost"], 2090, 2091), "is not valid yet", "not valid yet"),
        ("self-signed", authority.self_signed(&["localhost"]), "nobody who is trusted here", "UnknownIssuer"),
        // As "openssl req -x509" makes them.
        (
            "an authority of itself",
            authority.self_signed_with(&["localhost"], ca),
            "name its file in upstream_tls.ca_file",
            "CaUsedAsEndEntity",
        ),
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
fn g8_what_the_top_says_of_verification_is_for_all_routes() {
    let authority = Authority::new();
    let origin = echo(&authority.issue(&["inner.test"]));
    let (port, ca) = (origin.address.port(), authority.file.display());
    for (verification, status) in [
        (format!("ca_file: {ca}"), 502),
        (format!("ca_file: {ca}, server_name: inner.test"), 200),
        ("insecure_skip_verify: true".to_owned(), 200),
    ] {
        let yaml = format!(
            "workers: 1\nroutes: [{{prefix: /, upstream: 'https://localhost:{port}'}}]\nupstream_tls: {{{verification}}}\n"
        );
        assert_eq!(get(&Proxy::start(&yaml)), status, "{verification}");
    }
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

/// X.509 version 1, as "openssl x509 -req" of OpenSSL 3.0 makes them.
const VERSION_1: &str = "-----BEGIN CERTIFICATE-----
MIIBJDCBywIUMHmnq89bryd+QhKc0nip+leuVX4wCgYIKoZIzj0EAwIwFDESMBAG
A1UEAwwJbG9jYWxob3N0MCAXDTI2MTEzMDIxMDIxM1oYDzIxMjYxMTA2MjEwMjEz
WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC
AAT2IpLC/CDyA4JJFo90ZaldrD5XwrfW822IHXh9D6/FRnzkfLU6geKEOmz/ucpS
i1OYHuwinPdEMlaZHTEZq7SCMAoGCCqGSM49BAMCA0gAMEUCIAIU+3uqN5KEvq2R
1OrSaIrqSSI/aIxCtU+olM1pJ6OoAiEA+uXPcHV1NgO+Bjsj7hoERk3ME312SVCX
Y+rL0JuSlD0=
-----END CERTIFICATE-----
";

#[test]
fn what_is_wrong_with_the_files_is_told_at_start() {
    let authority = Authority::new();
    let (one, other) = (authority.issue(&["localhost"]), authority.issue(&["localhost"]));
    let text = authority.folder().join("text");
    std::fs::write(&text, "no PEM").expect("a file");
    let cut = authority.folder().join("cut.pem");
    let whole = std::fs::read_to_string(&one.certificate).expect("a file");
    std::fs::write(&cut, &whole[..whole.len() / 2]).expect("a file");
    let version_1 = authority.folder().join("version-1.pem");
    std::fs::write(&version_1, VERSION_1).expect("a file");
    let (cert, key) = (one.certificate.display().to_string(), one.key.display().to_string());
    let version_1 = version_1.display().to_string();
    let (other_key, text, cut) = (other.key.display().to_string(), text.display(), cut.display());
    let missing = "/does/not/exist.pem";
    let pipe = authority.folder().join("pipe").display().to_string();
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("it is everywhere").success());
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
        ("version 1", listen(&version_1, &key), format!("{version_1}: cannot be used (")),
        ("version 1, remedy", listen(&version_1, &key), "make one of X.509 version 3".to_owned()),
        ("a pipe", listen(&pipe, &key), format!("{pipe}: cannot be read: this is no regular file")),
        ("no CA", format!("upstream_tls: {{ ca_file: {missing} }}\n"), format!("{missing}: cannot be read")),
    ] {
        let yaml = format!("{yaml}routes: [{{ prefix: /, upstream: 'https://localhost:1' }}]\n");
        for arg in ["-verbose", "-check"] {
            let mut proxy = Launch::quiet(&yaml).arg(arg).spawn();
            assert_eq!(proxy.wait().code(), Some(1), "{name} {arg}");
            let said = proxy.log.all().join("\n");
            assert!(said.contains(&expected), "{name} {arg}: {said}");
            assert!(said.contains("config.yaml:2:"), "{name} {arg}, with its place: {said}");
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

#[test]
fn where_nothing_is_verified_any_certificate_will_do() {
    if is_missing("openssl") {
        return;
    }
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let authority = Authority::new();
    let new = |name: &str, args: &[&str]| {
        let pair = Pair {
            certificate: folder.path().join(format!("{name}.pem")),
            key: folder.path().join(format!("{name}.key")),
        };
        let (key, certificate) = (format!("{name}.key"), format!("{name}.pem"));
        let common = ["req", "-x509", "-nodes", "-subj", "/CN=device", "-keyout", &key, "-out", &certificate];
        openssl(folder.path(), &[&common, args].concat());
        pair
    };
    // As old devices have it: there is no request for one of version 1, but signing a request makes one.
    let version_1 = new("v1", &["-newkey", "rsa:2048"]);
    openssl(folder.path(), &["req", "-new", "-key", "v1.key", "-subj", "/CN=device", "-out", "v1.csr"]);
    openssl(folder.path(), &["x509", "-req", "-in", "v1.csr", "-signkey", "v1.key", "-out", "v1.pem"]);
    let weak = "ALL:@SECLEVEL=0";
    let servers: [(&str, Pair, &[&str]); 10] = [
        ("version 1", version_1.clone(), &[]),
        ("version 1, TLS 1.2", version_1, &["-tls1_2"]),
        (
            "an unknown critical extension",
            new("crit", &["-newkey", "rsa:2048", "-addext", "1.2.3.4=critical,DER:05:00"]),
            &[],
        ),
        ("RSA 1024", new("r1024", &["-newkey", "rsa:1024"]), &["-cipher", weak]),
        ("RSA 1024, TLS 1.2", new("r1024b", &["-newkey", "rsa:1024"]), &["-cipher", weak, "-tls1_2"]),
        ("RSA 512, TLS 1.2", new("r512", &["-newkey", "rsa:512", "-sha1"]), &["-cipher", weak, "-tls1_2"]),
        (
            "SHA-1",
            new("sha1", &["-newkey", "rsa:2048", "-sha1"]),
            &["-cipher", weak, "-tls1_2", "-sigalgs", "RSA+SHA1"],
        ),
        ("Ed448", new("ed448", &["-newkey", "ed448"]), &[]),
        ("P-521", new("p521", &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-521"]), &[]),
        ("expired, for another name", authority.issue_for_years(&["other.test"], 2010, 2011), &[]),
    ];
    for (name, pair, args) in servers {
        let server = SServer::start(&pair, args);
        let yaml = format!(
            "workers: 1\nroutes: [{{prefix: /, upstream: 'https://{}', upstream_tls: {{insecure_skip_verify: true}}}}]\n",
            server.address
        );
        let proxy = Proxy::start(&yaml);
        let mut client = proxy.connect();
        client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
        let status = client.head().expect("a response").status();
        assert_eq!(status, 200, "{name}: {}", proxy.log.all().join("\n"));
    }
}

#[test]
fn a_certificate_that_stands_in_ca_file_is_trusted_for_its_name() {
    let authority = Authority::new();
    let ca = |params: &mut CertificateParams| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let with_dates = |first: i32, last: i32| {
        move |params: &mut CertificateParams| {
            ca(params);
            params.not_before = date_time_ymd(first, 1, 1);
            params.not_after = date_time_ymd(last, 1, 1);
        }
    };
    let common_name = |params: &mut CertificateParams| {
        ca(params);
        params.distinguished_name.push(rcgen::DnType::CommonName, "localhost");
    };
    let wrong_name = "is for another name";
    let namesake = Authority::named("localhost");
    for (name, pair, refusal) in [
        ("self-signed", authority.self_signed(&["localhost"]), None),
        ("an authority of itself", authority.self_signed_with(&["localhost"], ca), None),
        ("with a common name only", authority.self_signed_with(&[], common_name), None),
        ("issued by somebody else", authority.issue(&["localhost"]), None),
        ("another name", authority.self_signed_with(&["other.test"], ca), Some(wrong_name)),
        (
            "another name, and the common name",
            authority.self_signed_with(&["other.test"], common_name),
            Some(wrong_name),
        ),
        ("no name", authority.self_signed_with(&[], ca), Some(wrong_name)),
        ("no name, and its issuer has one", namesake.issue(&[]), Some(wrong_name)),
        ("expired", authority.self_signed_with(&["localhost"], with_dates(2010, 2011)), Some("has expired")),
        ("from the future", authority.self_signed_with(&["localhost"], with_dates(2090, 2091)), Some("not valid yet")),
    ] {
        let origin = echo(&pair);
        let yaml = format!(
            "workers: 1\nroutes: [{{prefix: /, upstream: 'https://localhost:{}'}}]\nupstream_tls: {{ca_file: {}}}\n",
            origin.address.port(),
            pair.certificate.display()
        );
        let proxy = Proxy::start(&yaml);
        assert_eq!(get(&proxy), if refusal.is_some() { 502 } else { 200 }, "{name}: {}", proxy.log.all().join("\n"));
        if let Some(refusal) = refusal {
            let line = proxy.access("/");
            assert!(value(&line, "detail").is_some_and(|detail| detail.contains(refusal)), "{name}: {line}");
        }
    }
}

#[test]
fn a_certificate_that_stands_in_ca_file_is_of_no_use_without_its_key() {
    let authority = Authority::new();
    let ca = |params: &mut CertificateParams| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let (pinned, other) =
        (authority.self_signed_with(&["localhost"], ca), authority.self_signed_with(&["localhost"], ca));
    // Of the same name, and with another key.
    let origin = echo(&other);
    let yaml = format!(
        "routes: [{{prefix: /, upstream: 'https://localhost:{}'}}]\nupstream_tls: {{ca_file: {}}}\n",
        origin.address.port(),
        pinned.certificate.display()
    );
    assert_eq!(get(&Proxy::start(&yaml)), 502);
}

#[test]
fn an_upstream_that_knows_cbc_only_is_told_what_is_missing() {
    if is_missing("openssl") {
        return;
    }
    let authority = Authority::new();
    let server = SServer::start(&authority.issue(&["127.0.0.1"]), &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA256"]);
    let yaml = format!(
        "routes: [{{prefix: /, upstream: 'https://{}'}}]\nupstream_tls: {{ca_file: {}}}\n",
        server.address,
        authority.file.display()
    );
    let proxy = Proxy::start(&yaml);
    assert_eq!(get(&proxy), 502);
    let line = proxy.log.wait_for("the reason", |line| line.contains("no TLS connection to upstream"));
    assert!(line.contains("no common cipher suite") && line.contains("CBC"), "{line}");
}
