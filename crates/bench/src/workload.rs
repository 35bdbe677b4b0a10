//! The requests: prompts and replies cut from held-out pages, the same text for every arm.
//!
//! Every arm answers a prompt with the same fixed reply, replayed token by token in its own
//! tokenizer, so that the arms do the same work in text and differ only in how they do it.

use std::path::Path;

use patchtok::Corpus;

use crate::error::BenchError;
use crate::stats::Rng;

/// Most text a run reads from a corpus; later pages are left out and the report says so.
pub const MAX_CORPUS_BYTES: usize = 8 << 20;
/// Bytes of a prompt, and of a reply, unless the model's context is too short for that.
pub const PART_BYTES: usize = 500;
/// Below this a part is too short to measure anything.
const MIN_PART_BYTES: usize = 16;

/// Held-out pages.
#[derive(Debug, Clone)]
pub struct Pages {
    /// Their texts.
    pub texts: Vec<String>,
    /// Whether there are more that were not read.
    pub truncated: bool,
}

impl Pages {
    /// Reads the documents of a file or folder, in order, up to [`MAX_CORPUS_BYTES`]. A page of
    /// white space is left out.
    ///
    /// # Errors
    ///
    /// If a file cannot be read or is not UTF-8, or if there is no text.
    pub fn read(path: &Path) -> Result<Self, BenchError> {
        let (mut texts, mut bytes) = (Vec::new(), 0);
        for document in Corpus::open(path)?.documents() {
            let mut text = document?;
            if text.trim().is_empty() {
                continue;
            }
            let truncated = bytes + text.len() > MAX_CORPUS_BYTES;
            if truncated {
                text.truncate(boundary(&text, MAX_CORPUS_BYTES - bytes));
            }
            bytes += text.len();
            if !text.is_empty() {
                texts.push(text);
            }
            if truncated {
                return Ok(Self { texts, truncated });
            }
        }
        if texts.is_empty() {
            return Err(BenchError::Input(format!(
                "the corpus {} is empty: it has no text",
                path.display()
            )));
        }
        Ok(Self {
            texts,
            truncated: false,
        })
    }

    /// Bytes of all pages.
    pub fn bytes(&self) -> usize {
        self.texts.iter().map(String::len).sum()
    }
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// What the model is given.
    pub prompt: String,
    /// What it says.
    pub reply: String,
}

/// The requests of a run.
#[derive(Debug, Clone)]
pub struct Workload {
    /// In the order they are handed over.
    pub texts: Vec<Text>,
    /// Pages that are too short for a prompt and a reply.
    pub pages_too_short: usize,
}

impl Workload {
    /// Cuts pages into prompts and replies and draws `count` of them, or as many as there are,
    /// without replacement.
    ///
    /// `fits` says whether a text is short enough for the model in every arm. Where fewer than half
    /// of the texts of the usual size fit, both parts are halved until half of them do.
    ///
    /// # Errors
    ///
    /// [`BenchError::Input`] if no size gives texts that fit.
    pub fn draw(pages: &Pages, count: usize, seed: u64, fits: impl Fn(&Text) -> bool) -> Result<Self, BenchError> {
        let mut part = PART_BYTES;
        while part >= MIN_PART_BYTES {
            let (mut texts, mut pages_too_short) = (Vec::new(), 0);
            for page in &pages.texts {
                let before = texts.len();
                cut(page, part, &mut texts);
                pages_too_short += usize::from(texts.len() == before);
            }
            let all = texts.len();
            texts.retain(&fits);
            if !texts.is_empty() && texts.len() >= all.div_ceil(2) {
                Rng::new(seed).shuffle(&mut texts);
                texts.truncate(count);
                return Ok(Self { texts, pages_too_short });
            }
            part /= 2;
        }
        Err(BenchError::Input(format!(
            "no page of the corpus gives a prompt and a reply of {MIN_PART_BYTES} to {PART_BYTES} bytes each \
             that fit the model's context; the longest page has {} bytes",
            pages.texts.iter().map(String::len).max().unwrap_or(0)
        )))
    }
}

/// The last character boundary at or before `limit`.
pub fn boundary(text: &str, limit: usize) -> usize {
    (0..=limit.min(text.len()))
        .rev()
        .find(|&i| text.is_char_boundary(i))
        .unwrap_or(0)
}

/// Cuts a page into consecutive prompts and replies of about `part` bytes each; what is left at the
/// end is dropped.
fn cut(page: &str, part: usize, texts: &mut Vec<Text>) {
    let mut rest = page;
    while rest.len() >= 2 * part {
        let (prompt, after) = rest.split_at(cut_place(rest, part));
        let (reply, after) = after.split_at(cut_place(after, part));
        if !prompt.trim().is_empty() && !reply.trim().is_empty() {
            texts.push(Text {
                prompt: prompt.to_owned(),
                reply: reply.to_owned(),
            });
        }
        rest = after;
    }
}

/// The last place at or before `limit` where a word ends, so that white space goes with what
/// follows it; a character boundary where no word ends in the last quarter.
fn cut_place(text: &str, limit: usize) -> usize {
    let limit = boundary(text, limit);
    let from = boundary(text, limit - limit / 4);
    let word_end = text[from..]
        .char_indices()
        .map(|(i, c)| (from + i, c))
        .take_while(|&(i, _)| i <= limit);
    let mut previous_is_space = true;
    let mut place = None;
    for (i, c) in word_end {
        if c.is_whitespace() && !previous_is_space {
            place = Some(i);
        }
        previous_is_space = c.is_whitespace();
    }
    // A character longer than the limit must not stop the walk.
    place
        .unwrap_or(limit)
        .max(text.chars().next().map_or(0, char::len_utf8))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(texts: &[&str]) -> Pages {
        Pages {
            texts: texts.iter().map(|&text| text.to_owned()).collect(),
            truncated: false,
        }
    }

    #[test]
    fn cuts_lie_between_words_and_lose_nothing_but_the_end() {
        let page: String = (0..600).map(|i| format!("word{i} ")).collect();
        let mut texts = Vec::new();
        cut(&page, 500, &mut texts);
        let joined: String = texts
            .iter()
            .map(|text| format!("{}{}", text.prompt, text.reply))
            .collect();
        assert!(page.starts_with(&joined) && page.len() - joined.len() < 1_000);
        for text in &texts {
            assert!(text.reply.starts_with(' ') && !text.prompt.ends_with(' '), "{text:?}");
            assert!((376..=500).contains(&text.prompt.len()) && (376..=500).contains(&text.reply.len()));
        }
    }

    #[test]
    fn any_text_can_be_cut() {
        for page in [
            "ééééééééééééééééééééééé",
            "\u{10348}\u{10348}\u{10348}",
            "          ",
            "a",
            "",
        ] {
            for part in [1, 2, 3, 7] {
                let mut texts = Vec::new();
                cut(page, part, &mut texts);
                assert!(
                    texts
                        .iter()
                        .all(|text| !text.prompt.is_empty() && !text.reply.is_empty())
                );
            }
        }
    }

    #[test]
    fn drawing_is_by_seed_without_replacement() {
        let page: String = (0..2_000).map(|i| format!("word{i} ")).collect();
        let draw = |seed| Workload::draw(&pages(&[&page, "short"]), 8, seed, |_| true).expect("draws");
        let drawn = draw(1);
        assert_eq!((drawn.texts.len(), drawn.pages_too_short), (8, 1));
        assert_eq!(drawn.texts, draw(1).texts);
        assert_ne!(drawn.texts, draw(2).texts);
        for (i, text) in drawn.texts.iter().enumerate() {
            assert!(!drawn.texts[i + 1..].contains(text));
        }
    }

    #[test]
    fn parts_shrink_until_they_fit() {
        let page: String = (0..2_000).map(|i| format!("word{i} ")).collect();
        let fits = |text: &Text| text.prompt.len() + text.reply.len() <= 300;
        let drawn = Workload::draw(&pages(&[&page]), 8, 1, fits).expect("draws");
        assert!(drawn.texts.len() == 8 && drawn.texts.iter().all(fits));
        let error = Workload::draw(&pages(&[&page]), 8, 1, |_| false)
            .expect_err("nothing fits")
            .to_string();
        assert!(error.contains("fit the model's context"), "{error}");
    }

    #[test]
    fn an_empty_corpus_is_named() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("empty.txt");
        std::fs::write(&path, " \n").expect("writes");
        let error = Pages::read(&path).expect_err("no text").to_string();
        assert!(error.contains("empty.txt is empty"), "{error}");
        std::fs::write(&path, b"ab\xff").expect("writes");
        assert!(
            Pages::read(&path)
                .expect_err("not UTF-8")
                .to_string()
                .contains("not UTF-8")
        );
    }
}
