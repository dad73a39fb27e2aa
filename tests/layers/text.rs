//! Reads Rust source as text: enough of it to see which words and paths a file uses.

use std::ops::Range;

/// `source` with comments and the insides of literals blanked out; lines stay where they are.
pub fn blank(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let at = |index: usize| chars.get(index).copied().unwrap_or('\0');
    let mut out = String::with_capacity(source.len());
    let skip = |out: &mut String, from: usize, to: usize| {
        out.extend(chars[from..to.min(chars.len())].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
    };
    let mut i = 0;
    while i < chars.len() {
        let end = match (at(i), at(i + 1)) {
            ('/', '/') => (i..chars.len()).find(|j| at(*j) == '\n').unwrap_or(chars.len()),
            ('/', '*') => {
                let mut depth = 1;
                let mut j = i + 2;
                while j < chars.len() && depth > 0 {
                    match (at(j), at(j + 1)) {
                        ('/', '*') => (depth, j) = (depth + 1, j + 2),
                        ('*', '/') => (depth, j) = (depth - 1, j + 2),
                        _ => j += 1,
                    }
                }
                j
            }
            ('r', '"' | '#') if i == 0 || !is_name(at(i - 1)) || at(i - 1) == 'b' => {
                let hashes = (i + 1..).take_while(|j| at(*j) == '#').count();
                if at(i + 1 + hashes) == '"' {
                    let closes = |j: &usize| at(*j) == '"' && (1..=hashes).all(|h| at(j + h) == '#');
                    (i + 2 + hashes..chars.len()).find(closes).map_or(chars.len(), |j| j + 1 + hashes)
                } else {
                    i
                }
            }
            ('"', _) => {
                let mut j = i + 1;
                while j < chars.len() && at(j) != '"' {
                    j += if at(j) == '\\' { 2 } else { 1 };
                }
                j + 1
            }
            // A character literal and not a lifetime.
            ('\'', '\\') => (i + 3..chars.len()).find(|j| at(*j) == '\'').map_or(chars.len(), |j| j + 1),
            ('\'', _) if at(i + 2) == '\'' => i + 3,
            _ => i,
        };
        if end > i {
            skip(&mut out, i, end);
            i = end;
        } else {
            out.push(at(i));
            i += 1;
        }
    }
    out
}

pub fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Where in blanked `code` the items under `#[cfg(test)]` and its relatives stand, in whole lines.
fn test_items(code: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(start) = code[from..].find("#[cfg(").map(|index| from + index) {
        let attribute = &code[start..];
        let condition = &attribute[..attribute.find(']').map_or(attribute.len(), |end| end + 1)];
        from = start + condition.len();
        if has_word(condition, "test") && !condition.contains("not(test") {
            from = start + item_len(attribute);
            from += code[from..].len() - code[from..].trim_start_matches(' ').len();
            from += usize::from(code[from..].starts_with('\n'));
            found.push(code[..start].trim_end_matches(' ').len()..from);
        }
    }
    found
}

/// Blanked `code` without the items under `#[cfg(test)]` and its relatives. Their lines are gone.
pub fn without_tests(code: &str) -> String {
    let mut out = code.to_owned();
    for item in test_items(code).into_iter().rev() {
        out.replace_range(item, "");
    }
    out
}

/// For each line of blanked `code` whether it belongs to such an item.
pub fn test_lines(code: &str) -> Vec<bool> {
    let mut lines = vec![false; code.lines().count()];
    for item in test_items(code) {
        let first = code[..item.start].matches('\n').count();
        let count = code[item].lines().count();
        lines[first..first + count].fill(true);
    }
    lines
}

/// How long an item with its attributes is: up to the first `;` or the first `{...}` outside other brackets.
pub fn item_len(item: &str) -> usize {
    let mut depth = 0;
    for (index, c) in item.char_indices() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' => depth -= 1,
            '}' => {
                depth -= 1;
                if depth == 0 {
                    return index + 1;
                }
            }
            ';' if depth == 0 => return index + 1,
            _ => {}
        }
    }
    item.len()
}

/// Whether `word` (or path) occurs and is not a part of a longer name.
pub fn has_word(code: &str, word: &str) -> bool {
    code.match_indices(word)
        .any(|(index, _)| !code[..index].ends_with(is_name) && !code[index + word.len()..].starts_with(is_name))
}

/// The names of `mod name;` lines, in order.
pub fn declared_modules(code: &str) -> Vec<String> {
    let mut tokens = code.split_whitespace().peekable();
    let mut found = Vec::new();
    while let Some(token) = tokens.next() {
        if token == "mod"
            && let Some(name) = tokens.peek().and_then(|next| next.strip_suffix(';'))
        {
            found.push(name.to_owned());
        }
    }
    found
}

/// Every path of `code` that begins at a module of this crate, from the root, `pub use` left out.
pub fn imports(code: &str, module: &[String]) -> Vec<Vec<String>> {
    let children = declared_modules(code);
    let mut found = Vec::new();
    let mut rest = code;
    while let Some(start) = rest.find(is_name) {
        let before = &code[..code.len() - rest.len() + start];
        let word_len = rest[start..].find(|c| !is_name(c)).unwrap_or(rest.len() - start);
        let word = &rest[start..start + word_len];
        let after = &rest[start + word_len..];
        let continues_path = before.ends_with("::");
        let base = match word {
            "crate" => Some(Vec::new()),
            "self" => Some(module.to_vec()),
            "super" => Some(module[..module.len().saturating_sub(1)].to_vec()),
            child if children.iter().any(|name| name == child) => {
                let mut path = module.to_vec();
                path.push(child.to_owned());
                Some(path)
            }
            _ => None,
        };
        rest = after;
        if let Some(base) = base.filter(|_| after.starts_with("::") && !continues_path) {
            let mut paths = Vec::new();
            let len = use_tree(&after[2..], base, &mut paths);
            rest = &after[2 + len..];
            if !is_reexport(before) {
                found.append(&mut paths);
            }
        }
    }
    found
}

/// Whether what stands before a path ends with `pub use` or `pub(...) use`.
fn is_reexport(before: &str) -> bool {
    let Some(before) = before.trim_end().strip_suffix("use").map(str::trim_end) else { return false };
    let visibility = before.strip_suffix(')').and_then(|inner| Some(inner.rsplit_once('(')?.0)).unwrap_or(before);
    visibility.ends_with("pub")
}

/// Reads `a::b::{c, d::e}` behind a `::`, appends the paths to `found`, and says how many bytes it took.
fn use_tree(text: &str, mut base: Vec<String>, found: &mut Vec<Vec<String>>) -> usize {
    if let Some(group) = text.strip_prefix('{') {
        let mut at = 1;
        loop {
            let item = &text[at..];
            let blanks = item.len() - item.trim_start_matches([' ', '\n', ',']).len();
            at += blanks;
            if text[at..].starts_with('}') || at > group.len() {
                return (at + 1).min(text.len());
            }
            let len = use_tree(&text[at..], base.clone(), found);
            // Always goes on, whatever stands there (`*`, `as name`).
            at += len.max(1);
        }
    }
    let len = text.find(|c| !is_name(c)).unwrap_or(text.len());
    match &text[..len] {
        "super" => {
            base.pop();
        }
        "self" | "" => {}
        name => base.push(name.to_owned()),
    }
    match text[len..].strip_prefix("::") {
        Some(rest) if !rest.starts_with('<') => len + 2 + use_tree(rest, base, found),
        Some(_) | None => {
            found.push(base);
            len
        }
    }
}

/// The names in the text `code`, keywords too.
pub fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c| !is_name(c)).filter(|word| !word.is_empty())
}

/// The names of the types and traits that `code` defines outside of other items.
pub fn defined_types(code: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for line in code.lines().filter(|line| !line.starts_with(' ')) {
        let mut words = words(line).skip_while(|word| matches!(*word, "pub" | "crate" | "super" | "in" | "unsafe"));
        if let (Some("struct" | "enum" | "union" | "trait" | "type"), Some(name)) = (words.next(), words.next()) {
            found.push(name);
        }
    }
    found
}

/// The names of all functions of `code`.
pub fn function_names(code: &str) -> Vec<String> {
    code.split("fn ").skip(1).map(|rest| rest.chars().take_while(|c| is_name(*c)).collect()).collect()
}
