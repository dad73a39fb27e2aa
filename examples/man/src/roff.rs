//! Markdown as a man page: the macros of man(7), which groff and mandoc both know.
//!
//! A table becomes tagged paragraphs, because its cells are far too wide for columns on a terminal. What is typed as it stands
//! is bold, and links are their words. Code is made to fit 80 columns.

use pulldown_cmark::{CodeBlockKind, Event, HeadingLevel, Options, Parser, Tag, TagEnd};

/// Bytes of a line of the source, as mandoc advises.
const MAX_LINE: usize = 78;
/// Columns for a line of code: 80, less the indentation.
const MAX_CODE: usize = 71;

/// Markdown as the paragraphs and sections of a page.
pub fn from_markdown(markdown: &str) -> String {
    let mut page = Page::default();
    for event in Parser::new_ext(markdown, Options::ENABLE_TABLES) {
        page.take(event);
    }
    page.out
}

/// How a page begins. `date` may be empty.
pub fn title(section: u8, date: &str, version: &str) -> String {
    // Without hyphens, which would stand in the middle of keys, and without gaps that make both margins straight.
    format!(".TH MINI\\-RPROXY {section} \"{date}\" \"mini\\-rproxy {version}\"\n.nr HY 0\n.ad l\n")
}

/// A section of Markdown, or a heading for what follows.
pub fn section(name: &str, markdown: &str) -> String {
    from_markdown(&format!("## {name}\n\n{markdown}\n"))
}

/// A tagged paragraph. The tag is roff, the text is Markdown.
pub fn tagged(tag: &str, markdown: &str) -> String {
    format!(".TP\n{tag}\n{}", from_markdown(markdown).trim_start_matches(".PP\n"))
}

/// What is typed as it stands.
pub fn literal(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '-' => out += "\\-",
            '\'' => out += "\\(aq",
            '`' => out += "\\(ga",
            '^' => out += "\\(ha",
            '~' => out += "\\(ti",
            _ => out += &escaped(c),
        }
    }
    out
}

/// A character of a sentence, in which quotes and hyphens may look as those of a book.
fn escaped(c: char) -> String {
    match c {
        '\\' => "\\e".to_owned(),
        c if c.is_ascii() => c.into(),
        c => format!("\\[u{:04X}]", u32::from(c)),
    }
}

/// A line of text: without the mark in front, one with such a beginning would be a request.
fn text_line(line: &str) -> String {
    let mark = if line.starts_with(['.', '\'']) { "\\&" } else { "" };
    format!("{mark}{line}\n")
}

/// Words as lines. Each sentence begins a new one, so that the ends of all sentences look alike on the page.
pub fn lines(words: &str) -> String {
    let (mut out, mut line) = (String::new(), String::new());
    for word in words.split_whitespace() {
        let is_sentence = [".", "?", "!", ".\\fR", ".)"].iter().any(|end| line.ends_with(end));
        if !line.is_empty() && (is_sentence || line.len() + 1 + word.len() > MAX_LINE) {
            out += &text_line(&std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line += word;
    }
    if line.is_empty() { out } else { out + &text_line(&line) }
}

/// A line of code as one or more that fit, with the same meaning: a comment goes in front of what it speaks of; a command is
/// continued behind a backslash, a mapping or a list in YAML behind a comma, and what is only read behind any space.
fn fitted(line: &str, language: &str) -> Vec<String> {
    let indent = &line[..line.len() - line.trim_start().len()];
    if line.chars().count() <= MAX_CODE {
        return vec![line.to_owned()];
    }
    if let Some((code, comment)) =
        line.split_once(" # ").filter(|(code, _)| !code.trim().is_empty() && language != "text")
    {
        let mut all = fitted(&format!("{indent}# {}", comment.trim()), "#");
        all.extend(fitted(code.trim_end(), language));
        return all;
    }
    // Where to break, by preference, and how much of that stays in the first line.
    let (stops, next, more): (&[(&str, usize)], _, _) = match language {
        "sh" => (&[(" && ", 4), (" -", 1)], "    ", " \\"),
        "yaml" => (&[(", ", 2)], "    ", ""),
        "#" => (&[(" ", 1)], "# ", ""),
        _ => (&[(" ", 1)], "    ", ""),
    };
    let room = line.char_indices().nth(MAX_CODE - more.len()).map_or(line.len(), |(at, _)| at);
    let is_free =
        |at: usize| at > indent.len() + 2 && (!["sh", "yaml"].contains(&language) || is_unquoted(&line[..at]));
    let ends = |(stop, kept): &(&str, usize)| {
        line[..room].rmatch_indices(stop).map(|(at, _)| at).find(|at| is_free(*at)).map(|at| at + kept)
    };
    let Some(end) = stops.iter().find_map(ends) else { return vec![line.to_owned()] };
    let (first, rest) = line.split_at(end);
    let mut all = vec![format!("{}{more}", first.trim_end())];
    all.extend(fitted(&format!("{indent}{next}{rest}"), language));
    all
}

/// Whether the text after this is outside of quotes.
fn is_unquoted(text: &str) -> bool {
    let mut open = None;
    for c in text.chars().filter(|c| ['"', '\''].contains(c)) {
        open = if open == Some(c) { None } else { open.or(Some(c)) };
    }
    open.is_none()
}

/// The page so far, and what is open.
#[derive(Default)]
struct Page {
    out: String,
    /// Words that wait for the end of their paragraph, heading or cell, with escapes.
    words: String,
    /// Fonts around the next word, the innermost one last.
    fonts: Vec<char>,
    /// Whether the next paragraph has begun: behind a heading, or the mark of an item.
    has_begun: bool,
    lists: usize,
    /// The anchor that a link leads to.
    anchor: String,
    /// The language and the text of a block of code.
    code: Option<(String, String)>,
    table: Vec<Vec<String>>,
}

impl Page {
    fn take(&mut self, event: Event<'_>) {
        match event {
            Event::End(TagEnd::Heading(level)) => self.heading(level),
            Event::Start(Tag::Paragraph) => self.begin_paragraph(),
            Event::End(TagEnd::Paragraph | TagEnd::Item) => self.end_paragraph(),
            Event::Start(Tag::List(_)) => {
                self.end_paragraph();
                self.out += if self.lists > 0 { ".RS 2\n" } else { "" };
                self.lists += 1;
            }
            Event::End(TagEnd::List(_)) => {
                self.lists -= 1;
                self.out += if self.lists > 0 { ".RE\n" } else { "" };
            }
            Event::Start(Tag::Item) => {
                self.out += ".IP \\(bu 2\n";
                self.has_begun = true;
            }
            Event::Start(Tag::CodeBlock(kind)) => {
                self.begin_paragraph();
                let CodeBlockKind::Fenced(language) = kind else { panic!("a block of code without a fence") };
                self.code = Some((language.into_string(), String::new()));
            }
            Event::End(TagEnd::CodeBlock) => {
                let (language, code) = self.code.take().expect("a block ends that has begun");
                let code: String = code
                    .lines()
                    .flat_map(|line| fitted(line, &language))
                    .map(|line| text_line(&literal(&line)))
                    .collect();
                self.out += &format!(".in +2n\n.EX\n{code}.EE\n.in\n");
                self.has_begun = false;
            }
            Event::Start(Tag::TableHead | Tag::TableRow) => self.table.push(Vec::new()),
            Event::End(TagEnd::TableCell) => {
                let cell = std::mem::take(&mut self.words);
                self.table.last_mut().expect("a cell is in a row").push(cell);
            }
            Event::End(TagEnd::Table) => self.end_table(),
            Event::Start(Tag::Emphasis) => self.open('I'),
            Event::Start(Tag::Strong) => self.open('B'),
            Event::End(TagEnd::Emphasis | TagEnd::Strong) => self.close(),
            Event::Start(Tag::Link { dest_url, .. }) => self.anchor = dest_url.into_string(),
            Event::End(TagEnd::Link) => {
                if let Some(anchor) = self.anchor.strip_prefix('#').filter(|_| self.words.ends_with("below")) {
                    self.words += &format!(" ({})", anchor.replace('-', " ").to_uppercase());
                }
            }
            Event::Code(text) => {
                self.open('B');
                self.words += &literal(&text);
                // This end is none of the sentence.
                self.words += if text.ends_with(['.', '?', '!']) { "\\&" } else { "" };
                self.close();
            }
            Event::Text(text) => match &mut self.code {
                Some((_, code)) => *code += &text,
                None => self.words.extend(text.chars().map(escaped)),
            },
            Event::SoftBreak | Event::HardBreak => self.words.push(' '),
            _ => {}
        }
    }

    fn open(&mut self, font: char) {
        self.fonts.push(font);
        self.words += &format!("\\f{font}");
    }

    fn close(&mut self) {
        self.fonts.pop();
        self.words += &format!("\\f{}", self.fonts.last().unwrap_or(&'R'));
    }

    /// The title of a page is left to [`title`].
    fn heading(&mut self, level: HeadingLevel) {
        let words = std::mem::take(&mut self.words);
        match level {
            HeadingLevel::H1 => return,
            HeadingLevel::H2 => self.out += &format!(".SH {}\n", words.to_uppercase()),
            _ => self.out += &format!(".SS {words}\n"),
        }
        self.has_begun = true;
    }

    fn begin_paragraph(&mut self) {
        self.end_paragraph();
        if !std::mem::take(&mut self.has_begun) {
            self.out += if self.lists > 0 { ".IP\n" } else { ".PP\n" };
        }
    }

    fn end_paragraph(&mut self) {
        if !self.words.is_empty() {
            self.out += &lines(&std::mem::take(&mut self.words));
            self.has_begun = false;
        }
    }

    /// The first cell of a row is the tag, and the head of the table says what the others are.
    fn end_table(&mut self) {
        let mut rows = std::mem::take(&mut self.table).into_iter();
        let head = rows.next().unwrap_or_default();
        for row in rows {
            let (tag, cells) = row.split_first().expect("a row has cells");
            self.out += &if tag.is_empty() { ".IP\n".to_owned() } else { format!(".TP\n{}", tag_lines(tag)) };
            let mut parts: Vec<String> = Vec::new();
            for (name, cell) in head[1..].iter().zip(cells).filter(|(_, cell)| !cell.is_empty()) {
                // As much of it as a label needs.
                let name = name.split(',').next().unwrap_or(name);
                match (name, parts.last_mut()) {
                    ("" | "type" | "meaning" | "written" | "mapped", _) => parts.push(cell.clone()),
                    ("default", Some(kind)) => *kind += &format!("; default: {cell}"),
                    _ => parts.push(format!("{name}: {cell}")),
                }
            }
            let parts: Vec<String> = parts.iter().map(|part| lines(part)).collect();
            self.out += &parts.join(".br\n");
        }
        self.has_begun = false;
    }
}

/// A tag is bold, and of several names each has its own line, because a tag is never broken.
fn tag_lines(tag: &str) -> String {
    if !tag.contains("\\f") {
        return format!("\\fB{tag}\\fR\n");
    }
    text_line(&tag.replace("\\fR, \\fB", "\\fR\n.TQ\n\\fB"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markdown_becomes_paragraphs_of_a_page() {
        for (markdown, expected) in [
            ("# Title\n\nOne *two*\n**three**.", ".PP\nOne \\fItwo\\fR \\fBthree\\fR.\n"),
            ("## A name\n\nText.\n\n### Below\n\nMore.", ".SH A NAME\nText.\n.SS Below\nMore.\n"),
            ("It is so. This\n[too](x.md).", ".PP\nIt is so.\nThis too.\n"),
            ("**It is `so`.** Yes.", ".PP\n\\fBIt is \\fBso\\fB.\\fR\nYes.\n"),
            ("`*.` it is", ".PP\n\\fB*.\\&\\fR it is\n"),
            (".so and 'as', \\\\ → `-x ~'`", ".PP\n\\&.so and 'as', \\e \\[u2192] \\fB\\-x \\(ti\\(aq\\fR\n"),
            ("see [below](#two-words)", ".PP\nsee below (TWO WORDS)\n"),
            ("- one\n- two\n\nEnd.", ".IP \\(bu 2\none\n.IP \\(bu 2\ntwo\n.PP\nEnd.\n"),
            ("- one\n\n  more\n- two", ".IP \\(bu 2\none\n.IP\nmore\n.IP \\(bu 2\ntwo\n"),
            ("- one\n  - two\n- three", ".IP \\(bu 2\none\n.RS 2\n.IP \\(bu 2\ntwo\n.RE\n.IP \\(bu 2\nthree\n"),
            ("```sh\n.x -y\\n\n```\nEnd.", ".PP\n.in +2n\n.EX\n\\&.x \\-y\\en\n.EE\n.in\n.PP\nEnd.\n"),
            (
                "| key | type | default | meaning | reload |\n|-|-|-|-|-|\n| `a`, `b` | size | `1` | it is | never |\n| `c` | | | is not | |",
                ".TP\n\\fBa\\fR\n.TQ\n\\fBb\\fR\nsize; default: \\fB1\\fR\n.br\nit is\n.br\nreload: never\n.TP\n\\fBc\\fR\nis not\n",
            ),
            ("| a | b |\n|-|-|\n| x | y |\n| | z |", ".TP\n\\fBx\\fR\nb: y\n.IP\nb: z\n"),
        ] {
            assert_eq!(from_markdown(markdown), expected, "{markdown}");
        }
    }

    #[test]
    fn long_lines_of_code_are_continued() {
        let long = "x".repeat(40);
        for (line, language, expected) in [
            (format!("a {long} {long}"), "text", vec![format!("a {long}"), format!("    {long}")]),
            (format!("a -x {long} -y {long}"), "sh", vec![format!("a -x {long} \\"), format!("    -y {long}")]),
            (format!("a {long} '&& -x' {long}"), "sh", vec![format!("a {long} '&& -x' {long}")]),
            (format!("a {long} && b -x {long}"), "sh", vec![format!("a {long} && \\"), format!("    b -x {long}")]),
            (format!("  a: {long} # {long}"), "yaml", vec![format!("  # {long}"), format!("  a: {long}")]),
            (format!("  # {long} {long}"), "#", vec![format!("  # {long}"), format!("  # {long}")]),
            (long.repeat(3), "text", vec![long.repeat(3)]),
        ] {
            assert_eq!(fitted(&line, language), expected, "{line}");
        }
    }

    #[test]
    fn yaml_that_was_broken_into_lines_says_the_same() {
        let pages = [include_str!("../../../README.md"), include_str!("../../../docs/configuration.md")];
        let blocks = pages
            .iter()
            .flat_map(|page| page.split("```yaml\n").skip(1))
            .map(|rest| rest.split("```").next().unwrap_or(rest));
        let mut broken = 0;
        for block in blocks {
            let lines: Vec<String> = block.lines().flat_map(|line| fitted(line, "yaml")).collect();
            broken += lines.len() - block.lines().count();
            let parsed = |text: &str| serde_yaml::from_str::<serde_yaml::Value>(text).expect("YAML");
            assert_eq!(parsed(&lines.join("\n")), parsed(block), "{block}");
        }
        assert!(broken > 10, "{broken} lines more: the blocks were not found");
    }
}
