//! How many connections each client has, over all workers: `limits.max_connections_per_client`.
//!
//! Shared and locked, but only where a connection comes or goes, and only where the limit is configured.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// The connections of each address; none is kept that has no connection.
#[derive(Clone, Debug, Default)]
pub struct ClientCounts(Arc<Mutex<HashMap<IpAddr, u32>>>);

/// A connection that is counted, until this is dropped.
#[derive(Debug)]
pub struct ClientPlace(ClientCounts, IpAddr);

impl ClientCounts {
    /// Counts one more connection of the client with this address, unless it has `max` of them.
    pub fn enter(&self, address: IpAddr, max: u32) -> Option<ClientPlace> {
        // A client of IPv6 has a whole /64 to choose addresses from.
        let client = match address.to_canonical() {
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
            v4 => v4,
        };
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(client).or_default();
        if *count >= max {
            return None;
        }
        *count += 1;
        Some(ClientPlace(self.clone(), client))
    }
}

impl Drop for ClientPlace {
    fn drop(&mut self) {
        let ClientPlace(counts, client) = self;
        let mut counts = counts.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(client) {
            *count -= 1;
            if *count == 0 {
                counts.remove(client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_counted_by_address_and_forgotten_with_their_last_connection() {
        let counts = ClientCounts::default();
        let enter = |text: &str| counts.enter(text.parse().expect("an address"), 2);
        let first = enter("192.0.2.1");
        let second = enter("::ffff:192.0.2.1");
        assert!(first.is_some() && second.is_some() && enter("192.0.2.1").is_none(), "mapped is the same");
        assert!(enter("192.0.2.2").is_some(), "another one");
        drop(first);
        assert!(enter("192.0.2.1").is_some(), "one of them is gone");
        let network = [enter("2001:db8::1"), enter("2001:db8::ffff:0:0:1")];
        assert!(
            network.iter().all(Option::is_some) && enter("2001:db8::2").is_none() && enter("2001:db8:0:1::1").is_some()
        );
        drop((second, network));
        assert!(counts.0.lock().expect("no test panics").is_empty());
    }
}
