//! A byte-level BPE model: tokens, merges, special tokens and the splitter, checked once when it is
//! made.

use hashbrown::{HashMap, HashSet};

use crate::normalizer::Normalizer;
use crate::split::Splitter;
use crate::{Error, Result};

/// Hash of this crate's tables: fast, and the same in every run.
pub(crate) type Hasher = foldhash::fast::FixedState;

/// More tokens than any published vocabulary; leaves 40 bits for a position beside a merge's rank.
pub(crate) const MAX_VOCAB: usize = 1 << 24;

/// Longer than any published token; bounds the work that a file can ask for.
pub(crate) const MAX_TOKEN_BYTES: usize = 4096;

/// Two adjacent tokens that become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Merge {
    pub(crate) left: u32,
    pub(crate) right: u32,
    pub(crate) result: u32,
}

/// How a piece of text is cut into the tokens of a vocabulary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub enum Segmentation {
    /// Byte pair encoding by the ranks of the merges: in words that no new token touches, the
    /// tokens of the base.
    #[default]
    Bpe,
    /// The fewest tokens; of equals, the last token as long as possible, then the one before it,
    /// and so on. A unigram model with equal scores, for Hugging Face. It takes no more tokens than
    /// [`Bpe`](Segmentation::Bpe) for any text, but cuts words anew, which a model must learn.
    MinTokens,
}

/// A token found in raw text before splitting, such as `<|endoftext|>`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Special {
    pub(crate) id: u32,
    pub(crate) content: String,
    /// Hugging Face looks for these after, not before, the ones that are not normalized.
    pub(crate) normalized: bool,
    /// Whether Hugging Face calls it special, that is, leaves it out when asked to skip special
    /// tokens.
    pub(crate) special: bool,
}

/// Token strings by id, in one allocation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Vocab {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Vocab {
    /// Appends the token of the next id.
    pub(crate) fn push(&mut self, token: &[u8]) {
        self.bytes.extend_from_slice(token);
        self.ends.push(self.bytes.len());
    }

    /// The bytes of token `id`, `None` outside the vocabulary.
    #[inline]
    pub(crate) fn get(&self, id: u32) -> Option<&[u8]> {
        let id = id as usize;
        let end = *self.ends.get(id)?;
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        Some(&self.bytes[start..end])
    }

    /// Appends the bytes of token `id` to `out`; false outside the vocabulary.
    #[inline]
    pub(crate) fn append(&self, id: u32, out: &mut Vec<u8>) -> bool {
        /// Copied at once: a copy of fixed size is one load and one store.
        const AT_ONCE: usize = 16;
        let Some(token) = self.get(id) else {
            return false;
        };
        let start = self.ends[id as usize] - token.len();
        match self.bytes[start..].first_chunk::<AT_ONCE>() {
            Some(window) if token.len() <= AT_ONCE => {
                let end = out.len() + token.len();
                out.extend_from_slice(window);
                out.truncate(end);
            }
            _ => out.extend_from_slice(token),
        }
        true
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// All tokens with their ids.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &[u8])> {
        (0..self.ends.len() as u32).filter_map(|id| Some((id, self.get(id)?)))
    }
}

impl<T: AsRef<[u8]>> FromIterator<T> for Vocab {
    fn from_iter<I: IntoIterator<Item = T>>(tokens: I) -> Self {
        let mut vocab = Vocab::default();
        for token in tokens {
            vocab.push(token.as_ref());
        }
        vocab
    }
}

/// What a `tokenizer.json` says besides tokens, merges, special tokens and pieces.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Frame {
    pub(crate) normalizer: Normalizer,
    /// Whether a piece that is a token becomes this token, whatever the merges say.
    pub(crate) ignore_merges: bool,
    /// JSON of a post-processor that adds special tokens when it is asked to, which this crate does
    /// not do.
    pub(crate) post_processor: Option<String>,
}

/// A model whose parts fit: every byte has a token, every merge spells its result, every token has
/// at most one merge that makes it, and no two ordinary tokens have the same bytes. There are no
/// merges where the segmentation has no use for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Model {
    vocab: Vocab,
    merges: Vec<Merge>,
    specials: Vec<Special>,
    splitter: Splitter,
    segmentation: Segmentation,
    frame: Frame,
    byte_ids: [u32; 256],
}

impl Model {
    /// Checks the parts and puts them together. `merges` are in rank order, lowest first.
    pub(crate) fn new(vocab: Vocab, merges: Vec<Merge>, specials: Vec<Special>, splitter: Splitter) -> Result<Self> {
        if vocab.len() > MAX_VOCAB {
            return Err(inconsistent(format!(
                "{} tokens, the limit is {MAX_VOCAB}",
                vocab.len()
            )));
        }
        let special_ids = check_specials(&vocab, &specials)?;
        let byte_ids = check_tokens(&vocab, &special_ids)?;
        check_merges(&vocab, &merges, &special_ids)?;
        Ok(Model {
            vocab,
            merges,
            specials,
            splitter,
            segmentation: Segmentation::Bpe,
            frame: Frame::default(),
            byte_ids,
        })
    }

    /// The same model in another frame, which is checked.
    pub(crate) fn with_frame(self, frame: Frame) -> Result<Self> {
        if frame.ignore_merges && self.splitter.is_chunked() {
            return Err(Error::Unsupported("ignore_merges = true of a patched tokenizer".into()));
        }
        if let Some(special) = self.specials.iter().find(|special| {
            let normalized = frame.normalizer.apply(&special.content);
            special.normalized && normalized != special.content
        }) {
            let content = &special.content;
            return Err(Error::Unsupported(format!(
                "the added token {content:?}, which the normalizer changes,"
            )));
        }
        if let Some(json) = &frame.post_processor
            && let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(json)
        {
            return Err(inconsistent(format!("the post-processor is not JSON: {error}")));
        }
        Ok(Model { frame, ..self })
    }

    /// The model that is made from this one by other tokens and merges, and by chunks if this one does
    /// not cut by chunks yet.
    pub(crate) fn patched(&self, vocab: Vocab, merges: Vec<Merge>) -> Result<Self> {
        let splitter = self.splitter.chunked().unwrap_or(self.splitter);
        let frame = Frame {
            ignore_merges: false,
            ..self.frame.clone()
        };
        Model::new(vocab, merges, self.specials.clone(), splitter)?.with_frame(frame)
    }

    /// The same tokens under another segmentation.
    pub(crate) fn with_segmentation(self, segmentation: Segmentation) -> Self {
        let merges = match segmentation {
            Segmentation::Bpe => self.merges,
            Segmentation::MinTokens => Vec::new(),
        };
        Model {
            merges,
            segmentation,
            ..self
        }
    }

    pub(crate) fn vocab(&self) -> &Vocab {
        &self.vocab
    }

    /// Merges in rank order.
    pub(crate) fn merges(&self) -> &[Merge] {
        &self.merges
    }

    pub(crate) fn specials(&self) -> &[Special] {
        &self.specials
    }

    pub(crate) fn splitter(&self) -> Splitter {
        self.splitter
    }

    pub(crate) fn segmentation(&self) -> Segmentation {
        self.segmentation
    }

    pub(crate) fn frame(&self) -> &Frame {
        &self.frame
    }

    pub(crate) fn normalizer(&self) -> Normalizer {
        self.frame.normalizer
    }

    pub(crate) fn post_processor(&self) -> Option<&str> {
        self.frame.post_processor.as_deref()
    }

    /// Whether a piece that is a token becomes this token, whatever the merges say.
    pub(crate) fn ignores_merges(&self) -> bool {
        self.frame.ignore_merges && self.segmentation == Segmentation::Bpe
    }

    /// The tokens that are not special, with their ids.
    pub(crate) fn ordinary(&self) -> impl Iterator<Item = (u32, &[u8])> {
        let special_ids: HashSet<u32, Hasher> = self.specials.iter().map(|special| special.id).collect();
        self.vocab.iter().filter(move |(id, _)| !special_ids.contains(id))
    }

    /// The token of each byte.
    pub(crate) fn byte_ids(&self) -> &[u32; 256] {
        &self.byte_ids
    }
}

fn check_specials(vocab: &Vocab, specials: &[Special]) -> Result<HashSet<u32, Hasher>> {
    let mut ids = HashSet::default();
    for special in specials {
        let content = special.content.as_str();
        if content.is_empty() {
            return Err(inconsistent(format!("special token {} is empty", special.id)));
        }
        if vocab.get(special.id) != Some(content.as_bytes()) {
            return Err(inconsistent(format!(
                "special token {content:?} is not token {}",
                special.id
            )));
        }
        if !ids.insert(special.id) {
            return Err(inconsistent(format!("special token {content:?} is listed twice")));
        }
    }
    Ok(ids)
}

/// Checks the ordinary tokens and returns the token of each byte.
fn check_tokens(vocab: &Vocab, special_ids: &HashSet<u32, Hasher>) -> Result<[u32; 256]> {
    let mut ids: HashMap<&[u8], u32, Hasher> = HashMap::default();
    for (id, token) in vocab.iter().filter(|(id, _)| !special_ids.contains(id)) {
        if token.is_empty() {
            return Err(inconsistent(format!("token {id} is empty")));
        }
        if token.len() > MAX_TOKEN_BYTES {
            let length = token.len();
            return Err(inconsistent(format!(
                "token {id} has {length} bytes, the limit is {MAX_TOKEN_BYTES}"
            )));
        }
        if let Some(first) = ids.insert(token, id) {
            return Err(inconsistent(format!("tokens {first} and {id} have the same bytes")));
        }
    }
    let mut byte_ids = [0; 256];
    for byte in 0..=255u8 {
        byte_ids[usize::from(byte)] = *ids
            .get(&[byte][..])
            .ok_or_else(|| inconsistent(format!("byte 0x{byte:02x} has no token")))?;
    }
    Ok(byte_ids)
}

fn check_merges(vocab: &Vocab, merges: &[Merge], special_ids: &HashSet<u32, Hasher>) -> Result<()> {
    let mut pairs: HashSet<(u32, u32), Hasher> = HashSet::default();
    let mut results: HashSet<u32, Hasher> = HashSet::default();
    for (rank, merge) in merges.iter().enumerate() {
        let Merge { left, right, result } = *merge;
        let (Some(l), Some(r), Some(whole)) = (vocab.get(left), vocab.get(right), vocab.get(result)) else {
            return Err(inconsistent(format!(
                "merge {rank} names a token outside the vocabulary"
            )));
        };
        if whole.len() != l.len() + r.len() || !whole.starts_with(l) || !whole.ends_with(r) {
            return Err(inconsistent(format!("merge {rank} does not spell token {result}")));
        }
        if [left, right, result].iter().any(|id| special_ids.contains(id)) {
            return Err(inconsistent(format!("merge {rank} uses a special token")));
        }
        if !pairs.insert((left, right)) {
            return Err(inconsistent(format!("merge {rank} is listed twice")));
        }
        if !results.insert(result) {
            return Err(inconsistent(format!("two merges make token {result}")));
        }
    }
    Ok(())
}

fn inconsistent(what: String) -> Error {
    Error::Inconsistent(what)
}
