//! Tokenizers and texts that the tests share.

use std::path::PathBuf;
use std::sync::LazyLock;

use patchtok::{Built, Corpus, PatchTokenizer, VocabBuilder};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// GPT-2's `tokenizer.json`.
pub(crate) fn gpt2_path() -> PathBuf {
    root().join("data/gpt2/tokenizer.json")
}

/// The `tokenizer.json` of the demo base: the first 8,191 tokens of GPT-2 and `<|endoftext|>`.
pub(crate) fn demo_path() -> PathBuf {
    root().join("../bench/demo/base/tokenizer.json")
}

pub(crate) static GPT2: LazyLock<PatchTokenizer> = LazyLock::new(|| PatchTokenizer::from_file(gpt2_path()).unwrap());

pub(crate) static DEMO: LazyLock<PatchTokenizer> = LazyLock::new(|| PatchTokenizer::from_file(demo_path()).unwrap());

/// The demo base with 1,000 swaps.
pub(crate) static PATCHED: LazyLock<PatchTokenizer> = LazyLock::new(|| patched(&DEMO, 1000).tokenizer);

/// The first documents of a demo corpus, up to `bytes` in all.
pub(crate) fn documents(name: &str, bytes: usize) -> Vec<String> {
    let path = root().join(format!("../bench/demo/corpus/{name}.jsonl.gz"));
    let mut left = bytes;
    let mut documents = Vec::new();
    for text in Corpus::open(path).unwrap().documents() {
        let text = text.unwrap();
        let Some(rest) = left.checked_sub(text.len()) else {
            break;
        };
        left = rest;
        documents.push(text);
    }
    documents
}

/// A tokenizer patched for a part of the demo manual.
pub(crate) fn patched(base: &PatchTokenizer, swaps: usize) -> Built {
    let corpus = Corpus::from_texts(documents("manual-train", 400_000));
    VocabBuilder::new(base.clone()).swaps(swaps).build(corpus).unwrap()
}

/// A small generator (xorshift*), so that the cases are the same in every run.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// A text of up to 12 parts: words, contractions, numbers, white space, punctuation, characters
    /// of many blocks, emoji sequences, bytes that are not UTF-8 (as U+FFFD), and special tokens.
    pub(crate) fn text(&mut self) -> String {
        const WORDS: [&str; 12] = [
            "the",
            " the",
            " of the",
            "table",
            " column",
            "SELECT",
            " * FROM",
            "naïve",
            " Straße",
            "été",
            "你好",
            "コンピューター",
        ];
        const CONTRACTIONS: [&str; 12] = [
            "'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'x", "''", "’s", "'select",
        ];
        const SPACES: [&str; 10] = [
            " ", "  ", "\n", "\n\n", "\r\n", "\t", "    ", "\u{a0}", "\u{3000}", "\u{2009}",
        ];
        const MARKS: [&str; 14] = [
            ".",
            ",",
            "(",
            "\"",
            "'",
            "--------",
            "=>",
            "::",
            "—",
            "…",
            "，",
            "・",
            "،",
            "<|endoftext|>",
        ];
        const EMOJI: [&str; 4] = ["🙂", "👩‍👩‍👧", "🇩🇪", "e\u{301}"];
        const BLOCKS: [(u32, u32); 12] = [
            (0x20, 0x7f),
            (0x80, 0x250),
            (0x370, 0x400),
            (0x400, 0x500),
            (0x590, 0x600),
            (0x600, 0x700),
            (0x900, 0x980),
            (0xe00, 0xe80),
            (0x2000, 0x2100),
            (0x3040, 0x3100),
            (0x4e00, 0x4f00),
            (0x1f300, 0x1f600),
        ];
        let mut text = String::new();
        for _ in 0..self.below(13) {
            match self.below(9) {
                0 | 1 => text.push_str(self.pick(&WORDS)),
                2 => text.push_str(self.pick(&CONTRACTIONS)),
                3 => text.push_str(&self.below(100_000).to_string()),
                4 => text.push_str(self.pick(&SPACES)),
                5 => text.push_str(self.pick(&MARKS)),
                6 => text.push_str(self.pick(&EMOJI)),
                7 => {
                    let (from, to) = self.pick(&BLOCKS);
                    for _ in 0..1 + self.below(4) {
                        text.extend(char::from_u32(from + self.below((to - from) as usize) as u32));
                    }
                }
                _ => {
                    let bytes: Vec<u8> = (0..self.below(8)).map(|_| self.below(256) as u8).collect();
                    text.push_str(&String::from_utf8_lossy(&bytes));
                }
            }
        }
        text
    }
}
