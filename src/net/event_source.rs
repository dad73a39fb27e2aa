//! What a `mio::Token` names: a key (rule M6), and in which slab.

use mio::Token;

use super::slab::Key;

/// Where an event or a timer belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventSource {
    /// A connection from a client.
    Client(Key),
    /// A connection to an upstream, or an attempt at one.
    Upstream(Key),
    /// A listening socket, by its number.
    Listener(u32),
    /// Another thread has put something into a queue.
    Waker,
}

/// The lowest two bits of a token say what kind of thing it names.
const CLIENT: usize = 0;
const UPSTREAM: usize = 1;
const LISTENER: usize = 2;
const WAKER: usize = 3;

impl EventSource {
    /// As a token.
    pub fn token(self) -> Token {
        let (kind, bits) = match self {
            EventSource::Client(key) => (CLIENT, key.bits()),
            EventSource::Upstream(key) => (UPSTREAM, key.bits()),
            EventSource::Listener(number) => (LISTENER, number as usize),
            EventSource::Waker => (WAKER, 0),
        };
        Token(bits << 2 | kind)
    }

    /// What `token` names; `None` for a token that was not made here.
    pub fn of(token: Token) -> Option<EventSource> {
        let bits = token.0 >> 2;
        match (token.0 & 3, bits) {
            (CLIENT, _) => Key::from_bits(bits).map(EventSource::Client),
            (UPSTREAM, _) => Key::from_bits(bits).map(EventSource::Upstream),
            (LISTENER, _) => Some(EventSource::Listener(bits as u32)),
            (WAKER, 0) => Some(EventSource::Waker),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn m6_a_token_carries_kind_slot_and_generation() {
        let highest = usize::MAX >> 2;
        for (name, source) in [
            ("client", EventSource::Client(Key::from_bits(1).expect("a key"))),
            ("client, large", EventSource::Client(Key::from_bits(highest).expect("a key"))),
            ("upstream", EventSource::Upstream(Key::from_bits(7).expect("a key"))),
            ("upstream, large", EventSource::Upstream(Key::from_bits(highest).expect("a key"))),
            ("listener", EventSource::Listener(5)),
            ("waker", EventSource::Waker),
        ] {
            assert_eq!(EventSource::of(source.token()), Some(source), "{name}");
        }
        assert_eq!(EventSource::of(Token(0)), None, "no key is zero");
    }
}
