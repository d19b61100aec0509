//! YAML with positions: from a text to nodes that know their path, and from a wrong node to a mistake with its line.

use std::{collections::HashSet, fmt::Display, str::FromStr, thread};

use saphyr::{LoadableYamlNode as _, MarkedYaml, Marker, Scalar, ScanError, YamlData};

use super::{Mistake, spelling::nearest};

/// How far a line may be indented. The loader calls itself for each level of nesting, and a level takes at least a column
/// (`- - - -`) or a bracket; of these it allows 255.
const MAX_INDENT: usize = 100;

/// Enough stack for the deepest nesting that there can be then, several times over: a thread may have too little for it.
const STACK: usize = 32 << 20;

/// Texts of the file are shown up to this many characters.
const MAX_QUOTE: usize = 80;

/// What is found out about a file.
#[derive(Debug, Default)]
pub(super) struct Notes {
    pub(super) mistakes: Vec<Mistake>,
    pub(super) warnings: Vec<Mistake>,
}

impl Notes {
    /// Notes a mistake in the value of a node.
    pub(super) fn mistake(&mut self, node: &Node<'_>, message: impl Display) {
        self.mistakes.push(mistake(&node.position(), &node.path, message));
    }

    /// Notes something in the value of a node that is allowed and hardly meant.
    pub(super) fn warning(&mut self, node: &Node<'_>, message: impl Display) {
        self.warnings.push(mistake(&node.position(), &node.path, message));
    }
}

fn mistake(at: &Marker, path: &str, message: impl Display) -> Mistake {
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

/// Reads a text as one YAML document; `None` if it has none or can't be read as YAML.
pub(super) fn parse(text: &str, notes: &mut Notes) -> Option<MarkedYaml<'static>> {
    if let Some(mistake) = unbounded(text) {
        notes.mistakes.push(mistake);
        return None;
    }
    let loaded = thread::scope(|scope| {
        let loader = thread::Builder::new().stack_size(STACK).spawn_scoped(scope, || load(text)).ok()?;
        loader.join().ok()
    });
    let Some((mut documents, mistakes)) = loaded else {
        notes.mistakes.push(Mistake { line: 1, column: 1, message: "not YAML: the loader gave up on it".into() });
        return None;
    };
    notes.mistakes.extend(mistakes);
    if let Some(second) = documents.get(1) {
        let message = "a second document begins here: a file has one, so put its entries into the first and take away '---'";
        notes.mistakes.push(mistake(&second.span.start, "", message));
    }
    (!documents.is_empty()).then(|| documents.swap_remove(0))
}

/// The documents of a text, none if it is not YAML, and the mistakes that the loader sees.
fn load(text: &str) -> (Vec<MarkedYaml<'static>>, Vec<Mistake>) {
    let mut chars: Vec<char> = text.chars().collect();
    let mut mistakes = Vec::new();
    // The loader stops at a key that is there twice. To find what else is wrong, the second one gets a name that no file has,
    // of the same length, in our copy of the text. Each costs a pass, so there are not many.
    let mut renamed = HashSet::new();
    let mut spare_names = '\u{e000}'..='\u{e013}';
    loop {
        match MarkedYaml::load_from_iter(chars.iter().copied()) {
            Ok(mut documents) => {
                documents.iter_mut().for_each(|document| take_away(document, &renamed));
                return (documents, mistakes);
            }
            Err(error) if error.info() == "duplicated key in mapping" => {
                let start = error.marker().index();
                mistakes.push(mistake(error.marker(), "", duplicate(chars.get(start..).unwrap_or_default())));
                let quotes = usize::from(matches!(chars.get(start), Some('\'' | '"')));
                match (chars.get_mut(start + quotes), spare_names.next()) {
                    (Some(letter), Some(spare)) if letter.is_ascii_alphanumeric() => *letter = spare,
                    _ => return (Vec::new(), mistakes),
                }
                renamed.insert(start);
            }
            Err(error) => {
                mistakes.push(mistake(&place(&error, &chars), "", explained(&error, &chars)));
                return (Vec::new(), mistakes);
            }
        }
    }
}

fn duplicate(from_key: &[char]) -> String {
    let key: String = from_key.iter().take_while(|c| !matches!(c, ':' | ',' | '}' | '\n' | '\r')).take(MAX_QUOTE + 1).collect();
    let key = key.trim().trim_matches(['\'', '"']);
    format!("the key {} is given twice here: take one of the two away", quoted(key))
}

/// Takes away the keys that begin at these places, and their values.
fn take_away(node: &mut MarkedYaml<'_>, keys: &HashSet<usize>) {
    if keys.is_empty() {
        return;
    }
    match &mut node.data {
        YamlData::Mapping(mapping) => mapping.retain(|key, value| {
            take_away(value, keys);
            !keys.contains(&key.span.start.index())
        }),
        YamlData::Sequence(items) => items.iter_mut().for_each(|item| take_away(item, keys)),
        _ => {}
    }
}

/// What could make the loader use memory or stack out of all proportion to the file: nesting, and anchors, which it copies
/// for each alias and each level. Judged by the text, because the loader gives nothing away before it has loaded everything.
fn unbounded(text: &str) -> Option<Mistake> {
    let mut line = 1;
    let mut pieces = text.split_inclusive(['\n', '\r']).peekable();
    while let Some(piece) = pieces.next() {
        let content = piece.trim_end_matches(['\n', '\r']);
        let indent = content.chars().take_while(|c| matches!(c, ' ' | '\t' | '-' | '?' | ':')).count();
        if indent > MAX_INDENT && !content.trim().is_empty() {
            let message = format!("indented by more than {MAX_INDENT} columns: nothing in this file is nested that deeply");
            return Some(Mistake { line, column: MAX_INDENT + 1, message });
        }
        if let Some((before, _)) = content.match_indices('&').map(|(at, _)| content.split_at(at)).find(|(b, a)| anchor(b, a)) {
            let message = "this looks like a YAML anchor (&name): anchors and aliases are not read, so write the value out at \
                           each place. A text like this one can go into double quotes with \\x26 for the '&'";
            return Some(Mistake { line, column: before.chars().count() + 1, message: message.into() });
        }
        // Windows ends lines with both.
        line += usize::from(!(piece.ends_with('\r') && pieces.peek() == Some(&"\n")));
    }
    None
}

/// Whether an ampersand may begin an anchor: one does where a value may begin, also after a tag. Quotes are not taken into
/// account: what is inside them depends on where the first one was.
fn anchor(before: &str, from: &str) -> bool {
    const INDICATORS: [char; 13] = ['-', '?', ':', ',', '[', ']', '{', '}', '"', '\'', '>', '!', '\u{feff}'];
    let blank = |c: char| c == ' ' || c == '\t';
    if from[1..].chars().next().is_none_or(blank) {
        return false;
    }
    let trimmed = before.trim_end_matches(blank);
    let tagged = trimmed.len() < before.len() && trimmed.rsplit(blank).next().is_some_and(|word| word.contains('!'));
    trimmed.is_empty() || trimmed.ends_with(INDICATORS) || tagged
}

/// Where an error is. The loader points at the text that a tab follows, which may be lines before it.
fn place(error: &ScanError, chars: &[char]) -> Marker {
    let start = *error.marker();
    let from = chars.get(start.index()..).unwrap_or_default();
    let Some(tab) = from.iter().position(|c| *c == '\t').filter(|_| error.info().contains("tab")) else { return start };
    let lines = from[..tab].iter().filter(|c| **c == '\n').count();
    let column = from[..tab].iter().rev().take_while(|c| **c != '\n').count();
    let column = if lines == 0 { start.col() + column } else { column };
    Marker::new(start.index() + tab, start.line() + lines, column)
}

/// The loader's message, and what it mostly means.
fn explained(error: &ScanError, chars: &[char]) -> String {
    let info = error.info();
    let at = chars.get(error.marker().index());
    let hint = match info {
        _ if at == Some(&'*') || info.contains("alias") => {
            "a text that begins with '*' has to be in quotes, and a pattern that meets everything is '.*'"
        }
        _ if info.contains("tab") => "indent with spaces",
        _ if info.contains("escape") => "in double quotes a backslash has a meaning of its own: put patterns in single quotes",
        _ if info.contains("mapping values") => {
            "a text with ': ' in it has to be in quotes, and keys of one mapping have one indent"
        }
        _ if matches!(at, Some('@' | '`' | '%')) => "a text that begins with this character has to be in quotes",
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
    value: &'a MarkedYaml<'static>,
}

impl<'a> Node<'a> {
    /// The whole document.
    pub(super) fn root(document: &'a MarkedYaml<'static>) -> Self {
        Self { path: String::new(), key: document.span.start, value: document }
    }

    /// The line of the value, or of its key if there is none.
    pub(super) fn line(&self) -> usize {
        self.position().line()
    }

    /// Where a reader looks for the value: a block begins on the line of its key.
    fn position(&self) -> Marker {
        match &self.value.data {
            YamlData::Value(scalar) if *scalar != Scalar::Null => self.value.span.start,
            _ => self.key,
        }
    }

    pub(super) fn is_null(&self) -> bool {
        self.value.data == YamlData::Value(Scalar::Null)
    }

    /// The value of a key, if this is a mapping that has it; nothing is noted.
    pub(super) fn peek(&self, key: &str) -> Option<Self> {
        let YamlData::Mapping(mapping) = &self.value.data else { return None };
        let (found, value) = mapping.iter().find(|(candidate, _)| text_of(candidate) == Some(key))?;
        Some(Self { path: self.below(key), key: found.span.start, value })
    }

    /// The text, if it is one; nothing is noted.
    pub(super) fn peek_text(&self) -> Option<&'a str> {
        text_of(self.value)
    }

    fn below(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The mapping that this is meant to be. Keys other than the known ones are mistakes.
    pub(super) fn mapping(&self, known: &'static [&'static str], notes: &mut Notes) -> Option<Mapping<'a>> {
        let YamlData::Mapping(mapping) = &self.value.data else {
            self.is_not(&format!("a mapping with the keys {}", known.join(", ")), notes);
            return None;
        };
        let mut entries = Vec::with_capacity(mapping.len());
        for (key, value) in mapping {
            let name = text_of(key).unwrap_or_default();
            if let Some(name) = known.iter().find(|candidate| **candidate == name) {
                entries.push((*name, Self { path: self.below(name), key: key.span.start, value }));
                continue;
            }
            // Beside a password, a key may be the password itself, as in `{ ci, hunter2 }`.
            let shown = if known.contains(&"password") { "like this".to_owned() } else { quoted(name) };
            let message = match (name, nearest(name, known.iter().copied())) {
                ("", _) => format!("a key that is no text; the keys here are {}", known.join(", ")),
                (_, Some(meant)) => format!("there is no key {shown} here: did you mean '{meant}'?"),
                (_, None) => format!("there is no key {shown} here: the keys are {}", known.join(", ")),
            };
            notes.mistakes.push(mistake(&key.span.start, &self.path, message));
        }
        Some(Mapping { node: self.clone(), entries })
    }

    /// The items of the list that this is meant to be.
    pub(super) fn items(&self, max: usize, notes: &mut Notes) -> Option<Vec<Self>> {
        let YamlData::Sequence(items) = &self.value.data else {
            self.is_not("a list", notes);
            return None;
        };
        if items.len() > max {
            notes.mistake(self, format!("{} entries are more than the {max} that there may be", items.len()));
            return None;
        }
        let item = |(at, value): (usize, &'a MarkedYaml<'static>)| {
            let path = format!("{}[{at}]", self.path);
            Self { path, key: value.span.start, value }
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

    /// A text for people, of limited length and not empty.
    pub(super) fn words(&self, max: usize, notes: &mut Notes) -> Option<String> {
        let text = self.text(notes)?;
        if text.is_empty() {
            notes.mistake(self, "is empty: write a text or leave the key out");
            return None;
        }
        if text.chars().nth(max).is_some() {
            notes.mistake(self, format!("longer than {max} characters"));
            return None;
        }
        Some(text.to_owned())
    }

    /// The truth value that this is meant to be.
    pub(super) fn flag(&self, notes: &mut Notes) -> Option<bool> {
        if let YamlData::Value(Scalar::Boolean(flag)) = self.value.data {
            return Some(flag);
        }
        self.is_not("true or false, without quotes,", notes);
        None
    }

    /// Notes that this is not what it is meant to be. It does not show the value: that may be a secret.
    pub(super) fn is_not(&self, wanted: &str, notes: &mut Notes) {
        let (found, hint) = match &self.value.data {
            YamlData::Value(Scalar::Null) => ("there is no value", ""),
            YamlData::Value(Scalar::Boolean(_)) => ("this is true or false", ": put it in quotes if it is meant as a text"),
            YamlData::Value(Scalar::Integer(_) | Scalar::FloatingPoint(_)) => {
                ("this is a number", ": put it in quotes if it is meant as a text")
            }
            YamlData::Value(Scalar::String(_)) => ("this is a text", ""),
            YamlData::Sequence(_) => ("this is a list", ": a text that begins with '[' has to be in quotes"),
            YamlData::Mapping(_) => {
                ("this is a mapping", ": a text that begins with '{' or has ': ' in it has to be in quotes")
            }
            _ => ("this is a value with a tag (!) that means nothing here", ""),
        };
        let hint = if wanted.starts_with("a text") { hint } else { "" };
        notes.mistake(self, format!("{found}, and {wanted} is needed{hint}"));
    }
}

fn text_of<'a>(value: &'a MarkedYaml<'static>) -> Option<&'a str> {
    match &value.data {
        YamlData::Value(Scalar::String(text)) => Some(text),
        _ => None,
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
