//! Bits per byte and scoring speed of both models on the same text.

use std::time::Instant;

use crate::error::BenchError;
use crate::inputs::Subject;
use crate::interrupt;
use crate::progress::Stage;
use crate::stats::Rng;
use crate::workload::{Pages, boundary};

/// Documents scored on each corpus.
pub const DOCUMENTS: usize = 24;
/// Most bytes scored of a page, from its beginning: many pages say more than a few long ones.
pub const DOCUMENT_BYTES: usize = 4096;

/// One model on one document.
#[derive(Debug, Clone, Copy)]
pub struct DocumentScore {
    /// Bits the model needs for the document.
    pub bits: f64,
    /// Tokens scored.
    pub tokens: usize,
    /// Seconds, encoding included.
    pub seconds: f64,
}

/// Both models on the same documents.
#[derive(Debug, Clone)]
pub struct QualityData {
    /// Bytes of each document.
    pub document_bytes: Vec<usize>,
    /// The base model.
    pub normal: Vec<DocumentScore>,
    /// The fused arm's model.
    pub fused: Vec<DocumentScore>,
}

/// Scores the beginnings of up to [`DOCUMENTS`] pages, drawn by `seed`, with both models; which
/// goes first changes from document to document.
///
/// # Errors
///
/// If a signal asked to stop, or a model refuses a document.
pub fn measure(
    name: &'static str,
    [normal, fused]: [&Subject; 2],
    pages: &Pages,
    seed: u64,
) -> Result<QualityData, BenchError> {
    let documents = beginnings(pages, DOCUMENTS, seed);
    let stage = Stage::new(name, documents.len());
    let mut data = QualityData {
        document_bytes: Vec::new(),
        normal: Vec::new(),
        fused: Vec::new(),
    };
    for subject in [normal, fused] {
        subject.score(documents[0])?;
    }
    for (i, &document) in documents.iter().enumerate() {
        interrupt::check()?;
        data.document_bytes.push(document.len());
        if i % 2 == 0 {
            data.normal.push(timed(normal, document)?);
            data.fused.push(timed(fused, document)?);
        } else {
            data.fused.push(timed(fused, document)?);
            data.normal.push(timed(normal, document)?);
        }
        stage.step();
    }
    Ok(data)
}

/// The beginnings, up to [`DOCUMENT_BYTES`] each, of up to `documents` pages, drawn by `seed`.
pub fn beginnings(pages: &Pages, documents: usize, seed: u64) -> Vec<&str> {
    let mut order: Vec<usize> = (0..pages.texts.len()).collect();
    Rng::new(seed).shuffle(&mut order);
    order.truncate(documents);
    order
        .into_iter()
        .map(|page| pages.texts[page].as_str())
        .map(|text| &text[..boundary(text, DOCUMENT_BYTES)])
        .collect()
}

fn timed(subject: &Subject, document: &str) -> Result<DocumentScore, BenchError> {
    let start = Instant::now();
    let score = subject.score(document)?;
    Ok(DocumentScore {
        bits: score.bits,
        tokens: score.tokens,
        seconds: start.elapsed().as_secs_f64(),
    })
}
