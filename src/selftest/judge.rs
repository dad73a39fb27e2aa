//! What was seen against what an entry expects.
//!
//! Three witnesses must tell the same story: what the client got, what the origin saw (both read by the strict parser,
//! which shares nothing with the proxy's own), and what the proxy accounts for in its log.

use super::entry::{Answer, Body, Clause, Entry, Fate, Forwarded};
use super::script::{PROBE, PROBE_BODY, is_probe};
use super::strict::{Asked, Framing, Head, Kind, Message, Parser, Whose};
use crate::proxy::proxy_connection::AccessRecord;

/// Everything that was seen of an entry.
#[derive(Debug)]
pub struct Seen {
    /// What the client got; made by [`client_parser`].
    pub answered: Parser,
    /// Whether the proxy closed the client's connection by itself.
    pub ending: Ending,
    /// What the origin got, over all connections, in the order of their heads.
    pub forwarded: Vec<Message>,
    /// What the strict parser found wrong with what the origin got.
    pub sins: Vec<String>,
    /// What the origin got through a tunnel.
    pub tunnelled: Vec<u8>,
    /// What the proxy accounts for.
    pub accounts: Vec<Account>,
}

/// How the client's connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The proxy closed it.
    Closed,
    /// It was still open when all was said, or when patience was at an end.
    Open,
}

/// One request in the proxy's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The method; empty where the head was not understood.
    pub method: String,
    /// The final status.
    pub status: u16,
    /// The rule that was broken, or else the reason.
    pub why: Option<&'static str>,
}

impl Account {
    /// What a record says of a request.
    pub fn of(record: &AccessRecord<'_>) -> Account {
        let method = String::from_utf8_lossy(record.method).into_owned();
        Account { method, status: record.status, why: record.rule.or(record.why) }
    }
}

/// A parser for what the client of this entry gets. Where all is as it should be, as many answers come as it expects.
pub fn client_parser(entry: &Entry, whose: Whose) -> Parser {
    let mut parser = Parser::new(Kind::Responses, whose);
    let method = if entry.request.starts_with(b"HEAD ") { "HEAD" } else { "GET" };
    let finals = entry.answers.iter().filter(|answer| is_final(answer.status)).count();
    for number in 0..finals {
        let method = if number == 0 { method } else { "GET" };
        parser.expect_answer(Asked { method: method.to_owned(), is_http10: is_http10(&entry.request) });
    }
    if entry.fate == Fate::Kept {
        parser.expect_answer(Asked { method: "GET".to_owned(), is_http10: false });
    }
    parser
}

/// Everything that is wrong, one sentence each.
pub fn judge(entry: &Entry, seen: &Seen) -> Vec<String> {
    let mut wrong = Vec::new();
    judge_answers(entry, seen, &mut wrong);
    judge_forwarded(entry, seen, &mut wrong);
    judge_accounts(entry, seen, &mut wrong);
    wrong
}

fn is_final(status: u16) -> bool {
    status >= 200 || status == 101
}

fn judge_answers(entry: &Entry, seen: &Seen, wrong: &mut Vec<String>) {
    if let Some(error) = &seen.answered.error {
        wrong.push(format!("the client was sent what the strict parser refuses: {error}"));
    }
    if seen.answered.unasked > 0 {
        wrong.push(format!("the client got {} responses to nothing", seen.answered.unasked));
    }
    let given: Vec<&Message> = seen.answered.messages.iter().collect();
    let mut statuses: Vec<u16> = entry.answers.iter().map(|answer| answer.status).collect();
    if entry.fate == Fate::Kept {
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
        let is_cut = entry.fate == Fate::Cut && index + 1 == entry.answers.len();
        judge_answer(entry, answer, message, is_cut, wrong);
    }
    match entry.fate {
        Fate::Kept => {
            if given.last().is_some_and(|probe| probe.body != PROBE_BODY) {
                wrong.push("the next request on the connection got an answer that is not its own".to_owned());
            }
        }
        Fate::Closed => {
            let says_close = given.last().is_none_or(|last| says_close(entry, &last.head));
            if seen.ending == Ending::Open || !says_close {
                wrong.push("expected the client's connection to be closed, and told so".to_owned());
            }
        }
        Fate::Cut => {
            if seen.ending == Ending::Open {
                wrong.push("expected the client's connection to be cut".to_owned());
            }
        }
        Fate::Tunnel => {}
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
    // Rule S22: an answer of ours says its reason phrase, and nothing that a peer sent.
    let is_ours = entry.why.is_some() && !is_cut && answer.status >= 400;
    let reason = message.head.start.get(13..).unwrap_or_default();
    if is_ours && !message.body.is_empty() && message.body != format!("{reason}\n").as_bytes() {
        wrong.push(format!("{what} says more than its reason phrase"));
    }
}

fn judge_forwarded(entry: &Entry, seen: &Seen, wrong: &mut Vec<String>) {
    for sin in &seen.sins {
        wrong.push(format!("the origin was sent what the strict parser refuses: {sin}"));
    }
    let begun = |message: &&Message| message.is_complete || !entry.may_begin;
    let found: Vec<&Message> = seen.forwarded.iter().filter(begun).collect();
    let has_probe = entry.fate == Fate::Kept;
    if found.len() != entry.forwarded.len() + usize::from(has_probe) {
        let starts: Vec<&str> = found.iter().map(|message| message.head.start.as_str()).collect();
        let next = if has_probe { " and the next request" } else { "" };
        wrong.push(format!("expected {} messages{next} at the origin: it saw {starts:?}", entry.forwarded.len()));
        return;
    }
    for (expected, message) in entry.forwarded.iter().zip(&found) {
        judge_message(entry, expected, message, wrong);
    }
    if has_probe && !found.last().is_some_and(|probe| is_probe(&probe.head.start) && probe.is_complete) {
        wrong.push("the next request on the connection did not reach the origin as it was sent".to_owned());
    }
    let tunnelled = if entry.fate == Fate::Tunnel { PROBE } else { b"" };
    if seen.tunnelled != tunnelled {
        wrong.push(format!("through the tunnel went {:?}", seen.tunnelled.escape_ascii().to_string()));
    }
}

fn judge_message(entry: &Entry, expected: &Forwarded, message: &Message, wrong: &mut Vec<String>) {
    let what = format!("the message {} {}", expected.method, expected.target);
    let start = format!("{} {} HTTP/1.1", expected.method, expected.target);
    if message.head.start != start {
        wrong.push(format!("expected {start:?} at the origin: it saw {:?}", message.head.start));
    }
    // An upload that nobody wants any more is given up.
    if !message.is_complete && entry.fate != Fate::Closed {
        wrong.push(format!("{what} did not reach the origin whole"));
    }
    judge_body(&what, &expected.body, message, wrong);
    judge_fields(&what, &expected.fields, &message.head, wrong);
}

fn judge_body(what: &str, expected: &Body, message: &Message, wrong: &mut Vec<String>) {
    // Of a message that breaks off, the beginning is there; how much of it depends on who was faster.
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

fn judge_fields(what: &str, clauses: &[Clause], head: &Head, wrong: &mut Vec<String>) {
    for clause in clauses {
        match clause {
            Clause::Has(name, value) => {
                if !head.values(name).any(|found| found == value) {
                    wrong.push(format!("{what}: expected the field line {name}: {value}"));
                }
            }
            Clause::Lacks(name) => {
                if head.values(name).next().is_some() {
                    wrong.push(format!("{what}: expected no field {name}"));
                }
            }
        }
    }
}

fn judge_accounts(entry: &Entry, seen: &Seen, wrong: &mut Vec<String>) {
    let mut expected: Vec<u16> = entry.answers.iter().map(|answer| answer.status).filter(|&s| is_final(s)).collect();
    let last = expected.len().checked_sub(1);
    if entry.fate == Fate::Kept {
        expected.push(200);
    }
    let found: Vec<u16> = seen.accounts.iter().map(|account| account.status).collect();
    if found != expected {
        wrong.push(format!("expected the statuses {expected:?} in the log: it has {found:?}"));
        return;
    }
    let why = last.and_then(|last| seen.accounts[last].why);
    if entry.why.is_some() && why != entry.why.as_deref() {
        wrong
            .push(format!("expected the log to say why={}: it says {why:?}", entry.why.as_deref().unwrap_or_default()));
    }
    // Each message at the origin is one that the log tells of, with the same method.
    let mut methods = seen.accounts.iter().map(|account| account.method.as_str());
    for message in &seen.forwarded {
        if !methods.any(|method| method == message.head.method()) {
            wrong.push(format!("the log does not tell of {:?}, which the origin saw", message.head.start));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::selftest::notation::parse;

    const ENTRY: &str = "S1 x\n> POST / HTTP/1.1\n> Host: a\n> Content-Length: 2\n>\n> hi\\\n= 200 length:ok\n^ POST / \
                         length:hi\n+ X-A: b\n- X-C\n";
    const ANSWERS: &str =
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nprobe";
    const SENT: &str = "POST / HTTP/1.1\r\nHost: o\r\nX-A: b\r\nContent-Length: 2\r\n\r\nhiGET /probe \
                        HTTP/1.1\r\nHost: o\r\n\r\n";

    fn account(method: &str, status: u16, why: Option<&'static str>) -> Account {
        Account { method: method.to_owned(), status, why }
    }

    fn seen(entry: &Entry, answers: &str, sent: &str, accounts: Vec<Account>, ending: Ending) -> Seen {
        let mut answered = client_parser(entry, Whose::Written);
        answered.feed(answers.as_bytes());
        answered.finish();
        let mut heard = Parser::new(Kind::Requests, Whose::Written);
        heard.feed(sent.as_bytes());
        let sins = heard.error.into_iter().collect();
        Seen { answered, ending, forwarded: heard.messages, sins, tunnelled: Vec::new(), accounts }
    }

    /// What is wrong when the proxy does this with the entry.
    fn wrong(entry: &str, answers: &str, sent: &str, accounts: Vec<Account>, ending: Ending) -> Vec<String> {
        let entry = parse("test", entry).expect("a good text").remove(0);
        judge(&entry, &seen(&entry, answers, sent, accounts, ending))
    }

    fn both() -> Vec<Account> {
        vec![account("POST", 200, None), account("GET", 200, None)]
    }

    #[test]
    fn what_is_as_expected_passes() {
        assert_eq!(wrong(ENTRY, ANSWERS, SENT, both(), Ending::Open), Vec::<String>::new());
        let refused = "S1 x\n> POST\n= 400\n";
        let answer = "HTTP/1.1 400 Bad Request\r\nContent-Length: 12\r\nConnection: close\r\n\r\nBad Request\n";
        assert_eq!(
            wrong(refused, answer, "", vec![account("", 400, Some("S1"))], Ending::Closed),
            Vec::<String>::new()
        );
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
            ("another body for the origin", "length:hi", "length:ho"),
            ("one message more", "^ POST / length:hi", "^ POST / length:hi\n^ GET /"),
            ("a field that is not there", "+ X-A: b", "+ X-A: c"),
            ("a field that is there", "- X-C", "- X-A"),
            ("a refusal", "= 200 length:ok\n^ POST / length:hi\n+ X-A: b\n- X-C\n", "= 400\n"),
        ] {
            assert!(ENTRY.contains(from), "{name}");
            let found = wrong(&ENTRY.replace(from, to), ANSWERS, SENT, both(), Ending::Open);
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
            ("a victim", ANSWERS.to_owned(), evil, "did not reach the origin"),
            ("a cut message", ANSWERS.to_owned(), SENT.split("hiGET").next().unwrap_or_default().to_owned(), "it saw"),
        ] {
            let found = wrong(ENTRY, &answers, &sent, both(), Ending::Open);
            assert!(found.iter().any(|sentence| sentence.contains(expected)), "{name}: {found:?}");
        }
    }

    #[test]
    fn the_log_must_tell_the_same_story() {
        for (name, accounts, expected) in [
            ("one is missing", vec![account("POST", 200, None)], "in the log"),
            ("another status", vec![account("POST", 200, None), account("GET", 502, None)], "in the log"),
            ("another method", vec![account("PUT", 200, None), account("GET", 200, None)], "does not tell of"),
        ] {
            let found = wrong(ENTRY, ANSWERS, SENT, accounts, Ending::Open);
            assert!(found.iter().any(|sentence| sentence.contains(expected)), "{name}: {found:?}");
        }
        let answer = "HTTP/1.1 400 Bad Request\r\nContent-Length: 12\r\nConnection: close\r\n\r\nBad Request\n";
        let found = wrong("S1 x\n> P\n= 400\n", answer, "", vec![account("", 400, Some("S8"))], Ending::Closed);
        assert!(found.iter().any(|sentence| sentence.contains("why=S1")), "{found:?}");
    }

    #[test]
    fn s22_an_answer_that_echoes_is_caught() {
        let answer = "HTTP/1.1 400 Bad Request\r\nContent-Length: 4\r\nConnection: close\r\n\r\nevil";
        let found = wrong("S22 x\n> P\n= 400\n", answer, "", vec![account("", 400, Some("S22"))], Ending::Closed);
        assert!(found.iter().any(|sentence| sentence.contains("reason phrase")), "{found:?}");
    }

    #[test]
    fn a_connection_that_should_be_closed_and_is_not_is_caught() {
        let answer = "HTTP/1.1 400 Bad Request\r\nContent-Length: 12\r\nConnection: close\r\n\r\nBad Request\n";
        let found = wrong("S1 x\n> P\n= 400\n", answer, "", vec![account("", 400, Some("S1"))], Ending::Open);
        assert!(found.iter().any(|sentence| sentence.contains("to be closed")), "{found:?}");
    }
}
