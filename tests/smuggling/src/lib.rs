//! The smuggling catalogue and its player: `selftest` plays it against any proxy, docs/smuggling.md tells how.
//!
//! The entries are data (`*.smug`, beside `src/`). Each says what a client sends, what an upstream answers, what the client
//! must get and which requests the upstream must get. The tests of mini-rproxy play the same entries in memory, and use the
//! strict parser as their oracle.
//!
//! | file | content |
//! |---|---|
//! | [`strict`] | an independent parser, which what leaves the proxy must satisfy |
//! | [`entry`], [`smug_format`] | what an entry is, all of them, and how they are written |
//! | [`upstream`] | what the upstream answers, in memory and on sockets |
//! | [`judge`](mod@judge) | what was observed against what was expected |
//! | [`runner`] | entries through a proxy, over sockets |
//! | [`report`] | what came of a run |
//! | [`program`] | a program that is judged, as a process |
//! | [`wire_script`], [`player`] | a conversation as a text, and through a program; `examples/tiny/scripts` |
//! | [`stages`] | the ten stages of `examples/tiny`: what each must pass, and its score |

pub mod strict;
pub mod entry;
pub mod smug_format;
pub mod upstream;
pub mod judge;
pub mod runner;
pub mod report;
pub mod program;
pub mod wire_script;
pub mod player;
pub mod stages;
