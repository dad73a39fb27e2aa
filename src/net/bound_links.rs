//! Upstream connections that belong to one client connection: somebody has logged in on them (NTLM, Negotiate), and a login
//! holds for the connection that it was made on.
//!
//! While they idle they are here and not in the pool. No limit of the pool applies to them: they are kept for as long as
//! their client's connection lives, and closed with it.

use std::collections::HashMap;

use crate::proxy::runtime::UpstreamId;

use super::slab::Key;

/// How many a client connection keeps, one for each upstream. Beyond that the oldest goes, and that login is made anew.
const MAX_PER_CLIENT: usize = 4;

/// The idle ones, by client: oldest first.
#[derive(Default)]
pub struct BoundLinks {
    clients: HashMap<Key, Vec<(UpstreamId, Key)>>,
}

impl BoundLinks {
    /// Keeps a connection for `client`. Returns one that has to be closed for it.
    #[must_use = "the returned connection has to be closed"]
    pub fn keep(&mut self, client: Key, upstream: UpstreamId, link: Key) -> Option<Key> {
        let links = self.clients.entry(client).or_default();
        let replaced = links.iter().position(|(id, _)| *id == upstream);
        let surplus = replaced.or((links.len() >= MAX_PER_CLIENT).then_some(0));
        let evicted = surplus.map(|at| links.remove(at).1);
        links.push((upstream, link));
        evicted
    }

    /// Lends the one that leads to `upstream`.
    pub fn take(&mut self, client: Key, upstream: UpstreamId) -> Option<Key> {
        if self.clients.is_empty() {
            return None;
        }
        let links = self.clients.get_mut(&client)?;
        let at = links.iter().position(|(id, _)| *id == upstream)?;
        let link = links.remove(at).1;
        if links.is_empty() {
            self.clients.remove(&client);
        }
        Some(link)
    }

    /// Forgets one that was closed while it was idle.
    pub fn remove(&mut self, client: Key, link: Key) {
        if let Some(links) = self.clients.get_mut(&client) {
            links.retain(|(_, other)| *other != link);
            if links.is_empty() {
                self.clients.remove(&client);
            }
        }
    }

    /// The client is gone. Returns what was kept for it.
    #[must_use = "the returned connections have to be closed"]
    pub fn remove_client(&mut self, client: Key) -> Vec<Key> {
        if self.clients.is_empty() {
            return Vec::new();
        }
        self.clients.remove(&client).unwrap_or_default().into_iter().map(|(_, link)| link).collect()
    }

    /// After a reload: those that lead to upstreams which are gone.
    pub fn leading_elsewhere(&self, is_kept: impl Fn(UpstreamId) -> bool) -> Vec<Key> {
        self.clients.values().flatten().filter(|(id, _)| !is_kept(*id)).map(|(_, link)| *link).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(index: u32) -> Key {
        Key::of(index, 1).expect("a key")
    }

    #[test]
    fn each_client_gets_its_own_and_only_while_it_lives() {
        let mut links = BoundLinks::default();
        assert_eq!(links.keep(key(1), UpstreamId(7), key(10)), None);
        assert_eq!(links.keep(key(2), UpstreamId(7), key(20)), None);
        assert_eq!(links.keep(key(2), UpstreamId(8), key(21)), None);
        assert_eq!(links.take(key(3), UpstreamId(7)), None);
        assert_eq!(links.take(key(1), UpstreamId(8)), None);
        assert_eq!(links.take(key(1), UpstreamId(7)), Some(key(10)));
        assert_eq!(links.take(key(1), UpstreamId(7)), None, "it is lent");
        links.remove(key(2), key(21));
        assert_eq!(links.leading_elsewhere(|id| id != UpstreamId(7)), [key(20)]);
        assert_eq!(links.remove_client(key(2)), [key(20)]);
        assert!(links.clients.is_empty());
    }

    #[test]
    fn one_for_each_upstream_and_not_many() {
        let mut links = BoundLinks::default();
        assert_eq!(links.keep(key(1), UpstreamId(0), key(10)), None);
        assert_eq!(links.keep(key(1), UpstreamId(0), key(11)), Some(key(10)), "the one before it");
        for n in 1..4 {
            assert_eq!(links.keep(key(1), UpstreamId(n), key(20 + n)), None);
        }
        assert_eq!(links.keep(key(1), UpstreamId(9), key(30)), Some(key(11)), "the oldest");
    }
}
