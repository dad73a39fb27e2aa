//! What must hold whatever happens: one function each, shared by wire scripts, property tests and fuzz targets.
//!
//! That nothing panics is checked by running at all; that the way in which bytes are split does not matter, by whatever
//! runs one script in several ways.

use mini_rproxy::proxy::proxy_connection::Side;

use super::strict::{Framing, Head, Message, Parser};
use super::wire::{Entry, Link, READ, Wire};

/// What may wait for a peer: the high-water mark, one read, and what we add to a head.
const QUEUE_CAP: usize = 16 * 1024 + READ + 4 * 1024;

/// Fields that belong to one connection (rule G1). `Connection`, `Upgrade` and `Transfer-Encoding` are ours where they
/// stand.
const HOP_BY_HOP: [&str; 7] =
    ["keep-alive", "te", "trailer", "proxy-connection", "proxy-authenticate", "proxy-authorization", "http2-settings"];

/// Fields that we write ourselves, so that they may stand in a forwarded head although the peer nominated its own.
const OURS: [&str; 14] = [
    "host",
    "via",
    "date",
    "connection",
    "upgrade",
    "content-length",
    "transfer-encoding",
    "authorization",
    "close",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-prefix",
    "expect",
];

/// What must hold after every step.
pub fn always(wire: &Wire) -> Result<(), String> {
    queues_stay_below_their_caps(wire)?;
    what_leaves_pleases_the_strict_parser(wire)?;
    hooks_run_once_per_phase(wire)
}

/// What must hold when nothing moves any more.
pub fn at_rest(wire: &Wire) -> Result<(), String> {
    never_stuck(wire)
}

/// What must hold at the end of a scenario.
pub fn at_the_end(wire: &Wire) -> Result<(), String> {
    each_request_gets_one_final_response_or_a_close(wire)?;
    requests_are_forwarded_as_they_came(wire)?;
    responses_are_forwarded_as_they_came(wire)
}

/// What must not depend on how bytes were split: what the client got, and how each request ended. What an upstream got
/// of a request that turned out to be bad may be more or less of it.
pub fn outcome(wire: &Wire) -> (Vec<Message>, Vec<String>) {
    let notes = wire.transcript.iter().filter_map(|entry| match entry {
        Entry::Note(note) if note.starts_with("LOG") => {
            let depends = |word: &&str| word.starts_with("in=") || word.starts_with("out=") || *word == "reused";
            let words = note.split(' ').filter(|word| !depends(word));
            Some(words.collect::<Vec<_>>().join(" "))
        }
        Entry::Note(_) | Entry::Event | Entry::Bytes(..) => None,
    });
    (wire.answered.messages.clone(), notes.collect())
}

/// Bodies that plugins asked for, and /configz, are whole in memory on purpose; everything else is bounded (rule E4).
pub fn queues_stay_below_their_caps(wire: &Wire) -> Result<(), String> {
    if wire.runtime.hooks(0).is_some() {
        return Ok(());
    }
    for (name, len) in [
        ("output to the client", wire.exchange.output(Side::Client).len()),
        ("output to the upstream", wire.exchange.output(Side::Upstream).len()),
        ("input from the client", wire.exchange.held(Side::Client)),
        ("input from the upstream", wire.exchange.held(Side::Upstream)),
    ] {
        if len > QUEUE_CAP {
            return Err(format!("queue above its cap: {name} {len}"));
        }
    }
    Ok(())
}

/// Exactly one framing each, nothing unusual, one response per request, no more than one request per loan.
pub fn what_leaves_pleases_the_strict_parser(wire: &Wire) -> Result<(), String> {
    if let Some(error) = &wire.answered.error {
        return Err(format!("the client was sent: {error}"));
    }
    if wire.answered.unsolicited > 0 {
        return Err("a final response that answers nothing".to_owned());
    }
    let error = wire.refused.and_then(|count| wire.answered.final_responses().nth(count));
    if error.is_some_and(|answer| {
        answer.head.status() < 400 || !answer.head.members("connection").contains(&"close".to_owned())
    }) {
        return Err(
            "the strict parser does not understand what the client sent, and the proxy did not refuse it".to_owned()
        );
    }
    let Some(loan) = wire.loans.last() else { return Ok(()) };
    if let Some(error) = &loan.requests.error {
        return Err(format!("the upstream was sent: {error}"));
    }
    if loan.requests.messages.len() > 1 {
        return Err("two requests on one loan".to_owned());
    }
    Ok(())
}

pub fn hooks_run_once_per_phase(wire: &Wire) -> Result<(), String> {
    for exchange in wire.hook_calls.split_inclusive(|call| call == "done") {
        // A second response is one of our own, in the place of the upstream's.
        for (phase, most) in [("request", 1), ("response", 2), ("done", 1)] {
            if exchange.iter().filter(|call| call.starts_with(phase)).count() > most {
                return Err(format!("hooks called out of order: {:?}", wire.hook_calls));
            }
        }
    }
    Ok(())
}

/// There is always something that goes on, and everything has a deadline but a stream of events or pictures that is being
/// read.
pub fn never_stuck(wire: &Wire) -> Result<(), String> {
    if wire.is_over || wire.exchange.deadline().is_some() {
        return Ok(());
    }
    let may_be_silent = wire.exchange.read_interest(Side::Upstream).is_some()
        && wire.link == Link::Open
        && wire.loans.last().and_then(|loan| loan.responses.messages.last()).is_some_and(is_pushed);
    if may_be_silent { Ok(()) } else { Err("stuck: open, and nothing is waited for".to_owned()) }
}

fn is_pushed(response: &Message) -> bool {
    response.head.values("content-type").any(|value| {
        let value = value.to_ascii_lowercase();
        value.starts_with("text/event-stream") || value.starts_with("multipart/x-mixed-replace")
    })
}

pub fn each_request_gets_one_final_response_or_a_close(wire: &Wire) -> Result<(), String> {
    let (asked, answered) = (wire.asked.messages.len(), wire.answered.final_responses().count());
    if answered > asked + usize::from(wire.refused.is_some()) {
        return Err(format!("{answered} final responses to {asked} requests"));
    }
    if !wire.is_over && wire.exchange.is_idle() && answered != asked {
        return Err(format!("idle with {asked} requests and {answered} final responses"));
    }
    Ok(())
}

/// Same number, same method, same framing, same body; nothing behind an error; nothing that was for us only.
pub fn requests_are_forwarded_as_they_came(wire: &Wire) -> Result<(), String> {
    let has_plugin = wire.runtime.hooks(0).is_some();
    for loan in &wire.loans {
        let Some(sent) = loan.requests.messages.first() else { continue };
        let Some(received) = wire.asked.messages.get(loan.request) else {
            return Err(format!("forwarded what nobody asked: {:?}", sent.head.start));
        };
        no_hop_by_hop_field_crosses(&received.head, &sent.head)?;
        if has_plugin {
            continue;
        }
        if sent.head.method() != received.head.method() || sent.head.framing != received.head.framing {
            return Err(format!("{:?} became {:?}", received.head, sent.head));
        }
        same_body("request", received, sent)?;
    }
    Ok(())
}

/// Interim responses in order, the final response with its body; a body that broke off never looks whole.
pub fn responses_are_forwarded_as_they_came(wire: &Wire) -> Result<(), String> {
    if wire.runtime.hooks(0).is_some() {
        return Ok(());
    }
    let mut answers = Vec::new();
    let mut interim = Vec::new();
    for message in &wire.answered.messages {
        interim.push(message);
        if message.head.status() >= 200 || message.head.status() == 101 {
            answers.push(std::mem::take(&mut interim));
        }
    }
    for loan in &wire.loans {
        let Some(final_response) = finals(&loan.responses).next() else { continue };
        let Some(answer) = answers.get(loan.request) else { continue };
        let Some((given, given_interim)) = answer.split_last() else { continue };
        // Our own 502 and 504 look like the upstream's.
        if given.head.status() != final_response.head.status() || given.head.status() >= 500 {
            continue;
        }
        let statuses = |messages: &[&Message]| -> Vec<u16> { messages.iter().map(|m| m.head.status()).collect() };
        let received: Vec<&Message> = loan.responses.messages.iter().take_while(|m| is_interim(m)).collect();
        let asked = wire.asked.messages.get(loan.request).map(|message| &message.head);
        let is_http10 = asked.is_some_and(|head| head.is_http10());
        // An expectation that is nominated is for us to meet, before anything else is said.
        let is_met_by_us = asked.is_some_and(|head| head.members("connection").iter().any(|name| name == "expect"));
        let given_interim = match given_interim {
            [first, rest @ ..] if is_met_by_us && first.head.status() == 100 => rest,
            all => all,
        };
        if !is_http10 && statuses(given_interim) != statuses(&received) {
            return Err(format!("interim responses {:?} became {:?}", statuses(&received), statuses(given_interim)));
        }
        no_hop_by_hop_field_crosses(&final_response.head, &given.head)?;
        same_body("response", final_response, given)?;
    }
    Ok(())
}

fn is_interim(message: &Message) -> bool {
    message.head.status() < 200 && message.head.status() != 101
}

fn finals(parser: &Parser) -> impl Iterator<Item = &Message> {
    parser.messages.iter().filter(|message| !is_interim(message))
}

fn same_body(what: &str, received: &Message, given: &Message) -> Result<(), String> {
    if !received.body.starts_with(&given.body) {
        return Err(format!("the body of the {what} {:?} was changed on its way", received.head.start));
    }
    let is_cut = !received.is_complete || received.body.len() != given.body.len();
    if given.is_complete && is_cut && given.head.framing != Framing::None {
        return Err(format!("the body of the {what} {:?} was cut and looks whole", received.head.start));
    }
    Ok(())
}

pub fn no_hop_by_hop_field_crosses(received: &Head, sent: &Head) -> Result<(), String> {
    let nominated = received.members("connection");
    for (name, value) in &sent.fields {
        let name = name.to_ascii_lowercase();
        let is_nominated = nominated.contains(&name) && !OURS.contains(&name.as_str());
        let is_ours = match name.as_str() {
            "connection" => ["close", "keep-alive", "Upgrade"].contains(&value.as_str()),
            "upgrade" => [101, 426].contains(&sent.status()) || sent.start.ends_with(" HTTP/1.1"),
            _ => !HOP_BY_HOP.contains(&name.as_str()),
        };
        if is_nominated || !is_ours {
            return Err(format!("hop-by-hop field {name} crossed in {:?}", sent.start));
        }
    }
    Ok(())
}
