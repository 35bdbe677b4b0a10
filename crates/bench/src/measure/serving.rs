//! All arms on the same requests: KV memory as the operating system counts it, and times.
//!
//! Memory does not depend on the clock, so it is taken in a first pass without one, each batch in a
//! new store, so that no store carries what an earlier batch left in it. That pass also warms
//! everything up. Then come the timed rounds; an arm keeps one store through all of them, as a
//! server does.

use fused_model::kv::{KvGeometry, KvStore, PagedKv, StaticKv};
use fused_model::{CausalLm, Event};

use super::replay::Replay;
use super::store::{FRAME_BYTES, virtual_store};
use super::turns;
use crate::arms::{ARMS, Arm, KvChoice};
use crate::error::BenchError;
use crate::inputs::Subject;
use crate::interrupt;
use crate::progress::Stage;
use crate::workload::Text;

/// KV memory at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KvPoint {
    /// Bytes of physical memory.
    pub physical: usize,
    /// Bytes that hold rows.
    pub used: usize,
}

/// KV memory of one batch in a store of its own.
#[derive(Debug, Clone, Default)]
pub struct BatchMemory {
    /// At the step where physical memory was largest.
    pub peak: KvPoint,
    /// After every step, with the seconds since the batch was handed over.
    pub timeline: Vec<(f64, KvPoint)>,
}

/// Times of one batch through one arm, once.
#[derive(Debug, Clone)]
pub struct BatchTime {
    /// Seconds from handing over the prompts as text to having the replies as text.
    pub wall: f64,
    /// Seconds to the last byte of each text.
    pub latency: Vec<f64>,
    /// Seconds to the first byte of each text.
    pub first_byte: Vec<f64>,
}

/// Texts decoded together.
#[derive(Debug, Clone, Copy)]
pub struct BatchTexts {
    /// How many.
    pub texts: usize,
    /// Bytes of their prompts.
    pub prompt_bytes: usize,
    /// Bytes of their replies.
    pub reply_bytes: usize,
}

/// Tokens of a batch in one arm.
#[derive(Debug, Clone, Copy)]
pub struct BatchTokens {
    /// Of the prompts.
    pub prompt: usize,
    /// Of the replies.
    pub reply: usize,
}

/// One arm.
#[derive(Debug, Clone)]
pub struct ArmRuns {
    /// Address space its store set aside, in bytes.
    pub reserved: usize,
    /// Tokens of each batch.
    pub batch_tokens: Vec<BatchTokens>,
    /// Peak of physical memory of each batch by formula.
    pub estimated_peak: Vec<usize>,
    /// Memory by batch.
    pub memory: Vec<BatchMemory>,
    /// Times by round, then by batch.
    pub rounds: Vec<Vec<BatchTime>>,
}

/// All arms.
#[derive(Debug, Clone)]
pub struct ServingData {
    /// The batches, the same for every arm.
    pub batches: Vec<BatchTexts>,
    /// The arms, in the order of [`ARMS`].
    pub arms: Vec<ArmRuns>,
}

/// How the requests are run.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Requests decoded together.
    pub batch: usize,
    /// Timed repetitions.
    pub rounds: usize,
    /// Physical memory the virtual store may use, in bytes.
    pub kv_budget: usize,
}

/// The arms under test and what they run.
struct Bench<'a> {
    subjects: [&'a Subject; 2],
    batches: Vec<&'a [Text]>,
    settings: Settings,
}

/// Runs the workload through every arm: once for memory, then [`Settings::rounds`] times against
/// the clock. Within a round the arms take turns batch by batch, in an order that is turned round
/// from one turn to the next, so that a machine that slows down slows all of them.
///
/// # Errors
///
/// If a signal asked to stop, a store refuses (a budget that is too small), or a model refuses.
pub fn measure(subjects: [&Subject; 2], texts: &[Text], settings: Settings) -> Result<ServingData, BenchError> {
    let bench = Bench {
        subjects,
        batches: texts.chunks(settings.batch).collect(),
        settings,
    };
    let mut arms = bench.memory_pass()?;
    bench.timed_rounds(&mut arms)?;
    let batches = bench.batches.iter().map(|batch| BatchTexts {
        texts: batch.len(),
        prompt_bytes: batch.iter().map(|text| text.prompt.len()).sum(),
        reply_bytes: batch.iter().map(|text| text.reply.len()).sum(),
    });
    Ok(ServingData {
        batches: batches.collect(),
        arms,
    })
}

impl Bench<'_> {
    fn subject(&self, arm: Arm) -> &Subject {
        self.subjects[arm.tokenizer as usize]
    }

    fn geometry(&self, arm: Arm) -> KvGeometry {
        self.subject(arm).model.kv_geometry(self.settings.batch)
    }

    fn store(&self, arm: Arm) -> Result<Box<dyn KvStore>, BenchError> {
        let geometry = &self.geometry(arm);
        let store: Result<Box<dyn KvStore>, _> = match arm.kv_store {
            KvChoice::Static => StaticKv::new(geometry).map(|kv| Box::new(kv) as _),
            KvChoice::Paged => PagedKv::new(geometry).map(|kv| Box::new(kv) as _),
            KvChoice::Virtual => {
                virtual_store(geometry, FRAME_BYTES, self.settings.kv_budget).map(|kv| Box::new(kv) as _)
            }
        };
        store.map_err(|error| BenchError::Model(error.into()))
    }

    fn memory_pass(&self) -> Result<Vec<ArmRuns>, BenchError> {
        let stage = Stage::new("KV memory, and warm-up", ARMS.len() * self.batches.len());
        let mut arms = Vec::new();
        for arm in ARMS {
            let mut runs = ArmRuns {
                reserved: 0,
                batch_tokens: Vec::new(),
                estimated_peak: Vec::new(),
                memory: Vec::new(),
                rounds: Vec::new(),
            };
            for batch in &self.batches {
                interrupt::check()?;
                let mut store = self.store(arm)?;
                runs.reserved = store.memory().reserved_bytes;
                let run = self.batch(arm, store.as_mut(), batch)?;
                runs.batch_tokens.push(run.tokens());
                runs.estimated_peak
                    .push(estimated_peak(arm, &self.geometry(arm), &run.lengths));
                runs.memory.push(run.memory());
                stage.step();
            }
            arms.push(runs);
        }
        Ok(arms)
    }

    fn timed_rounds(&self, arms: &mut [ArmRuns]) -> Result<(), BenchError> {
        let stage = Stage::new("generation", self.settings.rounds * ARMS.len() * self.batches.len());
        let mut stores = ARMS
            .into_iter()
            .map(|arm| self.store(arm))
            .collect::<Result<Vec<_>, _>>()?;
        for round in 0..self.settings.rounds {
            for runs in arms.iter_mut() {
                runs.rounds.push(Vec::new());
            }
            for (turn, batch) in self.batches.iter().enumerate() {
                for index in turns(round + turn, ARMS.len()) {
                    interrupt::check()?;
                    let run = self.batch(ARMS[index], stores[index].as_mut(), batch)?;
                    arms[index].rounds[round].push(run.time);
                    stage.step();
                }
            }
        }
        Ok(())
    }

    fn batch(&self, arm: Arm, store: &mut dyn KvStore, batch: &[Text]) -> Result<BatchRun, BenchError> {
        let subject = self.subject(arm);
        let mut events = Events {
            first_byte: vec![0.0; batch.len()],
            latency: vec![0.0; batch.len()],
            ..Events::default()
        };
        let replay = Replay {
            who: &format!("the {} tokenizer", arm.tokenizer.word()),
            model: &subject.model,
            tokenizer: &subject.tokenizer,
            texts: batch,
            batch: self.settings.batch,
        };
        let replayed = replay.run(store, &mut |event, seconds| events.take(event, seconds))?;
        Ok(BatchRun {
            lengths: replayed.lengths,
            timeline: events.timeline,
            time: BatchTime {
                wall: replayed.seconds,
                latency: events.latency,
                first_byte: events.first_byte,
            },
        })
    }
}

/// What one batch showed.
struct BatchRun {
    /// Prompt and reply tokens of each text.
    lengths: Vec<(usize, usize)>,
    timeline: Vec<(f64, KvPoint)>,
    time: BatchTime,
}

impl BatchRun {
    fn tokens(&self) -> BatchTokens {
        BatchTokens {
            prompt: self.lengths.iter().map(|&(prompt, _)| prompt).sum(),
            reply: self.lengths.iter().map(|&(_, reply)| reply).sum(),
        }
    }

    fn memory(self) -> BatchMemory {
        // Of equal peaks the one that holds most: a store that gives nothing back is not blamed for
        // what it kept later.
        let points = self.timeline.iter().map(|&(_, point)| point);
        let peak = points.max_by_key(|point| (point.physical, point.used));
        BatchMemory {
            peak: peak.unwrap_or_default(),
            timeline: self.timeline,
        }
    }
}

/// Collects the events of a batch.
#[derive(Default)]
struct Events {
    first_byte: Vec<f64>,
    latency: Vec<f64>,
    timeline: Vec<(f64, KvPoint)>,
}

impl Events {
    fn take(&mut self, event: Event<'_>, seconds: f64) {
        match event {
            Event::Token { request, index, .. } => self.token(request.number() as usize, index, seconds),
            Event::Step { memory, .. } => {
                let point = KvPoint {
                    physical: memory.physical_bytes,
                    used: memory.used_bytes,
                };
                self.timeline.push((seconds, point));
            }
            _ => {}
        }
    }

    /// The `index`th token of a text.
    fn token(&mut self, text: usize, index: usize, seconds: f64) {
        if index == 0 {
            self.first_byte[text] = seconds;
        }
        self.latency[text] = seconds;
    }
}

/// The peak of physical memory that lengths and shapes predict, in bytes, for texts of `(prompt,
/// reply)` tokens whose prompts are read first and which then grow together by a token a step. The
/// last token of a reply is never stored.
fn estimated_peak(arm: Arm, geometry: &KvGeometry, lengths: &[(usize, usize)]) -> usize {
    let token = geometry.token_bytes();
    let of_sequence = |tokens: usize| match arm.kv_store {
        KvChoice::Static => geometry.max_tokens * token,
        KvChoice::Paged => tokens.next_multiple_of(PagedKv::BLOCK_TOKENS) * token,
        KvChoice::Virtual => {
            let row_runs = 2 * geometry.layers;
            row_runs * (tokens * token / row_runs).next_multiple_of(FRAME_BYTES)
        }
    };
    if arm.kv_store == KvChoice::Static {
        return geometry.max_sequences * of_sequence(0);
    }
    let steps = lengths.iter().map(|&(_, reply)| reply).max().unwrap_or(0);
    let at = |step: usize| -> usize {
        let live = lengths.iter().filter(|&&(_, reply)| step < reply);
        live.map(|&(prompt, _)| of_sequence(prompt + step)).sum()
    };
    (0..steps).map(at).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use fused_model::kv::KvType;

    use super::*;
    use crate::arms::{FUSED, NORMAL};

    #[test]
    fn the_formula_follows_the_lengths() {
        // 2 layers of 4 KiB rows: 16 KiB a token, one frame for every row.
        let geometry = KvGeometry {
            layers: 2,
            row_floats: 1024,
            numbers: KvType::F32,
            max_tokens: 100,
            max_sequences: 3,
        };
        let token = 4 * 4096;
        let lengths = [(10, 5), (30, 2)];
        assert_eq!(estimated_peak(NORMAL, &geometry, &lengths), 3 * 100 * token);
        // Step 1 holds 11 + 31 tokens; after it the second text is done and the first ends at 14.
        assert_eq!(estimated_peak(FUSED, &geometry, &lengths), 42 * token);
        let paged = Arm {
            kv_store: KvChoice::Paged,
            ..FUSED
        };
        assert_eq!(estimated_peak(paged, &geometry, &lengths), (16 + 32) * token);
        assert_eq!(estimated_peak(FUSED, &geometry, &[]), 0);
        // Rows of 1 KiB: 11 of them take 3 frames in each of 4 runs.
        let narrow = KvGeometry {
            row_floats: 256,
            ..geometry
        };
        assert_eq!(estimated_peak(FUSED, &narrow, &[(10, 2)]), 4 * 3 * FRAME_BYTES);
    }

    #[test]
    fn events_give_first_and_last_byte_and_the_peak() {
        let mut events = Events {
            first_byte: vec![0.0; 2],
            latency: vec![0.0; 2],
            ..Events::default()
        };
        for (second, (text, index)) in [(0, 0), (1, 0), (0, 1), (1, 1)].into_iter().enumerate() {
            events.token(text, index, second as f64);
        }
        assert_eq!((events.first_byte, events.latency), (vec![0.0, 1.0], vec![2.0, 3.0]));
        let run = BatchRun {
            lengths: vec![(3, 2), (4, 2)],
            timeline: [(5, 5), (9, 4), (9, 8), (9, 2)]
                .map(|(physical, used)| (0.0, KvPoint { physical, used }))
                .to_vec(),
            time: BatchTime {
                wall: 1.0,
                latency: Vec::new(),
                first_byte: Vec::new(),
            },
        };
        assert_eq!((run.tokens().prompt, run.tokens().reply), (7, 4));
        assert_eq!(run.memory().peak, KvPoint { physical: 9, used: 8 });
    }
}
