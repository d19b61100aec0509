//! YAML with positions: from a text to a tree of values, from there to nodes that know their path, and from a wrong node to a
//! mistake with its line.
//!
//! The tree is built from the parser's events in one pass that calls nothing for each level of nesting, so that what a text may
//! cost is decided here: how deep it goes, how many values it has, and that a value is there once for each time it is written.

use std::{collections::HashSet, fmt::Display, str::FromStr};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Tag};

use super::{Mistake, spelling::nearest};

/// How deep lists and mappings may be nested; a file needs five levels. The tree is dropped by recursion, so its depth has to be
/// bounded.
const MAX_DEPTH: usize = 64;

/// How many values there may be, keys included: more than the greatest number of rules has with all keys.
const MAX_VALUES: usize = 1 << 20;

/// How many commas and opening brackets there may be. A `[` or `{` may begin a key, and to find out the parser reads on to its
/// end before it gives out the first event, and keeps up to five tokens of a hundred bytes for each comma. The greatest number of
/// rules, all in brackets, has fewer.
const MAX_FLOW_INDICATORS: usize = 400_000;

/// How many mistakes in the use of YAML are told one by one.
const MAX_YAML_MISTAKES: usize = 40;

/// Texts of the file are shown up to this many characters.
const MAX_QUOTE: usize = 80;

/// What is found out about a file.
#[derive(Debug, Default)]
pub(super) struct Notes {
    pub(super) mistakes: Vec<Mistake>,
    pub(super) warnings: Vec<Mistake>,
    pub(super) local: Vec<Mistake>,
}

impl Notes {
    /// Notes a mistake in the value of a node.
    pub(super) fn mistake(&mut self, node: &Node<'_>, message: impl Display) {
        self.mistakes.push(mistake(node.position(), &node.path, message));
    }

    /// Notes something in the value of a node that is allowed and hardly meant.
    pub(super) fn warning(&mut self, node: &Node<'_>, message: impl Display) {
        self.warnings.push(mistake(node.position(), &node.path, message));
    }

    /// Notes that the value of a node is of use to processes of one machine only, which functions are not.
    pub(super) fn local(&mut self, node: &Node<'_>, message: impl Display) {
        self.local.push(mistake(node.position(), &node.path, message));
    }
}

fn mistake(at: Marker, path: &str, message: impl Display) -> Mistake {
    let message = if path.is_empty() { message.to_string() } else { format!("{path}: {message}") };
    Mistake { line: at.line(), column: at.col() + 1, message }
}

/// A text of the file, in quotes and not too long.
pub(super) fn quoted(text: &str) -> String {
    match text.char_indices().nth(MAX_QUOTE) {
        Some((end, _)) => format!("'{}…'", text[..end].escape_debug()),
        None => format!("'{}'", text.escape_debug()),
    }
}

/// A value as it is written, and where.
#[derive(Debug)]
pub(super) struct Value {
    start: Marker,
    data: Data,
}

#[derive(Debug)]
enum Data {
    Scalar {
        text: String,
        /// Written without quotes, so that it may mean something else than its text.
        plain: bool,
    },
    List(Vec<Value>),
    /// Keys and values by turns.
    Mapping(Vec<Value>),
    /// What is noted as a mistake already, so that nothing more is said about it.
    Refused,
}

/// What a scalar means.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Meaning<'a> {
    Null,
    Flag(bool),
    Number,
    Text(&'a str),
}

impl Value {
    /// What this means, if it is a scalar.
    fn meaning(&self) -> Option<Meaning<'_>> {
        match &self.data {
            Data::Scalar { text, plain: true } => Some(meaning(text)),
            Data::Scalar { text, plain: false } => Some(Meaning::Text(text)),
            _ => None,
        }
    }

    fn text(&self) -> Option<&str> {
        match self.meaning() {
            Some(Meaning::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// The keys and their values, if this is a mapping.
    fn entries(&self) -> Option<&[[Self; 2]]> {
        match &self.data {
            Data::Mapping(children) => Some(children.as_chunks().0),
            _ => None,
        }
    }

    /// The same as JSON. What is refused is noted as a mistake already, and is nothing here.
    fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match &self.data {
            Data::Scalar { text, .. } => match self.meaning() {
                Some(Meaning::Flag(flag)) => Json::Bool(flag),
                // A number that JSON does not have, like `.inf` or `0x10`, stays the text that it is.
                Some(Meaning::Number) => text.parse().map_or_else(|_| Json::from(text.as_str()), Json::Number),
                Some(Meaning::Text(text)) => Json::from(text),
                Some(Meaning::Null) | None => Json::Null,
            },
            Data::List(items) => items.iter().map(Self::to_json).collect(),
            Data::Mapping(_) => {
                let key = |key: &Self| match &key.data {
                    Data::Scalar { text, .. } => text.clone(),
                    _ => String::new(),
                };
                self.entries().unwrap_or_default().iter().map(|[name, value]| (key(name), value.to_json())).collect()
            }
            Data::Refused => Json::Null,
        }
    }

    fn is_refused(&self) -> bool {
        matches!(self.data, Data::Refused)
    }
}

/// What a text without quotes means by YAML 1.2's core schema (section 10.3.2).
fn meaning(text: &str) -> Meaning<'_> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Meaning::Null,
        "true" | "True" | "TRUE" => Meaning::Flag(true),
        "false" | "False" | "FALSE" => Meaning::Flag(false),
        _ if is_number(text) => Meaning::Number,
        _ => Meaning::Text(text),
    }
}

fn is_number(text: &str) -> bool {
    let whole = |digits: &str, radix| !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix));
    let coded = |prefix, radix| text.strip_prefix(prefix).is_some_and(|digits| whole(digits, radix));
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let special = matches!(unsigned, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN");
    // Rust reads what YAML reads, and besides `inf` and `nan` without a dot.
    coded("0x", 16)
        || coded("0o", 8)
        || special
        || unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') && unsigned.parse::<f64>().is_ok()
}

/// Reads a text as one YAML document; `None` if it has none or can't be read as YAML.
pub(super) fn parse(text: &str, notes: &mut Notes) -> Option<Value> {
    if let Some(mistake) = crowded(text) {
        notes.mistakes.push(mistake);
        return None;
    }
    let mut tree = Tree { root: None, open: Vec::new(), values: 0, told: 0, notes };
    // Of characters rather than of the text: there saphyr-parser 0.3.3 counts the bytes of comments into its indexes.
    for event in Parser::new_from_iter(text.chars()) {
        match event {
            Ok((event, span)) if tree.root.is_some() && begins_value(&event) => {
                let message = "a second document begins here: a file has one, so put its entries into the first and take away \
                               the '---' or '...' between them";
                tree.tell(span.start, message);
                break;
            }
            Ok((event, span)) => tree.take(event, span.start)?,
            Err(error) => {
                tree.notes.mistakes.push(mistake(place(&error, text), "", explained(&error, text)));
                return None;
            }
        }
    }
    tree.root
}

fn begins_value(event: &Event<'_>) -> bool {
    matches!(event, Event::Scalar(..) | Event::Alias(_) | Event::SequenceStart(..) | Event::MappingStart(..))
}

/// Whether there are too many commas and brackets. Those in quotes count: to know quotes is to have parsed the text.
fn crowded(text: &str) -> Option<Mistake> {
    let (at, _) = text.match_indices([',', '[', '{']).nth(MAX_FLOW_INDICATORS)?;
    let before = &text[..at];
    let line_start = before.rfind('\n').map_or(0, |end| end + 1);
    let message = format!("more than {MAX_FLOW_INDICATORS} commas and brackets up to here: no file needs as many");
    Some(Mistake { line: before.matches('\n').count() + 1, column: before[line_start..].chars().count() + 1, message })
}

/// A tree that is being built.
struct Tree<'a> {
    root: Option<Value>,
    /// The lists and mappings that have not ended, from the outermost on.
    open: Vec<Open>,
    /// How many values there have been.
    values: usize,
    /// How many mistakes there have been.
    told: usize,
    notes: &'a mut Notes,
}

/// A list or mapping that has not ended.
struct Open {
    start: Marker,
    refused: bool,
    /// The keys so far, if it is a mapping.
    keys: Option<HashSet<String>>,
    /// The items, or keys and values by turns.
    children: Vec<Value>,
}

impl Open {
    /// If the value that comes next is a key that is there already: its text.
    fn again<'v>(&mut self, next: &'v Value) -> Option<&'v str> {
        let keys = self.keys.as_mut().filter(|_| self.children.len().is_multiple_of(2))?;
        match &next.data {
            Data::Scalar { text, .. } if !keys.insert(text.clone()) => Some(text),
            _ => None,
        }
    }
}

impl Tree<'_> {
    /// Takes the next event in; `None` if that makes the tree too large.
    fn take(&mut self, event: Event<'_>, at: Marker) -> Option<()> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain && tag.is_none();
                let refused = self.properties(at, anchor, tag.as_deref(), "str");
                let data = if refused { Data::Refused } else { Data::Scalar { text: text.into_owned(), plain } };
                self.add(Value { start: at, data })
            }
            Event::Alias(_) => {
                let message = "this is a YAML alias (*name): anchors and aliases are not read, so write the value out at each \
                               place. A text that begins with '*' has to be in quotes";
                self.tell(at, message);
                self.add(Value { start: at, data: Data::Refused })
            }
            Event::SequenceStart(anchor, tag) => {
                let refused = self.properties(at, anchor, tag.as_deref(), "seq");
                self.open(Open { start: at, refused, keys: None, children: Vec::new() })
            }
            Event::MappingStart(anchor, tag) => {
                let refused = self.properties(at, anchor, tag.as_deref(), "map");
                self.open(Open { start: at, refused, keys: Some(HashSet::new()), children: Vec::new() })
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) | Event::DocumentEnd => Some(()),
        }
    }

    /// Notes a mistake in the use of YAML. Neither anchors nor tags are shown: they may be a secret that lacks quotes.
    fn tell(&mut self, at: Marker, message: &str) {
        self.told += 1;
        if self.told <= MAX_YAML_MISTAKES {
            self.notes.mistakes.push(mistake(at, "", message));
        } else if self.told == MAX_YAML_MISTAKES + 1 {
            self.notes.mistakes.push(mistake(at, "", "there are more mistakes like the ones before, from here on"));
        }
    }

    /// Notes what stands before a value: an anchor, and a tag other than the one that says what the value is anyway. Returns
    /// whether that changes what the value means, so that it can't be read.
    fn properties(&mut self, at: Marker, anchor: usize, tag: Option<&Tag>, usual: &str) -> bool {
        // The parser counts anchors from 1.
        if anchor > 0 {
            let message = "this is a YAML anchor (&name): anchors and aliases are not read, so write the value out at each \
                           place. A text that begins with '&' has to be in quotes";
            self.tell(at, message);
        }
        let strange = tag.is_some_and(|tag| !(tag.is_yaml_core_schema() && tag.suffix == usual));
        if strange {
            let message = "this is a value with a tag (!) that means nothing here: take the tag away. A text that begins with \
                           '!' has to be in quotes";
            self.tell(at, message);
        }
        strange
    }

    /// Begins a list or mapping.
    fn open(&mut self, open: Open) -> Option<()> {
        if self.open.len() == MAX_DEPTH {
            let message = format!("nested more than {MAX_DEPTH} levels deep: nothing in this file is");
            self.notes.mistakes.push(mistake(open.start, "", message));
            return None;
        }
        self.open.push(open);
        Some(())
    }

    /// Ends the innermost list or mapping.
    fn close(&mut self) -> Option<()> {
        let Open { start, refused, keys, mut children } = self.open.pop()?;
        // Most have few children, and there may be many of them.
        children.shrink_to_fit();
        let data = match keys {
            _ if refused => Data::Refused,
            Some(_) => Data::Mapping(children),
            None => Data::List(children),
        };
        self.add(Value { start, data })
    }

    /// Puts a value where it belongs.
    fn add(&mut self, mut value: Value) -> Option<()> {
        self.values += 1;
        if self.values > MAX_VALUES {
            let message = format!("more than {MAX_VALUES} values up to here: no file needs as many");
            self.notes.mistakes.push(mistake(value.start, "", message));
            return None;
        }
        if let Some(key) = self.open.last_mut().and_then(|open| open.again(&value)) {
            let message = format!("the key {} is given twice here: take one of the two away", quoted(key));
            self.tell(value.start, &message);
            value.data = Data::Refused;
        }
        match self.open.last_mut() {
            Some(open) => open.children.push(value),
            None => self.root = Some(value),
        }
        Some(())
    }
}

/// Where an error is. The parser points at the text that a tab follows, which may be lines before it.
fn place(error: &ScanError, text: &str) -> Marker {
    let start = *error.marker();
    let from = || text.chars().skip(start.index());
    let Some(tab) = from().position(|c| c == '\t').filter(|_| error.info().contains("tab")) else { return start };
    let (lines, column) = from().take(tab).fold((0, start.col()), |(lines, column), c| match c {
        '\n' => (lines + 1, 0),
        _ => (lines, column + 1),
    });
    Marker::new(start.index() + tab, start.line() + lines, column)
}

/// The parser's message, and what it mostly means.
fn explained(error: &ScanError, text: &str) -> String {
    let info = error.info();
    let at = text.chars().nth(error.marker().index());
    let hint = match info {
        _ if at == Some('*') => "a text that begins with '*' has to be in quotes, and a pattern that meets everything is '.*'",
        _ if info.contains("tab") => "indent with spaces",
        _ if info.contains("escape") => "in double quotes a backslash has a meaning of its own: put patterns in single quotes",
        _ if info.contains("mapping values") => {
            "a text with ': ' in it has to be in quotes, and keys of one mapping have one indent"
        }
        _ if matches!(at, Some('&' | '@' | '`' | '%')) => "a text that begins with this character has to be in quotes",
        _ if info.contains("recursion") => "nothing in this file is nested that deeply",
        _ if info.contains("end of stream") => "a quote or bracket is not closed",
        _ => {
            "see that brackets and quotes are closed, that entries of one list or mapping have the same indent, and that \
              patterns are in single quotes"
        }
    };
    format!("not YAML: {info}; {hint}")
}

/// A value in the file, with the path to it.
#[derive(Debug, Clone)]
pub(super) struct Node<'a> {
    /// The path for messages: `rules[0].source`.
    path: String,
    /// Where the key is that it belongs to, or where it begins.
    key: Marker,
    value: &'a Value,
}

impl<'a> Node<'a> {
    /// The whole document.
    pub(super) fn root(document: &'a Value) -> Self {
        Self { path: String::new(), key: document.start, value: document }
    }

    /// The value as JSON, for somebody else to judge.
    pub(super) fn to_json(&self) -> serde_json::Value {
        self.value.to_json()
    }

    /// The line of the value, or of its key if there is none.
    pub(super) fn line(&self) -> usize {
        self.position().line()
    }

    /// Where a reader looks for the value: a block begins on the line of its key.
    fn position(&self) -> Marker {
        match self.value.meaning() {
            None | Some(Meaning::Null) => self.key,
            Some(_) => self.value.start,
        }
    }

    pub(super) fn is_null(&self) -> bool {
        self.value.meaning() == Some(Meaning::Null)
    }

    /// The value of a key, if this is a mapping that has it; nothing is noted.
    pub(super) fn peek(&self, key: &str) -> Option<Self> {
        let [found, value] = self.value.entries()?.iter().find(|[candidate, _]| candidate.text() == Some(key))?;
        Some(Self { path: self.below(key), key: found.start, value })
    }

    /// The text, if it is one; nothing is noted.
    pub(super) fn peek_text(&self) -> Option<&'a str> {
        self.value.text()
    }

    fn below(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The mapping that this is meant to be. Keys other than the known ones are mistakes.
    pub(super) fn mapping(&self, known: &'static [&'static str], notes: &mut Notes) -> Option<Mapping<'a>> {
        let Some(values) = self.value.entries() else {
            self.is_not(&format!("a mapping with the keys {}", known.join(", ")), notes);
            return None;
        };
        let mut entries = Vec::with_capacity(known.len());
        for [key, value] in values.iter().filter(|[key, _]| !key.is_refused()) {
            let name = key.text().unwrap_or_default();
            if let Some(name) = known.iter().find(|candidate| **candidate == name) {
                entries.push((*name, Self { path: self.below(name), key: key.start, value }));
                continue;
            }
            // Beside a password, a key may be the password itself, as in `{ ci, hunter2 }`.
            let shown = if known.contains(&"password") { "like this".to_owned() } else { quoted(name) };
            let message = match (name, nearest(name, known.iter().copied())) {
                ("", _) => format!("a key that is no text; the keys here are {}", known.join(", ")),
                (_, Some(meant)) => format!("there is no key {shown} here: did you mean '{meant}'?"),
                (_, None) => format!("there is no key {shown} here: the keys are {}", known.join(", ")),
            };
            notes.mistakes.push(mistake(key.start, &self.path, message));
        }
        Some(Mapping { node: self.clone(), entries })
    }

    /// The mapping of names of the writer's own that this is meant to be.
    pub(super) fn named(&self, max: usize, notes: &mut Notes) -> Option<Vec<(&'a str, Self)>> {
        let Some(values) = self.value.entries() else {
            self.is_not("a mapping of names to texts", notes);
            return None;
        };
        if values.len() > max {
            notes.mistake(self, format!("{} entries are more than the {max} that there may be", values.len()));
            return None;
        }
        let mut entries = Vec::with_capacity(values.len());
        for [key, value] in values.iter().filter(|[key, _]| !key.is_refused()) {
            match key.text() {
                Some(name) => entries.push((name, Self { path: self.below(name), key: key.start, value })),
                None => notes.mistakes.push(mistake(key.start, &self.path, "a key that is no text: put it in quotes")),
            }
        }
        (entries.len() == values.len()).then_some(entries)
    }

    /// The items of the list that this is meant to be.
    pub(super) fn items(&self, max: usize, notes: &mut Notes) -> Option<Vec<Self>> {
        let Data::List(items) = &self.value.data else {
            self.is_not("a list", notes);
            return None;
        };
        if items.len() > max {
            notes.mistake(self, format!("{} entries are more than the {max} that there may be", items.len()));
            return None;
        }
        let item = |(at, value): (usize, &'a Value)| {
            let path = format!("{}[{at}]", self.path);
            Self { path, key: value.start, value }
        };
        Some(items.iter().enumerate().map(item).collect())
    }

    /// The text that this is meant to be.
    pub(super) fn text(&self, notes: &mut Notes) -> Option<&'a str> {
        let text = self.peek_text();
        if text.is_none() {
            self.is_not("a text", notes);
        }
        text
    }

    /// The text that this is meant to be, parsed.
    pub(super) fn parsed<T: FromStr<Err: Display>>(&self, notes: &mut Notes) -> Option<T> {
        self.text(notes)?.parse().map_err(|error| notes.mistake(self, error)).ok()
    }

    /// The text that this is meant to be, if it will do.
    pub(super) fn checked<T, E: Display>(&self, check: impl FnOnce(&str) -> Result<T, E>, notes: &mut Notes) -> Option<T> {
        check(self.text(notes)?).map_err(|error| notes.mistake(self, error)).ok()
    }

    /// The truth value that this is meant to be.
    pub(super) fn flag(&self, notes: &mut Notes) -> Option<bool> {
        if let Some(Meaning::Flag(flag)) = self.value.meaning() {
            return Some(flag);
        }
        self.is_not("true or false, without quotes,", notes);
        None
    }

    /// Notes that this is not what it is meant to be. It does not show the value: that may be a secret.
    pub(super) fn is_not(&self, wanted: &str, notes: &mut Notes) {
        const QUOTES: &str = ": put it in quotes if it is meant as a text";
        let (found, hint) = match (&self.value.data, self.value.meaning()) {
            (Data::Refused, _) => return,
            (Data::List(_), _) => ("this is a list", ": a text that begins with '[' has to be in quotes"),
            (Data::Mapping(_), _) => {
                ("this is a mapping", ": a text that begins with '{' or has ': ' in it has to be in quotes")
            }
            (_, Some(Meaning::Flag(_))) => ("this is true or false", QUOTES),
            (_, Some(Meaning::Number)) => ("this is a number", QUOTES),
            (_, Some(Meaning::Text(_))) => ("this is a text", ""),
            (_, Some(Meaning::Null) | None) => ("there is no value", ""),
        };
        let hint = if wanted.starts_with("a text") { hint } else { "" };
        notes.mistake(self, format!("{found}, and {wanted} is needed{hint}"));
    }
}

/// A mapping whose keys are known ones.
pub(super) struct Mapping<'a> {
    node: Node<'a>,
    entries: Vec<(&'static str, Node<'a>)>,
}

impl<'a> Mapping<'a> {
    /// The value of a key, if it is there.
    pub(super) fn get(&self, key: &str) -> Option<&Node<'a>> {
        self.entries.iter().find(|(name, _)| *name == key).map(|(_, node)| node)
    }

    /// The value of a key that has to be there; `example` says what it might be.
    pub(super) fn need(&self, key: &str, example: &str, notes: &mut Notes) -> Option<&Node<'a>> {
        let found = self.get(key);
        if found.is_none() {
            notes.mistake(&self.node, format!("the key '{key}' is missing: {example}"));
        }
        found
    }
}
