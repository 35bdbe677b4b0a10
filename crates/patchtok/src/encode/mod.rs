//! Byte pair encoding of text.
//!
//! The meaning is fixed by [`reference`](mod@reference): inside each piece, while two adjacent
//! tokens have a merge, apply the merge of lowest rank, the leftmost first. [`Encoder`] gives the
//! same tokens faster, in two stages: the merges inside words, whose results are remembered word by
//! word (`words`), and the merges that join words (`phrases`). Short sequences are scanned (`scan`), longer ones go
//! through a `heap`, and those of any length through a trie (`linear`), so that the time is linear in the
//! length of the text. Merges in an order that no training gives have the heap alone.

mod cache;
pub(crate) mod heap;
mod linear;
mod merges;
pub(crate) mod min_tokens;
mod phrases;
mod pool;
mod prefetch;
pub(crate) mod reference;
mod scan;
mod spine;
mod words;

use std::hash::BuildHasher;
use std::sync::OnceLock;

use hashbrown::HashTable;

pub(crate) use merges::{Merges, NO_RANK, pair_key};
pub(crate) use pool::{Pool, Pooled};

use crate::model::{Hasher, Model, Segmentation};
pub(crate) use crate::split::pieces::Start;
use crate::split::{self, pieces};
use linear::{Tables, Trie};
use min_tokens::MinTokens;
use phrases::{Pending, Phrases};
use spine::Spines;
use words::Words;

/// Longest piece that goes through a heap where a trie would do: most texts have no longer one, and making the trie
/// takes longer than to encode some megabytes.
const HEAP_LIMIT: usize = 255;

/// Memory that is used again from text to text.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    cache: cache::Words,
    batch: words::Batch,
    pending: Pending,
    scratch: Scratch,
}

impl Memory {
    /// Forgets a text of which only parts were encoded.
    pub(crate) fn forget_text(&mut self) {
        self.pending.clear();
    }
}

/// Memory that is used again from piece to piece.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    heap: heap::Scratch,
    linear: linear::Scratch,
    min_tokens: min_tokens::Scratch,
    bytes: Vec<u8>,
}

/// What a text goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stages {
    /// Its words, which are its pieces.
    Words,
    /// Its words, and then what joins them.
    WordsAndPhrases,
    /// Its pieces, without what is remembered of words.
    Pieces,
}

/// The encoder of one model.
#[derive(Clone, Debug)]
pub(crate) struct Encoder {
    byte_ids: [u32; 256],
    merges: Merges,
    /// Number of merges.
    all: u32,
    /// How tokens are made; none if merges use what later ones make.
    spines: Option<Spines>,
    /// Merges of the first stage: so many of the first ones.
    inside_words: u32,
    /// The other merges, if there are any.
    phrases: Option<Phrases>,
    /// Tokens of the first stage that their own bytes are encoded as; all tokens, if a piece that is a
    /// token is not merged.
    whole: HashTable<u32>,
    longest: usize,
    /// Made when the first long piece comes.
    trie: OnceLock<Trie>,
    /// Takes the place of all that, if the segmentation is by fewest tokens.
    min_tokens: Option<MinTokens>,
}

impl Encoder {
    /// Compiles the tables of `model`. O(bytes of the vocabulary) and O(depth of the merges).
    pub(crate) fn new(model: &Model) -> Self {
        let all = model.merges().len() as u32;
        let spines = Spines::new(model);
        let inside_words = match &spines {
            Some(_) if model.splitter().is_chunked() => merges_inside_words(model),
            _ => all,
        };
        let mut encoder = Encoder {
            byte_ids: *model.byte_ids(),
            merges: Merges::new(model.merges(), 0),
            all,
            spines,
            inside_words,
            phrases: Phrases::new(model, inside_words),
            whole: HashTable::new(),
            longest: 0,
            trie: OnceLock::new(),
            min_tokens: (model.segmentation() == Segmentation::MinTokens).then(|| MinTokens::new(model)),
        };
        let bytes_of = |id| model.vocab().get(id).unwrap_or(&[]);
        let mut whole = HashTable::with_capacity(inside_words as usize);
        let whole_ids = match model.ignores_merges() {
            true => model.ordinary().map(|(id, _)| id).collect(),
            false => encoder.reachable(model, inside_words),
        };
        for id in whole_ids {
            encoder.longest = encoder.longest.max(bytes_of(id).len());
            whole.insert_unique(hash(bytes_of(id)), id, |&id| hash(bytes_of(id)));
        }
        encoder.whole = whole;
        encoder
    }

    /// Appends the tokens of `text`, in which special tokens are not looked for. O(n) for n bytes,
    /// if no merge uses what a later one makes; otherwise O(n log n).
    pub(crate) fn encode(&self, model: &Model, text: &str, memory: &mut Memory, out: &mut Vec<u32>) {
        match self.stages(model) {
            Stages::Words => Words::<false>::encode(self, model, text, memory, out),
            Stages::WordsAndPhrases => Words::<true>::encode(self, model, text, memory, out),
            Stages::Pieces => {
                let scratch = &mut memory.scratch;
                let piece = |piece: &str| self.encode_piece(model, piece.as_bytes(), scratch, out);
                model.splitter().for_each(text, piece);
            }
        }
    }

    /// Appends the tokens of `text` from `start` on, which goes on behind its end, as far as what follows
    /// cannot change them; returns the start of the first word that is left. The memory keeps what
    /// waits for more text until [`finish`](Encoder::finish).
    pub(crate) fn encode_part(
        &self,
        model: &Model,
        text: &str,
        start: Start,
        memory: &mut Memory,
        out: &mut Vec<u32>,
    ) -> Start {
        self.part(model, text, start, pieces::settled(text), memory, out)
    }

    /// Appends the tokens of the rest of a text of which parts were encoded.
    pub(crate) fn finish(&self, model: &Model, text: &str, start: Start, memory: &mut Memory, out: &mut Vec<u32>) {
        let rest = self.part(model, text, start, text.len(), memory, out).at;
        match self.stages(model) {
            Stages::Pieces if rest < text.len() => {
                self.encode_piece(model, &text.as_bytes()[rest..], &mut memory.scratch, out);
            }
            Stages::WordsAndPhrases => Words::<true>::finish(self, model, memory, out),
            Stages::Words | Stages::Pieces => {}
        }
    }

    /// Appends the tokens of the words of `text` that lie between `start` and `limit`.
    fn part(
        &self,
        model: &Model,
        text: &str,
        start: Start,
        limit: usize,
        memory: &mut Memory,
        out: &mut Vec<u32>,
    ) -> Start {
        match self.stages(model) {
            Stages::Words => Words::<false>::encode_part(self, model, text, start, limit, memory, out),
            Stages::WordsAndPhrases => Words::<true>::encode_part(self, model, text, start, limit, memory, out),
            Stages::Pieces => {
                let mut at = start.at;
                pieces::for_each::<true>(model.splitter(), text, start, |word| {
                    let is_border = word.cut || !model.splitter().is_chunked();
                    if is_border && word.start > at && word.end <= limit {
                        self.encode_piece(model, &text.as_bytes()[at..word.start], &mut memory.scratch, out);
                        at = word.start;
                    }
                });
                Start { at, cut: true }
            }
        }
    }

    /// How a text is encoded.
    #[inline]
    fn stages(&self, model: &Model) -> Stages {
        let across_words = self.inside_words < self.all;
        let in_no_order = model.splitter().is_chunked() && self.spines.is_none();
        match self.phrases {
            Some(_) => Stages::WordsAndPhrases,
            None if self.min_tokens.is_some() || across_words || in_no_order => Stages::Pieces,
            None => Stages::Words,
        }
    }

    /// Appends the tokens of `piece`, which is not cut, to `out`.
    pub(crate) fn encode_piece(&self, model: &Model, piece: &[u8], scratch: &mut Scratch, out: &mut Vec<u32>) {
        match &self.min_tokens {
            Some(min_tokens) => min_tokens.encode_piece(model.vocab(), piece, &mut scratch.min_tokens, out),
            None => self.merge(model, piece, self.all, scratch, out),
        }
    }

    /// The merges, for the reference.
    pub(crate) fn merges(&self) -> &Merges {
        &self.merges
    }

    /// Appends to `out` what `bytes` become by the first `limit` merges, which are all or those of
    /// the first stage.
    fn merge(&self, model: &Model, bytes: &[u8], limit: u32, scratch: &mut Scratch, out: &mut Vec<u32>) {
        if bytes.len() <= self.longest
            && let Some(&id) = self.whole.find(hash(bytes), |&id| model.vocab().get(id) == Some(bytes))
        {
            out.push(id);
            return;
        }
        let symbols = bytes.iter().map(|&byte| self.byte_ids[usize::from(byte)]);
        let pair = |left, right| match self.merges.get(left, right) {
            (rank, _) if rank >= limit => (NO_RANK, 0),
            pair => pair,
        };
        match &self.spines {
            _ if bytes.len() <= scan::LIMIT => scan::merge(symbols, pair, out),
            Some(spines) if bytes.len() > HEAP_LIMIT => {
                let tables = Tables {
                    model,
                    merges: &self.merges,
                    spines,
                    trie: self.trie.get_or_init(|| Trie::new(model, self.tokens(model))),
                };
                linear::encode(bytes, limit, tables, &mut scratch.linear, out);
            }
            _ => heap::merge(symbols, pair, &mut scratch.heap, out),
        }
    }

    /// Appends to `out` what `tokens` of the first stage become by all merges.
    #[cold]
    fn merge_tokens(&self, model: &Model, tokens: &[u32], scratch: &mut Scratch, out: &mut Vec<u32>) {
        let mut bytes = std::mem::take(&mut scratch.bytes);
        bytes.clear();
        for token in tokens {
            bytes.extend_from_slice(model.vocab().get(*token).unwrap_or(&[]));
        }
        self.merge(model, &bytes, self.all, scratch, out);
        scratch.bytes = bytes;
    }

    /// The tokens that some text is encoded as.
    fn tokens(&self, model: &Model) -> impl Iterator<Item = u32> {
        self.byte_ids.into_iter().chain(self.reachable(model, self.all))
    }

    /// Of the tokens that the first `count` merges make, those that their own bytes are encoded as.
    /// None if that cannot be told from how they are made.
    fn reachable(&self, model: &Model, count: u32) -> Vec<u32> {
        let Some(spines) = &self.spines else {
            return Vec::new();
        };
        let mut is_reachable = vec![false; model.vocab().len()];
        for id in self.byte_ids {
            is_reachable[id as usize] = true;
        }
        let merges = model.merges()[..count as usize].iter().zip(0..);
        let made = merges.filter(|(merge, rank)| {
            let parts = is_reachable[merge.left as usize] && is_reachable[merge.right as usize];
            let is = parts && spines.apart(merge.left, merge.right, *rank, &self.merges, &mut 0);
            is_reachable[merge.result as usize] = is;
            is
        });
        made.map(|(merge, _)| merge.result).collect()
    }
}

/// How many of the first merges join nothing but parts of one word: wherever the pattern of the base
/// cuts between two tokens that one of them joins, a chunk ends.
fn merges_inside_words(model: &Model) -> u32 {
    let bytes_of = |id| model.vocab().get(id).unwrap_or(&[]);
    let splitter = model.splitter();
    let mut merges = model.merges().iter();
    let crossing = merges.position(|merge| !split::never_parts(splitter, bytes_of(merge.left), bytes_of(merge.right)));
    crossing.unwrap_or(model.merges().len()) as u32
}

fn hash(bytes: &[u8]) -> u64 {
    Hasher::with_seed(0).hash_one(bytes)
}

#[cfg(test)]
mod tests;
