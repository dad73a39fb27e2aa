//! The soak: minutes of mixed traffic through the built binary, every byte verified, with figures for memory and
//! descriptors before, during and after.
//!
//! ```sh
//! make soak                    # ten minutes
//! SOAK_SECONDS=60 make soak
//! ```
//!
//! It ends with two tables, and fails when something unexpected came back, or when memory or descriptors did not go back
//! to where they were. `make soak` builds the plugin that is replaced again and again. Ignored in `cargo test`: it takes its time on purpose.

#![cfg(feature = "tls")]

#[path = "../support/mod.rs"]
#[allow(unused_imports, reason = "each test crate uses another part of it")]
mod support;

#[path = "../tls/certificates.rs"]
#[allow(dead_code, reason = "each test crate uses another part of it")]
mod certificates;
#[path = "../tls/ends.rs"]
#[allow(dead_code, reason = "each test crate uses another part of it")]
mod ends;

mod kinds;
mod upstreams;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use certificates::Authority;
use kinds::{KINDS, Kind, World};
use support::programs::shared_object;
use support::{Launch, Proxy, SetOnDrop};
use upstreams::{Restarted, honest, websockets};

/// What memory may have grown by in the end: connections and buffers that are kept for the next ones, and gaps between.
const SLACK_KIB: u64 = 4 * 1024;

/// What one kind of traffic came to.
#[derive(Default)]
struct Tally {
    done: AtomicU64,
    wrong: AtomicU64,
    first: std::sync::Mutex<Option<String>>,
}

/// One look at the proxy.
#[derive(Clone, Copy)]
struct Look {
    memory_kib: u64,
    descriptors: usize,
    cpu_ticks: u64,
}

impl Look {
    fn at(proxy: &Proxy) -> Look {
        Look { memory_kib: proxy.own_memory_kib(), descriptors: proxy.descriptors(), cpu_ticks: proxy.cpu_ticks() }
    }
}

/// Plays one kind again and again until told to stop.
fn keep_at_it(kind: &Kind, world: &World<'_>, tally: &Tally, stop: &AtomicBool) {
    for round in 0_u64.. {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let result = catch_unwind(AssertUnwindSafe(|| (kind.round)(world, round)));
        let failure = match result {
            Ok(Ok(())) => None,
            Ok(Err(failure)) => Some(failure),
            Err(panic) => Some(
                panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "a failed expectation, see above".to_owned()),
            ),
        };
        match failure {
            None => tally.done.fetch_add(1, Ordering::SeqCst),
            Some(failure) => {
                tally.first.lock().expect("nobody panics here").get_or_insert(failure);
                tally.wrong.fetch_add(1, Ordering::SeqCst)
            }
        };
        thread::sleep(kind.pause);
    }
}

fn seconds() -> Duration {
    let seconds = std::env::var("SOAK_SECONDS").ok().map(|text| text.parse().expect("SOAK_SECONDS is a number"));
    Duration::from_secs(seconds.unwrap_or(600))
}

/// Sleeps until then, with a look now and then.
fn watch(proxy: &Proxy, until: Instant, looks: &mut Vec<Look>) {
    while Instant::now() < until {
        thread::sleep(Duration::from_millis(250));
        looks.push(Look::at(proxy));
    }
}

#[test]
#[ignore = "ten minutes: make soak"]
fn mixed_traffic_leaves_nothing_behind() {
    let length = seconds();
    // Peers that break off make the parser of others panic, each in a thread without a name: that is no news here, and
    // what fails is in the table.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if thread::current().name().is_some() {
            report(panic);
        }
    }));
    let (honest, websockets, restarted) = (honest(), websockets(), Restarted::start());
    let authority = Authority::new();
    let pair = authority.issue(&["localhost"]);
    let with_tls = ends::echo(&pair);
    let files = tempfile::TempDir::new().expect("a temporary folder");
    let plugin = shared_object("header_demo").map(|built| {
        let copy = files.path().join("header_demo.so");
        std::fs::copy(built, &copy).expect("a copy");
        copy
    });
    let plugins = plugin.iter().map(|path| format!("plugins: [{{path: {}, config: soak}}]\n", path.display()));
    let yaml = format!(
        "workers: 2\npool: {{idle_timeout: 1s}}\n{}{}upstream_tls: {{ca_file: {}}}\nroutes:\n\
         - {{prefix: /ok, upstream: \"{ok}\", plugins: []}}\n\
         - {{prefix: /plugin, upstream: \"{ok}\"}}\n\
         - {{prefix: /ws, upstream: \"{}\", plugins: []}}\n\
         - {{prefix: /flaky, upstream: \"http://{}\", plugins: []}}\n\
         - {{prefix: /tls, upstream: \"https://localhost:{}\", plugins: []}}\n",
        plugins.collect::<String>(),
        ends::listen_both(&pair),
        authority.file.display(),
        websockets.url(),
        restarted.address,
        with_tls.address.port(),
        ok = honest.url(),
    );
    let proxy = Launch::quiet(&yaml).start();
    let world = World { proxy: &proxy, restarted: &restarted, authority: &authority, plugin };
    // Each kind once: what is made once and kept is there before anything is counted.
    for kind in KINDS {
        (kind.round)(&world, 0).unwrap_or_else(|failure| panic!("{}: {failure}", kind.name));
    }
    thread::sleep(Duration::from_secs(3));
    let before = Look::at(&proxy);

    let tallies: Vec<Tally> = KINDS.iter().map(|_| Tally::default()).collect();
    let stop = AtomicBool::new(false);
    let mut looks = Vec::new();
    let start = Instant::now();
    thread::scope(|scope| {
        for (kind, tally) in KINDS.iter().zip(&tallies) {
            for _ in 0..kind.clients {
                let (world, stop) = (&world, &stop);
                scope.spawn(move || keep_at_it(kind, world, tally, stop));
            }
        }
        // Everybody stops, however this ends.
        let _guard = SetOnDrop(&stop);
        watch(&proxy, start + length, &mut looks);
    });

    // Everybody has left; the pool lets go, the lingering ends.
    let is_back =
        |look: &Look| look.descriptors <= before.descriptors && look.memory_kib <= before.memory_kib + SLACK_KIB;
    let mut after = Look::at(&proxy);
    let patience = Instant::now() + Duration::from_secs(30);
    while !is_back(&after) && Instant::now() < patience {
        thread::sleep(Duration::from_millis(250));
        after = Look::at(&proxy);
    }

    print_figures(length, before, &looks, after);
    let wrong = print_traffic(&tallies);
    let complaints: Vec<String> = proxy
        .log
        .all()
        .into_iter()
        .filter(|line| {
            ["panicked", "a fault in the proxy", "in a circle", "level=error"].iter().any(|word| line.contains(word))
        })
        .collect();
    assert!(complaints.is_empty(), "the log complains:\n{}", complaints.join("\n"));
    assert_eq!(wrong, 0, "unexpected answers; see the table");
    assert!(is_back(&after), "memory or descriptors are not back; see the table");
    assert!(tallies.iter().all(|tally| tally.done.load(Ordering::SeqCst) > 0), "something never ran");
}

/// Memory and descriptors: before, in each quarter of the time, after.
fn print_figures(length: Duration, before: Look, looks: &[Look], after: Look) {
    println!("\n{} s of mixed traffic\n", length.as_secs());
    println!("| | own memory, KiB: mean | most | descriptors: mean | most | CPU, s |");
    println!("|---|---|---|---|---|---|");
    let row = |name: &str, looks: &[Look], since: u64| {
        let count = looks.len().max(1) as u64;
        let memory = looks.iter().map(|look| look.memory_kib);
        let descriptors = looks.iter().map(|look| look.descriptors as u64);
        let cpu = looks.last().map_or(0, |last| last.cpu_ticks) - since;
        println!(
            "| {name} | {} | {} | {} | {} | {}.{:02} |",
            memory.clone().sum::<u64>() / count,
            memory.max().unwrap_or(0),
            descriptors.clone().sum::<u64>() / count,
            descriptors.max().unwrap_or(0),
            cpu / 100,
            cpu % 100
        );
        looks.last().map_or(since, |last| last.cpu_ticks)
    };
    let mut since = row("before", &[before], 0);
    for (number, quarter) in looks.chunks(looks.len().div_ceil(4).max(1)).enumerate() {
        since = row(&format!("quarter {}", number + 1), quarter, since);
    }
    row("after", &[after], since);
}

/// What was asked and what was wrong with the answers; returns how much was.
fn print_traffic(tallies: &[Tally]) -> u64 {
    println!("\n| traffic | clients | rounds | unexpected | the first of them |");
    println!("|---|---|---|---|---|");
    let mut sum = 0;
    for (kind, tally) in KINDS.iter().zip(tallies) {
        let wrong = tally.wrong.load(Ordering::SeqCst);
        let first = tally.first.lock().expect("nobody panics here").clone().unwrap_or_default();
        let done = tally.done.load(Ordering::SeqCst);
        println!("| {} | {} | {done} | {wrong} | {first:.200} |", kind.name, kind.clients);
        sum += wrong;
    }
    println!();
    sum
}
