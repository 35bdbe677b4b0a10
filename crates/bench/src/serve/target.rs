//! What serves: an engine in this process, or a server by URL. Both hear of requests and tell what came of them.

use std::sync::mpsc::{Receiver, Sender};
use std::time::Instant;

use fused_model::kv::KvMemory;

use super::record::Outcome;
use crate::error::BenchError;
use crate::workload::Text;

/// What a target tells.
#[derive(Debug)]
pub enum Heard {
    /// A token, or an event of a stream, has come.
    Piece {
        /// The request's number in the run.
        request: usize,
        /// When.
        at: Instant,
        /// Bytes of text in it.
        bytes: usize,
        /// Characters in it.
        chars: usize,
    },
    /// A request has ended.
    End {
        /// The request's number in the run.
        request: usize,
        /// When.
        at: Instant,
        /// How.
        outcome: Outcome,
        /// Tokens of its prompt, where known.
        prompt_tokens: Option<usize>,
    },
    /// An engine has made a step.
    Step {
        /// When it ended.
        at: Instant,
        /// The engine after it.
        state: State,
    },
}

/// An engine at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct State {
    /// Memory of its KV store.
    pub memory: KvMemory,
    /// Requests in the store.
    pub running: usize,
    /// Requests in the queue.
    pub waiting: usize,
    /// Requests put back into the queue for lack of memory, since the run began.
    pub preemptions: u64,
}

/// The two ends of a run: where request numbers go in, and where news come out.
#[derive(Debug)]
pub struct Port<'a> {
    /// Takes the number of a request to send now; request `n` has the text `n` modulo the number of texts.
    pub send: &'a Sender<usize>,
    /// News of the run.
    pub heard: &'a Receiver<Heard>,
}

/// Something that serves requests.
pub trait Target {
    /// Its name in the report.
    fn name(&self) -> &str;

    /// Serves texts while `drive` runs; when it returns, requests that have not ended are dropped. `abandon_every` is the
    /// number of requests of which one is left after its first text, 0 for none.
    ///
    /// # Errors
    ///
    /// When nothing can be served at all; a request that fails is news and no error.
    fn serve(
        &mut self,
        texts: &[Text],
        abandon_every: usize,
        drive: &mut dyn FnMut(Port<'_>),
    ) -> Result<(), BenchError>;
}

/// Whether the client of this request goes away after its first text.
pub(super) fn is_abandoned(request: usize, abandon_every: usize) -> bool {
    abandon_every > 0 && (request + 1).is_multiple_of(abandon_every)
}
