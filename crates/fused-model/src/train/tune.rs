//! A whole run: steps, held-out scores, checkpoints, and the best weights kept.

use std::path::Path;

use patchtok::{Corpus, PatchTokenizer};
use serde::Serialize;

use super::{StepReport, Trainer};
use crate::error::ModelError;
use crate::params::Params;
use crate::score::Heldout;

/// All documents of `corpus` as one stream of tokens, each between two `separator`s.
///
/// # Errors
/// [`ModelError::Text`] when the corpus cannot be read.
pub fn token_stream(tokenizer: &PatchTokenizer, corpus: &Corpus, separator: u32) -> Result<Vec<u32>, ModelError> {
    let mut stream = vec![separator];
    for document in corpus.documents() {
        stream.extend(tokenizer.encode_ordinary(&document?));
        stream.push(separator);
    }
    Ok(stream)
}

/// How a run is watched.
#[derive(Debug, Clone, Copy)]
pub struct Watch<'a> {
    /// Steps between held-out scores, which are also where checkpoints are written.
    pub every: usize,
    /// Scores in a row without a better one after which the run stops early.
    pub patience: Option<usize>,
    /// Where the run is kept so that it can be resumed.
    pub checkpoint: Option<&'a Path>,
}

/// The weights with the lowest held-out bits per byte so far.
#[derive(Debug, Clone)]
pub struct Best {
    /// Steps done when they were scored.
    pub step: usize,
    /// Held-out bits per byte.
    pub bits_per_byte: f64,
    /// The weights.
    pub params: Params,
}

impl Best {
    fn is_better_than(&self, other: Option<&Self>) -> bool {
        self.bits_per_byte.is_finite() && other.is_none_or(|other| self.bits_per_byte < other.bits_per_byte)
    }
}

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stopped {
    /// All steps were done.
    Finished,
    /// Held-out bits per byte stopped falling.
    NoGain,
    /// The caller asked for it.
    Asked,
}

/// What a run tells while it goes on.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum News<'a> {
    /// A step is done.
    Step(&'a StepReport),
    /// The held-out text was scored after so many steps.
    Scored {
        /// Steps done.
        step: usize,
        /// Bits per byte.
        bits_per_byte: f64,
    },
}

impl Trainer {
    /// Trains on random windows of `stream` until all steps are done, the held-out score stops falling, or `go_on` says
    /// no, and returns the best weights it scored. Weights are scored before the first step, every
    /// [`every`](Watch::every) steps, and at the end; so a run never ends worse than it began.
    ///
    /// A run that was stopped and [resumed](Trainer::resume) with the same texts and the same `watch` goes on as one that
    /// was not: it takes the same steps, has the same scores, stops at the same place and returns the same weights.
    ///
    /// # Errors
    /// Those of [`step`](Trainer::step), [`Heldout::score`] and [`save_checkpoint`](Trainer::save_checkpoint).
    pub fn run(
        &mut self,
        stream: &[u32],
        heldout: &Heldout,
        watch: Watch<'_>,
        go_on: &mut dyn FnMut(News<'_>) -> bool,
    ) -> Result<(Best, Stopped), ModelError> {
        let mut wanted = true;
        if self.best.is_none() {
            wanted = self.take_score(heldout, go_on)?;
        }
        let stopped = loop {
            if !wanted {
                break Stopped::Asked;
            }
            if watch
                .patience
                .is_some_and(|patience| self.scores_since_best >= patience)
            {
                break Stopped::NoGain;
            }
            if self.step == self.config.steps {
                break Stopped::Finished;
            }
            let report = self.step(stream)?;
            wanted = go_on(News::Step(&report));
            let last = self.step == self.config.steps;
            if last || self.step.is_multiple_of(watch.every.max(1)) {
                wanted &= self.take_score(heldout, go_on)?;
                if let Some(path) = watch.checkpoint {
                    self.save_checkpoint(path)?;
                }
            }
        };
        let mut best = self.best.clone();
        if stopped == Stopped::Asked {
            if let Some(path) = watch.checkpoint {
                self.save_checkpoint(path)?;
            }
            // The stretch that was cut off may hold the best weights. The run itself does not learn of this score, which it
            // would not have taken: resumed, it is to stop where it would have.
            let now = self.scored(heldout)?;
            if now.is_better_than(best.as_ref()) {
                best = Some(now);
            }
        }
        best.map(|best| (best, stopped))
            .ok_or_else(|| ModelError::Request("the held-out text has no score that is a number".into()))
    }

    /// The weights as they are now.
    fn scored(&self, heldout: &Heldout) -> Result<Best, ModelError> {
        Ok(Best {
            step: self.step,
            bits_per_byte: heldout.score(&self.params)?.bits_per_byte(),
            params: self.params.clone(),
        })
    }

    fn take_score(&mut self, heldout: &Heldout, go_on: &mut dyn FnMut(News<'_>) -> bool) -> Result<bool, ModelError> {
        let now = self.scored(heldout)?;
        let (step, bits_per_byte) = (now.step, now.bits_per_byte);
        self.scores_since_best += 1;
        if now.is_better_than(self.best.as_ref()) {
            self.scores_since_best = 0;
            self.best = Some(now);
        }
        Ok(go_on(News::Scored { step, bits_per_byte }))
    }
}
