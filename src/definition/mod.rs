//! The definition: the TOML file as an operator wrote it, read into a [`ScaleSet`] or into everything that is wrong.

mod autoscale;
mod fault_domains;
mod health;
mod instance;
mod load_balancer;
mod operations;
mod problem;
mod reader;
mod sections;
mod values;
mod written;

#[cfg(test)]
mod tests;

use std::path::Path;

use toml::de::DeTable;

use crate::scaleset::ScaleSet;
use problem::Draft;
pub use problem::{Errors, Problem, render};
pub use written::schema;

/// Reads a definition. Relative paths are taken from the folder of `file`.
///
/// # Errors
/// Everything that is wrong with the file, not only the first thing.
pub fn parse(text: &str, file: &Path) -> Result<ScaleSet, Errors> {
    let (table, syntax) = DeTable::parse_recoverable(text);
    if !syntax.is_empty() {
        // What could be read of a file with broken syntax is no measure of what was meant: only the syntax is told.
        let drafts = (syntax.iter())
            .map(|e| Draft {
                span: e.span().unwrap_or(0..0),
                key: String::new(),
                message: e.message().to_owned(),
                help: Some("this is not TOML".to_owned()),
            })
            .collect();
        return Err(Errors::new(file, text, drafts, 0));
    }
    let folder = file.parent().unwrap_or(Path::new(""));
    let mut reader = reader::Reader::new(text);
    let top = reader.top(&table);
    let set = sections::scale_set(&mut reader, &top, folder);
    match set {
        Some(set) if reader.is_clean() => Ok(set),
        _ => Err(reader.into_errors(file)),
    }
}

/// A commented definition to start from, for a set named `name`.
pub fn template(name: &str) -> String {
    include_str!("init.toml").replacen("name = \"web\"", &format!("name = \"{name}\""), 1)
}
