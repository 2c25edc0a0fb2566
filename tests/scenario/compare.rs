//! Whether output is as expected, and how it differs.

/// A line that stands for any lines, none among them.
const ANY_LINES: &str = "...";
/// What stands for any text within a line.
const ANY_TEXT: &str = "[..]";

/// Whether the lines are as expected.
pub fn lines_match(expected: &[String], actual: &[String]) -> bool {
    let Some(at) = expected.iter().position(|l| l == ANY_LINES) else {
        return expected.len() == actual.len()
            && expected.iter().zip(actual).all(|(e, a)| line_matches(e, a));
    };
    if actual.len() < at || !lines_match(&expected[..at], &actual[..at]) {
        return false;
    }
    (at..=actual.len()).any(|from| lines_match(&expected[at + 1..], &actual[from..]))
}

fn line_matches(expected: &str, actual: &str) -> bool {
    let (expected, actual) = (expected.trim_end(), actual.trim_end());
    let Some((head, rest)) = expected.split_once(ANY_TEXT) else {
        return expected == actual;
    };
    let Some(tail) = actual.strip_prefix(head) else {
        return false;
    };
    let mut ends = tail.char_indices().map(|(i, _)| i).chain([tail.len()]);
    ends.any(|from| line_matches(rest, &tail[from..]))
}

/// The lines of an output, without blanks at their ends.
pub fn lines(output: &str) -> Vec<String> {
    output.lines().map(|l| l.trim_end().to_owned()).collect()
}

/// Expected and actual lines side by side: `-` is missing, `+` is too much.
pub fn difference(expected: &[String], actual: &[String]) -> String {
    let head = (expected.iter().zip(actual))
        .take_while(|(e, a)| *e != ANY_LINES && line_matches(e, a))
        .count();
    let (expected_rest, actual_rest) = (&expected[head..], &actual[head..]);
    let tail = (expected_rest.iter().rev().zip(actual_rest.iter().rev()))
        .take_while(|(e, a)| *e != ANY_LINES && line_matches(e, a))
        .count();
    let mut text = String::new();
    let mut add = |sign: char, lines: &[String]| {
        for line in lines {
            text += format!("    {sign} {line}").trim_end();
            text.push('\n');
        }
    };
    add(' ', &actual[..head]);
    add('-', &expected_rest[..expected_rest.len() - tail]);
    add('+', &actual_rest[..actual_rest.len() - tail]);
    add(' ', &actual_rest[actual_rest.len() - tail..]);
    text
}
