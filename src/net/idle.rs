//! Clients that can be done without, in the order in which they became so: the one that has been idle longest is found
//! without looking at all of them.
//!
//! Doubly linked lists through the slab: each client has its own two links, so that entering and leaving cost the same
//! however many there are, and no memory.

use super::slab::{Key, Slab};

/// Which list a client is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IdleKind {
    /// Without a request.
    Public,
    /// The same, on the admin listener.
    Admin,
    Tunnel,
}

/// A client's place in its list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct IdleLinks {
    kind: Option<IdleKind>,
    older: Option<Key>,
    newer: Option<Key>,
}

/// What has such a place.
pub(super) trait Listed {
    fn links(&mut self) -> &mut IdleLinks;
}

/// Both ends of each list.
#[derive(Debug, Default)]
pub(super) struct IdleLists([(Option<Key>, Option<Key>); 3]);

impl IdleLists {
    /// The client of that list which has been there longest.
    pub fn oldest(&self, kind: IdleKind) -> Option<Key> {
        self.0[kind as usize].0
    }

    /// Moves a client to the new end of a list, or out of all. To be called before it leaves the slab, too.
    pub fn set<T: Listed>(&mut self, slab: &mut Slab<T>, key: Key, kind: Option<IdleKind>) {
        let Some(item) = slab.get_mut(key) else { return };
        let IdleLinks { kind: before, older, newer } = *item.links();
        if kind.is_none() && before.is_none() || kind == before && newer.is_none() {
            return;
        }
        *item.links() = IdleLinks::default();
        if let Some(before) = before {
            let (oldest, newest) = &mut self.0[before as usize];
            match older.and_then(|older| slab.get_mut(older)) {
                Some(older) => older.links().newer = newer,
                None => *oldest = newer,
            }
            match newer.and_then(|newer| slab.get_mut(newer)) {
                Some(newer) => newer.links().older = older,
                None => *newest = older,
            }
        }
        let Some(kind) = kind else { return };
        let (oldest, newest) = &mut self.0[kind as usize];
        match newest.and_then(|newest| slab.get_mut(newest)) {
            Some(newest) => newest.links().newer = Some(key),
            None => *oldest = Some(key),
        }
        if let Some(item) = slab.get_mut(key) {
            *item.links() = IdleLinks { kind: Some(kind), older: *newest, newer: None };
        }
        *newest = Some(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Listed for IdleLinks {
        fn links(&mut self) -> &mut IdleLinks {
            self
        }
    }

    #[test]
    fn the_list_is_in_the_order_of_time_whoever_comes_and_goes() {
        let (mut slab, mut list) = (Slab::default(), IdleLists::default());
        let keys: Vec<Key> = (0..4).map(|_| slab.insert(IdleLinks::default()).expect("room")).collect();
        let order = |slab: &Slab<IdleLinks>, list: &IdleLists| {
            let both = [false, true].map(|is_backwards| {
                let mut at = if is_backwards { list.0[0].1 } else { list.0[0].0 };
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
            list.set(&mut slab, keys[index], is_pushed.then_some(IdleKind::Public));
            assert_eq!(order(&slab, &list), expected);
        }
    }
}
