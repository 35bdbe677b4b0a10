//! Training and tuning on the CPU: AdamW over random windows of a token stream.

pub(crate) mod adamw;
mod checkpoint;
mod tune;

pub use tune::{Best, News, Stopped, Watch, token_stream};

use serde::{Deserialize, Serialize};

use crate::error::ModelError;
use crate::kernels::elementwise;
use crate::params::{ModelConfig, Params};
use crate::pass::{Batch, Dropout, Pass, Trainable};
use crate::rng::Rng;

/// Which weights a run changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// All weights.
    Full,
    /// Embeddings, head, final norm, first and last block: the light tuning of AdaptiVocab (Nakash et al. 2025,
    /// section 3.3); the blocks between stay as they are.
    Light,
}

/// Settings of a run. Sizes are in tokens and sequences, rates per step.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TrainConfig {
    /// What is trained.
    pub scope: Scope,
    /// Optimiser steps of the whole run.
    pub steps: usize,
    /// Sequences in a step.
    pub batch: usize,
    /// Tokens in a sequence, at most the model's context.
    pub tokens: usize,
    /// Learning rate after warm-up.
    pub peak_rate: f32,
    /// Learning rate at the end, as a share of the peak.
    pub final_share: f32,
    /// Steps of linear warm-up.
    pub warmup: usize,
    /// AdamW's decoupled weight decay, on matrices only.
    pub weight_decay: f32,
    /// Decay rates of the two moment estimates.
    pub betas: (f32, f32),
    /// Largest L2 norm of a step's gradient; larger ones are scaled down.
    pub clip: f32,
    /// Dropout on embeddings and residual branches.
    pub dropout: f32,
    /// Threads; a run is reproducible for a seed and a number of threads.
    pub threads: usize,
    /// Seed of windows and dropout.
    pub seed: u64,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            scope: Scope::Full,
            steps: 1000,
            batch: 8,
            tokens: 512,
            peak_rate: 1e-3,
            final_share: 0.05,
            warmup: 100,
            weight_decay: 0.1,
            betas: (0.9, 0.98),
            clip: 1.0,
            dropout: 0.1,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            seed: 1,
        }
    }
}

impl TrainConfig {
    /// Learning rate of step `step`: linear warm-up, then a cosine down to the final share.
    pub fn rate(&self, step: usize) -> f32 {
        if step < self.warmup {
            return self.peak_rate * (step + 1) as f32 / self.warmup as f32;
        }
        let done = (step - self.warmup) as f32 / self.steps.saturating_sub(self.warmup).max(1) as f32;
        let cosine = 0.5 * (1.0 + (std::f32::consts::PI * done.min(1.0)).cos());
        self.peak_rate * (self.final_share + (1.0 - self.final_share) * cosine)
    }

    /// Refuses settings that cannot run on a model of this shape.
    ///
    /// # Errors
    /// [`ModelError::Request`] with the value and the limit.
    pub fn check(&self, model: &ModelConfig) -> Result<(), ModelError> {
        let bad = |why: String| Err(ModelError::Request(why));
        if self.tokens == 0 || self.tokens > model.context() {
            return bad(format!(
                "windows of {} tokens; the model's context is {}",
                self.tokens,
                model.context()
            ));
        }
        if self.batch == 0 || self.threads == 0 || self.steps == 0 {
            return bad("batch, threads and steps must be at least 1".into());
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return bad(format!(
                "dropout is {}; it must be at least 0 and below 1",
                self.dropout
            ));
        }
        if !(self.peak_rate.is_finite() && self.peak_rate >= 0.0) {
            return bad(format!(
                "the learning rate is {}; it must not be below 0",
                self.peak_rate
            ));
        }
        Ok(())
    }

    /// Refuses a text that windows cannot be taken from.
    ///
    /// # Errors
    /// [`ModelError::Request`] when it is shorter than a window or holds an id outside the vocabulary.
    pub fn check_text(&self, model: &ModelConfig, stream: &[u32]) -> Result<(), ModelError> {
        self.check_length(stream)?;
        check_ids(stream, model.vocab_size())
    }

    fn check_length(&self, stream: &[u32]) -> Result<(), ModelError> {
        let (have, need) = (stream.len(), self.tokens + 1);
        if have < need {
            return Err(ModelError::Request(format!(
                "{have} tokens of training text; one window needs {need}"
            )));
        }
        Ok(())
    }
}

/// What one step did.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct StepReport {
    /// Number of the step, from 0.
    pub step: usize,
    /// Mean loss of its tokens, nats per token.
    pub loss: f64,
    /// L2 norm of the gradient before clipping.
    pub gradient_norm: f64,
    /// Learning rate used.
    pub rate: f32,
}

/// A model in training, with its optimiser.
#[derive(Debug)]
pub struct Trainer {
    params: Params,
    config: TrainConfig,
    trainable: Trainable,
    optimiser: adamw::AdamW,
    step: usize,
    shards: Vec<Shard>,
    best: Option<Best>,
    scores_since_best: usize,
}

/// One thread's buffers.
#[derive(Debug, Default)]
struct Shard {
    pass: Pass,
    grads: Vec<f32>,
    loss: f64,
}

impl Trainer {
    /// Starts a run.
    ///
    /// # Errors
    /// As [`TrainConfig::check`].
    pub fn new(params: Params, config: TrainConfig) -> Result<Self, ModelError> {
        config.check(params.config())?;
        let layers = params.config().layers();
        let blocks = (0..layers)
            .map(|layer| config.scope == Scope::Full || layer == 0 || layer + 1 == layers)
            .collect();
        let shards = config.threads.min(config.batch);
        let optimiser = adamw::AdamW::new(params.len());
        Ok(Self {
            trainable: Trainable { blocks },
            optimiser,
            step: 0,
            shards: (0..shards).map(|_| Shard::default()).collect(),
            params,
            config,
            best: None,
            scores_since_best: 0,
        })
    }

    /// The weights as they are now.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// The settings of the run.
    pub fn config(&self) -> &TrainConfig {
        &self.config
    }

    /// Steps done so far.
    pub fn step_number(&self) -> usize {
        self.step
    }

    /// One optimiser step on random windows of `stream`.
    ///
    /// # Errors
    /// [`ModelError::Request`] when the stream is shorter than a window or holds an id outside the vocabulary.
    pub fn step(&mut self, stream: &[u32]) -> Result<StepReport, ModelError> {
        let (tokens, batch) = (self.config.tokens, self.config.batch);
        self.config.check_length(stream)?;
        let mut rng = Rng::new(self.config.seed ^ (self.step as u64).wrapping_mul(0xd6e8_feb8_6659_fd93));
        let starts: Vec<usize> = (0..batch).map(|_| rng.below(stream.len() - tokens)).collect();
        let window = |shift: usize| -> Vec<u32> {
            starts
                .iter()
                .flat_map(|&start| &stream[start + shift..start + shift + tokens])
                .copied()
                .collect()
        };
        let (ids, targets) = (window(0), window(1));
        check_ids(&ids, self.params.config().vocab_size())?;
        check_ids(&targets, self.params.config().vocab_size())?;
        Ok(self.step_on(&ids, &targets, rng.next_u64() as u32))
    }

    /// One optimiser step on given sequences, `(batch, tokens)` each.
    fn step_on(&mut self, ids: &[u32], targets: &[u32], dropout_seed: u32) -> StepReport {
        let total_loss = self.accumulate(ids, targets, dropout_seed);
        let (first, others) = self.shards.split_at_mut(1);
        let grads = &mut first[0].grads;
        for other in others.iter() {
            elementwise::accumulate(grads, &other.grads);
        }
        let norm = elementwise::sum_of_squares(grads).sqrt();
        let clip = if norm > f64::from(self.config.clip) {
            self.config.clip / norm as f32
        } else {
            1.0
        };
        let rate = self.config.rate(self.step);
        let (config, trainable) = (&self.config, &self.trainable);
        let trained = self.params.layout.tensors.iter().filter_map(|tensor| {
            let decay = if tensor.shape.len() == 2 {
                config.weight_decay
            } else {
                0.0
            };
            let block = tensor.block;
            block
                .is_none_or(|block| trainable.blocks[block])
                .then(|| (tensor.range.clone(), decay))
        });
        let step = adamw::Step {
            rate,
            betas: config.betas,
            clip,
        };
        self.optimiser.step(&mut self.params.data, grads, trained, step);
        let report = StepReport {
            step: self.step,
            loss: total_loss / ids.len() as f64,
            gradient_norm: norm,
            rate,
        };
        self.step += 1;
        report
    }

    /// Fills every shard's gradients; returns the sum of losses.
    fn accumulate(&mut self, ids: &[u32], targets: &[u32], dropout_seed: u32) -> f64 {
        let tokens = self.config.tokens;
        let sequences = ids.len() / tokens;
        let per_shard = sequences.div_ceil(self.shards.len()) * tokens;
        let (params, trainable, rate) = (&self.params, &self.trainable, self.config.dropout);
        let scale = 1.0 / ids.len() as f32;
        std::thread::scope(|scope| {
            for (index, shard) in self.shards.iter_mut().enumerate() {
                let rows = ids.len().min(index * per_shard)..ids.len().min((index + 1) * per_shard);
                let batch = Batch {
                    ids: &ids[rows.clone()],
                    targets: &targets[rows.clone()],
                    tokens,
                };
                let dropout = Dropout {
                    rate,
                    seed: dropout_seed,
                    first_row: rows.start,
                };
                scope.spawn(move || {
                    shard.grads.clear();
                    shard.grads.resize(params.len(), 0.0);
                    shard.loss = shard
                        .pass
                        .gradients(params, batch, dropout, trainable, &mut shard.grads, scale);
                });
            }
        });
        self.shards.iter().map(|shard| shard.loss).sum()
    }
}

/// Refuses ids outside the vocabulary.
pub(crate) fn check_ids(ids: &[u32], vocab_size: usize) -> Result<(), ModelError> {
    match ids.iter().find(|&&id| id as usize >= vocab_size) {
        Some(id) => Err(ModelError::Request(format!(
            "token id {id} is outside the model's vocabulary of {vocab_size}"
        ))),
        None => Ok(()),
    }
}
