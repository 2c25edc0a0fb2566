//! Colours. They repeat what words say and never carry meaning alone.

use anstyle::{AnsiColor, Style as Ansi};

/// Whether there is colour.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// On or off.
    pub color: bool,
}

impl Style {
    fn paint(self, style: Ansi, text: &str) -> String {
        if self.color {
            format!("{style}{text}{style:#}")
        } else {
            text.to_owned()
        }
    }

    /// A heading or a name.
    pub fn strong(self, text: &str) -> String {
        self.paint(Ansi::new().bold(), text)
    }

    /// Something that is as it should be.
    pub fn good(self, text: &str) -> String {
        self.paint(AnsiColor::Green.on_default(), text)
    }

    /// Something that is not.
    pub fn bad(self, text: &str) -> String {
        self.paint(AnsiColor::Red.on_default().bold(), text)
    }

    /// Something to look at.
    pub fn warn(self, text: &str) -> String {
        self.paint(AnsiColor::Yellow.on_default(), text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_colour_the_words_are_the_same() {
        let (on, off) = (Style { color: true }, Style { color: false });
        for paint in [Style::strong, Style::good, Style::bad, Style::warn] {
            assert_eq!(paint(off, "ok"), "ok");
            let painted = paint(on, "ok");
            assert!(
                painted.starts_with("\u{1b}[") && painted.ends_with("ok\u{1b}[0m"),
                "{painted:?}"
            );
        }
    }
}
