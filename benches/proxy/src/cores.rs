//! Which core the proxy runs on, and which one everything else.

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The cores of this machine, shared out. A proxy never shares its core with who loads it.
#[derive(Clone, Debug)]
pub struct Cores {
    /// For the proxy under test, and it alone.
    pub proxy: usize,
    /// For the load generator and the origin.
    pub load: usize,
    /// How many there are.
    pub count: usize,
}

impl Cores {
    /// The first two cores that this process may use. With one core alone both are the same.
    pub fn find() -> Result<Cores, String> {
        let allowed = sched_getaffinity(None).map_err(|error| format!("cannot ask for the allowed cores: {error}"))?;
        let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect();
        let first = *cores.first().ok_or("no core is allowed")?;
        Ok(Cores { proxy: first, load: cores.get(1).copied().unwrap_or(first), count: cores.len() })
    }
}

/// Keeps this thread, and the processes that it starts from now on, on these cores.
pub fn pin(cores: &[usize]) {
    pin_to(None, cores);
}

/// Keeps any thread on a core, by its number.
pub fn pin_thread(thread: u32, core: usize) {
    pin_to(i32::try_from(thread).ok().and_then(Pid::from_raw), &[core]);
}

fn pin_to(thread: Option<Pid>, cores: &[usize]) {
    let mut set = CpuSet::new();
    for core in cores {
        set.set(*core);
    }
    if let Err(error) = sched_setaffinity(thread, &set) {
        eprintln!("cannot pin to cores {cores:?}: {error}; the figures will be noisier");
    }
}
