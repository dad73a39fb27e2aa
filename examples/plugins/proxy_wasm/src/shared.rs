//! What the instances of modules share: values with compare-and-swap, and queues. Modules of the same `vm_id` see the same
//! ones, on all threads and after a reload.
//!
//! Both are bounded. Where the values are full, others make room, whichever they are: a filter that counts clients cannot fill
//! the memory. A queue that is full loses its oldest item.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::guest::{Guest, Outcome, Status};

/// Bytes of keys and values, with [`ENTRY_BYTES`] for each.
const MAX_VALUE_BYTES: usize = 4 << 20;
/// What an entry takes beside its bytes, roughly.
const ENTRY_BYTES: usize = 64;
const MAX_QUEUES: usize = 256;
const MAX_QUEUE_ITEMS: usize = 1024;
const MAX_QUEUE_BYTES: usize = 1 << 20;

/// The values and queues of one `vm_id`.
#[derive(Debug, Default)]
pub struct SharedData(Mutex<Tables>);

#[derive(Debug, Default)]
struct Tables {
    values: HashMap<Vec<u8>, Value>,
    value_bytes: usize,
    /// The last number that a value got. 0 stands for "none" in the interface.
    last_cas: u32,
    queues: Vec<Queue>,
}

#[derive(Debug)]
struct Value {
    bytes: Vec<u8>,
    cas: u32,
}

#[derive(Debug)]
struct Queue {
    name: Vec<u8>,
    items: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Items of which no instance has been told.
    untold: u32,
}

/// The shared data of that name, as long as an entry with it lives.
pub fn shared_data(vm_id: &str) -> Arc<SharedData> {
    static ALL: Mutex<Vec<(String, Weak<SharedData>)>> = Mutex::new(Vec::new());
    let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
    all.retain(|(_, data)| data.strong_count() > 0);
    if let Some(data) = all.iter().find(|(id, _)| id == vm_id).and_then(|(_, data)| data.upgrade()) {
        return data;
    }
    let data = Arc::new(SharedData::default());
    all.push((vm_id.to_owned(), Arc::downgrade(&data)));
    data
}

impl SharedData {
    fn tables(&self) -> MutexGuard<'_, Tables> {
        // Nothing that is done under the lock can leave it half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, key: &[u8], out: &mut Vec<u8>) -> Option<u32> {
        let tables = self.tables();
        let value = tables.values.get(key)?;
        out.extend_from_slice(&value.bytes);
        Some(value.cas)
    }

    fn set(&self, key: &[u8], bytes: &[u8], cas: u32) -> Result<(), Status> {
        let needed = key.len() + bytes.len() + ENTRY_BYTES;
        if needed > MAX_VALUE_BYTES {
            return Err(Status::InternalFailure);
        }
        let mut tables = self.tables();
        let old = tables.values.get(key);
        if cas != 0 && old.is_some_and(|old| old.cas != cas) {
            return Err(Status::CasMismatch);
        }
        tables.remove(key);
        while tables.value_bytes + needed > MAX_VALUE_BYTES {
            let Some(any) = tables.values.keys().next().cloned() else { break };
            tables.remove(&any);
        }
        tables.last_cas = tables.last_cas.wrapping_add(1).max(1);
        let cas = tables.last_cas;
        tables.value_bytes += needed;
        tables.values.insert(key.to_vec(), Value { bytes: bytes.to_vec(), cas });
        Ok(())
    }

    fn register(&self, name: &[u8]) -> Result<u32, Status> {
        let mut tables = self.tables();
        if let Some(index) = tables.queues.iter().position(|queue| queue.name == name) {
            return Ok(index as u32 + 1);
        }
        if tables.queues.len() == MAX_QUEUES {
            return Err(Status::InternalFailure);
        }
        tables.queues.push(Queue { name: name.to_vec(), items: VecDeque::new(), bytes: 0, untold: 0 });
        Ok(tables.queues.len() as u32)
    }

    fn resolve(&self, name: &[u8]) -> Option<u32> {
        self.tables().queues.iter().position(|queue| queue.name == name).map(|index| index as u32 + 1)
    }

    fn enqueue(&self, queue: u32, item: &[u8]) -> Result<(), Status> {
        if item.len() > MAX_QUEUE_BYTES {
            return Err(Status::InternalFailure);
        }
        let mut tables = self.tables();
        let queue = tables.queue(queue).ok_or(Status::NotFound)?;
        queue.bytes += item.len();
        queue.items.push_back(item.to_vec());
        queue.untold = queue.untold.saturating_add(1);
        while queue.items.len() > MAX_QUEUE_ITEMS || queue.bytes > MAX_QUEUE_BYTES {
            queue.take();
        }
        Ok(())
    }

    fn dequeue(&self, queue: u32, out: &mut Vec<u8>) -> Result<(), Status> {
        let mut tables = self.tables();
        let item = tables.queue(queue).ok_or(Status::NotFound)?.take().ok_or(Status::Empty)?;
        out.extend_from_slice(&item);
        Ok(())
    }

    /// Whether an instance must be told of an item in this queue; each item is told once.
    pub fn take_ready(&self, queue: u32) -> bool {
        match self.tables().queue(queue) {
            Some(queue) if queue.untold > 0 => {
                queue.untold -= 1;
                !queue.items.is_empty()
            }
            _ => false,
        }
    }
}

impl Tables {
    fn remove(&mut self, key: &[u8]) {
        if let Some(old) = self.values.remove(key) {
            self.value_bytes -= key.len() + old.bytes.len() + ENTRY_BYTES;
        }
    }

    fn queue(&mut self, id: u32) -> Option<&mut Queue> {
        self.queues.get_mut(id.checked_sub(1)? as usize)
    }
}

impl Queue {
    fn take(&mut self) -> Option<Vec<u8>> {
        let item = self.items.pop_front()?;
        self.bytes -= item.len();
        Some(item)
    }
}

/// `proxy_get_shared_data`
pub fn get(guest: &mut Guest<'_>, key: u32, key_len: u32, data_at: u32, len_at: u32, cas_at: u32) -> Outcome {
    guest.charge_bytes(key_len as usize)?;
    let mut cas = 0;
    guest.give(data_at, len_at, |memory, state, out| {
        cas = state.entry.shared.get(memory.bytes(key, key_len)?, out).ok_or(Status::NotFound)?;
        Ok(())
    })?;
    guest.memory()?.write_u32(cas_at, cas)
}

/// `proxy_set_shared_data`
pub fn set(guest: &mut Guest<'_>, key: u32, key_len: u32, value: u32, value_len: u32, cas: u32) -> Outcome {
    guest.charge_bytes((key_len as usize).saturating_add(value_len as usize))?;
    let (memory, state) = guest.parts()?;
    Ok(state.entry.shared.set(memory.bytes(key, key_len)?, memory.bytes(value, value_len)?, cas)?)
}

/// `proxy_register_shared_queue`
pub fn register_queue(guest: &mut Guest<'_>, name: u32, name_len: u32, queue_at: u32) -> Outcome {
    guest.charge_bytes(name_len as usize)?;
    let (mut memory, state) = guest.parts()?;
    let queue = state.entry.shared.register(memory.bytes(name, name_len)?)?;
    if !state.queues.contains(&queue) {
        state.queues.push(queue);
    }
    memory.write_u32(queue_at, queue)
}

/// `proxy_resolve_shared_queue`
pub fn resolve_queue(
    guest: &mut Guest<'_>,
    vm_id: u32,
    vm_id_len: u32,
    name: u32,
    name_len: u32,
    queue_at: u32,
) -> Outcome {
    guest.charge_bytes((vm_id_len as usize).saturating_add(name_len as usize))?;
    let (mut memory, state) = guest.parts()?;
    let vm_id = memory.text(vm_id, vm_id_len)?;
    // Queues of another `vm_id` are not offered.
    let is_own = vm_id.is_empty() || state.entry.config.vm_id() == vm_id;
    let queue = if is_own { state.entry.shared.resolve(memory.bytes(name, name_len)?) } else { None };
    memory.write_u32(queue_at, queue.ok_or(Status::NotFound)?)
}

/// `proxy_enqueue_shared_queue`
pub fn enqueue(guest: &mut Guest<'_>, queue: u32, value: u32, value_len: u32) -> Outcome {
    guest.charge_bytes(value_len as usize)?;
    let (memory, state) = guest.parts()?;
    Ok(state.entry.shared.enqueue(queue, memory.bytes(value, value_len)?)?)
}

/// `proxy_dequeue_shared_queue`
pub fn dequeue(guest: &mut Guest<'_>, queue: u32, data_at: u32, len_at: u32) -> Outcome {
    guest.give(data_at, len_at, |_, state, out| Ok(state.entry.shared.dequeue(queue, out)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compare_and_swap() {
        let data = SharedData::default();
        let get = |key: &[u8]| {
            let mut out = Vec::new();
            data.get(key, &mut out).map(|cas| (out, cas))
        };
        assert_eq!(get(b"k"), None);
        data.set(b"k", b"1", 0).unwrap();
        let (value, first) = get(b"k").unwrap();
        assert_eq!((value.as_slice(), first != 0), (&b"1"[..], true));
        data.set(b"k", b"2", first).unwrap();
        assert_eq!(data.set(b"k", b"3", first), Err(Status::CasMismatch));
        data.set(b"k", b"4", 0).unwrap();
        assert_eq!(get(b"k").unwrap().0, b"4");
    }

    #[test]
    fn values_are_bounded() {
        let data = SharedData::default();
        for key in 0..100_000_u32 {
            data.set(&key.to_le_bytes(), &[0; 100], 0).unwrap();
        }
        let tables = data.tables();
        assert!(tables.value_bytes <= MAX_VALUE_BYTES);
        let sum: usize = tables.values.iter().map(|(key, value)| key.len() + value.bytes.len() + ENTRY_BYTES).sum();
        assert_eq!(sum, tables.value_bytes);
        drop(tables);
        assert_eq!(data.set(b"k", &vec![0; MAX_VALUE_BYTES], 0), Err(Status::InternalFailure));
    }

    #[test]
    fn queues_are_bounded_and_lose_their_oldest() {
        let data = SharedData::default();
        let queue = data.register(b"q").unwrap();
        assert_eq!((data.register(b"q"), data.resolve(b"q"), data.resolve(b"x")), (Ok(queue), Some(queue), None));
        for item in 0..2000_u32 {
            data.enqueue(queue, &item.to_le_bytes()).unwrap();
        }
        let mut out = Vec::new();
        data.dequeue(queue, &mut out).unwrap();
        assert_eq!(out, (2000 - MAX_QUEUE_ITEMS as u32).to_le_bytes());
        data.enqueue(queue, &vec![1; MAX_QUEUE_BYTES]).unwrap();
        assert_eq!(data.tables().queue(queue).unwrap().items.len(), 1);
        assert_eq!(data.enqueue(queue, &vec![1; MAX_QUEUE_BYTES + 1]), Err(Status::InternalFailure));
        assert_eq!(data.enqueue(queue + 1, b""), Err(Status::NotFound));
        assert_eq!(data.enqueue(0, b""), Err(Status::NotFound));
        out.clear();
        data.dequeue(queue, &mut out).unwrap();
        assert_eq!((out.len(), data.dequeue(queue, &mut out)), (MAX_QUEUE_BYTES, Err(Status::Empty)));
        for name in 1..MAX_QUEUES {
            data.register(&name.to_le_bytes()).unwrap();
        }
        assert_eq!(data.register(b"one more"), Err(Status::InternalFailure));
    }

    #[test]
    fn modules_of_one_vm_id_share() {
        let first = shared_data("shared-test");
        first.set(b"k", b"v", 0).unwrap();
        assert!(Arc::ptr_eq(&first, &shared_data("shared-test")));
        assert!(!Arc::ptr_eq(&first, &shared_data("shared-test-2")));
        drop(first);
        assert_eq!(shared_data("shared-test").get(b"k", &mut Vec::new()), None);
    }
}
