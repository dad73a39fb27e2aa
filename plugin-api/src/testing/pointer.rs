//! Looks into a JSON text, for `config_get`: this crate has no dependencies, and a test needs no more than this.

/// The value at a JSON pointer (RFC 6901): a text as it is, all else without white space. A configuration that is no object
/// and no array is one text. `None` where there is no such value.
pub(super) fn get(config: &str, pointer: &str) -> Option<String> {
    if !config.starts_with(['{', '[']) {
        return pointer.is_empty().then(|| config.to_owned());
    }
    let mut value = config;
    if !pointer.is_empty() {
        for step in pointer.strip_prefix('/')?.split('/') {
            value = member(value, &step.replace("~1", "/").replace("~0", "~"))?;
        }
    }
    if value.starts_with('"') { text(value) } else { Some(compact(value)) }
}

/// The same value without white space between its parts.
fn compact(value: &str) -> String {
    let (mut in_text, mut is_escaped) = (false, false);
    let is_part = |char: &char| {
        let is_part = in_text || !char.is_ascii_whitespace();
        in_text ^= *char == '"' && !is_escaped;
        is_escaped = *char == '\\' && !is_escaped;
        is_part
    };
    value.chars().filter(is_part).collect()
}

/// The member of that name, or the element of that number.
fn member<'a>(value: &'a str, step: &str) -> Option<&'a str> {
    let is_object = value.starts_with('{');
    let mut rest = value.strip_prefix(['{', '['])?;
    for index in 0.. {
        let (first, behind) = split(rest)?;
        let (is_it, value, behind) = if is_object {
            let (value, behind) = split(behind.trim_start().strip_prefix(':')?)?;
            (text(first)? == step, value, behind)
        } else {
            (index.to_string() == step, first, behind)
        };
        if is_it {
            return Some(value);
        }
        rest = behind.trim_start().strip_prefix(',')?;
    }
    None
}

/// The first value of a text, and what follows it.
fn split(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start();
    let (mut depth, mut in_text, mut is_escaped) = (0, false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if in_text => is_escaped = true,
            b'"' => in_text = !in_text,
            _ if in_text => {}
            b'{' | b'[' => depth += 1,
            b'}' | b']' | b',' | b':' | b' ' | b'\n' | b'\r' | b'\t' if depth == 0 => return value(text.split_at(at)),
            b'}' | b']' => depth -= 1,
            _ => {}
        }
        if depth == 0 && matches!(byte, b'"' | b'}' | b']') && !in_text {
            return value(text.split_at(at + 1));
        }
    }
    None
}

fn value<'a>((value, rest): (&'a str, &'a str)) -> Option<(&'a str, &'a str)> {
    if value.is_empty() { None } else { Some((value, rest)) }
}

/// What a JSON string means.
fn text(quoted: &str) -> Option<String> {
    let inside = quoted.strip_prefix('"')?.strip_suffix('"')?;
    let mut units: Vec<u16> = Vec::new();
    let mut rest = inside.chars();
    while let Some(char) = rest.next() {
        let char = match char {
            '\\' => match rest.next()? {
                'b' => '\u{8}',
                'f' => '\u{c}',
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                'u' => {
                    let digits = rest.as_str().get(..4)?;
                    units.push(u16::from_str_radix(digits, 16).ok()?);
                    rest = rest.as_str()[4..].chars();
                    continue;
                }
                other => other,
            },
            other => other,
        };
        units.extend_from_slice(char.encode_utf16(&mut [0; 2]));
    }
    String::from_utf16(&units).ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn pointers_lead_to_values() {
        let config =
            r#"{"realm": "a \"b\" \u00e4\ud83d\ude00", "n": [1, {"x/y": true}, [] , null], "": {"~": -1.5e3} }"#;
        for (pointer, expected) in [
            ("/realm", Some("a \"b\" ä😀")),
            ("/n/0", Some("1")),
            ("/n/1", Some("{\"x/y\":true}")),
            ("/n/1/x~1y", Some("true")),
            ("/n/2", Some("[]")),
            ("/n/3", Some("null")),
            ("/n/4", None),
            ("/n/01", None),
            ("/n/2/0", None),
            ("//~0", Some("-1.5e3")),
            ("/realm/x", None),
            ("/other", None),
            ("realm", None),
            ("/n", Some("[1,{\"x/y\":true},[],null]")),
        ] {
            assert_eq!(super::get(config, pointer).as_deref(), expected, "{pointer}");
        }
        for (config, pointer, expected) in [
            ("hello", "", Some("hello")),
            ("hello", "/a", None),
            ("", "", Some("")),
            ("{}", "/a", None),
            ("[", "/0", None),
        ] {
            assert_eq!(super::get(config, pointer).as_deref(), expected, "{config} {pointer}");
        }
    }
}
