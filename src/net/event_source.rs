//! What a `mio::Token` names: slot and generation (rule M6), and in which slab the slot is.

use mio::Token;

use super::slab::{INDEX_BITS, Key};

/// Where an event or a timer belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventSource {
    /// A connection from a client.
    Client(Key),
    /// A connection to an upstream, or an attempt at one.
    Upstream(Key),
    /// A listening socket, by its number.
    Listener(u32),
    /// Somebody on another thread has news.
    Waker,
    /// The end of the time that is left to finish.
    DrainTimeout,
    /// Addresses that are in use are to be looked up again.
    DnsRefresh,
    /// Time to give memory back.
    MallocTrim,
}

const CLIENT: usize = 0;
const LINK: usize = 1;
const LISTENER: usize = 2;
const OTHER: usize = 3;

/// Generations fill the upper half of a token, the kind the lowest two bits.
const GENERATION_SHIFT: u32 = INDEX_BITS + 2;
const INDEX_MASK: usize = (1 << INDEX_BITS) - 1;

impl EventSource {
    /// As a token.
    pub fn token(self) -> Token {
        let (kind, index, generation) = match self {
            EventSource::Client(key) => (CLIENT, key.index(), key.generation()),
            EventSource::Upstream(key) => (LINK, key.index(), key.generation()),
            EventSource::Listener(index) => (LISTENER, index, 0),
            EventSource::Waker => (OTHER, 0, 0),
            EventSource::DrainTimeout => (OTHER, 1, 0),
            EventSource::MallocTrim => (OTHER, 2, 0),
            EventSource::DnsRefresh => (OTHER, 3, 0),
        };
        Token((generation as usize) << GENERATION_SHIFT | (index as usize) << 2 | kind)
    }

    /// What `token` names; `None` for a token that was not made here.
    pub fn of(token: Token) -> Option<EventSource> {
        let index = (token.0 >> 2 & INDEX_MASK) as u32;
        let generation = (token.0 >> GENERATION_SHIFT) as u32;
        match (token.0 & 3, index) {
            (CLIENT, _) => Key::of(index, generation).map(EventSource::Client),
            (LINK, _) => Key::of(index, generation).map(EventSource::Upstream),
            (LISTENER, _) => Some(EventSource::Listener(index)),
            (OTHER, 0) => Some(EventSource::Waker),
            (OTHER, 1) => Some(EventSource::DrainTimeout),
            (OTHER, 2) => Some(EventSource::MallocTrim),
            (OTHER, 3) => Some(EventSource::DnsRefresh),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn m6_a_token_carries_kind_slot_and_generation() {
        let highest = (1 << INDEX_BITS) - 1;
        for (name, source) in [
            ("client", EventSource::Client(Key::of(0, 1).expect("a key"))),
            ("client, large", EventSource::Client(Key::of(highest, u16::MAX.into()).expect("a key"))),
            ("link", EventSource::Upstream(Key::of(7, 3).expect("a key"))),
            ("link, large", EventSource::Upstream(Key::of(highest, 1).expect("a key"))),
            ("listener", EventSource::Listener(5)),
            ("waker", EventSource::Waker),
            ("drain", EventSource::DrainTimeout),
        ] {
            assert_eq!(EventSource::of(source.token()), Some(source), "{name}");
        }
        assert_eq!(EventSource::of(Token(0)), None, "generation 0 is never given");
    }
}
