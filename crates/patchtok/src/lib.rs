//! Adapts an existing byte-level BPE tokenizer to a domain: the tokens that a corpus hardly uses
//! are swapped for its frequent phrases, so that the same text takes fewer tokens. The vocabulary
//! size and all other ids stay as they are, and the result is an ordinary Hugging Face
//! `tokenizer.json`.
//!
//! You will meet three types:
//!
//! * [`PatchTokenizer`] encodes and decodes. It reads `tokenizer.json` files of the kinds of GPT-2,
//!   SmolLM, Llama 3 and Qwen and what this crate writes, and gives the same ids as the Hugging Face
//!   `tokenizers` library.
//! * [`VocabBuilder`] makes a patched tokenizer from a base tokenizer and a [`Corpus`].
//! * [`PatchMap`] says what was swapped: which base tokens a new token stands for, so that a
//!   model's embedding rows can be carried over.
//!
//! ```
//! use patchtok::{Corpus, PatchTokenizer, VocabBuilder};
//!
//! # fn main() -> patchtok::Result<()> {
//! let gpt2 = concat!(env!("CARGO_MANIFEST_DIR"), "/data/gpt2/tokenizer.json");
//! let base = PatchTokenizer::from_file(gpt2)?;
//!
//! // A corpus is files and folders of text; here it is a few sentences in memory.
//! let corpus = Corpus::from_texts((0..20).map(|i| {
//!     format!("The table pg_stat_activity has one row per server process. Example {i}.")
//! }));
//! let built = VocabBuilder::new(base.clone()).swaps(20).build(&corpus)?;
//! let patched = built.tokenizer;
//!
//! let text = "The table pg_stat_activity has one row per server process.";
//! assert_eq!(base.encode(text).len(), 14);
//! assert_eq!(patched.encode(text).len(), 4);
//! assert_eq!(patched.decode(&patched.encode(text))?, text);
//! assert_eq!(patched.vocab_size(), base.vocab_size());
//!
//! // Every new token knows the base tokens that it stands for.
//! let map = patched.patch_map().expect("a patched tokenizer has a patch map");
//! for new in map.new_tokens() {
//!     assert_eq!(base.decode_bytes(&new.base_ids)?, new.token);
//! }
//!
//! // Hugging Face gives the same ids.
//! let hf = patched.to_hf()?;
//! assert_eq!(hf.encode(text, false).unwrap().get_ids(), patched.encode(text));
//! # Ok(()) }
//! ```
//!
//! The program `build-vocab` does the same from the command line. `docs/tokenizer.md` argues the
//! algorithm and describes the files.
//!
//! # What it is not
//!
//! * Not a tokenizer trainer from nothing: it starts from a trained vocabulary.
//! * Not a reader of every `tokenizer.json`: only byte-level BPE with the pre-tokenizer of GPT-2, also
//!   behind `Digits` (SmolLM), Llama 3 or Qwen. Everything else, such as the kind of Llama 2 and Mistral,
//!   is an error that names the part.
//! * Not a model tool: it knows nothing of tensors.

mod artifact;
mod base;
mod byte_level;
mod columns;
mod corpus;
mod count;
mod decode;
mod encode;
mod error;
mod export;
mod files;
mod model;
mod normalizer;
mod offsets;
mod patch_map;
mod report;
mod select;
mod special;
mod split;
mod stream;
mod tokenizer;

pub use corpus::{Corpus, Documents, Rejected};
pub use count::{ChunkCounter, ChunkCounts, CountSummary, Counting, Sampling, check_counts, merge_counts};
pub use decode::DecodeStream;
pub use error::{Error, Result};
pub use model::Segmentation;
pub use patch_map::{NewToken, PatchMap, RemovedToken};
pub use report::{BuildReport, CurvePoint, Stop, TokenCount, TokenLoss, TokenSaving};
pub use select::{AdaptivocabBuilder, AdaptivocabForm, Built, Mode, NgramTokenizer, Progress, VocabBuilder};
pub use split::{CHUNK_PATTERN, GPT2_PATTERN, LLAMA3_PATTERN, QWEN_PATTERN};
pub use stream::EncodeStream;
pub use tokenizer::PatchTokenizer;
