//! Finding special tokens in raw text, before it is split.
//!
//! As in Hugging Face: at each place the longest special token that starts there wins, scanning
//! from the left; first for the tokens that are not normalized, then, in what is left, which is
//! normalized, for the ones that are.

use aho_corasick::{AhoCorasick, MatchKind};

use crate::model::Special;
use crate::normalizer::Normalizer;
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
        self.for_each_raw(text, |part| match part {
            Segment::Text(rest) => self.for_each_normalized(&self.normalizer.apply(rest), &mut segment),
            found => segment(found),
        });
    }

    /// Calls `segment` for the special tokens that are not normalized, and for what is between.
    #[inline]
    pub(crate) fn for_each_raw<'t>(&self, text: &'t str, mut segment: impl FnMut(Segment<'t>)) {
        for_each_in(self.raw.as_ref(), text, &mut segment);
    }

    /// Calls `segment` for the other special tokens in a text between, normalized, and for the rest.
    #[inline]
    pub(crate) fn for_each_normalized<'t>(&self, text: &'t str, mut segment: impl FnMut(Segment<'t>)) {
        for_each_in(self.normalized.as_ref(), text, &mut segment);
    }

    /// [`for_each_raw`](SpecialFinder::for_each_raw) for a text in parts.
    pub(crate) fn raw_search(&self) -> Search<'_> {
        Search::new(self.raw.as_ref())
    }

    /// [`for_each_normalized`](SpecialFinder::for_each_normalized) for a text in parts.
    pub(crate) fn normalized_search(&self) -> Search<'_> {
        Search::new(self.normalized.as_ref())
    }
}

/// A search in a text that comes in parts. Of the end of what has come it holds back what may be the
/// beginning of a special token.
#[derive(Debug)]
pub(crate) struct Search<'f> {
    group: Option<&'f Group>,
    held: String,
}

impl<'f> Search<'f> {
    fn new(group: Option<&'f Group>) -> Self {
        Search {
            group,
            held: String::new(),
        }
    }

    /// Adds a part and calls `segment` for what is certain. A text between special tokens may come in
    /// several segments.
    pub(crate) fn push(&mut self, part: &str, segment: &mut impl FnMut(Segment<'_>)) {
        let Search { group, held } = self;
        let Some(group) = group else {
            return segment(Segment::Text(part));
        };
        held.push_str(part);
        let limit = held.len() - group.unfinished(held);
        let mut done = 0;
        for found in group.finder.find_iter(held.as_str()) {
            // What starts before the limit was decided by what is there.
            if found.start() >= limit {
                break;
            }
            if done < found.start() {
                segment(Segment::Text(&held[done..found.start()]));
            }
            segment(Segment::Special(group.ids[found.pattern().as_usize()]));
            done = found.end();
        }
        if done < limit {
            segment(Segment::Text(&held[done..limit]));
            done = limit;
        }
        held.drain(..done);
    }

    /// Calls `segment` for the rest and is ready for another text.
    pub(crate) fn finish(&mut self, segment: &mut impl FnMut(Segment<'_>)) {
        for_each_in(self.group, &self.held, segment);
        self.held.clear();
    }
}

/// Special tokens that are searched for together.
#[derive(Clone, Debug)]
struct Group {
    finder: AhoCorasick,
    ids: Vec<u32>,
    contents: Vec<Box<str>>,
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
            .build(&contents)
            .map_err(|error| Error::Inconsistent(format!("the special tokens cannot be searched for: {error}")))?;
        let contents = contents.into_iter().map(Box::from).collect();
        Ok(Some(Group { finder, ids, contents }))
    }

    /// Length of the longest end of `text` with which a special token begins that is longer.
    fn unfinished(&self, text: &str) -> usize {
        let longest = self.contents.iter().map(|content| content.len()).max().unwrap_or(0);
        let ends =
            (text.len().saturating_sub(longest.saturating_sub(1))..text.len()).map(|start| &text.as_bytes()[start..]);
        let begins = |end: &&[u8]| {
            let contents = self.contents.iter().map(|content| content.as_bytes());
            contents
                .into_iter()
                .any(|content| content.len() > end.len() && content.starts_with(end))
        };
        ends.into_iter().find(begins).map_or(0, <[u8]>::len)
    }
}

#[inline]
fn for_each_in<'t>(group: Option<&Group>, text: &'t str, segment: &mut impl FnMut(Segment<'t>)) {
    let mut done = 0;
    if let Some(Group { finder, ids, .. }) = group {
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
