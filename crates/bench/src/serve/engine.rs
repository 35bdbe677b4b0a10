//! An arm as a target: the engine on a thread of its own, over a KV store of a given size.

use std::collections::HashMap;
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::thread;
use std::time::Instant;

use fused_model::engine::{Engine, EngineConfig, Event, Finish, Request, RequestId};
use fused_model::kv::{KvGeometry, KvStore, PagedKv, StaticKv};
use fused_model::{CausalLm, Model, ModelError};
use patchtok::PatchTokenizer;

use super::record::Outcome;
use super::target::{Heard, Port, State, Target, is_abandoned};
use crate::arms::{Arm, KvChoice};
use crate::error::BenchError;
use crate::inputs::Subject;
use crate::measure::store::{FRAME_BYTES, virtual_store};
use crate::workload::Text;

/// Limits of an arm under load.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// KV memory, in bytes.
    pub kv_budget: usize,
    /// Most requests decoded together.
    pub max_batch: usize,
    /// Finished sequences whose rows stay for others.
    pub kept_prefixes: usize,
}

/// An arm that serves. Every run has a store of its own, so that none shows memory that an earlier one left mapped.
#[derive(Debug)]
pub struct EngineTarget<'a> {
    arm: Arm,
    model: Model,
    tokenizer: &'a PatchTokenizer,
    geometry: KvGeometry,
    kv_budget: usize,
    config: EngineConfig,
}

impl<'a> EngineTarget<'a> {
    /// The arm. A static store has as many places as the budget pays for; the others have a place for every request of a
    /// batch and every kept prefix, and map memory as they need it.
    ///
    /// # Errors
    ///
    /// [`BenchError::Input`] when the budget does not hold one longest sequence of the static store; what the store says, of
    /// which one is made to see.
    pub fn new(arm: Arm, subject: &'a Subject, limits: Limits) -> Result<Self, BenchError> {
        let longest = subject.model.context() * subject.model.kv_geometry(1).token_bytes();
        let static_places = limits.kv_budget / longest;
        if static_places == 0 {
            return Err(BenchError::Input(format!(
                "--kv-budget gives {} bytes, but the longest sequence takes {longest}; give at least {} MiB",
                limits.kv_budget,
                longest.div_ceil(1 << 20)
            )));
        }
        let wanted = limits.max_batch + limits.kept_prefixes;
        let places = match arm.kv_store {
            KvChoice::Static => wanted.min(static_places),
            KvChoice::Paged | KvChoice::Virtual => wanted,
        };
        let target = Self {
            arm,
            model: subject.model.clone(),
            tokenizer: &subject.tokenizer,
            geometry: subject.model.kv_geometry(places),
            kv_budget: limits.kv_budget,
            config: EngineConfig {
                max_batch: limits.max_batch.min(places),
                // What waits is for the load generator to judge.
                max_waiting: usize::MAX,
                kept_prefixes: limits.kept_prefixes.min(places - limits.max_batch.min(places)),
                ..EngineConfig::default()
            },
        };
        target.store()?;
        Ok(target)
    }

    fn store(&self) -> Result<Box<dyn KvStore>, BenchError> {
        let (geometry, budget) = (&self.geometry, self.kv_budget);
        let store: Result<Box<dyn KvStore>, _> = match self.arm.kv_store {
            KvChoice::Static => StaticKv::new(geometry).map(|kv| Box::new(kv) as _),
            KvChoice::Paged => PagedKv::with_budget(geometry, budget).map(|kv| Box::new(kv) as _),
            KvChoice::Virtual => virtual_store(geometry, FRAME_BYTES, budget).map(|kv| Box::new(kv) as _),
        };
        Ok(store.map_err(ModelError::from)?)
    }

    /// Most requests decoded together.
    pub fn max_batch(&self) -> usize {
        self.config.max_batch
    }
}

impl Target for EngineTarget<'_> {
    fn name(&self) -> &str {
        self.arm.name()
    }

    fn serve(
        &mut self,
        texts: &[Text],
        abandon_every: usize,
        drive: &mut dyn FnMut(Port<'_>),
    ) -> Result<(), BenchError> {
        // Replies are given, so encoding them is no part of the work.
        let replies: Vec<Vec<u32>> = texts.iter().map(|text| self.tokenizer.encode(&text.reply)).collect();
        let (send, jobs) = mpsc::channel();
        let (tell, heard) = mpsc::channel();
        let (config, tokenizer) = (self.config, self.tokenizer);
        let mut store = self.store()?;
        let model = &mut self.model;
        thread::scope(|scope| {
            let desk = thread::Builder::new().name("engine".to_owned()).spawn_scoped(
                scope,
                move || -> Result<(), ModelError> {
                    let engine = Engine::new(model, store.as_mut(), config)?.with_tokenizer(tokenizer)?;
                    let desk = Desk {
                        engine,
                        tokenizer,
                        texts,
                        replies,
                        abandon_every,
                        tell,
                        open: HashMap::new(),
                    };
                    desk.run(&jobs);
                    Ok(())
                },
            );
            let desk = desk.map_err(|error| BenchError::Input(format!("no thread for the engine: {error}")))?;
            drive(Port {
                send: &send,
                heard: &heard,
            });
            drop(send);
            match desk.join() {
                Ok(result) => Ok(result?),
                Err(_) => Err(BenchError::Input("the engine's thread has panicked".to_owned())),
            }
        })
    }
}

/// A request in the engine.
struct OpenRequest {
    number: usize,
    bytes: usize,
}

/// The engine and who waits for what.
struct Desk<'a> {
    engine: Engine<'a>,
    tokenizer: &'a PatchTokenizer,
    texts: &'a [Text],
    replies: Vec<Vec<u32>>,
    abandon_every: usize,
    tell: Sender<Heard>,
    open: HashMap<RequestId, OpenRequest>,
}

impl Desk<'_> {
    /// Serves until no more requests can come; those in the engine are dropped then.
    fn run(mut self, jobs: &Receiver<usize>) {
        loop {
            // With nothing to do, waits for a request.
            let mut next = match self.engine.is_idle() {
                true => jobs.recv().map_err(|_| TryRecvError::Disconnected),
                false => jobs.try_recv(),
            };
            loop {
                match next {
                    Ok(number) => self.submit(number),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
                next = jobs.try_recv();
            }
            self.step();
        }
    }

    fn submit(&mut self, number: usize) {
        let text = number % self.texts.len();
        let prompt = self.tokenizer.encode(&self.texts[text].prompt);
        let tokens = prompt.len();
        match self.engine.submit(Request::replay(prompt, self.replies[text].clone())) {
            Ok(id) => {
                self.open.insert(id, OpenRequest { number, bytes: 0 });
            }
            Err(error) => {
                let outcome = match error {
                    ModelError::Busy { .. } => Outcome::Refused,
                    _ => Outcome::Failed,
                };
                self.say(Heard::End {
                    request: number,
                    at: Instant::now(),
                    outcome,
                    prompt_tokens: Some(tokens),
                });
            }
        }
    }

    fn say(&self, heard: Heard) {
        // Nobody listens once the run is over.
        let _ = self.tell.send(heard);
    }

    fn step(&mut self) {
        let Self {
            engine,
            texts,
            abandon_every,
            tell,
            open,
            ..
        } = self;
        let mut memory = None;
        let mut left = Vec::new();
        engine.step(Instant::now(), &mut |event| {
            let at = Instant::now();
            let mut piece = |request: RequestId, text: &str, is_token: bool| -> Option<(usize, usize)> {
                let of = open.get_mut(&request)?;
                of.bytes += text.len();
                if is_token || !text.is_empty() {
                    let (bytes, chars) = (text.len(), text.chars().count());
                    let _ = tell.send(Heard::Piece {
                        request: of.number,
                        at,
                        bytes,
                        chars,
                    });
                }
                Some((of.number, of.bytes))
            };
            match event {
                Event::Token { request, text, .. } => {
                    if let Some((number, bytes)) = piece(request, text, true)
                        && bytes > 0
                        && is_abandoned(number, *abandon_every)
                    {
                        left.push((request, number));
                    }
                }
                Event::Finished {
                    request,
                    reason,
                    text,
                    usage,
                    ..
                } => {
                    let Some((number, bytes)) = piece(request, text, false) else {
                        return;
                    };
                    open.remove(&request);
                    let whole = bytes == texts[number % texts.len()].reply.len();
                    let outcome = match reason {
                        Finish::Stop | Finish::Length if whole => Outcome::Complete,
                        _ => Outcome::Failed,
                    };
                    let prompt_tokens = Some(usage.prompt);
                    let _ = tell.send(Heard::End {
                        request: number,
                        at,
                        outcome,
                        prompt_tokens,
                    });
                }
                Event::Step { memory: now, .. } => memory = Some(now),
                _ => {}
            }
        });
        for (id, request) in left {
            if self.open.remove(&id).is_some() {
                self.engine.cancel(id);
                self.say(Heard::End {
                    request,
                    at: Instant::now(),
                    outcome: Outcome::Abandoned,
                    prompt_tokens: None,
                });
            }
        }
        let stats = self.engine.stats();
        let state = State {
            memory: memory.unwrap_or_else(|| self.engine.memory()),
            running: stats.running,
            waiting: stats.waiting,
            preemptions: stats.preemptions,
        };
        self.say(Heard::Step {
            at: Instant::now(),
            state,
        });
    }
}
