//! The life of one request, event by event, for people who ask where the time went or why it ended as it did (`-trace`).
//!
//! Nothing is noted unless the observer wants timelines. Times are those of the event loop's turns: what happens within one
//! turn happens at once, and what the proxy itself took is part of the waiting that followed. Bytes are those of the
//! wire, heads and framing included, before TLS.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use crate::mono_time::MonoTime;
use crate::proxy::events::{ConnectError, Input, Side};

/// Of more lines than this, the rest is counted only: a tunnel may live for days.
const MAX_LINES: usize = 64;

/// A line is joined with an equal one among so many before it: bodies go to and fro.
const NEAR: usize = 3;

/// What a connection waits for, in the order in which the last line tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "text() says what each means")]
pub enum WaitReason {
    RequestHead,
    RequestBody,
    Connection,
    UpstreamReading,
    ResponseHead,
    ResponseBody,
    ClientReading,
    Tunnel,
    /// What there was to do was done.
    Nobody,
}

impl WaitReason {
    const fn text(self) -> &'static str {
        match self {
            WaitReason::RequestHead => "the client's request head",
            WaitReason::RequestBody => "the client's request body",
            WaitReason::Connection => "a connection to the upstream",
            WaitReason::UpstreamReading => "the upstream to take the request",
            WaitReason::ResponseHead => "the upstream's response head",
            WaitReason::ResponseBody => "the upstream's response body",
            WaitReason::ClientReading => "the client to take the response",
            WaitReason::Tunnel => "either end of the tunnel",
            WaitReason::Nobody => "nobody",
        }
    }
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceEvent {
    /// That side sent bytes.
    Sent(Side),
    /// Bytes of the client were there already, behind the request before this one.
    Held,
    /// That side took bytes of ours.
    Took(Side),
    /// That side sends no more.
    Ended(Side),
    /// That side is gone.
    Reset(Side),
    /// That side takes no more.
    Unwritable(Side),
    /// There is a connection to the upstream.
    Connected {
        /// From the pool.
        reused: bool,
    },
    /// There is none.
    ConnectFailed(ConnectError),
    /// A time-out was over.
    TimeOut,
}

impl TraceEvent {
    /// What an input is, and how many bytes came with it. A tick is nothing yet: mostly it comes too early.
    pub fn of(input: &Input<'_>) -> Option<(TraceEvent, u64)> {
        Some(match *input {
            Input::Bytes(side, bytes) => (TraceEvent::Sent(side), bytes.len() as u64),
            Input::Bypassed(side, len) => (TraceEvent::Sent(side), len),
            Input::Eof(side) => (TraceEvent::Ended(side), 0),
            Input::Reset(side) => (TraceEvent::Reset(side), 0),
            Input::Unwritable(side) => (TraceEvent::Unwritable(side), 0),
            Input::Connected { reused } => (TraceEvent::Connected { reused }, 0),
            Input::ConnectFailed(error) => (TraceEvent::ConnectFailed(error), 0),
            Input::Drained(_) | Input::Tick => return None,
        })
    }

    fn text(self, bytes: u64) -> String {
        let name = |side| match side {
            Side::Client => "the client",
            Side::Upstream => "the upstream",
        };
        match self {
            TraceEvent::Sent(side) => format!("{} sent {bytes} bytes", name(side)),
            TraceEvent::Held => format!("{bytes} bytes had come behind the request before"),
            TraceEvent::Took(side) => format!("{} took {bytes} bytes", name(side)),
            TraceEvent::Ended(side) => format!("{} ended its sending", name(side)),
            TraceEvent::Reset(side) => format!("{} reset the connection", name(side)),
            TraceEvent::Unwritable(side) => format!("{} takes no more", name(side)),
            TraceEvent::Connected { reused: true } => "a connection from the pool".to_owned(),
            TraceEvent::Connected { reused: false } => "a new connection".to_owned(),
            TraceEvent::ConnectFailed(error) => {
                let why = match error {
                    ConnectError::DnsFail => "the name does not resolve",
                    ConnectError::Refused => "refused",
                    ConnectError::TimedOut => "no answer in time",
                    ConnectError::Untrusted(_) => "the certificate was not accepted",
                    ConnectError::TlsFailed => "the TLS handshake failed",
                    ConnectError::Failed => "unreachable, or no descriptor",
                };
                format!("no connection: {why}")
            }
            TraceEvent::TimeOut => "time-out".to_owned(),
        }
    }
}

/// One line.
#[derive(Clone, Copy, Debug)]
struct Line {
    first: MonoTime,
    last: MonoTime,
    event: TraceEvent,
    bytes: u64,
    times: u32,
    /// What was waited for then.
    then: WaitReason,
}

/// What happened to one request, and what was waited for how long.
#[derive(Clone, Debug)]
pub struct Timeline {
    begun: MonoTime,
    /// Until when the waiting is accounted for, and what goes on since.
    until: MonoTime,
    awaited: WaitReason,
    waited: BTreeMap<WaitReason, Duration>,
    lines: Vec<Line>,
    /// How many events found no room.
    left_out: u32,
}

impl Timeline {
    /// For a request that begins now.
    pub fn new(now: MonoTime) -> Timeline {
        Timeline {
            begun: now,
            until: now,
            awaited: WaitReason::RequestHead,
            waited: BTreeMap::new(),
            lines: Vec::new(),
            left_out: 0,
        }
    }

    /// Something happened, and from now on `then` is waited for.
    pub fn note(&mut self, now: MonoTime, (event, bytes): (TraceEvent, u64), then: WaitReason) {
        self.wait_until(now);
        self.awaited = then;
        let mut near = self.lines.iter_mut().rev().take(NEAR);
        if let Some(line) = near.find(|line| line.event == event && line.then == then) {
            line.last = now;
            line.bytes += bytes;
            line.times += 1;
        } else if self.lines.len() < MAX_LINES {
            self.lines.push(Line { first: now, last: now, event, bytes, times: 1, then });
        } else {
            self.left_out += 1;
        }
    }

    fn wait_until(&mut self, now: MonoTime) {
        *self.waited.entry(self.awaited).or_default() += now.saturating_duration_since(self.until);
        self.until = now;
    }

    /// The request is over. Gives a line for each event, with the time since the first byte; then what was waited for how
    /// long.
    pub fn finish(mut self, now: MonoTime) -> String {
        self.wait_until(now);
        let since_start = |at: MonoTime| millis(at.saturating_duration_since(self.begun));
        let mut out = String::new();
        let mut before = None;
        for line in &self.lines {
            let _ = write!(out, "{:>12}  {}", since_start(line.first), line.event.text(line.bytes));
            if line.times > 1 {
                let _ = write!(out, " in {} pieces, until {}", line.times, since_start(line.last));
            }
            if before != Some(line.then) && line.then != WaitReason::Nobody {
                let _ = write!(out, "; waiting for {}", line.then.text());
            }
            before = Some(line.then);
            out.push('\n');
        }
        if self.left_out > 0 {
            let _ = writeln!(out, "              and {} more", self.left_out);
        }
        let _ = write!(out, "{:>12}  over", since_start(now));
        let waited = self.waited.iter().filter(|(_, waited)| !waited.is_zero());
        let waited: Vec<_> =
            waited.map(|(reason, waited)| format!("{} for {}", millis(*waited), reason.text())).collect();
        if !waited.is_empty() {
            let _ = write!(out, "; waited {}", waited.join(", "));
        }
        out + "\n"
    }
}

/// `12.345 ms`.
fn millis(duration: Duration) -> String {
    format!("{}.{:03} ms", duration.as_millis(), duration.subsec_micros() % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_that_go_to_and_fro_are_one_line_for_each_direction() {
        let begun = MonoTime::now();
        let at = |millis| begun + Duration::from_millis(millis);
        let mut timeline = Timeline::new(begun);
        timeline.note(at(0), (TraceEvent::Sent(Side::Client), 78), WaitReason::Connection);
        timeline.note(at(2), (TraceEvent::Connected { reused: false }, 0), WaitReason::UpstreamReading);
        timeline.note(at(2), (TraceEvent::Took(Side::Upstream), 90), WaitReason::ResponseHead);
        for millis in [12, 14, 19] {
            timeline.note(at(millis), (TraceEvent::Sent(Side::Upstream), 1000), WaitReason::ClientReading);
            timeline.note(at(millis + 1), (TraceEvent::Took(Side::Client), 1000), WaitReason::ResponseBody);
        }
        timeline.note(at(25), (TraceEvent::Ended(Side::Upstream), 0), WaitReason::Nobody);
        let timeline = timeline.finish(at(26));
        let expected = "    \
    0.000 ms  the client sent 78 bytes; waiting for a connection to the upstream
    2.000 ms  a new connection; waiting for the upstream to take the request
    2.000 ms  the upstream took 90 bytes; waiting for the upstream's response head
   12.000 ms  the upstream sent 3000 bytes in 3 pieces, until 19.000 ms; waiting for the client to take the response
   13.000 ms  the client took 3000 bytes in 3 pieces, until 20.000 ms; waiting for the upstream's response body
   25.000 ms  the upstream ended its sending
   26.000 ms  over; waited 2.000 ms for a connection to the upstream, 10.000 ms for the upstream's response head, 10.000 ms \
for the upstream's response body, 3.000 ms for the client to take the response, 1.000 ms for nobody
";
        assert_eq!(format!("\n{timeline}"), format!("\n{}", expected), "{timeline}");
    }

    #[test]
    fn a_long_life_takes_no_more_memory_than_a_short_one() {
        let now = MonoTime::now();
        let mut timeline = Timeline::new(now);
        for ctx in 0..1000 {
            let events = [
                TraceEvent::Sent(Side::Upstream),
                TraceEvent::TimeOut,
                TraceEvent::Held,
                TraceEvent::Took(Side::Upstream),
            ];
            for event in events {
                timeline.note(now, (event, ctx), WaitReason::Tunnel);
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
