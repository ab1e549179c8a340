//! Text of others in lines of ours.

use std::fmt::{self, Write as _};

/// Writes text that came from outside so that it can neither break a line nor drive a terminal:
/// control characters and invisible ones that change the direction of text are escaped, a
/// backslash is doubled, and all beyond [`Untrusted::MAX_CHARS`] is cut off and counted.
#[derive(Clone, Copy, Debug)]
pub struct Untrusted<'a>(pub &'a str);

impl Untrusted<'_> {
    /// Characters that are shown.
    pub const MAX_CHARS: usize = 256;
}

impl fmt::Display for Untrusted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.chars();
        for char in rest.by_ref().take(Self::MAX_CHARS) {
            match char {
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                char if is_hidden(char) => write!(f, "\\u{{{:x}}}", u32::from(char))?,
                char => f.write_char(char)?,
            }
        }
        let cut = rest.as_str().len();
        if cut > 0 {
            write!(f, "… ({cut} bytes more)")?;
        }
        Ok(())
    }
}

/// Controls (C0, DEL, C1), line separators, and the marks that reorder or hide text.
fn is_hidden(char: char) -> bool {
    char.is_control()
        || matches!(
            u32::from(char),
            0xad | 0x061c | 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f | 0xfeff
                | 0xfff9..=0xfffb | 0xe0000..=0xe007f
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(text: &str) -> String {
        Untrusted(text).to_string()
    }

    #[test]
    fn plain_text_stays() {
        assert_eq!(show("sensors/küche 雪 \"x\""), "sensors/küche 雪 \"x\"");
    }

    #[test]
    fn nothing_breaks_a_line_or_drives_a_terminal() {
        assert_eq!(
            show("a\r\n2026 INFO forged\x1b[2J\0\u{9b}31m\u{202e}\\"),
            "a\\r\\n2026 INFO forged\\u{1b}[2J\\u{0}\\u{9b}31m\\u{202e}\\\\"
        );
    }

    #[test]
    fn long_text_is_cut() {
        let text = "ä".repeat(Untrusted::MAX_CHARS + 2);
        let shown = show(&text);
        assert!(shown.ends_with("ä… (4 bytes more)"), "{shown}");
        assert_eq!(shown.matches('ä').count(), Untrusted::MAX_CHARS);
    }
}
