//! PTX text as tokens.

use super::error::Error;

/// One token. Words hold their dots, so that an opcode with its modifiers (`ld.global.nc.f32`) is one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Token<'a> {
    pub(super) text: &'a str,
    pub(super) line: u32,
    /// Offset of its first byte in the text.
    pub(super) start: usize,
}

impl Token<'_> {
    /// Whether it is a name, a directive, an opcode or a number.
    pub(super) fn is_word(&self) -> bool {
        self.text.starts_with(word_byte)
    }
}

fn word_byte(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '$' | '%' | '.')
}

/// Splits the text. O(n) in bytes.
pub(super) fn tokens(text: &str) -> Result<Vec<Token<'_>>, Error> {
    let mut tokens = Vec::new();
    let (mut rest, mut line) = (text, 1);
    while let Some(first) = rest.chars().next() {
        let length = if first.is_whitespace() {
            first.len_utf8()
        } else if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").ok_or_else(|| unfinished(line, "comment"))? + 2
        } else {
            let length = match first {
                '"' => rest[1..].find('"').ok_or_else(|| unfinished(line, "string"))? + 2,
                c if word_byte(c) => word(rest),
                '@' | '!' | ',' | ';' | ':' | '|' | '+' | '-' | '=' | '<' | '>' | '(' | ')' | '[' | ']' | '{' | '}' => {
                    1
                }
                c => {
                    let what = format!("unexpected character {c:?}");
                    return Err(Error::Syntax { line, what });
                }
            };
            let start = text.len() - rest.len();
            tokens.push(Token {
                text: &rest[..length],
                line,
                start,
            });
            length
        };
        line += rest[..length].matches('\n').count() as u32;
        rest = &rest[length..];
    }
    Ok(tokens)
}

/// Length of the word at the start of `text`; a `::` inside belongs to it (`.shared::cta`).
fn word(text: &str) -> usize {
    let mut length = 0;
    loop {
        let rest = &text[length..];
        length += rest.find(|c| !word_byte(c)).unwrap_or(rest.len());
        match text[length..].strip_prefix("::") {
            Some(after) if after.starts_with(word_byte) => length += 2,
            _ => return length,
        }
    }
}

fn unfinished(line: u32, what: &str) -> Error {
    let what = format!("the {what} that begins here has no end");
    Error::Syntax { line, what }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_hold_their_dots_and_lines_are_counted() {
        let text = "ld.shared::cta.v2.f32 {%f1, %f2}, [%rd1+-8]; // end\n/* a\nb */ @!%p1 bra $L_1;\n$L_1:";
        let tokens = tokens(text).unwrap();
        let texts: Vec<_> = tokens.iter().map(|t| t.text).collect();
        let expected = "ld.shared::cta.v2.f32 { %f1 , %f2 } , [ %rd1 + - 8 ] ; @ ! %p1 bra $L_1 ; $L_1 :";
        assert_eq!(texts, expected.split(' ').collect::<Vec<_>>());
        let lines: Vec<_> = [0, 14, 20].map(|i| tokens[i].line).into();
        assert_eq!(lines, [1, 3, 4]);
        assert!(tokens.iter().all(|t| text[t.start..].starts_with(t.text)));
    }

    #[test]
    fn what_has_no_end_or_no_meaning_is_named_with_its_line() {
        for (text, part) in [
            ("\n/* x", "PTX line 2: the comment that begins here has no end"),
            (".file 1 \"x", "PTX line 1: the string that begins here has no end"),
            ("a ~ b", "PTX line 1: unexpected character '~'"),
            ("\u{e4}", "unexpected character"),
        ] {
            let message = tokens(text).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }
}
