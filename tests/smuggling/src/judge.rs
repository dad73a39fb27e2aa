//! What was observed against what an entry expects.
//!
//! Three witnesses must agree: what the client got, what the upstream got (both read by the strict parser), and what the log
//! says. [`judge`] compares everything and is for mini-rproxy; [`verdict`] asks only what matters for smuggling and is for
//! any proxy.

use crate::entry::{Answer, Body, ClientOutcome, Entry, FieldCheck, Forwarded};
use crate::strict::{Framing, Head, Kind, Message, Parser, RequestInfo, Strictness};
use crate::upstream::{PROBE, PROBE_BODY, is_probe};

/// Everything that was observed of an entry.
#[derive(Debug)]
pub struct Observed {
    /// What the client got; made by [`client_parser`].
    pub client: Parser,
    /// The proxy closed the client's connection by itself.
    pub is_closed: bool,
    /// What the upstream got, over all connections, in the order of the heads.
    pub requests: Vec<Message>,
    /// What the strict parser refused of that.
    pub violations: Vec<String>,
    /// What the upstream got through a tunnel.
    pub tunnelled: Vec<u8>,
    /// What the proxy logged; empty for a proxy whose log is not read.
    pub log: Vec<LogEntry>,
}

/// One request in the proxy's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// The method; empty where the head was refused.
    pub method: String,
    /// The final status.
    pub status: u16,
    /// The rule that was broken, or else the reason.
    pub why: Option<String>,
}

/// A parser for what the client of this entry gets; it expects as many responses as the entry does.
pub fn client_parser(entry: &Entry, strictness: Strictness) -> Parser {
    let mut parser = Parser::new(Kind::Responses, strictness);
    let is_head = entry.request.starts_with(b"HEAD ");
    let finals = entry.answers.iter().filter(|answer| is_final(answer.status)).count();
    for number in 0..finals {
        let method = if number == 0 && is_head { "HEAD" } else { "GET" };
        parser.expect_response(RequestInfo { method: method.to_owned(), is_http10: is_http10(&entry.request) });
    }
    if entry.outcome == ClientOutcome::Kept {
        parser.expect_response(RequestInfo { method: "GET".to_owned(), is_http10: false });
    }
    parser
}

/// What a proxy made of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was not forwarded, or answered with an error.
    Refused,
    /// It was forwarded, and both sides got well-formed messages.
    Passed,
    /// It was forwarded, and what arrived breaks the grammar: the next recipient may read something else in it. Or the next
    /// request on the connection got a response that is not its own.
    Dirty,
}

/// What the proxy made of the entry, as far as it matters for smuggling; names of fields, targets and the like are not
/// compared.
pub fn verdict(entry: &Entry, observed: &Observed) -> Verdict {
    let client = &observed.client;
    let probes = observed.requests.iter().filter(|message| is_probe(&message.head.start)).count();
    let statuses: Vec<u16> = client.messages.iter().map(|m| m.head.status()).filter(|&s| is_final(s)).collect();
    let last = client.messages.last();
    let is_cut = last.is_none_or(|last| !last.is_complete);
    let is_probe_misled = statuses.len() > 1 && probes == 1 && last.is_some_and(|last| last.body != PROBE_BODY);
    let is_answered_wrongly = client.unsolicited > probes || (is_probe_misled && !is_cut);
    if !observed.violations.is_empty() || client.error.is_some() || is_answered_wrongly {
        return Verdict::Dirty;
    }
    // An error that the upstream has sent is forwarded like any other response.
    let is_expected = |status: u16| !entry.is_attack() && entry.answers.iter().any(|answer| answer.status == status);
    let is_error = statuses.iter().any(|&status| status >= 400 && !is_expected(status));
    if is_error || is_cut { Verdict::Refused } else { Verdict::Passed }
}

/// Everything that is wrong, one sentence each.
pub fn judge(entry: &Entry, observed: &Observed) -> Vec<String> {
    let mut wrong = Vec::new();
    judge_answers(entry, observed, &mut wrong);
    judge_forwarded(entry, observed, &mut wrong);
    judge_log(entry, observed, &mut wrong);
    wrong
}

fn is_final(status: u16) -> bool {
    status >= 200 || status == 101
}

fn judge_answers(entry: &Entry, observed: &Observed, wrong: &mut Vec<String>) {
    if let Some(error) = &observed.client.error {
        wrong.push(format!("the client was sent what the strict parser refuses: {error}"));
    }
    if observed.client.unsolicited > 0 {
        wrong.push(format!("the client got {} responses to nothing", observed.client.unsolicited));
    }
    let given: Vec<&Message> = observed.client.messages.iter().collect();
    let mut statuses: Vec<u16> = entry.answers.iter().map(|answer| answer.status).collect();
    if entry.outcome == ClientOutcome::Kept {
        statuses.push(200);
    }
    let found: Vec<u16> = given.iter().map(|message| message.head.status()).collect();
    if found != statuses {
        wrong.push(format!(
            "expected the client to get {statuses:?}, the answer to a next request included: it got {found:?}"
        ));
        return;
    }
    for (index, (answer, message)) in entry.answers.iter().zip(&given).enumerate() {
        let is_cut = entry.outcome == ClientOutcome::Truncated && index + 1 == entry.answers.len();
        judge_answer(entry, answer, message, is_cut, wrong);
    }
    match entry.outcome {
        ClientOutcome::Kept => {
            if given.last().is_some_and(|probe| probe.body != PROBE_BODY) {
                wrong.push("the next request on the connection got an answer that is not its own".to_owned());
            }
        }
        ClientOutcome::Closed => {
            let says_close = given.last().is_none_or(|last| says_close(entry, &last.head));
            if !observed.is_closed || !says_close {
                wrong.push("expected the client's connection to be closed, and told so".to_owned());
            }
        }
        ClientOutcome::Truncated => {
            if !observed.is_closed {
                wrong.push("expected the client's connection to be cut".to_owned());
            }
        }
        ClientOutcome::Tunnel => {}
    }
}

/// In HTTP/1.1 a close is announced (RFC 9112 section 9.6); in HTTP/1.0 it is what happens unless the other is said.
fn says_close(entry: &Entry, head: &Head) -> bool {
    let options = head.members("connection");
    let says = |word: &str| options.iter().any(|option| option == word);
    says("close") || (is_http10(&entry.request) && !says("keep-alive"))
}

/// Whether the first line of a request is one of HTTP/1.0.
fn is_http10(request: &[u8]) -> bool {
    request.split(|&byte| byte == b'\n').next().is_some_and(|line| line.trim_ascii_end().ends_with(b" HTTP/1.0"))
}

fn judge_answer(entry: &Entry, answer: &Answer, message: &Message, is_cut: bool, wrong: &mut Vec<String>) {
    let what = format!("the answer {}", answer.status);
    if message.is_complete == is_cut {
        wrong.push(format!("{what} {}", if is_cut { "looks whole and was cut" } else { "is not whole" }));
    }
    if let Some(body) = &answer.body {
        judge_body(&what, body, message, wrong);
    }
    judge_fields(&what, &answer.fields, &message.head, wrong);
    // Rule S22: the proxy's own response holds its reason phrase, and nothing that a peer sent.
    let is_ours = entry.is_attack() && !is_cut && answer.status >= 400;
    let reason = message.head.start.get(13..).unwrap_or_default();
    if is_ours && !message.body.is_empty() && message.body != format!("{reason}\n").as_bytes() {
        wrong.push(format!("{what} says more than its reason phrase"));
    }
}

fn judge_forwarded(entry: &Entry, observed: &Observed, wrong: &mut Vec<String>) {
    for violation in &observed.violations {
        wrong.push(format!("the upstream was sent what the strict parser refuses: {violation}"));
    }
    let begun = |message: &&Message| message.is_complete || !entry.may_begin;
    let found: Vec<&Message> = observed.requests.iter().filter(begun).collect();
    let has_probe = entry.outcome == ClientOutcome::Kept;
    if found.len() != entry.forwarded.len() + usize::from(has_probe) {
        let starts: Vec<&str> = found.iter().map(|message| message.head.start.as_str()).collect();
        let next = if has_probe { " and the next request" } else { "" };
        wrong.push(format!("expected {} messages{next} at the upstream: it saw {starts:?}", entry.forwarded.len()));
        return;
    }
    for (expected, message) in entry.forwarded.iter().zip(&found) {
        judge_message(entry, expected, message, wrong);
    }
    if has_probe && !found.last().is_some_and(|probe| is_probe(&probe.head.start) && probe.is_complete) {
        wrong.push("the next request on the connection did not reach the upstream as it was sent".to_owned());
    }
    let tunnelled = if entry.outcome == ClientOutcome::Tunnel { PROBE } else { b"" };
    if observed.tunnelled != tunnelled {
        wrong.push(format!("through the tunnel went {:?}", observed.tunnelled.escape_ascii().to_string()));
    }
}

fn judge_message(entry: &Entry, expected: &Forwarded, message: &Message, wrong: &mut Vec<String>) {
    let what = format!("the message {} {}", expected.method, expected.target);
    let start = format!("{} {} HTTP/1.1", expected.method, expected.target);
    if message.head.start != start {
        wrong.push(format!("expected {start:?} at the upstream: it saw {:?}", message.head.start));
    }
    // An upload is given up where the client's connection is closed.
    if !message.is_complete && entry.outcome != ClientOutcome::Closed {
        wrong.push(format!("{what} did not reach the upstream whole"));
    }
    judge_body(&what, &expected.body, message, wrong);
    judge_fields(&what, &expected.fields, &message.head, wrong);
}

fn judge_body(what: &str, expected: &Body, message: &Message, wrong: &mut Vec<String>) {
    // How much arrived of a message that breaks off is a matter of timing.
    let is_same = match (expected.framing, message.head.framing) {
        (Framing::Length(_), Framing::Length(_)) if !message.is_complete => expected.bytes.starts_with(&message.body),
        (Framing::Chunked, Framing::Chunked) if !message.is_complete => expected.bytes.starts_with(&message.body),
        (framing, found) => framing == found && expected.bytes == message.body,
    };
    if !is_same {
        let (body, expected_body) = (message.body.escape_ascii(), expected.bytes.escape_ascii());
        let (found, expected) = (message.head.framing, expected.framing);
        wrong.push(format!("{what}: expected {expected:?} and \"{expected_body}\": it had {found:?} and \"{body}\""));
    }
}

fn judge_fields(what: &str, checks: &[FieldCheck], head: &Head, wrong: &mut Vec<String>) {
    for check in checks {
        match check {
            FieldCheck::Has(name, value) => {
                if !head.values(name).any(|found| found == value) {
                    wrong.push(format!("{what}: expected the field line {name}: {value}"));
                }
            }
            FieldCheck::Lacks(name) => {
                if head.values(name).next().is_some() {
                    wrong.push(format!("{what}: expected no field {name}"));
                }
            }
        }
    }
}

fn judge_log(entry: &Entry, observed: &Observed, wrong: &mut Vec<String>) {
    let mut expected: Vec<u16> = entry.answers.iter().map(|answer| answer.status).filter(|&s| is_final(s)).collect();
    let last = expected.len().checked_sub(1);
    if entry.outcome == ClientOutcome::Kept {
        expected.push(200);
    }
    let found: Vec<u16> = observed.log.iter().map(|entry| entry.status).collect();
    if found != expected {
        wrong.push(format!("expected the statuses {expected:?} in the log: it has {found:?}"));
        return;
    }
    let found = last.and_then(|last| observed.log[last].why.as_deref());
    if let Some(why) = &entry.why
        && found != Some(why)
    {
        wrong.push(format!("expected the log to say why={why}: it says {found:?}"));
    }
    // Each request at the upstream is in the log, with the same method.
    let mut methods = observed.log.iter().map(|entry| entry.method.as_str());
    for message in &observed.requests {
        if !methods.any(|method| method == message.head.method()) {
            wrong.push(format!("the log does not tell of {:?}, which the upstream saw", message.head.start));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smug_format::parse;

    const ENTRY: &str = "S1 x\n> POST / HTTP/1.1\n> Host: a\n> Content-Length: 2\n>\n> hi\\\n= 200 length:ok\n^ POST / \
                         length:hi\n+ X-A: b\n- X-C\n";
    const ANSWERS: &str =
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nprobe";
    const SENT: &str = "POST / HTTP/1.1\r\nHost: o\r\nX-A: b\r\nContent-Length: 2\r\n\r\nhiGET /probe \
                        HTTP/1.1\r\nHost: o\r\n\r\n";

    fn logged(method: &str, status: u16, why: Option<&str>) -> LogEntry {
        LogEntry { method: method.to_owned(), status, why: why.map(str::to_owned) }
    }

    fn observed(entry: &Entry, answers: &str, sent: &str, log: Vec<LogEntry>, is_closed: bool) -> Observed {
        let mut client = client_parser(entry, Strictness::Strict);
        client.feed(answers.as_bytes());
        client.finish();
        let mut received = Parser::new(Kind::Requests, Strictness::Strict);
        received.feed(sent.as_bytes());
        let violations = received.error.into_iter().collect();
        Observed { client, is_closed, requests: received.messages, violations, tunnelled: Vec::new(), log }
    }

    /// What is wrong when the proxy does this with the entry.
    fn wrong(entry: &str, answers: &str, sent: &str, log: Vec<LogEntry>, is_closed: bool) -> Vec<String> {
        let entry = parse("test", entry).expect("a good text").remove(0);
        judge(&entry, &observed(&entry, answers, sent, log, is_closed))
    }

    fn both() -> Vec<LogEntry> {
        vec![logged("POST", 200, None), logged("GET", 200, None)]
    }

    #[test]
    fn what_is_as_expected_passes() {
        assert_eq!(wrong(ENTRY, ANSWERS, SENT, both(), false), Vec::<String>::new());
        let refused = "S1 x\n> POST\n= 400\n";
        let answer = "HTTP/1.1 400 Bad Request\r\nContent-Length: 12\r\nConnection: close\r\n\r\nBad Request\n";
        assert_eq!(wrong(refused, answer, "", vec![logged("", 400, Some("S1"))], true), Vec::<String>::new());
    }

    #[test]
    fn a_tampered_entry_fails() {
        for (name, from, to) in [
            ("another status", "= 200", "= 204"),
            ("another body for the client", "length:ok", "length:no"),
            ("another framing", "= 200 length:ok", "= 200 chunked:ok"),
            ("another fate", "= 200 length:ok", "= 200 closed length:ok"),
            ("one answer more", "= 200 length:ok", "= 200\n= 200"),
            ("another method", "^ POST", "^ PUT"),
            ("another target", "^ POST /", "^ POST /x"),
            ("another body for the upstream", "length:hi", "length:ho"),
            ("one message more", "^ POST / length:hi", "^ POST / length:hi\n^ GET /"),
            ("a field that is not there", "+ X-A: b", "+ X-A: c"),
            ("a field that is there", "- X-C", "- X-A"),
            ("a refusal", "= 200 length:ok\n^ POST / length:hi\n+ X-A: b\n- X-C\n", "= 400\n"),
        ] {
            assert!(ENTRY.contains(from), "{name}");
            let found = wrong(&ENTRY.replace(from, to), ANSWERS, SENT, both(), false);
            assert!(!found.is_empty(), "{name}");
        }
    }

    #[test]
    fn a_proxy_that_errs_is_caught() {
        let evil = SENT.replace("GET /probe", "GET /evil");
        let smuggled = SENT.replace("GET /probe", "GET /admin HTTP/1.1\r\nHost: o\r\n\r\nGET /probe");
        for (name, answers, sent, expected) in [
            ("a swapped answer", ANSWERS.replace("probe", "evil!"), SENT.to_owned(), "not its own"),
            (
                "an answer too many",
                format!("{ANSWERS}HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
                SENT.to_owned(),
                "to nothing",
            ),
            ("a bad response", ANSWERS.replace("OK", "O\nK"), SENT.to_owned(), "strict parser refuses"),
            ("a bad request", ANSWERS.to_owned(), SENT.replace("X-A: b", "X-A : b"), "strict parser refuses"),
            ("a message too many", ANSWERS.to_owned(), smuggled, "it saw"),
            ("a victim", ANSWERS.to_owned(), evil, "did not reach the upstream"),
            ("a cut message", ANSWERS.to_owned(), SENT.split("hiGET").next().unwrap_or_default().to_owned(), "it saw"),
        ] {
            let found = wrong(ENTRY, &answers, &sent, both(), false);
            assert!(found.iter().any(|sentence| sentence.contains(expected)), "{name}: {found:?}");
        }
    }

    #[test]
    fn the_log_must_tell_the_same_story() {
        for (name, log, expected) in [
            ("one is missing", vec![logged("POST", 200, None)], "in the log"),
            ("another status", vec![logged("POST", 200, None), logged("GET", 502, None)], "in the log"),
            ("another method", vec![logged("PUT", 200, None), logged("GET", 200, None)], "does not tell of"),
        ] {
            let found = wrong(ENTRY, ANSWERS, SENT, log, false);
            assert!(found.iter().any(|sentence| sentence.contains(expected)), "{name}: {found:?}");
        }
        let answer = "HTTP/1.1 400 Bad Request\r\nContent-Length: 12\r\nConnection: close\r\n\r\nBad Request\n";
        let found = wrong("S1 x\n> P\n= 400\n", answer, "", vec![logged("", 400, Some("S8"))], true);
        assert!(found.iter().any(|sentence| sentence.contains("why=S1")), "{found:?}");
    }

    #[test]
    fn s22_an_answer_that_echoes_is_caught() {
        let answer = "HTTP/1.1 400 Bad Request\r\nContent-Length: 4\r\nConnection: close\r\n\r\nevil";
        let found = wrong("S22 x\n> P\n= 400\n", answer, "", vec![logged("", 400, Some("S22"))], true);
        assert!(found.iter().any(|sentence| sentence.contains("reason phrase")), "{found:?}");
    }

    #[test]
    fn a_connection_that_should_be_closed_and_is_not_is_caught() {
        let answer = "HTTP/1.1 400 Bad Request\r\nContent-Length: 12\r\nConnection: close\r\n\r\nBad Request\n";
        let found = wrong("S1 x\n> P\n= 400\n", answer, "", vec![logged("", 400, Some("S1"))], false);
        assert!(found.iter().any(|sentence| sentence.contains("to be closed")), "{found:?}");
    }
}
