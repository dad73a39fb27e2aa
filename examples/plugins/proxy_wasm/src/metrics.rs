//! Metrics of a module. All instances of an entry count in the same ones.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::guest::{Guest, Outcome, Status};

/// Metrics of one entry.
const MAX_METRICS: usize = 256;
/// Bytes of a name.
const MAX_NAME: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

#[derive(Debug)]
struct Metric {
    kind: Kind,
    name: Vec<u8>,
    /// Of a histogram: how many values were recorded.
    value: u64,
}

/// The metrics of one entry.
#[derive(Debug, Default)]
pub struct Metrics(Mutex<Vec<Metric>>);

impl Metrics {
    fn all(&self) -> MutexGuard<'_, Vec<Metric>> {
        // Nothing that is done under the lock can leave it half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of a metric: the same for the same kind and name.
    fn define(&self, kind: u32, name: &[u8]) -> Result<u32, Status> {
        let kind = match kind {
            0 => Kind::Counter,
            1 => Kind::Gauge,
            2 => Kind::Histogram,
            _ => return Err(Status::BadArgument),
        };
        let mut all = self.all();
        if let Some(index) = all.iter().position(|metric| metric.kind == kind && metric.name == name) {
            return Ok(index as u32 + 1);
        }
        if all.len() == MAX_METRICS || name.len() > MAX_NAME {
            return Err(Status::InternalFailure);
        }
        all.push(Metric { kind, name: name.to_vec(), value: 0 });
        Ok(all.len() as u32)
    }

    fn change<T>(&self, id: u32, change: impl FnOnce(&mut Metric) -> Result<T, Status>) -> Result<T, Status> {
        let index = id.checked_sub(1).ok_or(Status::NotFound)? as usize;
        change(self.all().get_mut(index).ok_or(Status::NotFound)?)
    }

    fn record(&self, id: u32, value: u64) -> Result<(), Status> {
        self.change(id, |metric| {
            metric.value = match metric.kind {
                Kind::Counter => metric.value.wrapping_add(value),
                Kind::Gauge => value,
                Kind::Histogram => metric.value.wrapping_add(1),
            };
            Ok(())
        })
    }

    fn increment(&self, id: u32, delta: i64) -> Result<(), Status> {
        self.change(id, |metric| match metric.kind {
            Kind::Counter if delta < 0 => Err(Status::BadArgument),
            Kind::Histogram => Err(Status::BadArgument),
            Kind::Counter | Kind::Gauge => {
                metric.value = metric.value.wrapping_add_signed(delta);
                Ok(())
            }
        })
    }

    fn get(&self, id: u32) -> Result<u64, Status> {
        self.change(id, |metric| match metric.kind {
            Kind::Histogram => Err(Status::BadArgument),
            Kind::Counter | Kind::Gauge => Ok(metric.value),
        })
    }
}

/// `proxy_define_metric`
pub fn define(guest: &mut Guest<'_>, kind: u32, name: u32, name_len: u32, id_at: u32) -> Outcome {
    guest.charge_bytes(name_len as usize)?;
    let (mut memory, state) = guest.parts()?;
    let id = state.entry.metrics.define(kind, memory.bytes(name, name_len)?)?;
    memory.write_u32(id_at, id)
}

/// `proxy_record_metric`
pub fn record(guest: &mut Guest<'_>, id: u32, value: u64) -> Outcome {
    Ok(guest.state().entry.metrics.record(id, value)?)
}

/// `proxy_increment_metric`
pub fn increment(guest: &mut Guest<'_>, id: u32, delta: i64) -> Outcome {
    Ok(guest.state().entry.metrics.increment(id, delta)?)
}

/// `proxy_get_metric`
pub fn get(guest: &mut Guest<'_>, id: u32, value_at: u32) -> Outcome {
    let value = guest.state().entry.metrics.get(id)?;
    guest.memory()?.write_u64(value_at, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_differ_in_what_may_be_done() {
        let metrics = Metrics::default();
        let [counter, gauge, histogram] = [0, 1, 2].map(|kind| metrics.define(kind, b"x").unwrap());
        assert_eq!(metrics.define(0, b"x"), Ok(counter));
        assert_eq!(metrics.define(3, b"x"), Err(Status::BadArgument));
        assert_eq!((metrics.increment(counter, 2), metrics.record(counter, 3)), (Ok(()), Ok(())));
        assert_eq!((metrics.increment(counter, -1), metrics.get(counter)), (Err(Status::BadArgument), Ok(5)));
        assert_eq!((metrics.record(gauge, 7), metrics.increment(gauge, -2)), (Ok(()), Ok(())));
        assert_eq!(metrics.get(gauge), Ok(5));
        assert_eq!((metrics.record(histogram, 7), metrics.get(histogram)), (Ok(()), Err(Status::BadArgument)));
        assert_eq!(metrics.increment(histogram, 1), Err(Status::BadArgument));
        for id in [0, 4, u32::MAX] {
            assert_eq!((metrics.get(id), metrics.record(id, 1)), (Err(Status::NotFound), Err(Status::NotFound)));
        }
    }

    #[test]
    fn there_are_not_endlessly_many() {
        let metrics = Metrics::default();
        for id in 0..MAX_METRICS {
            metrics.define(0, id.to_string().as_bytes()).unwrap();
        }
        assert_eq!(metrics.define(0, b"one more"), Err(Status::InternalFailure));
        assert_eq!(Metrics::default().define(0, &[b'x'; MAX_NAME + 1]), Err(Status::InternalFailure));
    }
}
