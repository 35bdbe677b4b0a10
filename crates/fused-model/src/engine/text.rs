//! From token bytes to text that can be shown: whole characters, and nothing that a stop string may begin in.

/// The text of one sample as it comes.
#[derive(Debug, Default)]
pub(super) struct TextStream {
    /// Bytes that have not been given out.
    held: Vec<u8>,
    /// What the last call gave out.
    ready: String,
    /// Length of the longest stop string.
    longest: usize,
    /// Whether a stop string has been found; nothing comes after it.
    stopped: bool,
}

impl TextStream {
    pub(super) fn new(stops: &[String]) -> Self {
        Self {
            longest: stops.iter().map(String::len).max().unwrap_or(0),
            ..Self::default()
        }
    }

    /// Adds a token's bytes. `true` when a stop string is complete: [`ready`](Self::ready) ends before it.
    ///
    /// O(held · stops), and what is held is shorter than the longest stop string and a token.
    pub(super) fn push(&mut self, bytes: &[u8], stops: &[String]) -> bool {
        self.ready.clear();
        self.held.extend_from_slice(bytes);
        let found = stops.iter().filter_map(|stop| find(&self.held, stop.as_bytes())).min();
        if let Some(at) = found {
            self.held.truncate(at);
            self.give(at);
            self.held.clear();
            self.stopped = true;
            return true;
        }
        // The longest end that could be the beginning of a stop string stays.
        let first = self.held.len().saturating_sub(self.longest.saturating_sub(1));
        let start = (first..self.held.len())
            .find(|&at| stops.iter().any(|stop| stop.as_bytes().starts_with(&self.held[at..])))
            .unwrap_or(self.held.len());
        self.give(start - unfinished(&self.held[..start]));
        false
    }

    /// Ends the text: gives out what was held back, bytes of unfinished characters as U+FFFD.
    pub(super) fn finish(&mut self) {
        self.ready.clear();
        if !self.stopped {
            self.give(self.held.len());
        }
    }

    /// What the last call gave out.
    pub(super) fn ready(&self) -> &str {
        &self.ready
    }

    fn give(&mut self, bytes: usize) {
        for chunk in self.held[..bytes].utf8_chunks() {
            self.ready.push_str(chunk.valid());
            if !chunk.invalid().is_empty() {
                self.ready.push(char::REPLACEMENT_CHARACTER);
            }
        }
        self.held.drain(..bytes);
    }
}

/// First place of `needle` in `bytes`.
fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len()).position(|window| window == needle)
}

/// Number of bytes at the end of `bytes` that are the beginning of a character.
fn unfinished(bytes: &[u8]) -> usize {
    let tail = bytes.utf8_chunks().last().map_or(&[][..], |chunk| chunk.invalid());
    match std::str::from_utf8(tail) {
        Err(error) if error.error_len().is_none() => tail.len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All text, the pieces, and whether a stop string came.
    fn run(pieces: &[&[u8]], stops: &[&str]) -> (String, Vec<String>, bool) {
        let stops: Vec<String> = stops.iter().map(|&stop| stop.into()).collect();
        let mut stream = TextStream::new(&stops);
        let mut shown = Vec::new();
        let mut stopped = false;
        for piece in pieces {
            stopped = stream.push(piece, &stops);
            shown.push(stream.ready().to_owned());
            if stopped {
                break;
            }
        }
        stream.finish();
        shown.push(stream.ready().to_owned());
        (shown.concat(), shown, stopped)
    }

    #[test]
    fn characters_are_not_cut() {
        let crab = "🦀".as_bytes();
        let (_, shown, _) = run(&[b"a", &crab[..1], &crab[1..3], &crab[3..], b"b"], &[]);
        assert_eq!(shown, ["a", "", "", "🦀", "b", ""]);
        assert_eq!(run(&[b"a", &crab[..2]], &[]).1, ["a", "", "\u{fffd}"]);
        assert_eq!(run(&[b"a\xff", b"b"], &[]).0, "a\u{fffd}b");
    }

    #[test]
    fn what_a_stop_string_may_begin_in_is_held_back() {
        let (_, shown, stopped) = run(&[b"one\n", b"\nUs", b"er: two"], &["\nUser:"]);
        assert_eq!(
            (shown, stopped),
            (vec!["one".into(), "\n".into(), "".into(), "".into()], true)
        );
        let (_, shown, stopped) = run(&[b"one\n", b"\nUse", b"d"], &["\nUser:"]);
        assert_eq!((shown.concat().as_str(), stopped), ("one\n\nUsed", false));
        assert_eq!(shown[0], "one");
    }

    #[test]
    fn the_earliest_stop_string_counts() {
        assert_eq!(run(&[b"abcdef"], &["de", "bc"]).0, "a");
        assert_eq!(run(&[b"aab"], &["ab"]).0, "a");
    }

    proptest! {
        /// However the bytes are cut, the text is that of all bytes up to the first stop string that is complete.
        #[test]
        fn cuts_do_not_matter(
            text in "[ab🦀é]{0,30}",
            cuts in prop::collection::vec(0usize..80, 0..12),
            stops in prop::collection::vec("[ab🦀]{1,4}", 0..3),
        ) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let (got, _, stopped) = run(&pieces, &stops);
            // Complete first wins: the end of a piece decides between two that overlap.
            let want = cuts.iter().find_map(|&end| {
                stops.iter().filter_map(|stop| find(&bytes[..end], stop.as_bytes())).min()
            });
            prop_assert_eq!(stopped, want.is_some());
            let end = want.unwrap_or(bytes.len());
            prop_assert_eq!(got.as_bytes(), &bytes[..end]);
        }
    }
}
