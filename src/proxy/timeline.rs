//! The life of one request, moment by moment, for people who ask where the time went or why it ended as it did.
//!
//! Nothing is noted unless the observer wants timelines. Moments are those of the event loop's turns: what happens within
//! one turn happens at once, and what the proxy itself took is part of the waiting that followed. Bytes are those of the
//! wire, heads and framing included, before TLS.

use std::fmt;
use std::time::Duration;

use super::events::{ConnectError, Input, Side};
use crate::mono_time::MonoTime;

/// Of more lines than this, the rest is counted only: a tunnel may live for days.
const MOST_LINES: usize = 64;

/// A line is joined with an equal one among so many before it: bodies go to and fro.
const NEAR: usize = 3;

/// What an exchange waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaited {
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

impl Awaited {
    const ALL: [Awaited; 9] = [
        Awaited::RequestHead,
        Awaited::RequestBody,
        Awaited::Connection,
        Awaited::UpstreamReading,
        Awaited::ResponseHead,
        Awaited::ResponseBody,
        Awaited::ClientReading,
        Awaited::Tunnel,
        Awaited::Nobody,
    ];

    const fn words(self) -> &'static str {
        match self {
            Awaited::RequestHead => "the client's request head",
            Awaited::RequestBody => "the client's request body",
            Awaited::Connection => "a connection to the upstream",
            Awaited::UpstreamReading => "the upstream to take the request",
            Awaited::ResponseHead => "the upstream's response head",
            Awaited::ResponseBody => "the upstream's response body",
            Awaited::ClientReading => "the client to take the response",
            Awaited::Tunnel => "either end of the tunnel",
            Awaited::Nobody => "nobody",
        }
    }
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
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

impl Moment {
    /// What an input is, and how many bytes came with it. A tick is nothing yet: mostly it comes too early.
    pub fn of(input: &Input<'_>) -> Option<(Moment, u64)> {
        Some(match *input {
            Input::Bytes(side, bytes) => (Moment::Sent(side), bytes.len() as u64),
            Input::Relayed(side, len) => (Moment::Sent(side), len),
            Input::Eof(side) => (Moment::Ended(side), 0),
            Input::Reset(side) => (Moment::Reset(side), 0),
            Input::Unwritable(side) => (Moment::Unwritable(side), 0),
            Input::Connected { reused } => (Moment::Connected { reused }, 0),
            Input::ConnectFailed(error) => (Moment::ConnectFailed(error), 0),
            Input::Drained(_) | Input::Tick => return None,
        })
    }
}

/// One line.
#[derive(Clone, Copy, Debug)]
struct Line {
    first: MonoTime,
    last: MonoTime,
    moment: Moment,
    bytes: u64,
    times: u32,
    /// What was waited for then.
    then: Awaited,
}

/// What happened to one request, and who was waited for how long.
#[derive(Clone, Debug)]
pub struct Timeline {
    begun: MonoTime,
    /// Until when the waiting is accounted for, and what goes on since.
    until: MonoTime,
    awaited: Awaited,
    waited: [Duration; Awaited::ALL.len()],
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
            awaited: Awaited::RequestHead,
            waited: [Duration::ZERO; Awaited::ALL.len()],
            lines: Vec::new(),
            left_out: 0,
        }
    }

    /// Something happened, and from now on `then` is waited for.
    pub fn note(&mut self, now: MonoTime, (moment, bytes): (Moment, u64), then: Awaited) {
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
            if before != Some(line.then) && line.then != Awaited::Nobody {
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
        for (awaited, waited) in Awaited::ALL.iter().zip(self.waited).filter(|(_, waited)| !waited.is_zero()) {
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
            Side::Downstream => "the client",
            Side::Upstream => "the upstream",
        };
        match self.0.moment {
            Moment::Sent(side) => write!(f, "{} sent {bytes} bytes", name(side)),
            Moment::Held => write!(f, "{bytes} bytes had come behind the request before"),
            Moment::Took(side) => write!(f, "{} took {bytes} bytes", name(side)),
            Moment::Ended(side) => write!(f, "{} ended its sending", name(side)),
            Moment::Reset(side) => write!(f, "{} reset the connection", name(side)),
            Moment::Unwritable(side) => write!(f, "{} takes no more", name(side)),
            Moment::Connected { reused: true } => f.write_str("a connection from the pool"),
            Moment::Connected { reused: false } => f.write_str("a new connection"),
            Moment::ConnectFailed(error) => f.write_str(match error {
                ConnectError::DnsFail => "no connection: the name does not resolve",
                ConnectError::Refused => "no connection: refused",
                ConnectError::TimedOut => "no connection: no answer in time",
                ConnectError::Untrusted(_) => "no connection: the certificate was not accepted",
                ConnectError::TlsFailed => "no connection: the TLS handshake failed",
                ConnectError::Failed => "no connection: unreachable, or no descriptor",
            }),
            Moment::TimeOut => f.write_str("time-out"),
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
        timeline.note(at(0), (Moment::Sent(Side::Downstream), 78), Awaited::Connection);
        timeline.note(at(2), (Moment::Connected { reused: false }, 0), Awaited::UpstreamReading);
        timeline.note(at(2), (Moment::Took(Side::Upstream), 90), Awaited::ResponseHead);
        for millis in [12, 14, 19] {
            timeline.note(at(millis), (Moment::Sent(Side::Upstream), 1000), Awaited::ClientReading);
            timeline.note(at(millis + 1), (Moment::Took(Side::Downstream), 1000), Awaited::ResponseBody);
        }
        timeline.note(at(25), (Moment::Ended(Side::Upstream), 0), Awaited::Nobody);
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
        for turn in 0..1000 {
            let moments = [Moment::Sent(Side::Upstream), Moment::TimeOut, Moment::Held, Moment::Took(Side::Upstream)];
            for moment in moments {
                timeline.note(now, (moment, turn), Awaited::Tunnel);
            }
        }
        assert_eq!(timeline.lines.len(), MOST_LINES);
        let told: u32 = timeline.lines.iter().map(|line| line.times).sum();
        assert_eq!(told + timeline.left_out, 4000, "each is told or counted");
        assert!(timeline.to_string().contains(&format!("  and {} more\n", timeline.left_out)), "{timeline}");
    }
}
