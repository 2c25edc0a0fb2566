//! The form of a scenario file.

/// A line of a file, or a command with what is expected of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// A comment or an empty line, as written.
    Text(String),
    /// A command.
    Command(Command),
}

/// A command and its expectations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Command {
    /// Its line in the file, from 1.
    pub line: usize,
    /// The command line.
    pub text: String,
    /// Whether it stands after `>`: then its exit code and output are compared. Else it is a preparation, which must
    /// succeed.
    pub is_watched: bool,
    /// The exit code; `None`: 0, not written out.
    pub exit: Option<u8>,
    /// Lines of stdout.
    pub stdout: Vec<String>,
    /// Lines of stderr; `None`: it may be anything.
    pub stderr: Option<Vec<String>>,
}

/// Reads a scenario.
///
/// # Errors
/// A sentence with the line that makes no sense.
pub fn parse(text: &str) -> Result<Vec<Part>, String> {
    let mut parts: Vec<Part> = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let line = line.trim_end();
        let number = i + 1;
        if line.is_empty() || line.starts_with('#') {
            parts.push(Part::Text(line.to_owned()));
            continue;
        }
        if let Some(what) = expectation(line, number)? {
            match parts.last_mut() {
                Some(Part::Command(command)) if command.is_watched => note(command, what, number)?,
                _ => {
                    return Err(format!(
                        "line {number}: there is no command that this is expected of"
                    ));
                }
            }
            continue;
        }
        let watched = line.strip_prefix('>');
        let text = watched.unwrap_or(line).trim();
        if text.is_empty() {
            return Err(format!("line {number}: a command is missing"));
        }
        parts.push(Part::Command(Command {
            line: number,
            text: text.to_owned(),
            is_watched: watched.is_some(),
            ..Command::default()
        }));
    }
    Ok(parts)
}

enum Expected {
    Exit(u8),
    Stdout(String),
    Stderr(String),
}

fn expectation(line: &str, number: usize) -> Result<Option<Expected>, String> {
    let output = |sign: char| {
        let rest = line.strip_prefix(sign)?;
        Some(rest.strip_prefix(' ').unwrap_or(rest).to_owned())
    };
    if let Some(code) = line.strip_prefix("exit ") {
        let code = code.trim().parse();
        let code = code.map_err(|e| format!("line {number}: {line:?} is no exit code: {e}"))?;
        return Ok(Some(Expected::Exit(code)));
    }
    Ok(output('|')
        .map(Expected::Stdout)
        .or_else(|| output('!').map(Expected::Stderr)))
}

fn note(command: &mut Command, what: Expected, number: usize) -> Result<(), String> {
    match what {
        Expected::Exit(_) if command.exit.is_some() => {
            return Err(format!("line {number}: the exit code was given already"));
        }
        Expected::Exit(code) => command.exit = Some(code),
        Expected::Stdout(line) => command.stdout.push(line),
        Expected::Stderr(line) => command.stderr.get_or_insert_default().push(line),
    }
    Ok(())
}

/// Writes a scenario as it would be read.
pub fn write(parts: &[Part]) -> String {
    let mut text = String::new();
    for part in parts {
        match part {
            Part::Text(line) => text += &format!("{line}\n"),
            Part::Command(command) => command.write(&mut text),
        }
    }
    text
}

impl Command {
    fn write(&self, text: &mut String) {
        let sign = if self.is_watched { "> " } else { "" };
        *text += &format!("{sign}{}\n", self.text);
        if let Some(code) = self.exit {
            *text += &format!("exit {code}\n");
        }
        let stdout = self.stdout.iter().map(|l| ('|', l));
        let stderr = self.stderr.iter().flatten().map(|l| ('!', l));
        for (sign, line) in stdout.chain(stderr) {
            *text += format!("{sign} {line}").trim_end();
            text.push('\n');
        }
    }
}

/// Splits a command line into words: at blanks, except within quotes of either kind. No escapes, no variables.
///
/// # Errors
/// A sentence if a quote is not closed.
pub fn words(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in line.chars() {
        match quote {
            Some(q) if c == q => quote = None,
            Some(_) => word.get_or_insert_default().push(c),
            None if c == '\'' || c == '"' => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            None if c.is_whitespace() => words.extend(word.take()),
            None => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    match quote {
        Some(q) => Err(format!("{line}: the quote {q} is not closed")),
        None => Ok(words),
    }
}
