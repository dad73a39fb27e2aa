//! Certificates of clients: those that ours show to us, and the one that we show to upstreams.

use std::fs;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS12;
use rustls::{ClientConfig, RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use crate::certificates::{Authority, Pair};
use crate::ends::{address_of, client_config, copy, dial, listen, listen_both, session};
use crate::support::{Launch, Origin, Peer, Proxy, wait_until};

fn roots(authority: &Authority) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&authority.file).expect("PEM")).expect("a root");
    roots
}

fn chain_and_key(pair: &Pair) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let chain = CertificateDer::pem_file_iter(&pair.certificate).expect("PEM").flatten().collect();
    (chain, PrivateKeyDer::from_pem_file(&pair.key).expect("PEM"))
}

/// A client that shows `own`, if anything.
fn client(authority: &Authority, own: Option<&Pair>) -> ClientConfig {
    let Some(own) = own else { return client_config(authority) };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let (chain, key) = chain_and_key(own);
    let builder = builder.expect("versions").with_root_certificates(roots(authority));
    builder.with_client_auth_cert(chain, key).expect("a pair")
}

/// What comes back for a request with forged fields; an error where the handshake fails.
fn ask(address: SocketAddr, config: ClientConfig, path: &str) -> io::Result<String> {
    let mut stream = StreamOwned::new(session(config, "localhost"), dial(address));
    let forged =
        "X-Client-Cert-Verify: SUCCESS\r\nx_client_cert_subject: CN=forged\r\nX-Client-Cert-Subject: CN=forged\r\n";
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{forged}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn yaml(origin: &Origin, listen: &str, more: &str) -> String {
    origin.config(&listen.replace(" }\n", &format!(", {more} }}\n")))
}

#[test]
fn g4_a_client_shows_a_certificate_and_the_upstream_is_told_whose_it_is() {
    let (authority, clients, strangers) =
        (Authority::new(), Authority::named("Clients"), Authority::named("Strangers"));
    let (own, origin) = (authority.issue(&["localhost"]), Origin::echo());
    let more = format!("client_ca: {}", clients.file.display());
    let proxy = Proxy::start(&yaml(&origin, &listen_both(&own), &more));
    let address = address_of(&proxy, "https");
    let good = clients.issue(&["client.example"]);
    let answer = ask(address, client(&authority, Some(&good)), "/good").expect("it is let in");
    assert!(answer.contains("X-Client-Cert-Verify: SUCCESS\nX-Client-Cert-Subject: CN=client.example\n"), "{answer}");
    assert!(!answer.contains("forged"), "{answer}");
    // Who comes in on a plain port has shown nothing.
    let mut plain = Peer::connect(address_of(&proxy, "http"));
    plain
        .send("GET / HTTP/1.1\r\nHost: a\r\nX_CLIENT_CERT_VERIFY: SUCCESS\r\nX-Client-Cert-Subject: CN=forged\r\n\r\n");
    let answer = plain.response().text().to_owned();
    assert!(answer.contains("X-Client-Cert-Verify: NONE\n") && !answer.contains("forged"), "{answer}");
    assert!(!answer.contains("SUCCESS"), "{answer}");
    let bad = [
        None,
        Some(strangers.issue(&["client.example"])),
        Some(clients.issue_for_years(&["client.example"], 2010, 2011)),
    ];
    for pair in &bad {
        assert!(ask(address, client(&authority, pair.as_ref()), "/bad").is_err(), "{pair:?}");
    }
    let line = proxy.log.wait_for("a line about the first one", |line| line.contains("(tls_client_cert)"));
    assert!(line.contains("127.0.0.1:") && line.contains("shows no certificate"), "{line}");
    let counted = "mini_rproxy_tls_handshake_failures_total{reason=\"tls_client_cert\"} 3";
    wait_until("all to be counted", || plain.get("/metrics").text().lines().any(|line| line == counted));
}

#[test]
fn where_certificates_are_optional_only_bad_ones_are_refused() {
    let (authority, clients) = (Authority::new(), Authority::named("Clients"));
    let (own, origin) = (authority.issue(&["localhost"]), Origin::echo());
    let more = format!("client_ca: {}, client_auth: optional", clients.file.display());
    let proxy = Proxy::start(&yaml(&origin, &listen(&own), &more));
    let answer = ask(proxy.address, client(&authority, None), "/none").expect("it is let in");
    assert!(answer.contains("X-Client-Cert-Verify: NONE\n") && !answer.contains("forged"), "{answer}");
    let answer = ask(proxy.address, client(&authority, Some(&clients.issue(&["a"]))), "/good").expect("it is let in");
    assert!(answer.contains("X-Client-Cert-Subject: CN=a\n"), "{answer}");
    assert!(ask(proxy.address, client(&authority, Some(&authority.issue(&["a"]))), "/bad").is_err());
}

/// A session that is resumed is not verified again, and a certificate may have expired since.
#[test]
fn g4_a_client_shows_its_certificate_on_each_connection() {
    let (authority, clients, origin) = (Authority::new(), Authority::named("Clients"), Origin::echo());
    let own = authority.issue(&["localhost"]);
    let kinds = |more: &str| {
        let proxy = Proxy::start(&yaml(&origin, &listen(&own), more));
        // It keeps what it may resume from.
        let config = client(&authority, Some(&clients.issue(&["a"])));
        [(); 2].map(|()| {
            let mut stream = StreamOwned::new(session(config.clone(), "localhost"), dial(proxy.address));
            stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("is taken");
            stream.read_to_string(&mut String::new()).expect("an answer");
            stream.conn.handshake_kind()
        })
    };
    use rustls::HandshakeKind::{Full, Resumed};
    assert_eq!(kinds("min_version: 1.2"), [Some(Full), Some(Resumed)], "where no certificate is asked for");
    assert_eq!(kinds(&format!("client_ca: {}", clients.file.display())), [Some(Full), Some(Full)]);
}

#[test]
fn a_reload_takes_other_authorities_and_versions_for_new_connections() {
    let (authority, old, new) = (Authority::new(), Authority::named("Old"), Authority::named("New"));
    let (own, origin) = (authority.issue(&["localhost"]), Origin::echo());
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let used = folder.path().join("clients.pem");
    copy(&old.file, &used);
    let more = format!("client_ca: {}", used.display());
    let proxy = Proxy::start(&yaml(&origin, &listen(&own), &more));
    let [of_old, of_new] = [&old, &new].map(|clients| client(&authority, Some(&clients.issue(&["a"]))));
    let mut open = Peer::over(StreamOwned::new(session(of_old.clone(), "localhost"), dial(proxy.address)));
    assert_eq!(open.get("/").status(), 200);
    assert!(ask(proxy.address, of_new.clone(), "/").is_err());
    let reload = |count: usize| {
        proxy.signal("HUP");
        proxy.log.wait_for_many("reloads", count, |line| line.contains("configuration reloaded"));
    };
    copy(&new.file, &used);
    reload(1);
    assert!(ask(proxy.address, of_new.clone(), "/").is_ok());
    assert!(ask(proxy.address, of_old.clone(), "/").is_err());
    assert_eq!(open.get("/").status(), 200, "a connection from before goes on");
    // Without a certificate, and not in an old version.
    let later = yaml(&origin, &listen(&own), &format!("{more}, client_auth: optional, min_version: 1.3"));
    fs::write(proxy.folder().join("config.yaml"), format!("listen_addr: 127.0.0.1:0\n{later}")).expect("a file");
    reload(2);
    assert!(ask(proxy.address, client(&authority, None), "/").is_ok());
    assert!(ask(proxy.address, of_version_1_2(&authority), "/").is_err());
    // A file that is none changes nothing.
    fs::write(&used, "none").expect("a file");
    proxy.signal("HUP");
    let line = proxy.log.wait_for("the refusal", |line| line.contains("are kept as they were"));
    assert!(line.contains("clients.pem"), "{line}");
    assert!(ask(proxy.address, of_new, "/").is_ok() && ask(proxy.address, of_old, "/").is_err());
}

/// A client that speaks TLS 1.2 only.
fn of_version_1_2(authority: &Authority) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let old = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS12]).expect("a version");
    old.with_root_certificates(roots(authority)).with_no_client_auth()
}

/// An origin that asks for certificates of `clients` and tells which of `known` it was shown.
fn asking(authority: &Authority, clients: &Authority, known: [&Pair; 2]) -> Origin {
    let known = known.map(|pair| chain_and_key(pair).0.remove(0));
    let (chain, key) = chain_and_key(&authority.issue(&["localhost"]));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(clients)), Arc::clone(&provider));
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.expect("versions").with_client_cert_verifier(verifier.build().expect("roots"));
    let config = Arc::new(builder.with_single_cert(chain, key).expect("a pair"));
    Origin::start(move |peer, _| {
        let (mut socket, _) = peer.into_parts();
        let mut session = ServerConnection::new(Arc::clone(&config)).expect("a session");
        while session.is_handshaking() {
            if session.complete_io(&mut socket).is_err() {
                return;
            }
        }
        let shown = session.peer_certificates().and_then(|chain| known.iter().position(|known| *known == chain[0]));
        let mut peer = Peer::over(StreamOwned::new(session, socket));
        while let Ok(Some(_)) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| peer.request())) {
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{shown:?}"));
        }
    })
}

#[test]
fn each_route_shows_its_own_certificate_to_the_upstream_and_shares_no_connection_with_another() {
    let (authority, clients) = (Authority::new(), Authority::named("Clients"));
    let pairs = [clients.issue(&["one"]), clients.issue(&["two"])];
    let origin = asking(&authority, &clients, [&pairs[0], &pairs[1]]);
    let url = format!("https://localhost:{}", origin.address.port());
    let proxy = Proxy::start(&format!(
        "workers: 1\nroutes:\n- {{prefix: /one, upstream: '{url}'}}\n- {{prefix: /two, upstream: '{url}', upstream_tls: {{certificate: {}, key: {}}}}}\n\
         upstream_tls: {{ca_file: {}, {}}}\n",
        pairs[1].certificate.display(),
        pairs[1].key.display(),
        authority.file.display(),
        pairs[0].yaml()
    ));
    let mut client = proxy.connect();
    for _ in 0..3 {
        assert_eq!(client.get("/one").text(), "Some(0)");
        assert_eq!(client.get("/two").text(), "Some(1)");
    }
    assert_eq!(origin.connections(), 2);
    let none = format!(
        "workers: 1\nroutes: [{{prefix: /, upstream: '{url}'}}]\nupstream_tls: {{ca_file: {}}}\n",
        authority.file.display()
    );
    assert_eq!(Proxy::start(&none).connect().get("/").status(), 502, "it shows none");
}

#[test]
fn an_older_version_than_min_version_is_refused_and_told() {
    let (authority, origin) = (Authority::new(), Origin::echo());
    let own = authority.issue(&["localhost"]);
    let old = of_version_1_2(&authority);
    for (version, is_let_in) in [("1.2", true), ("1.3", false), ("'1.3'", false)] {
        let proxy = Proxy::start(&yaml(&origin, &listen(&own), &format!("min_version: {version}")));
        assert_eq!(ask(proxy.address, old.clone(), "/").is_ok(), is_let_in, "{version}");
        assert!(ask(proxy.address, client_config(&authority), "/").is_ok(), "{version}");
        if !is_let_in {
            proxy.log.wait_for("a line about it", |line| line.contains("(old_version)"));
        }
    }
}

#[test]
fn what_contradicts_itself_is_refused() {
    let (authority, origin) = (Authority::new(), Origin::echo());
    let own = authority.issue(&["localhost"]);
    for (more, expected) in [
        ("client_auth: optional", "add \"client_ca: ca.pem\""),
        ("client_ca: /no/such/file", "/no/such/file"),
        ("min_version: 1.1", "expected 1.2 or 1.3"),
    ] {
        let mut proxy = Launch::new(&yaml(&origin, &listen(&own), more)).arg("-check").spawn();
        assert_eq!(proxy.wait().code(), Some(1), "{more}");
        proxy.log.wait_for("the reason", |line| line.contains(expected));
    }
    let mut proxy = Launch::new(&origin.config("upstream_tls: {certificate: a.pem}")).arg("-check").spawn();
    assert_eq!(proxy.wait().code(), Some(1));
    proxy.log.wait_for("the reason", |line| line.contains("this certificate has no key"));
}
