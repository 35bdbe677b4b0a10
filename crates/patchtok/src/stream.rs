//! Encoding a text that comes in parts.

use crate::PatchTokenizer;
use crate::encode::{Pooled, Start};
use crate::normalizer::Composer;
use crate::special::{Search, Segment};

/// Encodes a text that comes in parts, and gives out ids that no later part can change.
///
/// All ids given out, [`finish`](EncodeStream::finish) included, are those of
/// [`PatchTokenizer::encode`] for the whole text, wherever it was cut. Held back are the last word and
/// what may become part of a phrase with it, the beginning of what may be a special token, and white
/// space before what is not there yet. With [`Segmentation::MinTokens`](crate::Segmentation) the whole
/// chunk is held back, since its end decides how its beginning is cut. The time is O(n) for n bytes in
/// all, besides a constant for each part.
///
/// ```
/// # fn main() -> patchtok::Result<()> {
/// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/data/gpt2/tokenizer.json");
/// let tokenizer = patchtok::PatchTokenizer::from_file(path)?;
/// let mut stream = tokenizer.encode_stream();
/// let mut ids = Vec::new();
/// for part in ["Hel", "lo wor", "ld<|end", "oftext|>"] {
///     stream.push(part, &mut ids);
/// }
/// stream.finish(&mut ids);
/// assert_eq!(ids, tokenizer.encode("Hello world<|endoftext|>"));
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct EncodeStream<'t> {
    raw: Search<'t>,
    between: Between<'t>,
}

/// A text between special tokens that are not normalized, on its way.
#[derive(Debug)]
struct Between<'t> {
    composer: Composer,
    normalized: Search<'t>,
    words: Words<'t>,
}

/// The last words of a normalized text without special tokens.
#[derive(Debug)]
struct Words<'t> {
    tokenizer: &'t PatchTokenizer,
    memory: Pooled<'t>,
    text: String,
    /// The first word of the text that was not encoded; before it stands at most one character.
    start: Start,
    /// Length of the text at which it is looked at again.
    enough: usize,
}

/// Fewer bytes than this are looked at again whenever something is added.
const FEW: usize = 64;

impl<'t> EncodeStream<'t> {
    pub(crate) fn new(tokenizer: &'t PatchTokenizer, memory: Pooled<'t>) -> Self {
        EncodeStream {
            raw: tokenizer.specials().raw_search(),
            between: Between {
                composer: Composer::new(tokenizer.model().normalizer()),
                normalized: tokenizer.specials().normalized_search(),
                words: Words {
                    tokenizer,
                    memory,
                    text: String::new(),
                    start: Start::OF_TEXT,
                    enough: 0,
                },
            },
        }
    }

    /// Adds a part of the text and appends the ids that are certain now to `ids`.
    pub fn push(&mut self, text: &str, ids: &mut Vec<u32>) {
        let EncodeStream { raw, between } = self;
        raw.push(text, &mut |segment| between.segment(segment, ids));
    }

    /// Ends the text and appends the ids that were held back. The stream is ready for another text.
    pub fn finish(&mut self, ids: &mut Vec<u32>) {
        let EncodeStream { raw, between } = self;
        raw.finish(&mut |segment| between.segment(segment, ids));
        between.finish(ids);
    }
}

impl Between<'_> {
    fn segment(&mut self, segment: Segment<'_>, ids: &mut Vec<u32>) {
        match segment {
            Segment::Text(text) => {
                let Between {
                    composer,
                    normalized,
                    words,
                } = self;
                composer.push(text, &mut |text| {
                    normalized.push(text, &mut |segment| words.segment(segment, ids));
                });
            }
            Segment::Special(id) => {
                self.finish(ids);
                ids.push(id);
            }
        }
    }

    fn finish(&mut self, ids: &mut Vec<u32>) {
        let Between {
            composer,
            normalized,
            words,
        } = self;
        composer.finish(&mut |text| normalized.push(text, &mut |segment| words.segment(segment, ids)));
        normalized.finish(&mut |segment| words.segment(segment, ids));
        words.finish(ids);
    }
}

impl Words<'_> {
    fn segment(&mut self, segment: Segment<'_>, ids: &mut Vec<u32>) {
        match segment {
            Segment::Text(text) => self.push(text, ids),
            Segment::Special(id) => {
                self.finish(ids);
                ids.push(id);
            }
        }
    }

    fn push(&mut self, text: &str, ids: &mut Vec<u32>) {
        self.text.push_str(text);
        if self.text.len() < self.enough {
            return;
        }
        let (encoder, model) = (self.tokenizer.encoder(), self.tokenizer.model());
        let next = encoder.encode_part(model, &self.text, self.start, self.memory.get(), ids);
        // One character before the next word, which chunks look at, stays.
        let before = self.text[..next.at].chars().next_back().map_or(0, char::len_utf8);
        self.text.drain(..next.at - before);
        self.start = Start { at: before, ..next };
        // A long word is not looked at again until it is twice as long.
        self.enough = match self.text.len() {
            0..FEW => 0,
            length => 2 * length,
        };
    }

    fn finish(&mut self, ids: &mut Vec<u32>) {
        let (encoder, model) = (self.tokenizer.encoder(), self.tokenizer.model());
        encoder.finish(model, &self.text, self.start, self.memory.get(), ids);
        self.text.clear();
        (self.start, self.enough) = (Start::OF_TEXT, 0);
    }
}

/// The memory goes back to its pool, whatever is left of the text.
impl Drop for Words<'_> {
    fn drop(&mut self) {
        self.memory.get().forget_text();
    }
}
