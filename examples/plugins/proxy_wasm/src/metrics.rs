//! Metrics of a module. All instances of an entry count in the same ones.
//!
//! The proxy takes new ones only while an entry is created: those that a module defines when it starts appear in /metrics,
//! and later ones only in the module. Of a histogram the number and the sum of its values appear.

use std::sync::{Mutex, MutexGuard, PoisonError};

use mini_rproxy_plugin::{Counter, Error, Gauge, Setup};

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
    published: Option<Published>,
}

/// A metric of the proxy.
#[derive(Clone, Copy, Debug)]
enum Published {
    Counter(Counter),
    Gauge(Gauge),
    Histogram { count: Counter, sum: Counter },
}

impl Metric {
    fn publish(&self, setup: &Setup) -> Result<Published, Error> {
        let (name, help) = (public_name(&self.name), "Of a Proxy-Wasm module.");
        match self.kind {
            Kind::Counter => Ok(Published::Counter(setup.counter(&name, help)?)),
            Kind::Gauge => Ok(Published::Gauge(setup.gauge(&name, help)?)),
            Kind::Histogram => {
                let [count, sum] = ["count", "sum"].map(|part| setup.counter(&format!("{name}_{part}"), help));
                Ok(Published::Histogram { count: count?, sum: sum? })
            }
        }
    }

    /// Tells the proxy that the value was `old`, and of a histogram what was recorded.
    fn tell(&self, old: u64, recorded: u64) {
        let growth = |from: u64, to: u64| u32::try_from(to.wrapping_sub(from)).unwrap_or(u32::MAX);
        match self.published {
            Some(Published::Counter(counter)) => counter.add(growth(old, self.value)),
            Some(Published::Gauge(gauge)) => gauge.add(self.value.wrapping_sub(old) as i64),
            Some(Published::Histogram { count, sum }) => {
                count.add(growth(old, self.value));
                sum.add(growth(0, recorded));
            }
            None => {}
        }
    }
}

/// A name that the proxy takes: lower-case letters, digits and `_`, a letter first, with room for `_count` behind it.
fn public_name(name: &[u8]) -> String {
    const MAX_LEN: usize = 58;
    let safe = |byte: &u8| if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase().into() } else { '_' };
    let name: String = name.iter().map(safe).collect();
    let prefix = if name.starts_with(|first: char| first.is_ascii_lowercase()) { "" } else { "m_" };
    format!("{prefix}{name}").chars().take(MAX_LEN).collect()
}

/// The metrics of one entry.
#[derive(Debug, Default)]
pub struct Metrics(Mutex<Vec<Metric>>);

impl Metrics {
    fn all(&self) -> MutexGuard<'_, Vec<Metric>> {
        // Nothing that is done under the lock can leave it half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes what there is known to the proxy.
    pub fn publish(&self, setup: &Setup) {
        for metric in self.all().iter_mut() {
            match metric.publish(setup) {
                Ok(published) => {
                    metric.published = Some(published);
                    let recorded = 0;
                    metric.tell(0, recorded);
                }
                Err(error) => setup.warn(format_args!("a metric of the module does not appear in /metrics: {error}")),
            }
        }
    }

    /// The end of an entry: what gauges show of it goes. Counters keep what was counted.
    pub fn withdraw(&self) {
        for metric in self.all().iter_mut().filter(|metric| metric.kind == Kind::Gauge) {
            let old = std::mem::take(&mut metric.value);
            metric.tell(old, 0);
        }
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
        all.push(Metric { kind, name: name.to_vec(), value: 0, published: None });
        Ok(all.len() as u32)
    }

    fn change<T>(&self, id: u32, change: impl FnOnce(&mut Metric) -> Result<T, Status>) -> Result<T, Status> {
        let index = id.checked_sub(1).ok_or(Status::NotFound)? as usize;
        change(self.all().get_mut(index).ok_or(Status::NotFound)?)
    }

    fn record(&self, id: u32, value: u64) -> Result<(), Status> {
        self.change(id, |metric| {
            let old = metric.value;
            metric.value = match metric.kind {
                Kind::Counter => metric.value.wrapping_add(value),
                Kind::Gauge => value,
                Kind::Histogram => metric.value.wrapping_add(1),
            };
            metric.tell(old, value);
            Ok(())
        })
    }

    fn increment(&self, id: u32, delta: i64) -> Result<(), Status> {
        self.change(id, |metric| match metric.kind {
            Kind::Counter if delta < 0 => Err(Status::BadArgument),
            Kind::Histogram => Err(Status::BadArgument),
            Kind::Counter | Kind::Gauge => {
                let old = metric.value;
                metric.value = old.wrapping_add_signed(delta);
                metric.tell(old, 0);
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
    fn names_are_made_to_fit() {
        for (name, expected) in
            [("http.Requests-2xx", "http_requests_2xx"), ("2xx", "m_2xx"), ("", "m_"), ("é", "m___")]
        {
            assert_eq!(public_name(name.as_bytes()), expected);
        }
        let long = public_name(&[b'x'; 300]) + "_count";
        assert!(mini_rproxy_plugin::validate::is_metric_name(&long), "{long}");
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
