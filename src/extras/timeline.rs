//! The life of one request, moment by moment, for people who ask where the time went or why it ended as it did.
//!
//! Nothing is noted unless the observer wants timelines. Moments are those of the event loop's turns: what happens within
//! one turn happens at once, and what the proxy itself took is part of the waiting that followed. Bytes are those of the
//! wire, heads and framing included, before TLS.

use std::fmt;
use std::time::Duration;

use crate::mono_time::MonoTime;
use crate::proxy::events::{ConnectError, Input, Side};

/// Of more lines than this, the rest is counted only: a tunnel may live for days.
const MOST_LINES: usize = 64;

/// A line is joined with an equal one among so many before it: bodies go to and fro.
const NEAR: usize = 3;

/// What an exchange waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitReason {
    /// The client is still sending its head.
    RequestHead,
    /// The client is still sending its body.
    RequestBody,
    /// There is no connection to the upstream yet.
    Connection,
    /// The upstream does not take the request as fast as it comes.
    UpstreamReading,
    /// The upstream works.
    ResponseHead,
    /// The upstream is still sending.
    ResponseBody,
    /// The client does not take the response as fast as it comes.
    ClientReading,
    /// Either end of an upgraded connection has to say something.
    Tunnel,
    /// Nobody: what there was to do was done.
    Nobody,
}

impl WaitReason {
    const ALL: [WaitReason; 9] = [
        WaitReason::RequestHead,
        WaitReason::RequestBody,
        WaitReason::Connection,
        WaitReason::UpstreamReading,
        WaitReason::ResponseHead,
        WaitReason::ResponseBody,
        WaitReason::ClientReading,
        WaitReason::Tunnel,
        WaitReason::Nobody,
    ];

    const fn words(self) -> &'static str {
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
    /// Somebody's time was over.
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
}

/// One line.
#[derive(Clone, Copy, Debug)]
struct Line {
    first: MonoTime,
    last: MonoTime,
    moment: TraceEvent,
    bytes: u64,
    times: u32,
    /// What was waited for then.
    then: WaitReason,
}

/// What happened to one request, and who was waited for how long.
#[derive(Clone, Debug)]
pub struct Timeline {
    begun: MonoTime,
    /// Until when the waiting is accounted for, and what goes on since.
    until: MonoTime,
    awaited: WaitReason,
    waited: [Duration; WaitReason::ALL.len()],
    lines: Vec<Line>,
    /// How many moments found no room.
    left_out: u32,
}

impl Timeline {
    /// For a request that begins now.
    pub fn new(now: MonoTime) -> Timeline {
        Timeline {
            begun: now,
            until: now,
            awaited: WaitReason::RequestHead,
            waited: [Duration::ZERO; WaitReason::ALL.len()],
            lines: Vec::new(),
            left_out: 0,
        }
    }

    /// Something happened, and from now on `then` is waited for.
    pub fn note(&mut self, now: MonoTime, (moment, bytes): (TraceEvent, u64), then: WaitReason) {
        self.wait_until(now);
        self.awaited = then;
        let mut near = self.lines.iter_mut().rev().take(NEAR);
        if let Some(line) = near.find(|line| line.moment == moment && line.then == then) {
            line.last = now;
            line.bytes += bytes;
            line.times += 1;
        } else if self.lines.len() < MOST_LINES {
            self.lines.push(Line { first: now, last: now, moment, bytes, times: 1, then });
        } else {
            self.left_out += 1;
        }
    }

    /// The request is over.
    pub fn finish(mut self, now: MonoTime) -> Timeline {
        self.wait_until(now);
        self
    }

    fn wait_until(&mut self, now: MonoTime) {
        self.waited[self.awaited as usize] += now.saturating_duration_since(self.until);
        self.until = now;
    }
}

/// A line for each moment, with the time since the first byte; then how long who was waited for.
impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut before = None;
        for line in &self.lines {
            write!(f, "{:>12}  {}", Millis(line.first.saturating_duration_since(self.begun)), What(line))?;
            if line.times > 1 {
                let last = Millis(line.last.saturating_duration_since(self.begun));
                write!(f, " in {} pieces, until {last}", line.times)?;
            }
            if before != Some(line.then) && line.then != WaitReason::Nobody {
                write!(f, "; waiting for {}", line.then.words())?;
            }
            before = Some(line.then);
            writeln!(f)?;
        }
        if self.left_out > 0 {
            writeln!(f, "              and {} more", self.left_out)?;
        }
        let total = self.until.saturating_duration_since(self.begun);
        write!(f, "{:>12}  over", Millis(total))?;
        let mut between = "; waited ";
        for (awaited, waited) in WaitReason::ALL.iter().zip(self.waited).filter(|(_, waited)| !waited.is_zero()) {
            write!(f, "{between}{} for {}", Millis(waited), awaited.words())?;
            between = ", ";
        }
        writeln!(f)
    }
}

/// What a line says happened.
struct What<'a>(&'a Line);

impl fmt::Display for What<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0.bytes;
        let name = |side| match side {
            Side::Client => "the client",
            Side::Upstream => "the upstream",
        };
        match self.0.moment {
            TraceEvent::Sent(side) => write!(f, "{} sent {bytes} bytes", name(side)),
            TraceEvent::Held => write!(f, "{bytes} bytes had come behind the request before"),
            TraceEvent::Took(side) => write!(f, "{} took {bytes} bytes", name(side)),
            TraceEvent::Ended(side) => write!(f, "{} ended its sending", name(side)),
            TraceEvent::Reset(side) => write!(f, "{} reset the connection", name(side)),
            TraceEvent::Unwritable(side) => write!(f, "{} takes no more", name(side)),
            TraceEvent::Connected { reused: true } => f.write_str("a connection from the pool"),
            TraceEvent::Connected { reused: false } => f.write_str("a new connection"),
            TraceEvent::ConnectFailed(error) => f.write_str(match error {
                ConnectError::DnsFail => "no connection: the name does not resolve",
                ConnectError::Refused => "no connection: refused",
                ConnectError::TimedOut => "no connection: no answer in time",
                ConnectError::Untrusted(_) => "no connection: the certificate was not accepted",
                ConnectError::TlsFailed => "no connection: the TLS handshake failed",
                ConnectError::Failed => "no connection: unreachable, or no descriptor",
            }),
            TraceEvent::TimeOut => f.write_str("time-out"),
        }
    }
}

/// `12.345 ms`; the width of the format is that of the whole.
struct Millis(Duration);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}.{:03} ms", self.0.as_millis(), self.0.subsec_micros() % 1000))
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
            let moments = [
                TraceEvent::Sent(Side::Upstream),
                TraceEvent::TimeOut,
                TraceEvent::Held,
                TraceEvent::Took(Side::Upstream),
            ];
            for moment in moments {
                timeline.note(now, (moment, ctx), WaitReason::Tunnel);
            }
        }
        assert_eq!(timeline.lines.len(), MOST_LINES);
        let told: u32 = timeline.lines.iter().map(|line| line.times).sum();
        assert_eq!(told + timeline.left_out, 4000, "each is told or counted");
        assert!(timeline.to_string().contains(&format!("  and {} more\n", timeline.left_out)), "{timeline}");
    }
}
