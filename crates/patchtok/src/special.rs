//! Finding special tokens in raw text, before it is split.
//!
//! As in Hugging Face: at each place the longest special token that starts there wins, scanning
//! from the left; first for the tokens that are not normalized, then, in what is left, which is
//! normalized, for the ones that are.

use aho_corasick::{AhoCorasick, MatchKind};

use crate::model::{Normalizer, Special};
use crate::{Error, Result};

/// A stretch of text, or a special token that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Segment<'t> {
    Text(&'t str),
    Special(u32),
}

/// Searches for a fixed set of special tokens.
#[derive(Clone, Debug)]
pub(crate) struct SpecialFinder {
    raw: Option<Group>,
    normalized: Option<Group>,
    normalizer: Normalizer,
}

impl SpecialFinder {
    pub(crate) fn new(specials: &[Special], normalizer: Normalizer) -> Result<Self> {
        let group = |normalized| Group::new(specials.iter().filter(|special| special.normalized == normalized));
        Ok(SpecialFinder {
            raw: group(false)?,
            normalized: group(true)?,
            normalizer,
        })
    }

    /// Calls `segment` for every segment of `text` in order; texts are normalized and not empty.
    #[inline]
    pub(crate) fn for_each(&self, text: &str, mut segment: impl FnMut(Segment<'_>)) {
        for_each_in(self.raw.as_ref(), text, &mut |part| match part {
            Segment::Text(rest) => {
                let rest = self.normalizer.apply(rest);
                for_each_in(self.normalized.as_ref(), &rest, &mut segment);
            }
            found => segment(found),
        });
    }
}

/// Special tokens that are searched for together.
#[derive(Clone, Debug)]
struct Group {
    finder: AhoCorasick,
    ids: Vec<u32>,
}

impl Group {
    /// None if there are no tokens.
    fn new<'s>(specials: impl Iterator<Item = &'s Special>) -> Result<Option<Self>> {
        let (contents, ids): (Vec<&str>, Vec<u32>) =
            specials.map(|special| (special.content.as_str(), special.id)).unzip();
        if ids.is_empty() {
            return Ok(None);
        }
        let finder = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(contents)
            .map_err(|error| Error::Inconsistent(format!("the special tokens cannot be searched for: {error}")))?;
        Ok(Some(Group { finder, ids }))
    }
}

#[inline]
fn for_each_in<'t>(group: Option<&Group>, text: &'t str, segment: &mut impl FnMut(Segment<'t>)) {
    let mut done = 0;
    if let Some(Group { finder, ids }) = group {
        for found in finder.find_iter(text) {
            if done < found.start() {
                segment(Segment::Text(&text[done..found.start()]));
            }
            segment(Segment::Special(ids[found.pattern().as_usize()]));
            done = found.end();
        }
    }
    if done < text.len() {
        segment(Segment::Text(&text[done..]));
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
        let specials = [
            special(1, "<a>", false),
            special(2, "<a><b>", false),
            special(3, "é", false),
            special(4, "x<", true),
        ];
        for (normalizer, expected) in [
            (Normalizer::None, ["e\u{301}", "#2", "#3", "#1", "#4"]),
            (Normalizer::Nfc, ["é", "#2", "#3", "#1", "#4"]),
        ] {
            let finder = SpecialFinder::new(&specials, normalizer).unwrap();
            let mut found = Vec::new();
            finder.for_each("e\u{301}<a><b>é<a>x<", |segment| {
                found.push(match segment {
                    Segment::Text(text) => text.to_owned(),
                    Segment::Special(id) => format!("#{id}"),
                });
            });
            assert_eq!(found, expected);
        }
    }
}
