//! Exchanges by the million, each with faults of its own: bytes that come in any pieces, in any order of the two sides, and
//! any of them late; resets, ends, failing writes and lost time in the midst of everything; peers that send rubbish. All
//! invariants hold always.
//!
//! ```sh
//! make faults                                            # a million, optimised
//! FAULT_SEED=0x1234 cargo test --test faults             # one scenario again, with all that was said
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use mini_rproxy::config::Config;
use mini_rproxy::proxy::proxy_connection::{Peer, Side};

mod testkit;

use testkit::Random;
use testkit::invariants::at_the_end;
use testkit::scenes::{CONFIGS, Scene};
use testkit::script::{Script, apply, render, write};
use testkit::wire::{Setup, Split, Wire};

/// Enough to be worth it without an optimising compiler; `make faults` asks for a million.
const DEFAULT_EXCHANGES: u64 = 10_000;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let number = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    Some(number.unwrap_or_else(|_| panic!("{name} is a number, and not {text:?}")))
}

/// What all scenarios share, parsed once.
struct Stage {
    configs: Vec<Arc<Config>>,
}

impl Stage {
    fn new() -> Stage {
        let parse = |text: &&str| Arc::new(Config::parse(text, "test").expect("the table's configurations are valid"));
        Stage { configs: CONFIGS.iter().map(parse).collect() }
    }

    /// Plays one scenario; returns how many exchanges it had.
    fn play(&self, seed: u64) -> Result<u64, String> {
        let mut random = Random::new(seed);
        let scene = Scene::of(&mut random);
        let split = Split::Faults(random);
        let which = CONFIGS.iter().position(|config| *config == scene.config).expect("one of the table");
        let peer =
            Peer { address: Some("192.0.2.1:5000".parse().expect("an address")), is_tls: false, ..Peer::default() };
        let setup = if scene.hooks.is_empty() {
            Setup { config: Arc::clone(&self.configs[which]), peer, plugin: None, split, lane: scene.lane }
        } else {
            Script::parse(&text(&scene))?.setup(split, scene.lane)
        };
        let mut wire = Wire::new(&setup);
        wire.ambushes.clone_from(&scene.ambushes);
        run(&mut wire, &scene).map_err(|error| {
            let said = render(&wire.transcript).join("\n");
            let Scene { lane, ambushes, .. } = &scene;
            format!(
                "seed {seed:#x}: {error}\nagain: FAULT_SEED={seed:#x} cargo test --test faults\n\n# as a script, without \
                 what comes in between: {ambushes:?}, lane {lane}\n{}\n# what came of it\n{said}",
                text(&scene)
            )
        })?;
        Ok(wire.asked.messages.len() as u64)
    }
}

fn text(scene: &Scene) -> String {
    let hooks: Vec<String> = scene.hooks.iter().map(|&line| line.to_owned()).collect();
    write(scene.config, &hooks, &scene.events)
}

fn run(wire: &mut Wire, scene: &Scene) -> Result<(), String> {
    for event in &scene.events {
        apply(wire, event)?;
    }
    // A peer that was blocked gets in the end what waits for it.
    wire.takes(Side::Client, None);
    wire.takes(Side::Upstream, None);
    wire.run()?;
    at_the_end(wire)
}

/// Plays it, and turns a panic into a failure with its seed.
fn play_contained(stage: &Stage, seed: u64) -> Result<u64, String> {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| stage.play(seed)));
    outcome.unwrap_or_else(|_| {
        Err(format!("seed {seed:#x}: a panic, see above\nagain: FAULT_SEED={seed:#x} cargo test --test faults"))
    })
}

#[test]
fn m13_a_million_exchanges_with_faults_keep_every_invariant() {
    let stage = Stage::new();
    if let Some(seed) = number("FAULT_SEED") {
        let exchanges = play_contained(&stage, seed).unwrap_or_else(|failure| panic!("{failure}"));
        println!("seed {seed:#x}: {exchanges} exchanges");
        return;
    }
    let wanted = number("FAULT_EXCHANGES").unwrap_or(DEFAULT_EXCHANGES);
    // Another first seed is another million.
    let first = number("FAULT_FIRST").unwrap_or(1);
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let failure = thread::scope(|scope| {
        let work = || {
            while (done.load(Ordering::Relaxed) as u64) < wanted {
                let exchanges = play_contained(&stage, first + next.fetch_add(1, Ordering::Relaxed) as u64)?;
                done.fetch_add(exchanges as usize, Ordering::Relaxed);
            }
            Ok::<(), String>(())
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().find_map(|worker| worker.join().expect("panics are caught").err())
    });
    if let Some(failure) = failure {
        panic!("{failure}");
    }
    let scenarios = next.load(Ordering::Relaxed);
    println!("{} exchanges in {scenarios} scenarios", done.load(Ordering::Relaxed));
}
