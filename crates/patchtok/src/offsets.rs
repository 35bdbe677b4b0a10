//! The places in a text that its tokens stand for.

use std::ops::Range;

use crate::PatchTokenizer;
use crate::normalizer::Aligned;
use crate::special::Segment;

impl PatchTokenizer {
    /// The ids of `text`, each with the bytes of `text` that it stands for.
    ///
    /// The ranges follow each other and together are `text`; they may begin and end inside a character,
    /// since tokens do. What a normalizer has changed stands for all bytes of the characters that it
    /// was made of. O(n).
    ///
    /// ```
    /// # fn main() -> patchtok::Result<()> {
    /// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/data/gpt2/tokenizer.json");
    /// let tokenizer = patchtok::PatchTokenizer::from_file(path)?;
    /// let text = "Hello world";
    /// for (id, range) in tokenizer.encode_with_byte_offsets(text) {
    ///     assert_eq!(tokenizer.token_bytes(id), Some(text[range].as_bytes()));
    /// }
    /// # Ok(()) }
    /// ```
    pub fn encode_with_byte_offsets(&self, text: &str) -> Vec<(u32, Range<usize>)> {
        let mut found = Vec::new();
        let mut ids = Vec::new();
        let mut memory = self.memory();
        let mut start = 0;
        self.specials().for_each_raw(text, |segment| match segment {
            Segment::Special(id) => {
                let end = start + self.length(id);
                found.push((id, start..end));
                start = end;
            }
            Segment::Text(part) => {
                let normalizer = self.model().normalizer();
                let alignment = normalizer.alignment(part);
                ids.clear();
                self.specials()
                    .for_each_normalized(&normalizer.apply(part), |segment| match segment {
                        Segment::Special(id) => ids.push(id),
                        Segment::Text(text) => self.encoder().encode(self.model(), text, memory.get(), &mut ids),
                    });
                let mut end = 0;
                for &id in &ids {
                    let range = end..end + self.length(id);
                    end = range.end;
                    let range = alignment
                        .as_ref()
                        .map_or(range.clone(), |aligned| original(aligned, range));
                    found.push((id, start + range.start..start + range.end));
                }
                start += part.len();
            }
        });
        found
    }

    /// The ids of `text`, each with the characters of `text` that it stands for, in whole or in part. O(n).
    pub fn encode_with_char_offsets(&self, text: &str) -> Vec<(u32, Range<usize>)> {
        let mut found = self.encode_with_byte_offsets(text);
        // Characters that start before a byte, counted on from the last byte that was asked for.
        let counter = || {
            let (mut at, mut count) = (0, 0);
            move |byte: usize| {
                let passed = &text.as_bytes()[at.min(byte)..byte];
                count += passed.iter().filter(|&&byte| byte & 0xC0 != 0x80).count();
                at = at.max(byte);
                count
            }
        };
        let (mut starts, mut ends) = (counter(), counter());
        for (_, range) in &mut found {
            let is_inside = !text.is_char_boundary(range.start);
            *range = starts(range.start) - usize::from(is_inside)..ends(range.end);
        }
        found
    }

    /// Length of a token in bytes.
    fn length(&self, id: u32) -> usize {
        self.token_bytes(id).map_or(0, <[u8]>::len)
    }
}

/// What a part of a normalized text, which is not empty, stands for.
fn original(aligned: &[Aligned], part: Range<usize>) -> Range<usize> {
    let holding = |byte: usize| {
        let after = aligned.partition_point(|aligned| aligned.normalized.start <= byte);
        &aligned[after - 1]
    };
    let (first, last) = (holding(part.start), holding(part.end - 1));
    // Bytes of a character that stays are told apart.
    let start = match first.is_kept {
        true => first.original.start + part.start - first.normalized.start,
        false => first.original.start,
    };
    let end = match last.is_kept {
        true => last.original.start + part.end - last.normalized.start,
        false => last.original.end,
    };
    start..end
}
