//! One entry of `plugins:`: its module, what its instances share, and the instance of each thread.
//!
//! A module serves one thread: each worker has an instance of its own, made by its first request. One that has crashed is
//! thrown away, with all that it remembered, and made anew; where that happens too often, the module rests.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use mini_rproxy_plugin::{Error, Logger, Setup, Verdict};
use wasmi::{Linker, Module};

use crate::config::{Config, OnCrash};
use crate::http_call::Clusters;
use crate::instance::Instance;
use crate::metrics::Metrics;
use crate::shared::{SharedData, shared_data};
use crate::state::State;
use crate::{imports, module};

/// For so long crashes are counted.
const CRASH_WINDOW: Duration = Duration::from_secs(60);

/// Why a module did not do its work.
#[derive(Debug)]
pub enum Failure {
    /// It crashed just now.
    Crash(String),
    /// It crashed too often before.
    Resting,
    /// It crashed while the exchange waited.
    Lost,
}

/// What all instances of an entry share.
pub struct Entry {
    pub config: Config,
    /// The plugin has them: it ends on a thread that can wait for calls which are under way.
    pub clusters: Weak<Clusters>,
    pub log: Logger,
    pub shared: Arc<SharedData>,
    pub metrics: Metrics,
    pub module: Module,
    pub linker: Linker<State>,
    /// The exchange's value under which its context stands.
    pub context_key: String,
    /// The last crashes, at most as many as are allowed.
    crashes: Mutex<VecDeque<Instant>>,
    /// The proxy has no use for it any more.
    is_over: AtomicBool,
}

/// Counts entries that are over: a thread looks at its instances when this has changed.
static ENDED: AtomicUsize = AtomicUsize::new(0);

/// The instances of one thread.
struct Instances {
    ended: usize,
    /// Each stays where it is: they are large, and every hook takes one out.
    #[expect(clippy::vec_box, reason = "moved out and back with every hook")]
    list: Vec<Box<Instance>>,
}

thread_local! {
    static INSTANCES: RefCell<Instances> = const { RefCell::new(Instances { ended: 0, list: Vec::new() }) };
}

impl Entry {
    /// Loads the module, and tries whether it starts.
    pub fn new(config: Config, setup: &Setup, clusters: Weak<Clusters>) -> Result<Arc<Entry>, Error> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let module = module::load(&config.module)?;
        let linker = imports::link(module.engine(), &module)
            .map_err(|why| Error::new(format!("module {} {why}", config.module.display())))?;
        let entry = Arc::new(Entry {
            shared: shared_data(&config.vm_id()),
            metrics: Metrics::default(),
            module,
            linker,
            context_key: format!("proxy_wasm.{}", COUNT.fetch_add(1, Ordering::Relaxed)),
            crashes: Mutex::default(),
            is_over: AtomicBool::new(false),
            config,
            clusters,
            log: setup.logger(),
        });
        let instance = Instance::new(&entry).map_err(|why| Error::new(entry.named(&why)))?;
        instance.check_bodies().map_err(|why| Error::new(entry.named(&why)))?;
        entry.metrics.publish(setup);
        Ok(entry)
    }

    /// The instances of all threads may go; each does when its thread looks next.
    pub fn end(&self) {
        self.metrics.withdraw();
        self.is_over.store(true, Ordering::Relaxed);
        ENDED.fetch_add(1, Ordering::Release);
    }

    /// What properties and messages call it: the file's name.
    pub fn name(&self) -> String {
        let name = self.config.module.file_name().unwrap_or(self.config.module.as_os_str());
        name.to_string_lossy().into_owned()
    }

    /// A sentence about the module.
    fn named(&self, what: &str) -> String {
        format!("module {} {what}", self.name())
    }

    /// What becomes of an exchange whose module has failed.
    pub fn failed(&self, failure: Failure, log: impl FnOnce(String)) -> Result<Verdict, Error> {
        let why = match failure {
            Failure::Crash(why) => why,
            // It was told when the module began to rest.
            Failure::Resting if self.config.on_crash == OnCrash::Skip => return Ok(Verdict::Continue),
            Failure::Resting => "the module has crashed too often in the last minute".to_owned(),
            Failure::Lost => self.named("crashed while this exchange waited for a call"),
        };
        match self.config.on_crash {
            OnCrash::Fail => Err(Error::new(why)),
            OnCrash::Skip => {
                log(why);
                Ok(Verdict::Continue)
            }
        }
    }

    /// Runs something in this thread's instance, which is made where there is none.
    pub fn run<R>(self: &Arc<Entry>, run: impl FnOnce(&mut Instance) -> Result<R, String>) -> Result<R, Failure> {
        let instance = match self.take_instance() {
            Some(instance) => Ok(instance),
            None if self.is_resting() => return Err(Failure::Resting),
            None => Instance::new(self).map(Box::new),
        };
        let result = instance.and_then(|instance| with(instance, run));
        result.map_err(|why| Failure::Crash(self.crashed(&why)))
    }

    /// The same where there is an instance already.
    pub fn run_existing(
        self: &Arc<Entry>,
        run: impl FnOnce(&mut Instance) -> Result<(), String>,
    ) -> Result<(), Failure> {
        let result = self.take_instance().map_or(Ok(()), |instance| with(instance, run));
        result.map_err(|why| Failure::Crash(self.crashed(&why)))
    }

    /// This thread's instance. It is away from the list while it runs: what ends by a panic does not come back either.
    fn take_instance(self: &Arc<Entry>) -> Option<Box<Instance>> {
        INSTANCES.with_borrow_mut(|instances| {
            let ended = ENDED.load(Ordering::Acquire);
            if instances.ended != ended {
                instances.ended = ended;
                instances.list.retain(|instance| !instance.entry().is_over.load(Ordering::Relaxed));
            }
            let index = instances.list.iter().position(|instance| Arc::ptr_eq(instance.entry(), self))?;
            Some(instances.list.swap_remove(index))
        })
    }

    fn is_resting(&self) -> bool {
        let crashes = self.crashes.lock().unwrap_or_else(PoisonError::into_inner);
        crashes.len() >= self.config.max_crashes
            && crashes.front().is_some_and(|oldest| oldest.elapsed() < CRASH_WINDOW)
    }

    /// Counts a crash, and makes the sentence for it.
    fn crashed(&self, why: &str) -> String {
        let mut crashes = self.crashes.lock().unwrap_or_else(PoisonError::into_inner);
        crashes.push_back(Instant::now());
        if crashes.len() > self.config.max_crashes {
            crashes.pop_front();
        }
        drop(crashes);
        let rest = match (self.is_resting(), self.config.on_crash) {
            (false, _) => String::new(),
            (true, OnCrash::Fail) => {
                format!("; {} crashes in a minute: requests get 502 for a while", self.config.max_crashes)
            }
            (true, OnCrash::Skip) => {
                format!("; {} crashes in a minute: requests pass without it for a while", self.config.max_crashes)
            }
        };
        format!("{}{rest}", self.named(why))
    }
}

/// Runs something in an instance, which comes back to the list of its thread unless it has crashed.
fn with<R>(mut instance: Box<Instance>, run: impl FnOnce(&mut Instance) -> Result<R, String>) -> Result<R, String> {
    let value = run(&mut instance)?;
    INSTANCES.with_borrow_mut(|instances| instances.list.push(instance));
    Ok(value)
}
