//! What others say, for messages: guests, load balancers, servers of metrics. It may be anything, of any length.

use std::borrow::Cow;

/// The first `most` characters in one line, and `…` where there are more.
pub fn shown(text: &str, most: usize) -> String {
    let fit = |c: char| if c.is_control() { ' ' } else { c };
    let mut shown: String = text.chars().take(most).map(fit).collect();
    if text.chars().nth(most).is_some() {
        shown.push('…');
    }
    shown
}

/// What a guest printed, as text and nothing else: nothing in it steers a terminal. Its lines and tabs stay.
pub fn plain(text: &str) -> String {
    let stripped = anstream::adapter::strip_str(text).to_string();
    stripped.chars().filter(|c| is_text(*c)).collect()
}

fn is_text(c: char) -> bool {
    matches!(c, '\n' | '\t') || !c.is_control()
}

/// A line or more that vmss writes, with whatever others have said in it: of all that would steer a terminal only colours
/// pass.
pub fn harmless(text: &str) -> Cow<'_, str> {
    if text.chars().all(is_text) {
        return Cow::Borrowed(text);
    }
    let mut harmless = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let length = match colour(rest) {
            Some(length) => {
                harmless.push_str(&rest[..length]);
                length
            }
            None => {
                harmless.extend(Some(c).filter(|c| is_text(*c)));
                c.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    Cow::Owned(harmless)
}

/// The length of the sequence that `text` begins with, if it sets a colour and nothing else.
fn colour(text: &str) -> Option<usize> {
    let numbers = text.strip_prefix("\u{1b}[")?;
    let end = numbers.find(|c: char| !c.is_ascii_digit() && c != ';')?;
    numbers[end..].starts_with('m').then_some(2 + end + 1)
}

#[cfg(test)]
mod tests {
    use super::{harmless, plain, shown};

    #[test]
    fn what_a_guest_printed_is_text_and_nothing_else() {
        assert_eq!(plain("a\tb\nc"), "a\tb\nc");
        assert_eq!(
            plain("\u{1b}[2J\u{1b}[1;1Hroot\u{1b}]0;title\u{7}# \rx\u{8}\u{9b}1A\u{7f}"),
            "root# x1A"
        );
        assert_eq!(plain("\u{1b}[31mred\u{1b}[0m"), "red");
    }

    #[test]
    fn of_what_is_written_only_colours_steer_the_terminal() {
        let own = "\u{1b}[1;31merror:\u{1b}[0m so it is\n\tü";
        assert_eq!(harmless(own), own);
        assert_eq!(harmless("a\u{1b}[2Jb\rc\u{8}\u{9b}3Ad"), "a[2Jbc3Ad");
        assert_eq!(harmless("\u{1b}]0;t\u{7}\u{1b}[3"), "]0;t[3");
    }

    #[test]
    fn what_is_said_is_shown_in_one_line_and_in_part() {
        assert_eq!(shown("a\nb\u{1b}[2J", 9), "a b [2J");
        assert_eq!(shown(&"ü".repeat(9), 9), "ü".repeat(9));
        assert_eq!(shown(&"ü".repeat(300), 9), format!("{}…", "ü".repeat(9)));
    }
}
