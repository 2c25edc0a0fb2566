//! Walks the parsed TOML and collects everything that is wrong, with its place.

use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::definition::problem::{Draft, Errors};
use crate::definition::{values, written};
use crate::scaleset::Amount;

/// Collects problems while sections are read.
pub struct Reader<'t> {
    text: &'t str,
    schema: &'static serde_json::Value,
    problems: Vec<Draft>,
    /// Problems that were only counted.
    unworded: usize,
}

/// Most problems that are worded: of more than so many only the number is kept.
const MOST_DRAFTS: usize = 1000;

/// One table of the file.
#[derive(Clone)]
pub struct Section<'a, 't> {
    table: &'a DeTable<'t>,
    /// Bytes of the table.
    pub span: Range<usize>,
    path: String,
}

/// A value with its place.
#[derive(Clone, Debug)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Its bytes in the file.
    pub span: Range<usize>,
    /// Its key.
    pub key: String,
}

impl<'t> Reader<'t> {
    /// A reader of `text`.
    pub fn new(text: &'t str) -> Self {
        Self {
            text,
            schema: written::schema_once(),
            problems: Vec::new(),
            unworded: 0,
        }
    }

    /// What is wrong with the text, which is that of `file`.
    pub fn into_errors(self, file: &Path) -> Errors {
        Errors::new(file, self.text, self.problems, self.unworded)
    }

    /// Whether nothing is wrong so far.
    pub fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }

    /// Notes that something is wrong at `span`.
    pub fn wrong(&mut self, span: Range<usize>, key: &str, message: impl Into<String>, help: Option<String>) {
        if self.is_full() {
            self.unworded += 1;
            return;
        }
        self.problems.push(Draft {
            span,
            key: key.to_owned(),
            message: message.into(),
            help,
        });
    }

    /// Whether what else is wrong is only counted.
    fn is_full(&self) -> bool {
        self.problems.len() >= MOST_DRAFTS
    }

    /// Notes that a value is wrong.
    pub fn bad<T>(&mut self, at: &At<T>, message: impl Into<String>, help: impl Into<String>) {
        self.wrong(at.span.clone(), &at.key, message, Some(help.into()));
    }

    /// The file's top level.
    pub fn top<'a, 'v>(&mut self, table: &'a Spanned<DeTable<'v>>) -> Section<'a, 'v> {
        let section = Section {
            table: table.get_ref(),
            span: 0..0,
            path: String::new(),
        };
        self.check_keys(&section, "Definition");
        section
    }

    /// Notes every key of `section` that `kind` does not have, with the nearest that it has.
    fn check_keys(&mut self, section: &Section<'_, '_>, kind: &str) {
        let known = written::keys(self.schema, kind);
        for (key, _) in section.table {
            let name = key.get_ref().as_ref();
            if known.iter().any(|k| k == name) {
                continue;
            }
            if self.is_full() {
                self.unworded += 1;
                continue;
            }
            let nearest = (known.iter())
                .map(|k| (strsim::damerau_levenshtein(k, name), k))
                .filter(|(distance, k)| *distance <= 2.max(k.len() / 3))
                .min();
            let allowed = known.join(", ");
            let place = if section.path.is_empty() {
                "at the top level".to_owned()
            } else {
                format!("in {}", section.path)
            };
            let help = match nearest {
                Some((_, k)) => format!("did you mean {k}? Allowed {place}: {allowed}"),
                None => format!("allowed {place}: {allowed}"),
            };
            let path = section.key(name);
            self.wrong(key.span(), &path, format!("unknown key {name:?}"), Some(help));
        }
    }

    fn mismatch(&mut self, value: &Spanned<DeValue<'_>>, key: &str, wanted: &str) {
        let found = value.get_ref().type_str();
        let help = Some(format!("write {key} as {wanted}"));
        self.wrong(value.span(), key, format!("{key} is {wanted}, not {found}"), help);
    }

    /// A required key that is missing.
    pub fn missing(&mut self, section: &Section<'_, '_>, key: &str, example: &str) {
        let path = section.key(key);
        let help = Some(format!("add it, for example: {example}"));
        self.wrong(section.span.clone(), &path, format!("{path} is missing"), help);
    }

    /// A string.
    pub fn string(&mut self, section: &Section<'_, '_>, key: &str) -> Option<At<String>> {
        let value = section.table.get(key)?;
        let path = section.key(key);
        match value.get_ref().as_str() {
            Some(text) => Some(At {
                value: text.to_owned(),
                span: value.span(),
                key: path,
            }),
            None => {
                self.mismatch(value, &path, "a string");
                None
            }
        }
    }

    /// A whole number within `range`.
    pub fn integer(&mut self, section: &Section<'_, '_>, key: &str, range: Range<u64>) -> Option<At<u32>> {
        let value = section.table.get(key)?;
        let path = section.key(key);
        let Some(integer) = value.get_ref().as_integer() else {
            self.mismatch(value, &path, "a whole number");
            return None;
        };
        let parsed = i128::from_str_radix(integer.as_str(), integer.radix()).ok();
        match parsed
            .and_then(|n| u64::try_from(n).ok())
            .filter(|n| range.contains(n))
        {
            Some(n) => u32::try_from(n).ok().map(|value_| At {
                value: value_,
                span: value.span(),
                key: path,
            }),
            None => {
                let help = Some(format!("allowed: {} to {}", range.start, range.end - 1));
                self.wrong(value.span(), &path, format!("{path} is out of range"), help);
                None
            }
        }
    }

    /// A number, whole or not.
    pub fn number(&mut self, section: &Section<'_, '_>, key: &str) -> Option<At<f64>> {
        let value = section.table.get(key)?;
        let path = section.key(key);
        let text = match value.get_ref() {
            DeValue::Integer(i) if i.radix() == 10 => i.as_str().to_owned(),
            DeValue::Float(f) => f.as_str().to_owned(),
            _ => {
                self.mismatch(value, &path, "a number");
                return None;
            }
        };
        text.parse().ok().map(|number| At {
            value: number,
            span: value.span(),
            key: path,
        })
    }

    /// `true` or `false`.
    pub fn boolean(&mut self, section: &Section<'_, '_>, key: &str) -> Option<At<bool>> {
        let value = section.table.get(key)?;
        let path = section.key(key);
        match value.get_ref().as_bool() {
            Some(flag) => Some(At {
                value: flag,
                span: value.span(),
                key: path,
            }),
            None => {
                self.mismatch(value, &path, "true or false");
                None
            }
        }
    }

    /// A count up to `most`, or a percentage.
    pub fn amount(&mut self, section: &Section<'_, '_>, key: &str, most: u64) -> Option<At<Amount>> {
        let value = section.table.get(key)?;
        self.amount_in(value, section.key(key), most)
    }

    /// The counts and percentages of an array; a single one will do.
    pub fn amounts(&mut self, section: &Section<'_, '_>, key: &str, most: u64) -> Vec<At<Amount>> {
        let Some(value) = section.table.get(key) else {
            return Vec::new();
        };
        let path = section.key(key);
        match value.get_ref().as_array() {
            None => self.amount_in(value, path, most).into_iter().collect(),
            Some(array) => (array.iter().enumerate())
                .filter_map(|(i, item)| self.amount_in(item, format!("{path}[{i}]"), most))
                .collect(),
        }
    }

    fn amount_in(&mut self, value: &Spanned<DeValue<'_>>, path: String, most: u64) -> Option<At<Amount>> {
        let read = match value.get_ref() {
            DeValue::Integer(integer) => {
                let parsed = i128::from_str_radix(integer.as_str(), integer.radix()).ok();
                let count = parsed.and_then(|n| u32::try_from(n).ok());
                match count.filter(|n| u64::from(*n) <= most) {
                    Some(n) => Ok(Amount::Count(n)),
                    None => {
                        let help = Some(format!("allowed: 0 to {most}"));
                        self.wrong(value.span(), &path, format!("{path} is out of range"), help);
                        return None;
                    }
                }
            }
            DeValue::String(text) => values::percent(text).map(Amount::Percent),
            _ => {
                self.mismatch(value, &path, "a whole number or a percentage");
                return None;
            }
        };
        match read {
            Ok(amount) => Some(At {
                value: amount,
                span: value.span(),
                key: path,
            }),
            Err(message) => {
                let help = Some("write a number, such as 2, or a share, such as \"20%\"".to_owned());
                self.wrong(value.span(), &path, message, help);
                None
            }
        }
    }

    /// One of `choices`, by name.
    pub fn choice<T: Copy>(
        &mut self,
        section: &Section<'_, '_>,
        key: &str,
        choices: &[(&str, T)],
    ) -> Option<T> {
        let at = self.string(section, key)?;
        if let Some((_, choice)) = choices.iter().find(|(name, _)| *name == at.value) {
            return Some(*choice);
        }
        let names: Vec<String> = choices.iter().map(|(name, _)| format!("{name:?}")).collect();
        self.bad(
            &at,
            format!("{} may not be {:?}", at.key, at.value),
            format!("allowed: {}", names.join(", ")),
        );
        None
    }

    /// A table within `section`, checked against the keys of `kind`.
    pub fn table<'a, 'v>(
        &mut self,
        section: &Section<'a, 'v>,
        key: &str,
        kind: &str,
    ) -> Option<Section<'a, 'v>> {
        let value = section.table.get(key)?;
        let path = section.key(key);
        let Some(table) = value.get_ref().as_table() else {
            self.mismatch(value, &path, "a table");
            return None;
        };
        let found = Section {
            table,
            span: section.key_span(key).unwrap_or_else(|| value.span()),
            path,
        };
        if !kind.is_empty() {
            self.check_keys(&found, kind);
        }
        Some(found)
    }

    /// The tables of an array, checked against the keys of `kind`. Also whether the key is there at all.
    pub fn tables<'a, 'v>(
        &mut self,
        section: &Section<'a, 'v>,
        key: &str,
        kind: &str,
    ) -> Option<Vec<Section<'a, 'v>>> {
        let value = section.table.get(key)?;
        let path = section.key(key);
        let Some(array) = value.get_ref().as_array() else {
            self.mismatch(value, &path, "an array of tables");
            return None;
        };
        let mut found = Vec::new();
        for (i, item) in array.iter().enumerate() {
            let path = format!("{path}[{i}]");
            match item.get_ref().as_table() {
                Some(table) => {
                    let section = Section {
                        table,
                        span: item.span(),
                        path,
                    };
                    self.check_keys(&section, kind);
                    found.push(section);
                }
                None => self.mismatch(item, &path, "a table"),
            }
        }
        Some(found)
    }

    /// The tables of an array; a single one will do.
    pub fn one_or_more_tables<'a, 'v>(
        &mut self,
        section: &Section<'a, 'v>,
        key: &str,
        kind: &str,
    ) -> Vec<Section<'a, 'v>> {
        if section.is_table(key) {
            return self.table(section, key, kind).into_iter().collect();
        }
        self.tables(section, key, kind).unwrap_or_default()
    }

    /// The tables of a table whose keys are free, each with its key.
    pub fn named_tables<'a, 'v>(
        &mut self,
        section: &Section<'a, 'v>,
        key: &str,
        kind: &str,
    ) -> Vec<(At<String>, Section<'a, 'v>)> {
        let Some(all) = self.table(section, key, "") else {
            return Vec::new();
        };
        let names: Vec<At<String>> = (all.table.iter())
            .map(|(name, _)| At {
                value: name.get_ref().to_string(),
                span: name.span(),
                key: all.key(name.get_ref()),
            })
            .collect();
        (names.into_iter())
            .filter_map(|name| {
                let table = self.table(&all, &name.value, kind)?;
                Some((name, table))
            })
            .collect()
    }

    /// A date, with a time or without: a string, or TOML's own.
    pub fn date(&mut self, section: &Section<'_, '_>, key: &str) -> Option<At<String>> {
        let value = section.table.get(key)?;
        match value.get_ref() {
            DeValue::Datetime(date) => Some(At {
                value: date.to_string(),
                span: value.span(),
                key: section.key(key),
            }),
            _ => self.string(section, key),
        }
    }

    /// The strings of an array; a single one will do.
    pub fn one_or_more_strings(&mut self, section: &Section<'_, '_>, key: &str) -> Vec<At<String>> {
        let is_one = (section.table.get(key)).is_some_and(|v| v.get_ref().as_str().is_some());
        if is_one {
            return self.string(section, key).into_iter().collect();
        }
        self.strings(section, key)
    }

    /// The strings of an array.
    pub fn strings(&mut self, section: &Section<'_, '_>, key: &str) -> Vec<At<String>> {
        let Some(value) = section.table.get(key) else {
            return Vec::new();
        };
        let path = section.key(key);
        let Some(array) = value.get_ref().as_array() else {
            self.mismatch(value, &path, "an array of strings");
            return Vec::new();
        };
        let mut found = Vec::new();
        for (i, item) in array.iter().enumerate() {
            let key = format!("{path}[{i}]");
            match item.get_ref().as_str() {
                Some(text) => found.push(At {
                    value: text.to_owned(),
                    span: item.span(),
                    key,
                }),
                None => self.mismatch(item, &key, "a string"),
            }
        }
        found
    }

    /// All string values of a table whose keys are free.
    pub fn entries(&mut self, section: &Section<'_, '_>) -> Vec<(At<String>, String)> {
        let mut found = Vec::new();
        for (key, value) in section.table {
            let path = section.key(key.get_ref());
            match value.get_ref().as_str() {
                Some(text) => {
                    let at = At {
                        value: key.get_ref().to_string(),
                        span: key.span(),
                        key: path,
                    };
                    found.push((at, text.to_owned()));
                }
                None => self.mismatch(value, &path, "a string"),
            }
        }
        found
    }
}

impl Section<'_, '_> {
    /// The full name of a key in this section.
    pub fn key(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// The section's own path.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Bytes of a key of this section, if it is there.
    pub fn key_span(&self, key: &str) -> Option<Range<usize>> {
        self.table.get_key_value(key).map(|(k, _)| k.span())
    }

    /// Whether a table stands at the key.
    pub fn is_table(&self, key: &str) -> bool {
        (self.table.get(key)).is_some_and(|v| v.get_ref().as_table().is_some())
    }

    /// Whether a string stands at the key.
    pub fn is_string(&self, key: &str) -> bool {
        (self.table.get(key)).is_some_and(|v| v.get_ref().as_str().is_some())
    }

    /// Whether the key is there.
    pub fn has(&self, key: &str) -> bool {
        self.table.get(key).is_some()
    }
    /// Whether the key is there with something in it: an empty array has nothing.
    pub fn has_items(&self, key: &str) -> bool {
        (self.table.get(key)).is_some_and(|v| v.get_ref().as_array().is_none_or(|a| !a.is_empty()))
    }
}
