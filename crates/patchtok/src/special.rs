//! Finding special tokens in raw text, before it is split.
//!
//! As in Hugging Face: at each place the longest special token that starts there wins, scanning
//! from the left; first for the tokens that are not normalized, then, in what is left, for the ones
//! that are (no tokenizer that this crate reads has a normalizer, so only the order of the two
//! searches matters).

use crate::model::Special;

/// A stretch of text, or a special token that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Segment<'t> {
    Text(&'t str),
    Special(u32),
}

/// Searches for a fixed set of special tokens.
#[derive(Clone, Debug)]
pub(crate) struct SpecialFinder {
    raw: Group,
    normalized: Group,
}

impl SpecialFinder {
    pub(crate) fn new(specials: &[Special]) -> Self {
        let group = |normalized| Group::new(specials.iter().filter(|special| special.normalized == normalized));
        SpecialFinder {
            raw: group(false),
            normalized: group(true),
        }
    }

    /// Calls `segment` for every segment of `text` in order; texts are not empty.
    pub(crate) fn for_each<'t>(&self, text: &'t str, mut segment: impl FnMut(Segment<'t>)) {
        self.raw.for_each(text, &mut |part| match part {
            Segment::Text(rest) => self.normalized.for_each(rest, &mut segment),
            found => segment(found),
        });
    }
}

/// Special tokens that are searched for together.
#[derive(Clone, Debug)]
struct Group {
    /// Longest first.
    tokens: Vec<(String, u32)>,
    /// Whether a token starts with the byte.
    starts: [bool; 256],
}

impl Group {
    fn new<'s>(specials: impl Iterator<Item = &'s Special>) -> Self {
        let mut tokens: Vec<_> = specials.map(|special| (special.content.clone(), special.id)).collect();
        tokens.sort_by(|a, b| b.0.len().cmp(&a.0.len()).then_with(|| a.0.cmp(&b.0)));
        let mut starts = [false; 256];
        for (content, _) in &tokens {
            starts[usize::from(content.as_bytes()[0])] = true;
        }
        Group { tokens, starts }
    }

    fn for_each<'t>(&self, text: &'t str, segment: &mut impl FnMut(Segment<'t>)) {
        let bytes = text.as_bytes();
        let (mut done, mut at) = (0, 0);
        while !self.tokens.is_empty() && at < bytes.len() {
            let found = if self.starts[usize::from(bytes[at])] {
                self.tokens
                    .iter()
                    .find(|(content, _)| bytes[at..].starts_with(content.as_bytes()))
            } else {
                None
            };
            let Some((content, id)) = found else {
                at += 1;
                continue;
            };
            if done < at {
                segment(Segment::Text(&text[done..at]));
            }
            segment(Segment::Special(*id));
            at += content.len();
            done = at;
        }
        if done < text.len() {
            segment(Segment::Text(&text[done..]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn special(id: u32, content: &str, normalized: bool) -> Special {
        Special {
            id,
            content: content.into(),
            normalized,
            special: true,
        }
    }

    #[test]
    fn the_longest_at_the_leftmost_place_wins() {
        let finder = SpecialFinder::new(&[
            special(1, "<a>", false),
            special(2, "<a><b>", false),
            special(3, "é", false),
            special(4, "x<", true),
        ]);
        let mut found = Vec::new();
        finder.for_each("x<a><b>é<a>x<", |segment| found.push(segment));
        let expected = [
            Segment::Text("x"),
            Segment::Special(2),
            Segment::Special(3),
            Segment::Special(1),
            Segment::Special(4),
        ];
        assert_eq!(found, expected);
    }
}
