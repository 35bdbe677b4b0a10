//! A batch of texts through a model: prompts in as text, given replies out as text.

use std::time::Instant;

use fused_model::kv::KvStore;
use fused_model::{Event, Model, Request, generate};
use patchtok::PatchTokenizer;

use crate::error::BenchError;
use crate::workload::Text;

/// A tokenizer of any kind.
pub(crate) trait Spelling {
    /// The ids of a text.
    fn encode(&self, text: &str) -> Vec<u32>;

    /// The bytes of ids.
    fn decode_bytes(&self, ids: &[u32]) -> patchtok::Result<Vec<u8>>;
}

impl Spelling for PatchTokenizer {
    fn encode(&self, text: &str) -> Vec<u32> {
        Self::encode(self, text)
    }

    fn decode_bytes(&self, ids: &[u32]) -> patchtok::Result<Vec<u8>> {
        self.decode_bytes(ids)
    }
}

/// What is replayed.
pub(crate) struct Replay<'a> {
    /// Whose tokenizer it is, for an error.
    pub(crate) who: &'a str,
    pub(crate) model: &'a Model,
    pub(crate) tokenizer: &'a dyn Spelling,
    pub(crate) texts: &'a [Text],
    /// Texts decoded together.
    pub(crate) batch: usize,
}

/// What came of it.
pub(crate) struct Replayed {
    /// Prompt and reply tokens of each text.
    pub(crate) lengths: Vec<(usize, usize)>,
    /// From handing over the prompts as text to having the replies as text.
    pub(crate) seconds: f64,
}

impl Replay<'_> {
    /// Runs it over a store; `observe` is told what happens and how many seconds after the beginning.
    ///
    /// # Errors
    ///
    /// If the model or the store refuses, and [`BenchError::Input`] if a reply is not the text that was given.
    pub(crate) fn run(
        &self,
        store: &mut dyn KvStore,
        observe: &mut dyn FnMut(Event<'_>, f64),
    ) -> Result<Replayed, BenchError> {
        // The replies are given, so encoding them is no part of the work.
        let replies: Vec<Vec<u32>> = self
            .texts
            .iter()
            .map(|text| self.tokenizer.encode(&text.reply))
            .collect();
        let start = Instant::now();
        let requests: Vec<Request> = self
            .texts
            .iter()
            .zip(replies)
            .map(|(text, reply)| Request::replay(self.tokenizer.encode(&text.prompt), reply))
            .collect();
        let mut model = self.model.clone();
        let outputs = generate(&mut model, store, &requests, self.batch, &mut |event| {
            observe(event, start.elapsed().as_secs_f64());
        })?;
        let said = outputs
            .iter()
            .map(|ids| self.tokenizer.decode_bytes(ids))
            .collect::<Result<Vec<_>, _>>()?;
        let seconds = start.elapsed().as_secs_f64();

        let mut pairs = said.iter().zip(self.texts);
        if let Some((got, text)) = pairs.find(|(got, text)| *got != text.reply.as_bytes()) {
            return Err(BenchError::Input(format!(
                "{} does not give back the text it encodes: {:?} became {:?}",
                self.who,
                text.reply,
                String::from_utf8_lossy(got)
            )));
        }
        let lengths = requests
            .iter()
            .zip(&outputs)
            .map(|(request, output)| (request.prompt.len(), output.len()));
        Ok(Replayed {
            lengths: lengths.collect(),
            seconds,
        })
    }
}
