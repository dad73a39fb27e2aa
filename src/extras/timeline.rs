//! The life of one request, event by event, for people who ask where the time went or why it ended as it did (`-trace`).
//!
//! Nothing is noted unless the observer wants timelines. Times are those of the event loop's turns: what happens within one
//! turn happens at once, and what the proxy itself took is part of the waiting that followed. Bytes are those of the
//! wire, heads and framing included, before TLS.

use std::time::Duration;

use crate::mono_time::MonoTime;
use crate::proxy::events::{ConnectError, Input, Side};

/// Of more lines than this, the rest is counted only: a tunnel may live for days.
const MAX_LINES: usize = 64;

/// A line is joined with an equal one among so many before it: bodies go to and fro.
const NEAR: usize = 3;

/// What a request waits for when all is done.
pub const NOTHING: &str = "nobody";

/// What happened: which side did what, and with how many bytes.
pub type TraceEvent = (Option<Side>, &'static str, u64);

/// What an input is. A tick is nothing yet: mostly it comes too early.
pub fn trace_event(input: &Input<'_>) -> Option<TraceEvent> {
    Some(match *input {
        Input::Bytes(side, bytes) => (Some(side), "sent", bytes.len() as u64),
        Input::Bypassed(side, len) => (Some(side), "sent", len),
        Input::Eof(side) => (Some(side), "ended its sending", 0),
        Input::Reset(side) => (Some(side), "reset the connection", 0),
        Input::Unwritable(side) => (Some(side), "takes no more", 0),
        Input::Connected { reused: true } => (None, "a connection from the pool", 0),
        Input::Connected { reused: false } => (None, "a new connection", 0),
        Input::ConnectFailed(ConnectError::DnsFail) => (None, "no connection: the name does not resolve", 0),
        Input::ConnectFailed(ConnectError::Refused) => (None, "no connection: refused", 0),
        Input::ConnectFailed(ConnectError::TimedOut) => (None, "no connection: no answer in time", 0),
        Input::ConnectFailed(ConnectError::Untrusted(_)) => {
            (None, "no connection: the certificate was not accepted", 0)
        }
        Input::ConnectFailed(ConnectError::TlsFailed) => (None, "no connection: the TLS handshake failed", 0),
        Input::ConnectFailed(ConnectError::Failed) => (None, "no connection: unreachable, or no descriptor", 0),
        Input::Resumed => (None, "a plugin goes on", 0),
        Input::Drained(_) | Input::Tick => return None,
    })
}

/// Events of one kind.
#[derive(Clone, Copy, Debug)]
struct Line {
    first: MonoTime,
    last: MonoTime,
    side: Option<Side>,
    text: &'static str,
    bytes: u64,
    times: u32,
    /// What was waited for then.
    then: &'static str,
}

/// What happened to one request, and what was waited for how long.
#[derive(Clone, Debug)]
pub struct Timeline {
    begun: MonoTime,
    /// Until when the waiting is accounted for, and what goes on since.
    until: MonoTime,
    awaited: &'static str,
    waited: Vec<(&'static str, Duration)>,
    lines: Vec<Line>,
    /// How many events found no room.
    left_out: u32,
}

impl Timeline {
    /// For a request that begins now.
    pub fn new(now: MonoTime) -> Timeline {
        let awaited = "the client's request head";
        Timeline { begun: now, until: now, awaited, waited: Vec::new(), lines: Vec::new(), left_out: 0 }
    }

    /// Something happened, and from now on `then` is waited for.
    pub fn note(&mut self, now: MonoTime, (side, text, bytes): TraceEvent, then: &'static str) {
        self.wait_until(now);
        self.awaited = then;
        let mut near = self.lines.iter_mut().rev().take(NEAR);
        if let Some(line) = near.find(|line| (line.side, line.text, line.then) == (side, text, then)) {
            line.last = now;
            line.bytes += bytes;
            line.times += 1;
        } else if self.lines.len() < MAX_LINES {
            self.lines.push(Line { first: now, last: now, side, text, bytes, times: 1, then });
        } else {
            self.left_out += 1;
        }
    }

    fn wait_until(&mut self, now: MonoTime) {
        let span = now - std::mem::replace(&mut self.until, now);
        match self.waited.iter_mut().find(|(awaited, _)| *awaited == self.awaited) {
            Some((_, waited)) => *waited += span,
            None => self.waited.push((self.awaited, span)),
        }
    }

    /// The request is over. Gives a line for each event, with the time since the first byte; then what was waited for how
    /// long.
    pub fn finish(mut self, now: MonoTime) -> String {
        self.wait_until(now);
        let millis = |span: Duration| span.as_secs_f64() * 1000.0;
        let since_start = |at: MonoTime| millis(at - self.begun);
        let (mut out, mut before) = (String::new(), NOTHING);
        for line in &self.lines {
            let side = match line.side {
                Some(Side::Client) => "the client ",
                Some(Side::Upstream) => "the upstream ",
                None => "",
            };
            out += &format!("{:>9.3} ms  {side}{}", since_start(line.first), line.text);
            if line.bytes > 0 {
                out += &format!(" {} bytes", line.bytes);
            }
            if line.times > 1 {
                out += &format!(" in {} pieces, until {:.3} ms", line.times, since_start(line.last));
            }
            if line.then != before && line.then != NOTHING {
                out += &format!("; waiting for {}", line.then);
            }
            before = line.then;
            out.push('\n');
        }
        if self.left_out > 0 {
            out += &format!("              and {} more\n", self.left_out);
        }
        let waited = self.waited.iter().filter(|(_, span)| !span.is_zero());
        let waited: Vec<_> = waited.map(|(awaited, span)| format!("{:.3} ms for {awaited}", millis(*span))).collect();
        let waited = if waited.is_empty() { String::new() } else { format!("; waited {}", waited.join(", ")) };
        out + &format!("{:>9.3} ms  over{waited}\n", since_start(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_that_go_to_and_fro_are_one_line_for_each_direction() {
        let begun = MonoTime::now();
        let at = |millis| begun + Duration::from_millis(millis);
        let mut timeline = Timeline::new(begun);
        timeline.note(at(0), (Some(Side::Client), "sent", 78), "a connection to the upstream");
        timeline.note(at(2), (None, "a new connection", 0), "the upstream to take the request");
        timeline.note(at(2), (Some(Side::Upstream), "took", 90), "the upstream's response head");
        for millis in [12, 14, 19] {
            timeline.note(at(millis), (Some(Side::Upstream), "sent", 1000), "the client to take the response");
            timeline.note(at(millis + 1), (Some(Side::Client), "took", 1000), "the upstream's response body");
        }
        timeline.note(at(25), (Some(Side::Upstream), "ended its sending", 0), NOTHING);
        let timeline = timeline.finish(at(26));
        let expected = "    \
    0.000 ms  the client sent 78 bytes; waiting for a connection to the upstream
    2.000 ms  a new connection; waiting for the upstream to take the request
    2.000 ms  the upstream took 90 bytes; waiting for the upstream's response head
   12.000 ms  the upstream sent 3000 bytes in 3 pieces, until 19.000 ms; waiting for the client to take the response
   13.000 ms  the client took 3000 bytes in 3 pieces, until 20.000 ms; waiting for the upstream's response body
   25.000 ms  the upstream ended its sending
   26.000 ms  over; waited 2.000 ms for a connection to the upstream, 10.000 ms for the upstream's response head, 3.000 ms \
for the client to take the response, 10.000 ms for the upstream's response body, 1.000 ms for nobody
";
        assert_eq!(format!("\n{timeline}"), format!("\n{}", expected), "{timeline}");
    }

    #[test]
    fn a_long_life_takes_no_more_memory_than_a_short_one() {
        let now = MonoTime::now();
        let mut timeline = Timeline::new(now);
        for ctx in 0..1000 {
            for (side, text) in
                [(Some(Side::Upstream), "sent"), (None, "time-out"), (None, "held"), (Some(Side::Upstream), "took")]
            {
                timeline.note(now, (side, text, ctx), "either end of the tunnel");
            }
        }
        assert_eq!(timeline.lines.len(), MAX_LINES);
        let told: u32 = timeline.lines.iter().map(|line| line.times).sum();
        assert_eq!(told + timeline.left_out, 4000, "each is told or counted");
        let more = format!("  and {} more\n", timeline.left_out);
        let text = timeline.finish(now);
        assert!(text.contains(&more), "{text}");
    }
}
