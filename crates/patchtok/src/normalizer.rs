//! Bringing a text to a normal form before it is cut into pieces.

use std::borrow::Cow;
use std::ops::Range;

// The tables of Unicode are those of the `tokenizers` library.
use unicode_normalization_alignments::char::canonical_combining_class;
use unicode_normalization_alignments::{IsNormalized, UnicodeNormalization, is_nfc_quick};

/// What is done to a text before it is cut into pieces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) enum Normalizer {
    #[default]
    None,
    /// Unicode's canonical composition.
    Nfc,
}

impl Normalizer {
    /// The text that pieces are cut from.
    pub(crate) fn apply(self, text: &str) -> Cow<'_, str> {
        if self == Normalizer::None || text.is_ascii() || is_nfc_quick(text.chars()) == IsNormalized::Yes {
            return Cow::Borrowed(text);
        }
        Cow::Owned(text.nfc().map(|(c, _)| c).collect())
    }
}

/// A part of a normalized text and the part of the text that it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Aligned {
    pub(crate) normalized: Range<usize>,
    pub(crate) original: Range<usize>,
    /// Whether the two are the same.
    pub(crate) is_kept: bool,
}

impl Normalizer {
    /// The characters of the normal form of `text`, where it differs from `text`.
    pub(crate) fn alignment(self, text: &str) -> Option<Vec<Aligned>> {
        if let Cow::Borrowed(_) = self.apply(text) {
            return None;
        }
        let mut originals = text.chars().map(char::len_utf8);
        let (mut end, mut original) = (0, 0..0);
        let aligned = text.nfc().map(|(c, change)| {
            // A character that was added stands for what the one before it stands for, another for
            // itself and the ones that were joined with it.
            if change <= 0 {
                let count = 1 + change.unsigned_abs();
                original = original.end..original.end + originals.by_ref().take(count).sum::<usize>();
            }
            let start = end;
            end += c.len_utf8();
            Aligned {
                normalized: start..end,
                original: original.clone(),
                is_kept: change == 0 && text[original.clone()].chars().eq([c]),
            }
        });
        Some(aligned.collect())
    }
}

/// Normalizes a text that comes in parts. It holds back the end of what has come, from the last
/// character on that nothing before it can change.
#[derive(Debug)]
pub(crate) struct Composer {
    normalizer: Normalizer,
    held: String,
}

impl Composer {
    pub(crate) fn new(normalizer: Normalizer) -> Self {
        Composer {
            normalizer,
            held: String::new(),
        }
    }

    /// Adds a part and calls `text` for what is certain.
    pub(crate) fn push(&mut self, part: &str, text: &mut impl FnMut(&str)) {
        let Composer { normalizer, held } = self;
        if *normalizer == Normalizer::None {
            return text(part);
        }
        let known = held.len();
        held.push_str(part);
        let border = held[known..].char_indices().rev().find(|&(_, c)| starts_anew(c));
        if let Some((at, _)) = border {
            text(&normalizer.apply(&held[..known + at]));
            held.drain(..known + at);
        }
    }

    /// Calls `text` for the rest and is ready for another text.
    pub(crate) fn finish(&mut self, text: &mut impl FnMut(&str)) {
        text(&self.normalizer.apply(&self.held));
        self.held.clear();
    }
}

/// Whether no character before `c` is composed or ordered anew because of `c` and what follows it.
fn starts_anew(c: char) -> bool {
    c.is_ascii() || canonical_combining_class(c) == 0 && is_nfc_quick(std::iter::once(c)) == IsNormalized::Yes
}
