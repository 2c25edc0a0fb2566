//! What others say, for messages: guests, load balancers, servers of metrics. It may be anything, of any length.

/// The first `most` characters in one line, and `…` where there are more.
pub fn shown(text: &str, most: usize) -> String {
    let fit = |c: char| if c.is_control() { ' ' } else { c };
    let mut shown: String = text.chars().take(most).map(fit).collect();
    if text.chars().nth(most).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn what_is_said_is_shown_in_one_line_and_in_part() {
        assert_eq!(shown("a\nb\u{1b}[2J", 9), "a b [2J");
        assert_eq!(shown(&"ü".repeat(9), 9), "ü".repeat(9));
        assert_eq!(shown(&"ü".repeat(300), 9), format!("{}…", "ü".repeat(9)));
    }
}
