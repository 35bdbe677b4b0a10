//! The four classes of characters that the patterns tell apart.

use unicode_general_category::{GeneralCategory as G, get_general_category};

/// Class of a character: `\p{L}`, `\p{N}`, `\s`, or none of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Letter,
    Number,
    Space,
    Other,
}

impl Class {
    pub(crate) const ALL: [Class; 4] = [Class::Letter, Class::Number, Class::Space, Class::Other];
}

/// Class of `c`: a table for ASCII, Unicode 16 otherwise.
#[inline]
pub(crate) fn class_of(c: char) -> Class {
    if c.is_ascii() {
        ASCII[c as usize]
    } else {
        class_of_non_ascii(c)
    }
}

const ASCII: [Class; 128] = {
    let mut table = [Class::Other; 128];
    let mut code = 0;
    while code < 128 {
        table[code] = match code as u8 {
            b'a'..=b'z' | b'A'..=b'Z' => Class::Letter,
            b'0'..=b'9' => Class::Number,
            b'\t'..=b'\r' | b' ' => Class::Space,
            _ => Class::Other,
        };
        code += 1;
    }
    table
};

fn class_of_non_ascii(c: char) -> Class {
    match get_general_category(c) {
        G::UppercaseLetter | G::LowercaseLetter | G::TitlecaseLetter | G::ModifierLetter | G::OtherLetter => {
            Class::Letter
        }
        G::DecimalNumber | G::LetterNumber | G::OtherNumber => Class::Number,
        _ if c.is_whitespace() => Class::Space,
        _ => Class::Other,
    }
}

/// Length in bytes of the run of characters of `class` at the start of `text`.
#[inline]
pub(super) fn run(text: &str, class: Class) -> usize {
    text.char_indices()
        .find(|&(_, c)| class_of(c) != class)
        .map_or(text.len(), |(at, _)| at)
}
