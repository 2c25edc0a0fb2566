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
    /// What is wrong.
    pub errors: Vec<Problem>,
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
        let snippet = Snippet::source(text)
            .path(path.clone())
            .annotation(AnnotationKind::Primary.span(problem.span.clone()));
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
    out += &format!("{path} has {}\n", crate::definition::problem::counted(n));
    out
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
