//! Prints what a package of mini-rproxy has beside the binary: its man pages, and completions for shells.
//!
//! All of it is made from what is there already, so that nothing can drift: the table of flags that `-help` prints, README.md
//! and docs/. `make man` writes the five files into target/man/.

mod completions;
mod pages;
mod roff;

use std::process::ExitCode;

fn main() -> ExitCode {
    let asked: Vec<String> = std::env::args().skip(1).collect();
    let text = match asked.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["1"] => pages::command(),
        ["5"] => pages::configuration(),
        ["bash"] => completions::bash(),
        ["zsh"] => completions::zsh(),
        ["fish"] => completions::fish(),
        _ => {
            eprintln!("usage: mini-rproxy-man 1|5|bash|zsh|fish: a man page, or the completion for a shell, on stdout");
            return ExitCode::from(2);
        }
    };
    print!("{text}");
    ExitCode::SUCCESS
}
