//! A mistake in a definition, with its place, and how people see it.

use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use serde::{Serialize, Serializer};

use super::Files;

/// Where something stands: path, line and column, both from 1, columns in characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Place {
    #[serde(serialize_with = "as_text")]
    pub file: Arc<str>,
    pub line: usize,
    pub column: usize,
}

impl Place {
    /// Whether it is in a file that came from the binary.
    pub fn is_embedded(&self) -> bool {
        self.file.starts_with(EMBEDDED)
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// What is wrong, where, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mistake {
    #[serde(flatten)]
    pub place: Place,
    pub message: String,
    /// The line as it should be, or another way out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

impl std::fmt::Display for Mistake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

fn as_text<S: Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

/// What stands before the path of a file that came from the binary.
pub(super) const EMBEDDED: &str = "<siskin>/";

/// The mistakes as people read them: place, the text around it, and the way out.
pub fn show(mistakes: &[Mistake], files: &Files, colour: bool) -> String {
    let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
    let shown = mistakes.iter().map(|mistake| show_one(mistake, files, &renderer));
    shown.collect::<Vec<_>>().join("\n\n")
}

fn show_one(mistake: &Mistake, files: &Files, renderer: &Renderer) -> String {
    let path = mistake.place.file.strip_prefix(EMBEDDED).unwrap_or(&mistake.place.file);
    let bytes = files.texts.get(path).map(|bytes| &**bytes).unwrap_or_default();
    // A byte order mark is not shown, and what is no UTF-8 shows as such; lines and columns stay.
    let text = String::from_utf8_lossy(bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes));
    let first = mistake.place.line.saturating_sub(2).max(1);
    let lines = text.split('\n').skip(first - 1).take(4);
    // One very long line must not fill the screen.
    let excerpt: Vec<String> =
        lines.map(|line| line.trim_end_matches('\r').chars().take(400).collect()).collect();
    let before: usize = excerpt.iter().take(mistake.place.line - first).map(|line| line.len() + 1).sum();
    let line = excerpt.get(mistake.place.line - first).map(String::as_str).unwrap_or_default();
    let start = line
        .char_indices()
        .nth(mistake.place.column.saturating_sub(1))
        .map_or(line.len(), |(index, _)| index);
    let span = before + start..before + start + word_length(&line[start..]);
    let shown = excerpt.join("\n");
    let snippet = Snippet::source(&shown)
        .path(&*mistake.place.file)
        .line_start(first)
        .fold(false)
        .annotation(AnnotationKind::Primary.span(span));
    let mut group = Level::ERROR.primary_title(&mistake.message).element(snippet);
    if let Some(help) = &mistake.help {
        group = group.element(Level::HELP.message(help));
    }
    renderer.render(&[group])
}

/// How much of the line is pointed at: the word that begins here, or one character.
fn word_length(text: &str) -> usize {
    let word = text.find(|c: char| !c.is_alphanumeric() && !"_-.".contains(c)).unwrap_or(text.len());
    match word {
        0 => text.chars().next().map_or(0, char::len_utf8),
        length => length,
    }
}

/// The known name that is most like `name`, when one is like it at all.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let scored = known.into_iter().filter(|candidate| *candidate != name);
    let scored = scored.map(|candidate| {
        // One slip of the fingers is near also in a word so short that half of its letters have moved.
        let slip = if name.len() > 2 && strsim::osa_distance(name, candidate) == 1 { 0.76 } else { 0.0 };
        (strsim::jaro_winkler(name, candidate).max(slip), candidate)
    });
    let best = scored.fold(None, |best: Option<(f64, &str)>, next| match best {
        Some(best) if best.0 >= next.0 => Some(best),
        _ => Some(next),
    });
    best.filter(|(score, _)| *score >= 0.75).map(|(_, candidate)| candidate)
}

/// `did you mean ...?` for the nearest of the known names, or a list of them when none is near.
pub(super) fn suggestion<'a>(name: &str, known: impl IntoIterator<Item = &'a str> + Clone) -> Option<String> {
    if let Some(near) = nearest(name, known.clone()) {
        return Some(format!("did you mean `{near}`?"));
    }
    let mut known: Vec<&str> = known.into_iter().collect();
    known.sort_unstable();
    known.dedup();
    match known.len() {
        0 => None,
        1..=16 => Some(format!("known are {}", known.join(", "))),
        _ => None,
    }
}
