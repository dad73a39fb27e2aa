//! The shells themselves complete lines.

use std::fs;
use std::path::Path;
use std::process::Command;

use mini_rproxy::cli::FLAGS;

use crate::{folder, is_installed, made, said};

/// Lines, and what their last word becomes: nothing where no value can be known.
fn lines() -> Vec<(String, String)> {
    // One of a single letter is complete as soon as it is begun.
    let flags = FLAGS.iter().filter(|(name, ..)| name.len() > 1).flat_map(|(name, ..)| {
        let begin = &name[..name.len() - 1];
        ["-", "--"].map(|dash| (format!("{dash}{begin}"), format!("{dash}{name}")))
    });
    let others = [
        ("-config pro", "proxy.yaml"),
        ("--config pro", "proxy.yaml"),
        ("-config=pro", "proxy.yaml"),
        ("-verbose -config pro", "proxy.yaml"),
        ("-config proxy.yaml -verb", "-verbose"),
        // plain.yaml is no folder.
        ("-plugindir pl", "plugins"),
        ("--plugindir=pl", "plugins"),
        ("-listen pro", ""),
        ("-route pro", ""),
        ("-explain pro", ""),
        ("pro", ""),
        ("-nothing", ""),
    ];
    flags.chain(others.map(|(line, becomes)| (line.to_owned(), becomes.to_owned()))).collect()
}

/// Runs a shell over a file with one line for each case, in a folder with files and folders, and compares its answers: a
/// line for each, with the candidates between tabs.
fn complete(shell: &str, form: &str, named: &str, script: &str, args: &[&str]) {
    if !is_installed(shell) {
        return;
    }
    let folder = folder(shell);
    fs::write(folder.join(named), made(form)).expect("the completion");
    let files = folder.join("files");
    fs::create_dir_all(files.join("plugins")).expect("a folder");
    for name in ["proxy.yaml", "plain.yaml"] {
        fs::write(files.join(name), "").expect("a file");
    }
    let lines = lines();
    let text: String = lines.iter().map(|(line, _)| format!("mini-rproxy {line}\n")).collect();
    fs::write(folder.join("lines"), text).expect("the lines");
    fs::write(folder.join("script"), script).expect("the script");
    let mut command = Command::new("timeout");
    command
        .args(["600", shell])
        .args(args)
        .arg("../script")
        .current_dir(&files)
        .env("HOME", &folder)
        .env("TERM", "vt100");
    let (is_good, text) = said(&mut command);
    assert!(is_good, "{shell}: {text}");
    let answers = read(&folder.join("answers"));
    assert_eq!(answers.lines().count(), lines.len(), "{shell}: {text}{answers}");
    for ((line, becomes), answer) in lines.iter().zip(answers.lines()) {
        let word = line.rsplit(' ').next().expect("a last word");
        let answer = answer.trim_end();
        // Some tell the whole word, and mark folders, and flags that have a value.
        let value =
            word.split_once('=').map_or(answer, |(flag, _)| answer.trim_start_matches(flag).trim_start_matches('='));
        assert_eq!(value.trim_end_matches(['/', '=']), becomes, "{shell}: {line}");
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn each_shell_knows_every_flag() {
    for form in ["bash", "zsh", "fish"] {
        let text = made(form);
        let words: Vec<&str> = text.split(|c: char| !c.is_alphanumeric() && c != '-').collect();
        for (name, ..) in FLAGS {
            assert!(words.iter().any(|word| word.trim_start_matches('-') == name), "{form}: {name}");
        }
    }
}

#[test]
fn bash_completes() {
    // As readline does it: words, and "=" is one of them.
    let script = r#"
set -u
source ../mini-rproxy.bash
[[ $(complete -p mini-rproxy) == *' _mini_rproxy '* ]] || exit
while read -r line; do
    read -r -a COMP_WORDS <<<"${line//=/ = }"
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    _mini_rproxy
    (IFS=$'\t'; echo "${COMPREPLY[*]-}")
done <../lines >../answers
"#;
    complete("bash", "bash", "mini-rproxy.bash", script, &["--norc"]);
}

#[test]
fn fish_completes() {
    let script = r#"
source ../mini-rproxy.fish
while read line
    echo (complete -C $line | string replace -r '\t.*' '' | string join \t)
end <../lines >../answers
"#;
    complete("fish", "fish", "mini-rproxy.fish", script, &["--no-config"]);
}

#[test]
fn zsh_completes() {
    // On a terminal, with the tab key; what stands in the line then is the answer, if anything has changed.
    let script = r#"
zmodload zsh/zpty
zpty shell "zsh -f -i"
zpty -w shell "
    PS1= RPS1=
    fpath=(\$PWD/.. \$fpath)
    autoload -Uz compinit && compinit -u -D
    unsetopt list_beep auto_menu
    answer() { print -r -- \"\$BUFFER\" >>../buffers; BUFFER=; print -n '[next]' >/dev/tty }
    zle -N answer && bindkey '^T' answer && print -n '[re''ady]'
"
zpty -r shell heard '*\[ready\]*'
while read -r line; do
    zpty -w -n shell "$line"$'\t\x14'
    zpty -r shell heard '*\[next\]*'
done <../lines
zpty -d shell
paste -d '\n' ../lines ../buffers | while read -r line && read -r buffer; do
    buffer=${buffer% }
    [[ $line == $buffer ]] && print || print -r -- "${buffer##* }"
done >../answers
"#;
    complete("zsh", "zsh", "_mini-rproxy", script, &["-f"]);
}
