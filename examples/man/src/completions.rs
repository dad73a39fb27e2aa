//! Completions of the flags, and of the files and folders that two of them take.

use mini_rproxy::cli::{FLAGS, REPEATABLE};

/// What stands for a value that is the name of a file, or of a folder: in the table of flags.
const FILE: &str = "PATH";
const FOLDER: &str = "DIR";

/// The beginning of what a flag does: up to the first pause.
fn summary(what: &str) -> String {
    what.split([';', '(']).next().unwrap_or(what).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Flags with values like this one, as alternatives of a pattern.
fn with_value(placeholder: &str) -> String {
    let flags = FLAGS.iter().filter(|(_, value, _)| *value == placeholder);
    flags.map(|(name, ..)| format!("-{name}")).collect::<Vec<_>>().join("|")
}

/// For bash: a function that needs nothing else.
pub fn bash() -> String {
    let (files, folders) = (with_value(FILE), with_value(FOLDER));
    let others: Vec<String> = FLAGS
        .iter()
        .filter(|(_, value, _)| !["", FILE, FOLDER].contains(value))
        .map(|(name, ..)| format!("-{name}"))
        .collect();
    let names: Vec<&str> = FLAGS.iter().map(|(name, ..)| *name).collect();
    format!(
        r#"# bash completion of mini-rproxy

_mini_rproxy() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} flag=${{COMP_WORDS[COMP_CWORD - 1]}} dash=-
    # bash makes three words of -flag=value.
    if [[ $word == "=" ]]; then
        word=
    elif [[ $flag == "=" ]]; then
        flag=${{COMP_WORDS[COMP_CWORD - 2]}}
    fi
    COMPREPLY=()
    case ${{flag/#--/-}} in
        {files})
            compopt -o filenames 2>/dev/null
            mapfile -t COMPREPLY < <(compgen -f -- "$word")
            ;;
        {folders})
            compopt -o filenames 2>/dev/null
            mapfile -t COMPREPLY < <(compgen -d -- "$word")
            ;;
        {others}) ;;
        *)
            [[ $word != --* ]] || dash=--
            mapfile -t COMPREPLY < <(compgen -P "$dash" -W "{names}" -- "${{word#"$dash"}}")
            ;;
    esac
}}
complete -F _mini_rproxy mini-rproxy
"#,
        others = others.join("|"),
        names = names.join(" "),
    )
}

/// For zsh.
pub fn zsh() -> String {
    let mut text = "#compdef mini-rproxy\n\n_arguments".to_owned();
    for (name, value, what) in FLAGS {
        let once = if REPEATABLE.contains(&name) { "*".to_owned() } else { format!("(-{name} --{name})") };
        let what = quoted(&escaped(&summary(what), &['[', ']']));
        let takes = match value {
            "" => String::new(),
            FILE => format!(":{value}:_files"),
            FOLDER => format!(":{value}:_files -/"),
            _ => format!(":{}: ", quoted(&escaped(value, &[':']))),
        };
        let equals = if value.is_empty() { "" } else { "=" };
        text += &format!(" \\\n    '{once}'{{-{name},--{name}}}'{equals}[{what}]{takes}'");
    }
    text + "\n"
}

/// For fish.
pub fn fish() -> String {
    let mut text = "# fish completion of mini-rproxy\ncomplete -c mini-rproxy -f\n".to_owned();
    for (name, value, what) in FLAGS {
        let takes = match value {
            "" => "",
            FILE => " -r -F",
            FOLDER => " -x -a '(__fish_complete_directories)'",
            _ => " -x",
        };
        text += &format!(
            "complete -c mini-rproxy -o {name} -l {name}{takes} -d '{}'\n",
            escaped(&summary(what), &['\\', '\''])
        );
    }
    text
}

fn escaped(text: &str, special: &[char]) -> String {
    text.chars().flat_map(|c| special.contains(&c).then_some('\\').into_iter().chain([c])).collect()
}

/// As it stands between the quotes of a shell.
fn quoted(text: &str) -> String {
    text.replace('\'', "'\\''")
}
