//! Finding special tokens in raw text, before it is split.
//!
//! As in Hugging Face: at each place the longest special token that starts there wins, scanning
//! from the left; first for the tokens that are not normalized, then, in what is left, for the ones
//! that are (no tokenizer that this crate reads has a normalizer, so only the order of the two
//! searches matters).

use aho_corasick::{AhoCorasick, MatchKind};

use crate::model::Special;
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
}

impl SpecialFinder {
    pub(crate) fn new(specials: &[Special]) -> Result<Self> {
        let group = |normalized| Group::new(specials.iter().filter(|special| special.normalized == normalized));
        Ok(SpecialFinder {
            raw: group(false)?,
            normalized: group(true)?,
        })
    }

    /// Calls `segment` for every segment of `text` in order; texts are not empty.
    #[inline]
    pub(crate) fn for_each<'t>(&self, text: &'t str, mut segment: impl FnMut(Segment<'t>)) {
        for_each_in(self.raw.as_ref(), text, &mut |part| match part {
            Segment::Text(rest) => for_each_in(self.normalized.as_ref(), rest, &mut segment),
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
        let finder = SpecialFinder::new(&[
            special(1, "<a>", false),
            special(2, "<a><b>", false),
            special(3, "é", false),
            special(4, "x<", true),
        ])
        .unwrap();
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
