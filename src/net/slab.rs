//! Numbered slots for connections. A key holds a slot's number and its generation, so that a key kept too long finds
//! nothing instead of a stranger (rule M6).
//!
//! It does not know what is stored, and it never gives memory back: a slot that was used once is used again.

use std::num::NonZeroU32;

/// How many bits of a key go into half a machine word: 32 on 64-bit hosts, 16 on 32-bit ones, because a key has to fit
/// into a `mio::Token` (rule E9).
const HALF_WORD: u32 = usize::BITS / 2;

/// Two bits of the index half are left to the token, which says with them what kind of thing the key names.
pub const INDEX_BITS: u32 = HALF_WORD - 2;

/// A generation counts so far, then starts again at 1.
const MAX_GENERATION: u32 = if HALF_WORD >= 32 { u32::MAX } else { (1 << (HALF_WORD % 32)) - 1 };

/// Names what is (or was) stored in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    index: u32,
    generation: NonZeroU32,
}

impl Key {
    /// The key with these parts; `None` where no slab could have made it.
    pub fn of(index: u32, generation: u32) -> Option<Key> {
        Some(Key { index, generation: NonZeroU32::new(generation)? })
    }

    /// The slot's number, below 2 to the power of [`INDEX_BITS`].
    pub fn index(self) -> u32 {
        self.index
    }

    /// How often the slot was filled, this time included.
    pub fn generation(self) -> u32 {
        self.generation.get()
    }
}

/// A slot.
struct Entry<T> {
    generation: NonZeroU32,
    content: Content<T>,
}

/// What a slot holds.
enum Content<T> {
    Free { next: Option<u32> },
    Used(T),
}

/// The slots.
pub struct Slab<T> {
    slots: Vec<Entry<T>>,
    first_free: Option<u32>,
    len: usize,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Slab { slots: Vec::new(), first_free: None, len: 0 }
    }
}

impl<T> Slab<T> {
    /// How many slots are used.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no slot is used.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Stores `value`; gives it back when there are no more numbers.
    pub fn insert(&mut self, value: T) -> Result<Key, T> {
        let index = match self.first_free {
            Some(index) => index,
            None => match u32::try_from(self.slots.len()) {
                Ok(index) if index < 1 << INDEX_BITS => {
                    self.slots.push(Entry { generation: NonZeroU32::MIN, content: Content::Free { next: None } });
                    index
                }
                Ok(_) | Err(_) => return Err(value),
            },
        };
        let slot = &mut self.slots[index as usize];
        if let Content::Free { next } = slot.content {
            self.first_free = next;
        }
        slot.content = Content::Used(value);
        self.len += 1;
        Ok(Key { index, generation: slot.generation })
    }

    /// What `key` names, if it is still there.
    pub fn get(&self, key: Key) -> Option<&T> {
        match self.slots.get(key.index as usize)? {
            Entry { generation, content: Content::Used(value) } if *generation == key.generation => Some(value),
            Entry { .. } => None,
        }
    }

    /// What `key` names, if it is still there.
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        match self.slots.get_mut(key.index as usize)? {
            Entry { generation, content: Content::Used(value) } if *generation == key.generation => Some(value),
            Entry { .. } => None,
        }
    }

    /// Takes out what `key` names. From now on the key finds nothing, whoever gets the slot next.
    pub fn remove(&mut self, key: Key) -> Option<T> {
        self.get(key)?;
        let slot = &mut self.slots[key.index as usize];
        let next_generation = match slot.generation.get() {
            MAX_GENERATION => 1,
            generation => generation + 1,
        };
        slot.generation = NonZeroU32::new(next_generation).expect("counts from 1 to MAX_GENERATION");
        let content = std::mem::replace(&mut slot.content, Content::Free { next: self.first_free });
        self.first_free = Some(key.index);
        self.len -= 1;
        match content {
            Content::Used(value) => Some(value),
            Content::Free { .. } => None,
        }
    }

    /// The keys of all that is stored.
    pub fn keys(&self) -> Vec<Key> {
        self.iter().map(|(key, _)| key).collect()
    }

    /// All that is stored, with its keys.
    pub fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        self.slots.iter().enumerate().filter_map(|(index, slot)| match &slot.content {
            Content::Used(value) => Some((Key { index: index as u32, generation: slot.generation }, value)),
            Content::Free { .. } => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn m6_a_stale_key_finds_nothing_when_its_slot_is_used_again() {
        let mut slab = Slab::default();
        let first = slab.insert("first").expect("room");
        assert_eq!(slab.get(first), Some(&"first"));
        assert_eq!(slab.remove(first), Some("first"));
        let second = slab.insert("second").expect("room");
        assert_eq!(second.index(), first.index(), "the slot is used again");
        assert_eq!(slab.get(first), None);
        assert_eq!(slab.get_mut(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.get_mut(second), Some(&mut "second"));
    }

    #[test]
    fn m6_generations_start_again_at_one_after_the_largest() {
        let mut slab = Slab::default();
        let key = slab.insert(()).expect("room");
        slab.remove(key);
        slab.slots[0].generation = NonZeroU32::new(MAX_GENERATION).expect("not zero");
        let last = slab.insert(()).expect("room");
        slab.remove(last);
        assert_eq!(slab.insert(()).expect("room").generation(), 1);
        assert_eq!(slab.get(last), None);
    }

    #[test]
    fn slots_are_used_again_newest_first_and_counted() {
        let mut slab = Slab::default();
        let keys: Vec<Key> = (0..4).map(|n| slab.insert(n).expect("room")).collect();
        slab.remove(keys[1]);
        slab.remove(keys[2]);
        assert_eq!(slab.len(), 2);
        assert_eq!(slab.iter().map(|(_, n)| *n).collect::<Vec<_>>(), [0, 3]);
        assert_eq!(slab.insert(9).expect("room").index(), 2);
        assert_eq!(slab.insert(9).expect("room").index(), 1);
        assert_eq!(slab.insert(9).expect("room").index(), 4);
        assert!(!slab.is_empty());
    }

    #[test]
    fn a_key_costs_eight_bytes_and_an_optional_one_no_more() {
        assert_eq!(size_of::<Option<Key>>(), 8);
    }
}
