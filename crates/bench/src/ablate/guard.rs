//! The quality guard: bits per byte of every stage on the same documents, and what each says by itself.

use fused_model::{CausalLm, ModelError, Request, generate};

use super::stages::{Model, Stage};
use crate::error::BenchError;
use crate::inputs::Subject;
use crate::interrupt;
use crate::measure::store::{FRAME_BYTES, virtual_store, whole_budget};
use crate::progress;
use crate::workload::{Text, boundary};

/// Prompts that models continue by themselves.
pub(super) const PROMPTS: usize = 24;
/// Tokens that a model says after a prompt.
pub(super) const SAID_TOKENS: usize = 64;

/// Bits of every document by stage.
#[derive(Debug, Clone)]
pub(crate) struct Scored {
    /// Bytes of each document.
    pub(crate) bytes: Vec<f64>,
    /// Bits that each model needs for each document.
    pub(crate) bits: Vec<(Stage, Vec<f64>)>,
}

impl Scored {
    /// Bits of every document at a stage, where there is a model of it.
    pub(super) fn at(&self, stage: Stage) -> Option<&[f64]> {
        let found = self.bits.iter().find(|(of, _)| *of == stage);
        found.map(|(_, bits)| bits.as_slice())
    }
}

/// What a model said after the prompts.
#[derive(Debug, Clone)]
pub(crate) struct Said {
    pub(crate) stage: Stage,
    /// The text after each prompt.
    pub(crate) texts: Vec<String>,
    /// How much of it is new tokens; absent for a tokenizer that has none.
    pub(crate) adoption: Option<Adopted>,
}

/// New ones and all, by prompt.
#[derive(Debug, Clone)]
pub(crate) struct Adopted {
    /// Tokens that the model said.
    pub(crate) tokens: Vec<[f64; 2]>,
    /// Bytes of them.
    pub(crate) bytes: Vec<[f64; 2]>,
    /// Tokens of the page's own continuation.
    pub(crate) in_page: Vec<[f64; 2]>,
}

/// Scores documents with every model.
pub(super) fn score(name: &'static str, models: &[Model], documents: &[&str]) -> Result<Scored, BenchError> {
    let stage = progress::Stage::new(name, models.len() * documents.len());
    let mut bits = Vec::new();
    for model in models {
        let mut of = Vec::new();
        for document in documents {
            interrupt::check()?;
            of.push(model.subject.score(document)?.bits);
            stage.step();
        }
        bits.push((model.stage, of));
    }
    Ok(Scored {
        bytes: documents.iter().map(|text| text.len() as f64).collect(),
        bits,
    })
}

/// Lets every model go on after the prompts, greedily.
pub(super) fn let_speak(models: &[Model], texts: &[Text]) -> Result<Vec<Said>, BenchError> {
    let stage = progress::Stage::new("models go on by themselves", models.len());
    let mut all = Vec::new();
    for model in models {
        interrupt::check()?;
        let subject = &model.subject;
        let said = go_on(subject, texts)?;
        let spelled = said
            .iter()
            .map(|ids| Ok(String::from_utf8_lossy(&subject.tokenizer.decode_bytes(ids)?).into_owned()));
        all.push(Said {
            stage: model.stage,
            texts: spelled.collect::<Result<_, BenchError>>()?,
            adoption: adopted(subject, texts, &said),
        });
        stage.step();
    }
    Ok(all)
}

fn go_on(subject: &Subject, texts: &[Text]) -> Result<Vec<Vec<u32>>, BenchError> {
    let prompts = texts.iter().map(|text| subject.tokenizer.encode(&text.prompt));
    let requests: Vec<Request> = prompts.map(|prompt| Request::greedy(prompt, SAID_TOKENS)).collect();
    let geometry = subject.model.kv_geometry(requests.len());
    // A static store would take the model's context for each prompt, gigabytes for one of thousands of tokens.
    let budget = whole_budget(&[subject], FRAME_BYTES, requests.len());
    let mut store = virtual_store(&geometry, FRAME_BYTES, budget).map_err(ModelError::from)?;
    let mut model = subject.model.clone();
    Ok(generate(
        &mut model,
        &mut store,
        &requests,
        requests.len(),
        &mut |_| {},
    )?)
}

fn adopted(subject: &Subject, texts: &[Text], said: &[Vec<u32>]) -> Option<Adopted> {
    let map = subject.tokenizer.patch_map()?;
    let weigh = |ids: &[u32], weight: &dyn Fn(u32) -> usize| {
        let sum = |ids: &mut dyn Iterator<Item = u32>| ids.map(weight).sum::<usize>() as f64;
        let new = sum(&mut ids.iter().copied().filter(|&id| map.base_ids(id).is_some()));
        [new, sum(&mut ids.iter().copied())]
    };
    let token_bytes = |id| subject.tokenizer.token_bytes(id).map_or(0, <[u8]>::len);
    let pages = texts.iter().map(|text| subject.tokenizer.encode(&text.reply));
    Some(Adopted {
        tokens: said.iter().map(|ids| weigh(ids, &|_| 1)).collect(),
        bytes: said.iter().map(|ids| weigh(ids, &token_bytes)).collect(),
        in_page: pages.map(|ids| weigh(&ids, &|_| 1)).collect(),
    })
}

/// The last `bytes` of a text, from a character on.
pub(super) fn end_of(text: &str, bytes: usize) -> &str {
    let from = (text.len().saturating_sub(bytes)..=text.len()).find(|&at| text.is_char_boundary(at));
    &text[from.unwrap_or(0)..]
}

/// The first `bytes` of a text, up to a character.
pub(super) fn beginning_of(text: &str, bytes: usize) -> &str {
    &text[..boundary(text, bytes)]
}
