//! Tokens and encoding speed on whole held-out pages.

use std::hint::black_box;
use std::time::Instant;

use patchtok::PatchTokenizer;

use super::turns;
use crate::error::BenchError;
use crate::interrupt;
use crate::progress::Stage;
use crate::workload::Pages;

/// A tokenizer to measure.
#[derive(Debug, Clone)]
pub struct Subject<'a> {
    /// Name in the report.
    pub name: &'static str,
    /// Name for people.
    pub label: &'static str,
    /// Name of the tokenizer it was patched from, for a patched one.
    pub patched_from: Option<&'static str>,
    /// The tokenizer.
    pub tokenizer: &'a PatchTokenizer,
    /// The same in the `tokenizers` crate, where that can read it.
    pub hugging_face: Option<tokenizers::Tokenizer>,
}

/// One tokenizer on the held-out pages.
#[derive(Debug, Clone)]
pub struct TokenizerData {
    /// Name in the report.
    pub name: &'static str,
    /// Name for people.
    pub label: &'static str,
    /// Name of the tokenizer it was patched from, for a patched one.
    pub patched_from: Option<&'static str>,
    /// Entries exchanged by patching.
    pub swaps: usize,
    /// Entries of the vocabulary.
    pub vocab_size: usize,
    /// Tokens of each page.
    pub counts: Vec<usize>,
    /// Whether every page came back from its ids unchanged.
    pub lossless: bool,
    /// Seconds to encode all pages, one after the other on one thread, by round.
    pub encode_seconds: Vec<f64>,
    /// The same for the `tokenizers` crate; absent unless its ids are the same.
    pub hugging_face_seconds: Option<Vec<f64>>,
    /// Whether the `tokenizers` crate gives the same ids on every page; absent when it cannot read
    /// the file.
    pub same_ids_as_hugging_face: Option<bool>,
}

/// Encodes all pages with every tokenizer: once to count and to compare, then `rounds` times
/// against the clock, in an order that is turned round from one round to the next.
///
/// # Errors
///
/// If a signal asked to stop, or a tokenizer cannot decode its own ids.
pub fn measure(subjects: &[Subject<'_>], pages: &Pages, rounds: usize) -> Result<Vec<TokenizerData>, BenchError> {
    let stage = Stage::new("tokenizers", subjects.len() * (rounds + 1));
    let mut data = Vec::new();
    for subject in subjects {
        interrupt::check()?;
        data.push(compare(subject, pages)?);
        stage.step();
    }
    for round in 0..rounds {
        let forward = round % 2 == 0;
        for index in turns(round, subjects.len()) {
            interrupt::check()?;
            let (subject, data) = (&subjects[index], &mut data[index]);
            if forward {
                data.encode_seconds.push(ours(subject, pages));
            }
            if let (Some(seconds), Some(tokenizer)) = (&mut data.hugging_face_seconds, &subject.hugging_face) {
                seconds.push(hugging_face(tokenizer, pages));
            }
            if !forward {
                data.encode_seconds.push(ours(subject, pages));
            }
            stage.step();
        }
    }
    Ok(data)
}

/// Counts tokens and compares ids; also brings every table and cache into memory before a clock
/// runs.
fn compare(subject: &Subject<'_>, pages: &Pages) -> Result<TokenizerData, BenchError> {
    let ids: Vec<Vec<u32>> = pages.texts.iter().map(|text| subject.tokenizer.encode(text)).collect();
    let mut lossless = true;
    for (text, ids) in pages.texts.iter().zip(&ids) {
        lossless &= subject.tokenizer.decode(ids)? == *text;
    }
    let same = subject.hugging_face.as_ref().map(|tokenizer| {
        let mut pairs = pages.texts.iter().zip(&ids);
        pairs.all(|(text, ids)| {
            tokenizer
                .encode_fast(text.as_str(), false)
                .is_ok_and(|encoding| encoding.get_ids() == ids.as_slice())
        })
    });
    Ok(TokenizerData {
        name: subject.name,
        label: subject.label,
        patched_from: subject.patched_from,
        swaps: subject.tokenizer.patch_map().map_or(0, |map| map.new_tokens().len()),
        vocab_size: subject.tokenizer.vocab_size(),
        counts: ids.iter().map(Vec::len).collect(),
        lossless,
        encode_seconds: Vec::new(),
        hugging_face_seconds: (same == Some(true)).then(Vec::new),
        same_ids_as_hugging_face: same,
    })
}

fn ours(subject: &Subject<'_>, pages: &Pages) -> f64 {
    let start = Instant::now();
    for text in &pages.texts {
        black_box(subject.tokenizer.encode(black_box(text)));
    }
    start.elapsed().as_secs_f64()
}

/// The fast variant, which keeps no offsets: the fair comparison, since ours keeps none either.
fn hugging_face(tokenizer: &tokenizers::Tokenizer, pages: &Pages) -> f64 {
    let start = Instant::now();
    for text in &pages.texts {
        // That it succeeds on these pages was found when ids were compared.
        let _ = black_box(tokenizer.encode_fast(black_box(text.as_str()), false));
    }
    start.elapsed().as_secs_f64()
}
