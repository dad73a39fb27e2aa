//! The `.wire` files of `examples/tiny/scripts`: a conversation through a proxy over real sockets, as a text.
//!
//! ```text
//! # What this shows: the first comment is its title.
//! prefix: /app                  the third argument of the program; left out: none
//!
//! C> GET /app/x HTTP/1.1        the client sends a line; with a \ at the end, one without CRLF
//! C> Host: a.example            \r \n \t \0 \xNN \\ are escapes; \(20*ab) is twenty times ab
//! C>
//! U< GET /x HTTP/1.1            the upstream must get this message
//! U< Host: *                    with this field line; * is any text, a|b is a or b
//! U- Connection                 and no field of this name
//! U<
//! U< body\                      below the empty line: the content, whatever its framing on the wire; without an empty line: any
//! U> HTTP/1.1 200 OK            the upstream sends
//! C< HTTP/1.1 200 *             the client must get this message
//! C CLOSED                      the proxy closes the client's connection
//! C CUT                         the message above is not whole, and the connection is closed
//! C NEW                         another client; the lines of C below are its
//! U CLOSE                       the upstream closes the connection of the last request
//! U SAME, U NEW                 the last request came on a connection that was used before; on another than the one before
//! U DOWN                        at the top: nothing listens at the upstream's address
//! ```
//!
//! The order of field lines, the case of their names, fields that are not mentioned and the sizes of chunks are not compared:
//! proxies differ there for good reasons. Two messages have an empty line between them. When the script is over, no other whole
//! request may have come to the upstream.

use std::fmt;

use crate::smug_format::unescape_line;

/// One of the two peers of the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// In front of it.
    Client,
    /// Behind it.
    Upstream,
}

/// A conversation, and what must come of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireScript {
    /// The name of its file, without `.wire`.
    pub name: String,
    /// What it shows.
    pub title: String,
    /// What the program is to strip, where it is given anything.
    pub prefix: Option<String>,
    /// Nothing listens at the upstream's address.
    pub is_upstream_down: bool,
    /// In order.
    pub steps: Vec<Step>,
}

/// Something that happens, or that must have happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Where it begins, from 1.
    pub number: usize,
    /// Its lines, as they stand.
    pub lines: Vec<String>,
    /// What it is.
    pub action: Action,
}

/// What a step does or expects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A peer sends these bytes.
    Send(Side, Vec<u8>),
    /// A peer gets this message.
    Expect(Side, Expected),
    /// The next lines are of another client.
    NewClient,
    /// The proxy closes the client's connection.
    Closed,
    /// The client's last message ends before its end, and so does its connection.
    Cut,
    /// The upstream closes the connection of its last request.
    CloseUpstream,
    /// Whether the last request came on a connection that had brought another.
    Reused(bool),
}

/// A message that must come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// The first line: words, `*` for all that follows, and `a|b` for alternatives.
    pub start: String,
    /// Names, and values with `*` and `|` in the same sense.
    pub fields: Vec<(String, String)>,
    /// Names that must not occur.
    pub absent: Vec<String>,
    /// The content; `None` where the script has no empty line: any.
    pub body: Option<Vec<u8>>,
}

/// A line that is not understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLine {
    /// The name of the file.
    pub name: String,
    /// From 1.
    pub number: usize,
    /// What is wrong.
    pub what: &'static str,
}

impl fmt::Display for BadLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.wire:{}: {}", self.name, self.number, self.what)
    }
}

impl std::error::Error for BadLine {}

/// Reads a file.
pub fn parse(name: &str, text: &str) -> Result<WireScript, BadLine> {
    let (mut title, mut prefix, mut is_upstream_down) = (None, None, false);
    let mut steps: Vec<Step> = Vec::new();
    // Lines of the same kind that stand together are one step.
    let mut open: Option<&str> = None;
    for (number, line) in (1..).zip(text.lines()) {
        let bad = |what| BadLine { name: name.to_owned(), number, what };
        if let Some(comment) = line.strip_prefix('#') {
            title.get_or_insert_with(|| comment.trim().to_owned());
            continue;
        }
        if line.is_empty() {
            open = None;
            continue;
        }
        if let Some(value) = line.strip_prefix("prefix: ") {
            prefix = Some(value.to_owned());
            continue;
        }
        if line == "U DOWN" {
            is_upstream_down = true;
            continue;
        }
        let (sign, rest) = line.split_at_checked(2).unwrap_or((line, ""));
        let rest = rest.strip_prefix(' ').unwrap_or(rest);
        // What must be absent stands within the message.
        let kind = match sign {
            "C-" => "C<",
            "U-" => "U<",
            other => other,
        };
        if let (Some(last), true) = (steps.last_mut(), open == Some(kind)) {
            last.lines.push(line.to_owned());
            extend(&mut last.action, sign, rest).ok_or_else(|| bad("a bad escape, or a field line without a colon"))?;
            continue;
        }
        let action = begin(kind, line).ok_or_else(|| bad("not understood"))?;
        steps.push(Step { number, lines: vec![line.to_owned()], action });
        open = matches!(kind, "C>" | "C<" | "U>" | "U<").then_some(kind);
        if open.is_some() {
            let action = &mut steps.last_mut().expect("a step was pushed").action;
            extend(action, sign, rest).ok_or_else(|| bad("a bad escape"))?;
        }
    }
    let title = title.ok_or_else(|| BadLine { name: name.to_owned(), number: 1, what: "no title" })?;
    Ok(WireScript { name: name.to_owned(), title, prefix, is_upstream_down, steps })
}

/// The step that a line begins, still empty.
fn begin(kind: &str, line: &str) -> Option<Action> {
    Some(match (kind, line) {
        ("C>", _) => Action::Send(Side::Client, Vec::new()),
        ("U>", _) => Action::Send(Side::Upstream, Vec::new()),
        ("C<", _) => Action::Expect(Side::Client, Expected::default()),
        ("U<", _) => Action::Expect(Side::Upstream, Expected::default()),
        (_, "C NEW") => Action::NewClient,
        (_, "C CLOSED") => Action::Closed,
        (_, "C CUT") => Action::Cut,
        (_, "U CLOSE") => Action::CloseUpstream,
        (_, "U SAME") => Action::Reused(true),
        (_, "U NEW") => Action::Reused(false),
        _ => return None,
    })
}

/// Adds a line to its step.
fn extend(action: &mut Action, sign: &str, rest: &str) -> Option<()> {
    match action {
        Action::Send(_, bytes) => unescape_line(rest, bytes),
        Action::Expect(_, expected) if sign.ends_with('-') => {
            expected.absent.push(rest.to_owned());
            Some(())
        }
        Action::Expect(_, expected) => expected.extend(rest),
        _ => None,
    }
}

impl Expected {
    fn extend(&mut self, line: &str) -> Option<()> {
        if let Some(body) = &mut self.body {
            return unescape_line(line, body);
        }
        if line.is_empty() {
            self.body = Some(Vec::new());
        } else if self.start.is_empty() {
            line.clone_into(&mut self.start);
        } else {
            let (name, value) = line.split_once(':')?;
            self.fields.push((name.to_owned(), value.trim().to_owned()));
        }
        Some(())
    }
}

/// Whether a text is what a pattern says: alternatives with `|`, and `*` for any end.
pub fn matches(pattern: &str, text: &str) -> bool {
    pattern.split('|').any(|choice| match choice.strip_suffix('*') {
        Some(beginning) => text.starts_with(beginning.trim_end()),
        None => choice == text,
    })
}

/// Whether a first line is what a pattern says, word by word.
pub fn matches_start(pattern: &str, text: &str) -> bool {
    let mut words = text.split(' ');
    for word in pattern.split(' ') {
        if word == "*" {
            return true;
        }
        if !words.next().is_some_and(|found| matches(word, found)) {
            return false;
        }
    }
    words.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_read() {
        let text = "# A title.\n# More.\nprefix: /app\n\nC> GET /app HTTP/1.1\nC>\nU< GET / HTTP/1.1\nU< Host: *\n\
                    U- Connection\nU<\nU< a\nU< b\\\nU SAME\nC< HTTP/1.1 200|204 *\nC CLOSED\n";
        let script = parse("x", text).expect("a good text");
        assert_eq!((script.title.as_str(), script.prefix.as_deref()), ("A title.", Some("/app")));
        let expected = Expected {
            start: "GET / HTTP/1.1".to_owned(),
            fields: vec![("Host".to_owned(), "*".to_owned())],
            absent: vec!["Connection".to_owned()],
            body: Some(b"a\r\nb".to_vec()),
        };
        let actions: Vec<_> = script.steps.iter().map(|step| step.action.clone()).collect();
        let answer = Expected { start: "HTTP/1.1 200|204 *".to_owned(), ..Expected::default() };
        assert_eq!(
            actions,
            [
                Action::Send(Side::Client, b"GET /app HTTP/1.1\r\n\r\n".to_vec()),
                Action::Expect(Side::Upstream, expected),
                Action::Reused(true),
                Action::Expect(Side::Client, answer),
                Action::Closed,
            ]
        );
        assert_eq!((script.steps[1].number, script.steps[1].lines.len()), (7, 6));
    }

    #[test]
    fn an_error_names_its_line() {
        for (text, number) in
            [("# T\nC> \\q", 2), ("# T\nX> a", 2), ("C> a", 1), ("# T\nC< HTTP/1.1 200 *\nC< no colon", 3)]
        {
            assert_eq!(parse("x", text).map_err(|bad| bad.number), Err(number), "{text}");
        }
    }

    #[test]
    fn patterns() {
        assert!(matches("*", "") && matches("a|b", "b") && matches("a*", "ab") && !matches("a|b", "ab"));
        assert!(matches_start("HTTP/1.1 400|501 *", "HTTP/1.1 501 Not Implemented"));
        assert!(matches_start("HTTP/1.1 200 *", "HTTP/1.1 200 "));
        assert!(!matches_start("HTTP/1.1 200 *", "HTTP/1.1 404 Not Found"));
        assert!(!matches_start("GET / HTTP/1.1", "GET / HTTP/1.1 x") && !matches_start("GET / HTTP/1.1", "GET /"));
    }
}
