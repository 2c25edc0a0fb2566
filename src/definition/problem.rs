//! What is wrong with a definition, and how it is shown.

use std::ops::Range;
use std::path::{Path, PathBuf};

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde::Serialize;

/// Everything that is wrong with one file, in the order of the file. Never empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Errors {
    /// The file.
    pub file: PathBuf,
    /// What is wrong: the first of it, if it is much.
    pub errors: Vec<Problem>,
    /// How much more is wrong.
    #[serde(skip_serializing_if = "is_zero")]
    pub more: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde calls it with")]
const fn is_zero(n: &usize) -> bool {
    *n == 0
}

/// Most problems that are told: who sees so many mends the first and looks again.
pub const MOST: usize = 50;

/// Something that is wrong, before it is looked up where in the file that is.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Bytes of the file that are meant.
    pub span: Range<usize>,
    /// The key.
    pub key: String,
    /// What is wrong with it.
    pub message: String,
    /// What to write instead.
    pub help: Option<String>,
}

impl Errors {
    /// The first of `drafts` in the order of the file, and how many more there are: with `unworded` that are not in them.
    pub fn new(file: &Path, text: &str, mut drafts: Vec<Draft>, unworded: usize) -> Self {
        drafts.sort_by_key(|d| (d.span.start, d.span.end));
        let more = drafts.len().saturating_sub(MOST) + unworded;
        drafts.truncate(MOST);
        let errors = (drafts.into_iter())
            .map(|d| Problem::new(text, d.span, &d.key, d.message, d.help))
            .collect();
        Self {
            file: file.to_owned(),
            errors,
            more,
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The key, such as `instance.memory`; empty for the file as a whole.
    pub key: String,
    /// The offending text.
    pub text: String,
    /// What is wrong with it.
    pub message: String,
    /// What is allowed, or what to write instead.
    pub help: Option<String>,
    /// Bytes of the file that are meant.
    #[serde(skip)]
    pub span: Range<usize>,
}

impl Problem {
    /// A problem with the bytes `span` of `text`.
    pub fn new(text: &str, span: Range<usize>, key: &str, message: String, help: Option<String>) -> Self {
        let mut start = span.start.min(text.len());
        while !text.is_char_boundary(start) {
            start -= 1;
        }
        let mut end = span.end.clamp(start, text.len());
        while !text.is_char_boundary(end) {
            end += 1;
        }
        // A section's problem is shown at its first line, not over all of it.
        let shown = text[start..end].lines().next().unwrap_or("");
        let before = &text[..start];
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        Self {
            line: before.matches('\n').count() + 1,
            column,
            key: key.to_owned(),
            text: shown.to_owned(),
            message,
            help,
            span: start..start + shown.len(),
        }
    }
}

/// The errors with the lines they are about, as a compiler shows them.
pub fn render(errors: &Errors, text: &str, color: bool) -> String {
    let renderer = if color {
        Renderer::styled()
    } else {
        Renderer::plain()
    };
    let path = path(&errors.file);
    let mut out = String::new();
    for problem in &errors.errors {
        // Only its line: all of a large file for each of many problems takes long.
        let (line, start) = line_of(text, problem.span.start);
        let span = problem.span.start - start..problem.span.end - start;
        let snippet = Snippet::source(line)
            .path(path.clone())
            .line_start(problem.line)
            .annotation(AnnotationKind::Primary.span(span));
        let mut group: Group<'_> = Level::ERROR
            .primary_title(problem.message.clone())
            .element(snippet);
        if let Some(help) = &problem.help {
            group = group.element(Level::HELP.message(help.clone()));
        }
        out += &renderer.render(&[group]).to_string();
        out += "\n\n";
    }
    let n = errors.errors.len();
    out += &match errors.more {
        0 => format!("{path} has {}\n", counted(n)),
        more => format!("{path} has {}, the first {n} are shown\n", counted(n + more)),
    };
    out
}

/// The line in which a byte of the text is, and where that begins.
fn line_of(text: &str, at: usize) -> (&str, usize) {
    let start = text[..at].rfind('\n').map_or(0, |n| n + 1);
    let end = text[at..].find('\n').map_or(text.len(), |n| at + n);
    (&text[start..end], start)
}

fn counted(n: usize) -> String {
    if n == 1 {
        "1 error".to_owned()
    } else {
        format!("{n} errors")
    }
}

fn path(file: &Path) -> String {
    file.display().to_string()
}
