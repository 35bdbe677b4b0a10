//! The encoders that are compared, behind one interface.

use std::path::Path;

use anyhow::anyhow;
use patchtok::PatchTokenizer;
use tokenizers_next::pipeline::{EncodeOptions, PipelineToken, PipelineTokenizer};

/// An encoder under measurement. All work is done on the calling thread.
pub(crate) trait Encoder {
    /// The ids of `text`.
    fn encode(&mut self, text: &str) -> &[u32];

    /// The text of `ids`, none if it cannot be decoded.
    fn decode(&mut self, ids: &[u32]) -> Option<String>;

    /// Whether it is so slow that a small part of the text must do.
    fn is_slow(&self) -> bool {
        false
    }
}

/// An encoder with the name that figures carry.
pub(crate) struct Named<'t> {
    pub(crate) name: String,
    pub(crate) encoder: Box<dyn Encoder + 't>,
    /// Whether it gives the right ids for the text at hand, and the right text for its ids. Only then
    /// it is timed.
    pub(crate) encodes: bool,
    pub(crate) decodes: bool,
}

impl<'t> Named<'t> {
    pub(crate) fn new(name: impl Into<String>, encoder: impl Encoder + 't) -> Self {
        Named {
            name: name.into(),
            encoder: Box::new(encoder),
            encodes: true,
            decodes: true,
        }
    }
}

/// Every rival that reads the `tokenizer.json` at `path`. The first is the one that defines the ids.
pub(crate) fn all(path: &Path) -> anyhow::Result<Vec<Named<'static>>> {
    Ok(vec![
        Named::new("tokenizers 0.23", HuggingFace::new(path)?),
        Named::new("tokenizers 1.0.0-rc.3", HuggingFaceNext::new(path)?),
        Named::new("fastokens", Fastokens::new(path)?),
        Named::new("splintr", Splintr::new(path)?),
    ])
}

/// Rivals that cannot stand here, and why.
pub(crate) const LEFT_OUT: [(&str, &str); 1] = [(
    "gigatoken",
    "not on crates.io; its Python wheel is not comparable call by call",
)];

/// This project's own.
pub(crate) struct Ours<'t> {
    tokenizer: &'t PatchTokenizer,
    ids: Vec<u32>,
}

impl<'t> Ours<'t> {
    pub(crate) fn new(tokenizer: &'t PatchTokenizer) -> Self {
        Ours {
            tokenizer,
            ids: Vec::new(),
        }
    }
}

impl Encoder for Ours<'_> {
    fn encode(&mut self, text: &str) -> &[u32] {
        self.ids.clear();
        self.tokenizer.encode_into(text, &mut self.ids);
        &self.ids
    }

    fn decode(&mut self, ids: &[u32]) -> Option<String> {
        self.tokenizer.decode(ids).ok()
    }
}

struct HuggingFace {
    tokenizer: tokenizers::Tokenizer,
    encoding: tokenizers::Encoding,
}

impl HuggingFace {
    fn new(path: &Path) -> anyhow::Result<Self> {
        Ok(HuggingFace {
            tokenizer: tokenizers::Tokenizer::from_file(path).map_err(|error| anyhow!(error))?,
            encoding: tokenizers::Encoding::default(),
        })
    }
}

impl Encoder for HuggingFace {
    fn encode(&mut self, text: &str) -> &[u32] {
        // After an error nothing is left, which the comparison before the timing finds.
        self.encoding = self.tokenizer.encode_fast(text, false).unwrap_or_default();
        self.encoding.get_ids()
    }

    fn decode(&mut self, ids: &[u32]) -> Option<String> {
        self.tokenizer.decode(ids, false).ok()
    }

    fn is_slow(&self) -> bool {
        true
    }
}

struct HuggingFaceNext {
    tokenizer: PipelineTokenizer,
    options: EncodeOptions,
    tokens: Vec<PipelineToken>,
}

impl HuggingFaceNext {
    fn new(path: &Path) -> anyhow::Result<Self> {
        let json = tokenizers_next::canonicalize_file(path).map_err(|error| anyhow!("{error}"))?;
        Ok(HuggingFaceNext {
            tokenizer: tokenizers_next::from_json(&json).map_err(|error| anyhow!("{error}"))?,
            options: EncodeOptions::default(),
            tokens: Vec::new(),
        })
    }
}

impl Encoder for HuggingFaceNext {
    fn encode(&mut self, text: &str) -> &[u32] {
        self.tokens.clear();
        // An error leaves the ids incomplete, which the comparison before the timing finds.
        let _ = self.tokenizer.encode_into(text, &self.options, &mut self.tokens);
        PipelineToken::cast_slice(&self.tokens)
    }

    fn decode(&mut self, ids: &[u32]) -> Option<String> {
        self.tokenizer.decode(ids, false).ok()
    }
}

struct Fastokens {
    tokenizer: fastokens::Tokenizer,
    ids: Vec<u32>,
}

impl Fastokens {
    fn new(path: &Path) -> anyhow::Result<Self> {
        Ok(Fastokens {
            tokenizer: fastokens::Tokenizer::from_file(path).map_err(|error| anyhow!("{error}"))?,
            ids: Vec::new(),
        })
    }
}

impl Encoder for Fastokens {
    fn encode(&mut self, text: &str) -> &[u32] {
        self.ids = self.tokenizer.encode(text).unwrap_or_default();
        &self.ids
    }

    fn decode(&mut self, ids: &[u32]) -> Option<String> {
        self.tokenizer.decode(ids, false).ok()
    }
}

struct Splintr {
    tokenizer: splintr::AnyTokenizer,
    ids: Vec<u32>,
}

impl Splintr {
    fn new(path: &Path) -> anyhow::Result<Self> {
        Ok(Splintr {
            tokenizer: splintr::from_json_path(path).map_err(|error| anyhow!("{error}"))?,
            ids: Vec::new(),
        })
    }
}

impl Encoder for Splintr {
    fn encode(&mut self, text: &str) -> &[u32] {
        self.ids = self.tokenizer.encode(text);
        &self.ids
    }

    fn decode(&mut self, ids: &[u32]) -> Option<String> {
        self.tokenizer.decode(ids).ok()
    }
}
