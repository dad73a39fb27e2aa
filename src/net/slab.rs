//! Numbered slots for connections. A key holds a slot's number and a generation, so that a key kept too long finds nothing
//! instead of a stranger (rule M6). A slot that was used once is used again; memory is never given back.

use std::num::NonZeroUsize;

/// A key and two bits more fit into a `mio::Token` (rule E9): generations have half a machine word, slots what is left.
const SLOT_BITS: u32 = usize::BITS / 2 - 2;
const MAX_GENERATION: usize = usize::MAX >> (usize::BITS / 2);

/// Names what is (or was) stored in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(NonZeroUsize);

impl Key {
    /// The key with these bits; `None` where no slab could have made it.
    pub fn from_bits(bits: usize) -> Option<Key> {
        NonZeroUsize::new(bits).map(Key)
    }

    /// The highest two bits are zero.
    pub fn bits(self) -> usize {
        self.0.get()
    }

    fn slot(self) -> usize {
        self.bits() & ((1 << SLOT_BITS) - 1)
    }
}

/// The slots.
pub struct Slab<T> {
    slots: slab::Slab<(Key, T)>,
    /// Of what was stored last. It counts from 1 to [`MAX_GENERATION`], and then from 1 again.
    generation: usize,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Slab { slots: slab::Slab::new(), generation: 0 }
    }
}

impl<T> Slab<T> {
    /// How many slots are used.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether no slot is used.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Stores `value`; gives it back when there are no more numbers.
    pub fn insert(&mut self, value: T) -> Result<Key, T> {
        let slot = self.slots.vacant_key();
        let generation = self.generation % MAX_GENERATION + 1;
        match Key::from_bits(generation << SLOT_BITS | slot) {
            Some(key) if slot < 1 << SLOT_BITS => {
                self.generation = generation;
                self.slots.insert((key, value));
                Ok(key)
            }
            _ => Err(value),
        }
    }

    /// What `key` names, if it is still there.
    pub fn get(&self, key: Key) -> Option<&T> {
        self.slots.get(key.slot()).filter(|(stored, _)| *stored == key).map(|(_, value)| value)
    }

    /// What `key` names, if it is still there.
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        self.slots.get_mut(key.slot()).filter(|(stored, _)| *stored == key).map(|(_, value)| value)
    }

    /// Takes out what `key` names. From now on the key finds nothing, whatever gets the slot next.
    pub fn remove(&mut self, key: Key) -> Option<T> {
        self.get(key)?;
        Some(self.slots.remove(key.slot()).1)
    }

    /// The keys of all that is stored.
    pub fn keys(&self) -> Vec<Key> {
        self.iter().map(|(key, _)| key).collect()
    }

    /// All that is stored, with its keys.
    pub fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        self.slots.iter().map(|(_, (key, value))| (*key, value))
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
        assert_eq!(second.slot(), first.slot(), "the slot is used again");
        assert_eq!(slab.get(first), None);
        assert_eq!(slab.get_mut(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.get_mut(second), Some(&mut "second"));
    }

    #[test]
    fn m6_generations_start_again_at_one_after_the_largest() {
        let mut slab = Slab { slots: slab::Slab::new(), generation: MAX_GENERATION - 1 };
        let last = slab.insert(()).expect("room");
        assert_eq!(last.bits(), MAX_GENERATION << SLOT_BITS);
        slab.remove(last);
        assert_eq!(slab.insert(()).expect("room").bits(), 1 << SLOT_BITS);
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
        assert_eq!(slab.insert(9).expect("room").slot(), 2);
        assert_eq!(slab.insert(9).expect("room").slot(), 1);
        assert_eq!(slab.insert(9).expect("room").slot(), 4);
        assert!(!slab.is_empty());
    }

    #[test]
    fn a_key_costs_one_word_and_an_optional_one_no_more() {
        assert_eq!(size_of::<Option<Key>>(), size_of::<usize>());
    }
}
