//! The engine on a thread of its own, and the channels between it and the requests.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use fused_model::engine::{Engine, EngineConfig, Event, Finish, Logprobs, Request, RequestId, Usage};
use fused_model::kv::{KvMemory, KvStore};
use fused_model::{CausalLm, ModelError};
use patchtok::PatchTokenizer;
use tokio::sync::{mpsc as events, oneshot};

use crate::metrics::Metrics;

/// What a request hears of its samples.
#[derive(Debug)]
pub enum Update {
    /// The next token of a sample.
    Token {
        /// Which sample.
        sample: usize,
        /// The token.
        id: u32,
        /// Text that is certain now.
        text: String,
        /// Where the request asked for them.
        logprobs: Option<Logprobs>,
    },
    /// A sample is complete.
    Finished {
        /// Which sample.
        sample: usize,
        /// Why.
        reason: Finish,
        /// Text that had been held back.
        text: String,
        /// What it took.
        usage: Usage,
    },
}

/// Updates of one request. Dropping it cancels the request.
pub type Updates = events::UnboundedReceiver<Update>;

enum Command {
    Submit {
        request: Box<Request>,
        /// At most one update for each token the request may have, so it needs no bound of its own.
        updates: events::UnboundedSender<Update>,
        accepted: oneshot::Sender<Result<(), ModelError>>,
    },
    /// Drops every request.
    Abort,
    /// Drops every request and ends the thread.
    Close,
}

/// A way to the engine's thread; the thread ends with [`Handle::close`], or when the last one is dropped.
#[derive(Debug, Clone)]
pub struct Handle(mpsc::Sender<Command>);

/// Why the engine took no request on.
#[derive(Debug)]
pub enum Refused {
    /// What the engine said.
    Engine(ModelError),
    /// The thread has ended.
    Stopped,
}

impl Handle {
    /// Hands a request over and waits until the engine has taken it on: at most one pass through the model.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn submit(&self, request: Request) -> Result<Updates, Refused> {
        let (sender, updates) = events::unbounded_channel();
        let (accepted, answer) = oneshot::channel();
        let command = Command::Submit {
            request: Box::new(request),
            updates: sender,
            accepted,
        };
        self.0.send(command).map_err(|_| Refused::Stopped)?;
        match answer.await {
            Ok(Ok(())) => Ok(updates),
            Ok(Err(error)) => Err(Refused::Engine(error)),
            Err(_) => Err(Refused::Stopped),
        }
    }

    /// Drops every request that waits or runs.
    pub fn abort(&self) {
        // A thread that has ended has no requests.
        let _ = self.0.send(Command::Abort);
    }

    /// Drops every request and ends the thread; later requests are refused.
    pub fn close(&self) {
        let _ = self.0.send(Command::Close);
    }
}

/// What the engine's thread works on.
#[derive(Debug)]
pub struct Runner {
    /// The model.
    pub model: Box<dyn CausalLm>,
    /// Where its rows live.
    pub kv: Box<dyn KvStore>,
    /// Text of tokens.
    pub tokenizer: Arc<PatchTokenizer>,
    /// Limits of the engine.
    pub config: EngineConfig,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

impl Runner {
    /// Starts the thread. It returns the memory of the store after the engine has given everything back.
    ///
    /// # Errors
    /// When model, store and tokenizer do not fit, or no thread can be had.
    pub fn start(mut self) -> anyhow::Result<(Handle, JoinHandle<KvMemory>)> {
        // Refuses here what the thread could only die of.
        Engine::new(self.model.as_mut(), self.kv.as_mut(), self.config)?.with_tokenizer(&self.tokenizer)?;
        let (sender, commands) = mpsc::channel();
        let thread = thread::Builder::new().name("engine".into()).spawn(move || {
            self.run(&commands);
            self.kv.memory()
        })?;
        Ok((Handle(sender), thread))
    }

    fn run(&mut self, commands: &mpsc::Receiver<Command>) {
        let tokenizer = self.tokenizer.clone();
        let engine = Engine::new(self.model.as_mut(), self.kv.as_mut(), self.config);
        let Ok(engine) = engine.and_then(|engine| engine.with_tokenizer(&tokenizer)) else {
            return;
        };
        let mut desk = Desk {
            engine,
            clients: HashMap::new(),
            metrics: &self.metrics,
        };
        loop {
            desk.metrics.observe(&desk.engine.stats(), &desk.engine.memory());
            // With nothing to do, waits until somebody asks for something.
            let mut next = match desk.engine.is_idle() {
                true => commands.recv().map_err(|_| mpsc::TryRecvError::Disconnected),
                false => commands.try_recv(),
            };
            loop {
                match next {
                    Ok(Command::Submit {
                        request,
                        updates,
                        accepted,
                    }) => desk.submit(*request, updates, accepted),
                    Ok(Command::Abort) => desk.abort(),
                    Ok(Command::Close) | Err(mpsc::TryRecvError::Disconnected) => return,
                    Err(mpsc::TryRecvError::Empty) => break,
                }
                next = commands.try_recv();
            }
            desk.drop_vanished();
            desk.step();
        }
    }
}

/// A request in the engine.
struct Client {
    updates: events::UnboundedSender<Update>,
    samples_left: usize,
    submitted: Instant,
    /// When each sample had its last token.
    last: Vec<Option<Instant>>,
}

struct Desk<'a> {
    engine: Engine<'a>,
    clients: HashMap<RequestId, Client>,
    metrics: &'a Metrics,
}

impl Desk<'_> {
    fn submit(
        &mut self,
        request: Request,
        updates: events::UnboundedSender<Update>,
        accepted: oneshot::Sender<Result<(), ModelError>>,
    ) {
        let samples = request.samples;
        let answer = self.engine.submit(request).map(|id| {
            let client = Client {
                updates,
                samples_left: samples,
                submitted: Instant::now(),
                last: vec![None; samples],
            };
            self.clients.insert(id, client);
        });
        if answer.is_err() {
            self.metrics.refused();
        }
        // Whoever asked may have gone; the next look at the clients finds out.
        let _ = accepted.send(answer);
    }

    fn abort(&mut self) {
        for (id, _) in self.clients.drain() {
            self.engine.cancel(id);
            self.metrics.cancelled();
        }
    }

    /// Cancels requests nobody waits for any more.
    fn drop_vanished(&mut self) {
        self.clients.retain(|&id, client| {
            let vanished = client.updates.is_closed();
            if vanished {
                self.engine.cancel(id);
                self.metrics.cancelled();
            }
            !vanished
        });
    }

    fn step(&mut self) {
        let Self {
            engine,
            clients,
            metrics,
        } = self;
        engine.step(Instant::now(), &mut |event| {
            let (request, update) = match event {
                Event::Token {
                    request,
                    sample,
                    id,
                    text,
                    logprobs,
                    ..
                } => {
                    let update = Update::Token {
                        sample,
                        id,
                        text: text.to_owned(),
                        logprobs: logprobs.cloned(),
                    };
                    (request, update)
                }
                Event::Finished {
                    request,
                    sample,
                    reason,
                    text,
                    usage,
                } => {
                    metrics.finished(&reason);
                    let update = Update::Finished {
                        sample,
                        reason,
                        text: text.to_owned(),
                        usage,
                    };
                    (request, update)
                }
                _ => return,
            };
            let Some(client) = clients.get_mut(&request) else {
                return;
            };
            match &update {
                Update::Token { sample, .. } => {
                    let now = Instant::now();
                    match client.last[*sample].replace(now) {
                        None => metrics.first_token(now - client.submitted),
                        Some(last) => metrics.next_token(now - last),
                    }
                }
                Update::Finished { .. } => client.samples_left -= 1,
            }
            // A closed channel is seen before the next step.
            let _ = client.updates.send(update);
            if client.samples_left == 0 {
                clients.remove(&request);
            }
        });
    }
}
