//! Clients without a request, in the order in which they became so: who has been idle longest is found without looking at
//! all of them.
//!
//! A doubly linked list through the slab: each client has its own two neighbours, so that entering and leaving cost the
//! same however many there are, and no memory.

use super::slab::{Key, Slab};

/// A client's place in the list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Neighbours {
    older: Option<Key>,
    newer: Option<Key>,
    is_listed: bool,
}

/// What can be listed.
pub trait Listed {
    /// Its place.
    fn neighbours(&mut self) -> &mut Neighbours;
}

/// Both ends of the list.
#[derive(Debug, Default)]
pub struct IdleList {
    oldest: Option<Key>,
    newest: Option<Key>,
}

impl IdleList {
    /// The one that has been idle longest.
    pub fn oldest(&self) -> Option<Key> {
        self.oldest
    }

    /// It has just become idle.
    pub fn push<T: Listed>(&mut self, slab: &mut Slab<T>, key: Key) {
        if self.newest == Some(key) {
            return;
        }
        self.remove(slab, key);
        let Some(item) = slab.get_mut(key) else { return };
        *item.neighbours() = Neighbours { older: self.newest, newer: None, is_listed: true };
        match self.newest.and_then(|newest| slab.get_mut(newest)) {
            Some(newest) => newest.neighbours().newer = Some(key),
            None => self.oldest = Some(key),
        }
        self.newest = Some(key);
    }

    /// It is idle no more. To be called before it leaves the slab, too; where it is not listed, nothing happens.
    pub fn remove<T: Listed>(&mut self, slab: &mut Slab<T>, key: Key) {
        let Some(item) = slab.get_mut(key) else { return };
        let Neighbours { older, newer, is_listed } = std::mem::take(item.neighbours());
        if !is_listed {
            return;
        }
        match older.and_then(|older| slab.get_mut(older)) {
            Some(older) => older.neighbours().newer = newer,
            None => self.oldest = newer,
        }
        match newer.and_then(|newer| slab.get_mut(newer)) {
            Some(newer) => newer.neighbours().older = older,
            None => self.newest = older,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Listed for Neighbours {
        fn neighbours(&mut self) -> &mut Neighbours {
            self
        }
    }

    #[test]
    fn the_list_is_in_the_order_of_time_whoever_comes_and_goes() {
        let (mut slab, mut list) = (Slab::default(), IdleList::default());
        let keys: Vec<Key> = (0..4).map(|_| slab.insert(Neighbours::default()).expect("room")).collect();
        let order = |slab: &Slab<Neighbours>, list: &IdleList| {
            let both = [false, true].map(|is_backwards| {
                let mut at = if is_backwards { list.newest } else { list.oldest };
                let mut order = Vec::new();
                while let Some(key) = at {
                    order.push(keys.iter().position(|other| *other == key).expect("one of ours"));
                    let item = slab.get(key).expect("it is there");
                    at = if is_backwards { item.older } else { item.newer };
                }
                order
            });
            assert!(both[0].iter().eq(both[1].iter().rev()), "{both:?}");
            both[0].clone()
        };
        for (is_pushed, index, expected) in [
            (true, 0, &[0][..]),
            (true, 0, &[0]),
            (true, 1, &[0, 1]),
            (true, 2, &[0, 1, 2]),
            (true, 1, &[0, 2, 1]),
            (true, 0, &[2, 1, 0]),
            (false, 1, &[2, 0]),
            (false, 1, &[2, 0]),
            (false, 3, &[2, 0]),
            (true, 3, &[2, 0, 3]),
            (false, 3, &[2, 0]),
            (false, 2, &[0]),
            (false, 0, &[]),
            (true, 2, &[2]),
        ] {
            match is_pushed {
                true => list.push(&mut slab, keys[index]),
                false => list.remove(&mut slab, keys[index]),
            }
            assert_eq!(order(&slab, &list), expected);
        }
    }
}
