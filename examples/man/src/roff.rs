//! Markdown as a man page: the macros of man(7), which groff and mandoc both know.
//!
//! A table becomes tagged paragraphs, because its cells are far too wide for columns on a terminal. What is typed literally
//! is bold, and links are their words.

use pulldown_cmark::{Event, HeadingLevel, Options, Parser, Tag, TagEnd};

/// Bytes of a line of the source: mandoc's advice.
const MAX_LINE: usize = 78;
/// Columns that a line of code may take: 80, less the indentation.
const MAX_CODE: usize = 68;

/// Markdown as the paragraphs and sections of a page.
pub fn from_markdown(markdown: &str) -> String {
    let mut page = Page::default();
    for event in Parser::new_ext(markdown, Options::ENABLE_TABLES) {
        page.take(event);
    }
    page.out
}

/// The first line of a page. `date` may be empty.
pub fn title(section: u8, date: &str, version: &str) -> String {
    // No hyphens in names of keys, and no gaps around them.
    format!(".TH MINI\\-RPROXY {section} \"{date}\" \"mini\\-rproxy {version}\"\n.nr HY 0\n.ad l\n")
}

/// A tagged paragraph. The tag is roff, the text is Markdown.
pub fn tagged(tag: &str, text: &str) -> String {
    format!(".TP\n{tag}\n{}", from_markdown(text).trim_start_matches(".PP\n"))
}

/// What is typed as it stands.
pub fn literal(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '\\' => out += "\\e",
            '-' => out += "\\-",
            '\'' => out += "\\(aq",
            '`' => out += "\\(ga",
            '^' => out += "\\(ha",
            '~' => out += "\\(ti",
            _ => push(&mut out, c),
        }
    }
    out
}

/// Words of a sentence.
fn prose(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '\\' => out += "\\e",
            _ => push(&mut out, c),
        }
    }
    out
}

fn push(out: &mut String, c: char) {
    if c.is_ascii() { out.push(c) } else { *out += &format!("\\[u{:04X}]", u32::from(c)) }
}

/// A line that begins with one of these would be a request.
fn guarded(line: &str) -> String {
    if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line.to_owned() }
}

/// Words as lines: short ones, and one at least for each sentence, so that all ends of sentences look alike.
fn lines(text: &str) -> String {
    let (mut out, mut line) = (String::new(), String::new());
    for word in text.split_whitespace() {
        let is_new_sentence = [". ", "? ", "! ", ".\\fR "].iter().any(|end| format!("{line} ").ends_with(end));
        if !line.is_empty() && (is_new_sentence || line.len() + 1 + word.len() > MAX_LINE) {
            out += &format!("{}\n", guarded(&line));
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line += word;
    }
    if line.is_empty() { out } else { out + &format!("{}\n", guarded(&line)) }
}

/// A line of code; a comment that would be cut off at 80 columns comes before it.
fn code_line(line: &str) -> String {
    let code = match line.split_once(" # ") {
        Some((code, comment)) if line.chars().count() > MAX_CODE && !code.trim().is_empty() => {
            let indent = &code[..code.len() - code.trim_start().len()];
            format!("{indent}# {comment}\n{}", code.trim_end())
        }
        _ => line.to_owned(),
    };
    code.lines().map(|line| guarded(&literal(line)) + "\n").collect()
}

/// The page so far, and what is open.
#[derive(Default)]
struct Page {
    out: String,
    /// Words that wait for the end of their paragraph, heading or cell, with escapes.
    words: String,
    /// Fonts around the words, the innermost one last.
    fonts: Vec<char>,
    /// How to begin the next paragraph, where it is not a plain one: the first one of a section or of an item.
    begun: bool,
    lists: usize,
    code: Option<String>,
    table: Vec<Vec<String>>,
}

impl Page {
    fn take(&mut self, event: Event<'_>) {
        match event {
            Event::Start(Tag::Heading { .. }) => self.words.clear(),
            Event::End(TagEnd::Heading(level)) => self.heading(level),
            Event::Start(Tag::Paragraph) => self.begin_paragraph(),
            Event::End(TagEnd::Paragraph) => self.end_paragraph(),
            Event::Start(Tag::List(_)) => {
                self.end_paragraph();
                if self.lists > 0 {
                    self.out += ".RS 2\n";
                }
                self.lists += 1;
            }
            Event::End(TagEnd::List(_)) => {
                self.lists -= 1;
                if self.lists > 0 {
                    self.out += ".RE\n";
                }
            }
            Event::Start(Tag::Item) => {
                self.out += ".IP \\(bu 2\n";
                self.begun = true;
            }
            Event::End(TagEnd::Item) => self.end_paragraph(),
            Event::Start(Tag::CodeBlock(_)) => {
                self.begin_paragraph();
                self.code = Some(String::new());
            }
            Event::End(TagEnd::CodeBlock) => {
                let code: String = self.code.take().unwrap_or_default().lines().map(code_line).collect();
                self.out += &format!(".in +2n\n.EX\n{code}.EE\n.in\n");
            }
            Event::Start(Tag::Table(_)) => self.table.clear(),
            Event::Start(Tag::TableHead | Tag::TableRow) => self.table.push(Vec::new()),
            Event::End(TagEnd::TableCell) => {
                let cell = std::mem::take(&mut self.words);
                self.table.last_mut().expect("a cell is in a row").push(cell);
            }
            Event::End(TagEnd::Table) => self.end_table(),
            Event::Start(Tag::Emphasis) => self.open('I'),
            Event::Start(Tag::Strong) => self.open('B'),
            Event::End(TagEnd::Emphasis | TagEnd::Strong) => self.close(),
            Event::Code(text) => {
                self.open('B');
                self.words += &literal(&text);
                self.close();
            }
            Event::Text(text) => match &mut self.code {
                Some(code) => *code += &text,
                None => self.words += &prose(&text),
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

    fn heading(&mut self, level: HeadingLevel) {
        let words = std::mem::take(&mut self.words).replace('"', "\\(dq");
        match level {
            HeadingLevel::H1 => return,
            HeadingLevel::H2 => self.out += &format!(".SH \"{}\"\n", upper(&words)),
            _ => self.out += &format!(".SS \"{words}\"\n"),
        }
        self.begun = true;
    }

    fn begin_paragraph(&mut self) {
        self.end_paragraph();
        if !std::mem::take(&mut self.begun) {
            self.out += if self.lists > 0 { ".IP\n" } else { ".PP\n" };
        }
    }

    fn end_paragraph(&mut self) {
        let words = std::mem::take(&mut self.words);
        if !words.is_empty() {
            self.out += &lines(&words);
            self.begun = false;
        }
    }

    /// The first cell of a row is the tag; what the others are stands in the head of the table.
    fn end_table(&mut self) {
        let mut rows = std::mem::take(&mut self.table).into_iter();
        let head = rows.next().unwrap_or_default();
        for row in rows {
            let mut cells = row.into_iter();
            match cells.next().filter(|tag| !tag.is_empty()) {
                // Each name of several on a line of its own: a tag is not broken into lines.
                Some(tag) => {
                    self.out += &format!(".TP\n{}\n", guarded(&bold(&tag).replace("\\fR, \\fB", "\\fR\n.TQ\n\\fB")))
                }
                // As the row above.
                None => self.out += ".IP\n",
            }
            let mut parts = vec![String::new()];
            for (name, cell) in head.iter().skip(1).zip(cells).filter(|(_, cell)| !cell.is_empty()) {
                let is_text = ["", "meaning", "written"].contains(&name.as_str());
                if is_text {
                    parts.extend([cell, String::new()]);
                    continue;
                }
                let part = parts.last_mut().expect("there is one from the start");
                if !part.is_empty() {
                    *part += "; ";
                }
                *part += &if name == "type" { cell } else { format!("{name}: {cell}") };
            }
            let parts: Vec<_> = parts.iter().filter(|part| !part.is_empty()).map(|part| lines(part)).collect();
            self.out += &parts.join(".br\n");
        }
        self.begun = false;
    }
}

/// A tag is bold, whatever it is made of.
fn bold(tag: &str) -> String {
    if tag.contains("\\f") { tag.to_owned() } else { format!("\\fB{tag}\\fR") }
}

/// Capitals, but for the escapes.
fn upper(words: &str) -> String {
    words
        .split('\\')
        .enumerate()
        .map(|(at, part)| {
            let escape = if at == 0 {
                0
            } else if part.starts_with(['f', '(']) {
                2 + usize::from(part.starts_with('('))
            } else {
                1
            };
            let (escape, words) = part.split_at(escape.min(part.len()));
            format!("{}{escape}{}", if at == 0 { "" } else { "\\" }, words.to_uppercase())
        })
        .collect()
}
