//! The front type.

use std::path::Path;

use rayon::prelude::*;

use crate::encode::{Encoder, Memory, Pool, Pooled, Scratch, min_tokens, reference};
use crate::model::{Model, Segmentation};
use crate::special::{Segment, SpecialFinder};
use crate::{DecodeStream, EncodeStream, Error, PatchMap, Result, artifact, base, export, files};

/// Names of the files in a tokenizer folder.
pub(crate) const TOKENIZER_JSON: &str = "tokenizer.json";
pub(crate) const PATCH_MAP_JSON: &str = "patch_map.json";
pub(crate) const ARTIFACT: &str = "patch_tokenizer.bin";

/// A byte-level BPE tokenizer, patched or not.
///
/// Its meaning is that of the `tokenizer.json` it comes from or [`save`](PatchTokenizer::save)s:
/// the Hugging Face `tokenizers` library gives the same ids for every text. Special tokens (added
/// tokens such as `<|endoftext|>`) are found in the text, as there; none are added to it, as there
/// with `add_special_tokens = false`. Every text and every byte string comes back from its ids
/// unchanged, but for what a normalizer (Qwen's NFC) changes first.
///
/// The tokenizer is immutable and can be shared between threads.
///
/// ```
/// # fn main() -> patchtok::Result<()> {
/// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/data/gpt2/tokenizer.json");
/// let tokenizer = patchtok::PatchTokenizer::from_file(path)?;
/// let ids = tokenizer.encode("Hello world<|endoftext|>");
/// assert_eq!(ids, [15496, 995, 50256]);
/// assert_eq!(tokenizer.eos_id(), Some(50256));
/// assert_eq!(tokenizer.decode(&ids)?, "Hello world<|endoftext|>");
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct PatchTokenizer {
    model: Model,
    encoder: Encoder,
    memory: Pool,
    specials: SpecialFinder,
    patch_map: Option<PatchMap>,
}

impl std::fmt::Debug for PatchTokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PatchTokenizer")
            .field("vocab_size", &self.vocab_size())
            .field("merges", &self.model.merges().len())
            .field("specials", &self.model.specials())
            .field("new_tokens", &self.patch_map.as_ref().map(|map| map.new_tokens().len()))
            .finish_non_exhaustive()
    }
}

impl PatchTokenizer {
    /// Reads a `tokenizer.json`: byte-level BPE with the pre-tokenizer of GPT-2, the same behind
    /// `Digits` (SmolLM), of Llama 3 or Qwen, or one that this crate wrote.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Json`] for a file that cannot be read, [`Error::Unsupported`] for
    /// one that uses parts without an equal here, [`Error::Inconsistent`] for one that contradicts
    /// itself.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        PatchTokenizer::new(base::read(path.as_ref())?, None)
    }

    /// Reads a folder that [`save`](PatchTokenizer::save) wrote, or any folder with a
    /// `tokenizer.json` (and then its `patch_map.json`, if there is one).
    ///
    /// # Errors
    /// As [`from_file`](PatchTokenizer::from_file); [`Error::Artifact`] and [`Error::PatchMap`] for
    /// damaged files.
    pub fn load(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let artifact = folder.join(ARTIFACT);
        if artifact.exists() {
            let (model, patch_map) = artifact::decode(&files::read(&artifact)?)?;
            return PatchTokenizer::new(model, patch_map);
        }
        let model = base::read(&folder.join(TOKENIZER_JSON))?;
        let path = folder.join(PATCH_MAP_JSON);
        let patch_map = if path.exists() {
            let bytes = files::read(&path)?;
            Some(serde_json::from_slice(&bytes).map_err(Error::json(&path))?)
        } else {
            None
        };
        PatchTokenizer::new(model, patch_map)
    }

    /// Compiles a model; a patch map is checked against it.
    pub(crate) fn new(model: Model, patch_map: Option<PatchMap>) -> Result<Self> {
        let encoder = Encoder::new(&model);
        let specials = SpecialFinder::new(model.specials(), model.normalizer())?;
        let tokenizer = PatchTokenizer {
            model,
            encoder,
            memory: Pool::default(),
            specials,
            patch_map: None,
        };
        match patch_map {
            None => Ok(tokenizer),
            Some(map) => tokenizer.with_patch_map(map),
        }
    }

    /// Fails when no vocabulary can be built from this tokenizer, though it is read. Everything that
    /// counts for one or builds one asks this first.
    ///
    /// # Errors
    /// [`Error::Build`] for a patched tokenizer and for a Unigram model, which has no merges to go on with.
    pub fn check_patchable(&self) -> Result<()> {
        let splitter = self.model.splitter();
        let reason = if splitter.is_chunked() || self.patch_map.is_some() {
            "the base is a patched tokenizer; start from the original one"
        } else if self.model.segmentation() == Segmentation::MinTokens {
            "the base is a Unigram model, which has no merges; start from a BPE model"
        } else {
            return Ok(());
        };
        Err(Error::Build(reason.into()))
    }

    /// Writes `tokenizer.json`, `patch_tokenizer.bin` and, when there is one, `patch_map.json` into
    /// `folder`, which is made if it is missing. Each file appears complete or not at all.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, folder: impl AsRef<Path>) -> Result<()> {
        let folder = folder.as_ref();
        std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        files::write(&folder.join(TOKENIZER_JSON), &export::tokenizer_json(&self.model)?)?;
        if let Some(map) = &self.patch_map {
            let path = folder.join(PATCH_MAP_JSON);
            files::write(&path, &map.to_json().map_err(Error::json(&path))?)?;
        }
        files::write(
            &folder.join(ARTIFACT),
            &artifact::encode(&self.model, self.patch_map.as_ref())?,
        )
    }

    /// The same tokenizer in the `tokenizers` library.
    ///
    /// # Errors
    /// [`Error::Inconsistent`] when that library refuses it, which no tokenizer that was read or
    /// built here causes.
    pub fn to_hf(&self) -> Result<tokenizers::Tokenizer> {
        tokenizers::Tokenizer::from_bytes(export::tokenizer_json(&self.model)?)
            .map_err(|error| Error::Inconsistent(error.to_string()))
    }

    /// The ids of `text`. O(n) for n bytes, if no merge uses a token that a later one makes (which
    /// no trained tokenizer has); else O(n log n).
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        self.encode_into(text, &mut ids);
        ids
    }

    /// Appends the ids of `text` to `ids`. Once tables and `ids` have grown to what the text needs,
    /// it allocates nothing (but a normalized copy of the text, if that differs from it).
    pub fn encode_into(&self, text: &str, ids: &mut Vec<u32>) {
        self.encode_text(text, self.memory.take().get(), ids);
    }

    /// The ids of `text` in which special tokens are ordinary text.
    pub fn encode_ordinary(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        let text = self.model.normalizer().apply(text);
        self.encoder
            .encode(&self.model, &text, self.memory.take().get(), &mut ids);
        ids
    }

    /// The ids of a byte string that need not be UTF-8: stretches of text are encoded as texts of
    /// their own, every other byte becomes its byte token.
    pub fn encode_bytes(&self, bytes: &[u8]) -> Vec<u32> {
        let mut ids = Vec::new();
        let mut memory = self.memory.take();
        for chunk in bytes.utf8_chunks() {
            self.encode_text(chunk.valid(), memory.get(), &mut ids);
            let invalid = chunk.invalid().iter();
            ids.extend(invalid.map(|&byte| self.model.byte_ids()[usize::from(byte)]));
        }
        ids
    }

    /// The ids of every text, on all threads of the current rayon pool, in order.
    pub fn encode_batch<T: AsRef<str> + Sync>(&self, texts: &[T]) -> Vec<Vec<u32>> {
        let encode = |memory: &mut Pooled<'_>, text: &T| {
            let mut ids = Vec::new();
            self.encode_text(text.as_ref(), memory.get(), &mut ids);
            ids
        };
        texts.par_iter().map_init(|| self.memory.take(), encode).collect()
    }

    /// [`encode`](PatchTokenizer::encode) by the definition of the segmentation, without any short
    /// cuts: quadratic, for checking.
    pub fn encode_reference(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        let tokens = min_tokens::ordinary(&self.model);
        self.specials.for_each(text, |segment| match segment {
            Segment::Special(id) => ids.push(id),
            Segment::Text(text) => self.model.splitter().for_each(text, |piece| {
                if self.segmentation() == Segmentation::MinTokens {
                    return ids.extend(min_tokens::reference(&tokens, piece.as_bytes()));
                }
                if self.model.ignores_merges()
                    && let Some(&id) = tokens.get(piece.as_bytes())
                {
                    return ids.push(id);
                }
                let mut symbols = piece
                    .bytes()
                    .map(|byte| self.model.byte_ids()[usize::from(byte)])
                    .collect();
                reference::merge(&mut symbols, self.encoder.merges());
                ids.append(&mut symbols);
            }),
        });
        ids
    }

    fn encode_text(&self, text: &str, memory: &mut Memory, ids: &mut Vec<u32>) {
        self.specials.for_each(text, |segment| match segment {
            Segment::Special(id) => ids.push(id),
            Segment::Text(text) => self.encoder.encode(&self.model, text, memory, ids),
        });
    }

    /// The text of `ids`. Bytes that are not UTF-8 become U+FFFD, as in Hugging Face; special
    /// tokens are kept.
    ///
    /// # Errors
    /// [`Error::UnknownId`] (Hugging Face leaves unknown ids out without a word).
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        Ok(match String::from_utf8(self.decode_bytes(ids)?) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        })
    }

    /// The bytes of `ids`: the inverse of [`encode`](PatchTokenizer::encode) and
    /// [`encode_bytes`](PatchTokenizer::encode_bytes), if nothing is normalized.
    ///
    /// # Errors
    /// [`Error::UnknownId`].
    pub fn decode_bytes(&self, ids: &[u32]) -> Result<Vec<u8>> {
        // About what a token of English takes.
        let mut bytes = Vec::with_capacity(5 * ids.len());
        for &id in ids {
            if !self.model.vocab().append(id, &mut bytes) {
                self.checked_bytes(id)?;
            }
        }
        Ok(bytes)
    }

    /// Starts encoding a text that comes in parts.
    pub fn encode_stream(&self) -> EncodeStream<'_> {
        EncodeStream::new(self, self.memory.take())
    }

    /// Starts decoding a stream of ids.
    pub fn decode_stream(&self) -> DecodeStream<'_> {
        DecodeStream::new(self)
    }

    /// The bytes of a token, `None` outside the vocabulary.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        self.model.vocab().get(id)
    }

    /// [`token_bytes`](PatchTokenizer::token_bytes) with an error instead of `None`.
    pub(crate) fn checked_bytes(&self, id: u32) -> Result<&[u8]> {
        self.token_bytes(id).ok_or(Error::UnknownId {
            id,
            vocab_size: self.vocab_size(),
        })
    }

    /// Number of ids, special tokens included: ids are 0 … `vocab_size() - 1`.
    pub fn vocab_size(&self) -> usize {
        self.model.vocab().len()
    }

    /// The ids of the special (added) tokens, in the order of the file.
    pub fn special_ids(&self) -> impl ExactSizeIterator<Item = u32> {
        self.model.specials().iter().map(|special| special.id)
    }

    /// The id of `<|endoftext|>`, when it is a special token.
    pub fn eos_id(&self) -> Option<u32> {
        self.model
            .specials()
            .iter()
            .find(|special| special.content == "<|endoftext|>")
            .map(|special| special.id)
    }

    /// What was changed against the base tokenizer, `None` for a tokenizer that is not patched.
    pub fn patch_map(&self) -> Option<&PatchMap> {
        self.patch_map.as_ref()
    }

    /// How texts are cut into tokens.
    pub fn segmentation(&self) -> Segmentation {
        self.model.segmentation()
    }

    pub(crate) fn model(&self) -> &Model {
        &self.model
    }

    pub(crate) fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// Memory to encode with.
    pub(crate) fn memory(&self) -> Pooled<'_> {
        self.memory.take()
    }

    pub(crate) fn specials(&self) -> &SpecialFinder {
        &self.specials
    }

    /// The ids of `piece` when it is not cut into smaller pieces.
    pub(crate) fn encode_piece(&self, piece: &[u8]) -> Vec<u32> {
        let mut ids = Vec::new();
        self.encoder
            .encode_piece(&self.model, piece, &mut Scratch::default(), &mut ids);
        ids
    }

    /// The same tokenizer with a patch map, which is checked.
    pub(crate) fn with_patch_map(self, map: PatchMap) -> Result<Self> {
        map.check(self.vocab_size(), |id| self.token_bytes(id))?;
        Ok(PatchTokenizer {
            patch_map: Some(map),
            ..self
        })
    }
}
