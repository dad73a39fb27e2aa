//! What a `mio::Token` names: slot and generation (rule M6), and in which slab the slot is.

use mio::Token;

use super::slab::{INDEX_BITS, Key};

/// Where an event or a timer belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A connection from a client.
    Client(Key),
    /// A connection to an upstream, or an attempt at one.
    Link(Key),
    /// A listening socket, by its number.
    Listener(u32),
    /// Somebody on another thread has news.
    Waker,
    /// The end of the time that is left to finish.
    Drain,
    /// Time to give memory back.
    Surplus,
}

const CLIENT: usize = 0;
const LINK: usize = 1;
const LISTENER: usize = 2;
const OTHER: usize = 3;

/// Generations fill the upper half of a token, the kind the lowest two bits.
const GENERATION_SHIFT: u32 = INDEX_BITS + 2;
const INDEX_MASK: usize = (1 << INDEX_BITS) - 1;

impl Source {
    /// As a token.
    pub fn token(self) -> Token {
        let (kind, index, generation) = match self {
            Source::Client(key) => (CLIENT, key.index(), key.generation()),
            Source::Link(key) => (LINK, key.index(), key.generation()),
            Source::Listener(index) => (LISTENER, index, 0),
            Source::Waker => (OTHER, 0, 0),
            Source::Drain => (OTHER, 1, 0),
            Source::Surplus => (OTHER, 2, 0),
        };
        Token((generation as usize) << GENERATION_SHIFT | (index as usize) << 2 | kind)
    }

    /// What `token` names; `None` for a token that was not made here.
    pub fn of(token: Token) -> Option<Source> {
        let index = (token.0 >> 2 & INDEX_MASK) as u32;
        let generation = (token.0 >> GENERATION_SHIFT) as u32;
        match (token.0 & 3, index) {
            (CLIENT, _) => Key::of(index, generation).map(Source::Client),
            (LINK, _) => Key::of(index, generation).map(Source::Link),
            (LISTENER, _) => Some(Source::Listener(index)),
            (OTHER, 0) => Some(Source::Waker),
            (OTHER, 1) => Some(Source::Drain),
            (OTHER, 2) => Some(Source::Surplus),
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
            ("client", Source::Client(Key::of(0, 1).expect("a key"))),
            ("client, large", Source::Client(Key::of(highest, u16::MAX.into()).expect("a key"))),
            ("link", Source::Link(Key::of(7, 3).expect("a key"))),
            ("link, large", Source::Link(Key::of(highest, 1).expect("a key"))),
            ("listener", Source::Listener(5)),
            ("waker", Source::Waker),
            ("drain", Source::Drain),
        ] {
            assert_eq!(Source::of(source.token()), Some(source), "{name}");
        }
        assert_eq!(Source::of(Token(0)), None, "generation 0 is never given");
    }
}
