//! Every key of the configuration changes something, and a test shows it: one that is parsed, printed and compared and
//! then not used is found by nobody else.
//!
//! The keys are those that the parser itself knows: a key that is new has to get its row here.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use mini_rproxy::config::Config;
use serde_yaml::Value;

/// For each key a test that fails where it has no effect: `file::function`, or the name of a wire script.
const SHOWN_BY: &[(&str, &str)] = &[
    ("listen_addr", "e2e/life_cycle::several_addresses_and_unix_sockets_are_listened_on"),
    ("workers", "e2e/life_cycle::the_start_is_reported"),
    ("rewrite_redirects", "prefix_rewriting_is_off"),
    ("rewrite_cookies", "prefix_rewriting_is_off"),
    ("redirect_to_slash", "builtin_redirect_to_slash"),
    ("plugin_body_limit", "plugin_proxy::r23_bodies_that_plugins_asked_for"),
    ("limits.max_connections", "e2e/pressure::above_the_connection_limit_new_clients_wait_and_old_ones_are_served"),
    ("limits.max_connections_per_client", "e2e/limits::one_client_has_only_so_many_connections_and_no_place_is_lost"),
    ("limits.memory_budget", "small_host/budget::e3_the_connection_limit_is_made_of_budget_and_descriptors_and_told"),
    ("limits.max_head_bytes", "g23_431_by_size"),
    ("limits.max_header_fields", "g23_431_by_number"),
    ("limits.max_request_line", "g23_414"),
    ("limits.max_body_bytes", "g20_413_by_length"),
    ("limits.max_requests_per_connection", "builtin_max_requests_per_connection"),
    ("limits.max_interim_responses", "g9_interim_responses_are_counted"),
    ("timeouts.request_head", "e2e/timeouts::a_slow_request_head_is_answered_with_408"),
    ("timeouts.body_idle", "e2e/timeouts::a_request_body_that_stops_ends_the_exchange"),
    ("timeouts.keep_alive", "e2e/timeouts::an_idle_connection_is_closed_without_a_word"),
    ("timeouts.write_idle", "e2e/timeouts::a_client_that_does_not_read_is_given_up"),
    ("timeouts.connect.address", "names::e1_a_dead_first_address_costs_no_more_than_its_time_out"),
    ("timeouts.connect.total", "timeout_connect"),
    ("timeouts.response_head", "e2e/timeouts::an_origin_that_does_not_answer_gives_504"),
    ("timeouts.response_idle", "e2e/timeouts::g11_an_origin_that_stops_within_the_body_cuts_the_client_off"),
    ("timeouts.tunnel_idle", "e2e/websocket::an_idle_tunnel_ends"),
    ("timeouts.tunnel_half_closed", "timeout_of_a_tunnel_that_is_half_closed"),
    ("timeouts.plugin", "pause_that_is_never_resumed"),
    ("timeouts.drain", "e2e/life_cycle::e5_the_drain_has_an_end"),
    ("pool.max_idle", "e2e/pool::without_room_nothing_is_kept"),
    ("pool.max_idle_per_upstream", "e2e/pool::without_room_nothing_is_kept"),
    ("pool.idle_timeout", "e2e/pool::idle_connections_are_closed_after_their_time"),
    ("pool.max_age", "names::e1_addresses_that_change_are_followed_and_no_request_is_lost"),
    ("dns.refresh", "names::e1_addresses_that_change_are_followed_and_no_request_is_lost"),
    ("health.failures", "health_of_upstreams_is_configured"),
    ("health.eject", "health_of_upstreams_is_configured"),
    ("health.max_eject", "health_of_upstreams_is_configured"),
    ("tls.listen_addr", "small_host/activation::a_socket_named_https_speaks_tls_and_the_others_do_not"),
    ("tls.certificate", "tls/downstream::the_certificate_is_chosen_by_name"),
    ("tls.key", "tls/trust::what_is_wrong_with_the_files_is_told_at_start"),
    ("tls.redirect_http", "tls/downstream::clients_without_tls_are_sent_to_it"),
    ("tls.certificates.certificate", "tls/downstream::the_certificate_is_chosen_by_name"),
    ("tls.certificates.key", "tls/reload::certificates_are_reloaded_or_kept_as_a_whole"),
    ("tls.client_ca", "tls/client_certificates::g4_a_client_shows_a_certificate_and_the_upstream_is_told_whose_it_is"),
    ("tls.client_auth", "tls/client_certificates::where_certificates_are_optional_only_bad_ones_are_refused"),
    ("tls.min_version", "tls/client_certificates::an_older_version_than_min_version_is_refused_and_told"),
    (
        "upstream_tls.certificate",
        "tls/client_certificates::each_route_shows_its_own_certificate_to_the_upstream_and_shares_no_connection_with_another",
    ),
    (
        "upstream_tls.key",
        "tls/client_certificates::each_route_shows_its_own_certificate_to_the_upstream_and_shares_no_connection_with_another",
    ),
    ("upstream_tls.ca_file", "tls/trust::e2_the_start_report_says_whom_it_trusts"),
    ("upstream_tls.server_name", "tls/trust::g8_what_the_top_says_of_verification_is_for_all_routes"),
    ("upstream_tls.insecure_skip_verify", "tls/trust::g8_what_the_top_says_of_verification_is_for_all_routes"),
    ("forwarded.trusted_proxies", "g4_claims_of_a_trusted_peer_are_kept"),
    ("forwarded.enabled", "g4_look_alikes_where_claims_are_off"),
    ("proxy_protocol.from", "e2e/proxy_protocol::it_can_be_turned_on_while_the_proxy_runs"),
    ("admin.listen_addr", "e2e/metrics::with_an_entrance_of_its_own_it_is_nowhere_else"),
    ("admin.configz", "builtin_configz_can_be_turned_off"),
    ("admin.health", "builtin_health_at_a_path_of_its_own"),
    ("admin.metrics", "e2e/metrics::it_can_be_turned_off"),
    ("via", "via_is_off"),
    ("error_pages", "e2e/error_pages::errors_of_the_proxy_have_the_bodies_of_files"),
    ("request_headers.remove", "headers_of_requests"),
    ("request_headers.set", "headers_of_requests"),
    ("request_headers.add", "headers_of_requests"),
    ("response_headers.remove", "headers_of_responses"),
    ("response_headers.set", "headers_of_responses"),
    ("response_headers.add", "headers_of_responses"),
    ("plugins.name", "e2e/plugins::routes_have_their_own_plugins_and_the_others_stream"),
    ("plugins.path", "e2e/plugins::a_plugin_that_does_not_start_says_why_in_the_log_and_on_stderr"),
    ("plugins.builtin", "plugin_static::r22_builtin_plugins_work"),
    ("plugins.required", "e2e/start_up::what_would_stop_the_start_is_found_by_check_too"),
    ("plugins.config", "plugin_proxy::r13_r14_order_and_values"),
    ("log.format", "e2e/trace::in_json_the_life_is_one_string"),
    ("log.fields", "e2e/log_lines::full_lines_have_more_of_the_request"),
    ("log.query", "e2e/log_lines::full_lines_have_more_of_the_request"),
    ("log.access", "e2e/reload::the_access_log_can_be_turned_on_and_off"),
    ("routes.hosts", "g7_routes_for_hosts"),
    ("routes.prefix", "prefix_rewriting_is_off"),
    ("routes.upstream", "prefix_rewriting_is_off"),
    ("routes.upstreams", "g17_a_stale_connection_to_one_of_several"),
    ("routes.redirect.to", "redirect_of_a_route"),
    ("routes.redirect.status", "redirect_of_a_route"),
    ("routes.redirect.keep_path", "redirect_of_a_route"),
    ("routes.strip_prefix", "prefix_none_is_stripped"),
    ("routes.host", "prefix_none_is_stripped"),
    ("routes.rewrite_redirects", "prefix_rewriting_is_off"),
    ("routes.rewrite_cookies", "prefix_rewriting_is_off"),
    ("routes.redirect_to_slash", "builtin_redirect_to_slash"),
    ("routes.upgrade", "g14_an_upgrade_that_no_route_allows"),
    ("routes.max_body_bytes", "g20_413_by_chunks"),
    ("routes.timeouts.body_idle", "timeout_of_a_route_body_idle"),
    ("routes.timeouts.write_idle", "timeout_of_a_route_write_idle"),
    ("routes.timeouts.connect.address", "m7_an_address_that_does_not_answer_goes_on_to_the_next"),
    ("routes.timeouts.connect.total", "timeout_of_a_route_connect"),
    ("routes.timeouts.response_head", "timeout_of_a_route_response_head"),
    ("routes.timeouts.response_idle", "timeout_of_a_route_response_idle"),
    ("routes.timeouts.tunnel_idle", "timeout_of_a_route_tunnel_idle"),
    ("routes.timeouts.tunnel_half_closed", "timeout_of_a_route_tunnel_half_closed"),
    ("routes.timeouts.plugin", "timeout_of_a_route_plugin"),
    (
        "routes.upstream_tls.certificate",
        "tls/client_certificates::each_route_shows_its_own_certificate_to_the_upstream_and_shares_no_connection_with_another",
    ),
    (
        "routes.upstream_tls.key",
        "tls/client_certificates::each_route_shows_its_own_certificate_to_the_upstream_and_shares_no_connection_with_another",
    ),
    ("routes.upstream_tls.ca_file", "tls/trust::g8_the_name_and_the_verification_are_the_routes_own"),
    ("routes.upstream_tls.server_name", "tls/trust::g8_the_name_and_the_verification_are_the_routes_own"),
    ("routes.upstream_tls.insecure_skip_verify", "tls/trust::g8_the_name_and_the_verification_are_the_routes_own"),
    ("routes.request_headers.remove", "headers_of_requests"),
    ("routes.request_headers.set", "headers_of_requests"),
    ("routes.request_headers.add", "headers_of_requests"),
    ("routes.response_headers.remove", "headers_of_responses"),
    ("routes.response_headers.set", "headers_of_responses"),
    ("routes.response_headers.add", "headers_of_responses"),
    ("routes.allow", "access_by_address"),
    ("routes.deny", "access_by_address"),
    ("routes.plugins", "e2e/plugins::routes_have_their_own_plugins_and_the_others_stream"),
];

#[test]
fn every_key_has_a_test_that_shows_what_it_changes() {
    let mut known = BTreeSet::new();
    let route = "routes: [{prefix: /a, upstream: 'http://a'}]\n";
    find_keys(&|inner| format!("{route}{inner}"), "", &mut known);
    assert!(known.len() > 60, "the walk has found too little: {known:?}");
    let shown: BTreeSet<String> = SHOWN_BY.iter().map(|(key, _)| (*key).to_owned()).collect();
    assert_eq!(known, shown, "left: the keys of the parser; right: those that a test shows");
    for (key, test) in SHOWN_BY {
        let name = key.rsplit('.').next().unwrap_or(key);
        let text = text_of(test);
        // `total` may stand there as the one number of `connect`, `address` as a field of the configuration in Rust.
        let names = [name, if key.contains("connect.") { "connect" } else { name }, "connect_address"];
        let shows = |name: &&str| text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == *name);
        assert!(names.iter().any(shows), "{test} does not mention {key}");
        if !test.contains("::") && !test.starts_with("m7_") {
            assert!(is_set(&config_of(&text), key), "{test} does not set {key}");
        }
    }
}

/// The tables of the page have every key, with the default that holds.
#[test]
fn the_page_has_every_key_and_its_default() {
    let route = "routes: [{prefix: /a, upstream: 'http://a'}]\n";
    let mut known = BTreeSet::new();
    find_keys(&|inner| format!("{route}{inner}"), "", &mut known);
    let defaults: Value = serde_yaml::from_str(&Config::parse(route, "file").expect("valid").to_yaml()).expect("YAML");
    let page = include_str!("../docs/configuration.md").split("\n## ").find(|part| part.starts_with("All keys"));
    let (mut told, mut column) = (BTreeSet::new(), 0);
    for row in page.expect("a section").lines().filter(|line| line.starts_with('|')) {
        let cells: Vec<&str> = row.split(" | ").collect();
        column = cells.iter().position(|cell| *cell == "default").unwrap_or(column);
        for key in cells[0].split('`').skip(1).step_by(2).filter(|key| *key != "routes") {
            told.insert(key.to_owned());
            let is_the_same = |default: &str| key == "workers" || cells[column].contains(&format!("`{default}`"));
            match key.split('.').try_fold(&defaults, |value, name| value.get(0).unwrap_or(value).get(name)) {
                Some(Value::String(default)) if !key.starts_with("routes.") => assert!(is_the_same(default), "{row}"),
                Some(Value::Number(default)) => assert!(is_the_same(&default.to_string()), "{row}"),
                Some(Value::Bool(default)) => assert!(is_the_same(&default.to_string()), "{row}"),
                _ => {}
            }
        }
    }
    assert_eq!(told, known, "left: the tables of docs/configuration.md; right: the keys of the parser");
}

/// A test's own lines.
fn text_of(test: &str) -> String {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let (path, function) = match test.split_once("::") {
        Some((file, function)) => (tests.join(format!("{file}.rs")), function),
        None if test.starts_with("m7_") => (tests.join("../src/net/loop_tests.rs"), test),
        None => {
            return fs::read_to_string(tests.join(format!("wire/{test}.wire"))).unwrap_or_else(|_| panic!("{test}"));
        }
    };
    let file = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (_, rest) = file.split_once(&format!("\nfn {function}()")).unwrap_or_else(|| panic!("there is no {test}"));
    rest.split("\n#[test]").next().unwrap_or(rest).to_owned()
}

/// The configuration of a wire script.
fn config_of(script: &str) -> Value {
    let (_, rest) = script.split_once("config:\n").unwrap_or_default();
    let lines: Vec<&str> = rest.lines().take_while(|line| line.starts_with(' ')).collect();
    serde_yaml::from_str(&lines.join("\n")).expect("YAML")
}

/// Whether the key stands there, on its own level: `routes.x` and `x` are two.
fn is_set(config: &Value, key: &str) -> bool {
    let (first, rest) = key.split_once('.').map_or((key, None), |(first, rest)| (first, Some(rest)));
    match config {
        Value::Sequence(items) => items.iter().any(|item| is_set(item, key)),
        Value::Mapping(_) => config.get(first).is_some_and(|inner| rest.is_none_or(|rest| is_set(inner, rest))),
        _ => false,
    }
}

/// The keys that the parser knows where `document` puts the text.
fn known(text: &str) -> Option<Vec<String>> {
    let error = Config::parse(text, "file").err()?.to_string();
    let (_, list) = error.split_once("unknown key \"zzz\"; the keys known here are ")?;
    Some(list.split([',', ' ']).filter(|word| !word.is_empty() && *word != "and").map(str::to_owned).collect())
}

/// Walks through all mappings: what takes a mapping, or a list of mappings, has keys of its own.
fn find_keys(document: &dyn Fn(&str) -> String, path: &str, found: &mut BTreeSet<String>) {
    for key in known(&document("zzz: 1")).unwrap_or_default() {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let routes = |inner: &str| format!("routes: [{{{inner}}}]\n");
        let mapping = |inner: &str| document(&format!("{key}: {{{inner}}}"));
        let list = |inner: &str| document(&format!("{key}: [{{{inner}}}]"));
        let forms: [&dyn Fn(&str) -> String; 3] = [&routes, &mapping, &list];
        let forms = if path == "routes" { &forms[..1] } else { &forms[1..] };
        match forms.iter().find(|form| known(&form("zzz: 1")).is_some()) {
            Some(form) => find_keys(form, &path, found),
            None => {
                found.insert(path);
            }
        }
    }
}
