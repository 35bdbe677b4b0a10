//! From ids back to text, at once or as a stream.

use crate::{PatchTokenizer, Result};

/// Decodes ids one at a time and gives out text as soon as it is complete.
///
/// A token may end inside a character. The stream holds such bytes back (at most 3) until the
/// character is complete or cannot become one, in which case U+FFFD stands for it. The
/// concatenation of everything given out, [`finish`](DecodeStream::finish) included, is
/// [`PatchTokenizer::decode`] of all ids.
///
/// ```
/// # fn main() -> patchtok::Result<()> {
/// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/data/gpt2/tokenizer.json");
/// let tokenizer = patchtok::PatchTokenizer::from_file(path)?;
/// let mut stream = tokenizer.decode_stream();
/// let mut text = String::new();
/// for id in tokenizer.encode("naïve 🦀") {
///     text.push_str(&stream.push(id)?);
/// }
/// text.push_str(&stream.finish());
/// assert_eq!(text, "naïve 🦀");
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct DecodeStream<'t> {
    tokenizer: &'t PatchTokenizer,
    held: Vec<u8>,
}

impl<'t> DecodeStream<'t> {
    pub(crate) fn new(tokenizer: &'t PatchTokenizer) -> Self {
        DecodeStream {
            tokenizer,
            held: Vec::new(),
        }
    }

    /// Adds a token and returns the text that is complete now, which may be empty.
    ///
    /// # Errors
    /// [`Error::UnknownId`](crate::Error::UnknownId); the stream stays as it was.
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.held.extend_from_slice(self.tokenizer.checked_bytes(id)?);
        let keep = unfinished(&self.held);
        let rest = self.held.split_off(self.held.len() - keep);
        let ready = std::mem::replace(&mut self.held, rest);
        Ok(String::from_utf8_lossy(&ready).into_owned())
    }

    /// Ends the stream: what was held back, as U+FFFD, or nothing.
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.held).into_owned()
    }
}

/// Number of bytes at the end of `bytes` that are the beginning of a character.
fn unfinished(bytes: &[u8]) -> usize {
    let tail = bytes.utf8_chunks().last().map_or(&[][..], |chunk| chunk.invalid());
    // An error with nothing behind it is either a bad byte or the start of a character that has not
    // ended.
    match std::str::from_utf8(tail) {
        Err(error) if error.error_len().is_none() => tail.len(),
        _ => 0,
    }
}
