//! The one error type of this crate.

use std::path::{Path, PathBuf};

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong when a tokenizer is read, built, used or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder could not be read or written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// A file is larger than this crate agrees to read into memory.
    #[error("{}: {what} is larger than the limit of {limit} bytes; split it", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// What is too large: the file itself, or one document in it.
        what: &'static str,
        /// The limit in bytes.
        limit: u64,
    },
    /// A JSON file is malformed or lacks a field.
    #[error("cannot parse {}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Position and reason.
        #[source]
        source: serde_json::Error,
    },
    /// `tokenizer.json` uses a part of the format that has no equal here.
    #[error(
        "tokenizer.json: {0} is not supported; patchtok reads byte-level BPE tokenizers with the \
         pre-tokenizer of GPT-2, also behind Digits (SmolLM), Llama 3 or Qwen, and its own exports"
    )]
    Unsupported(String),
    /// The parts of a tokenizer contradict each other.
    #[error("the tokenizer is inconsistent: {0}")]
    Inconsistent(String),
    /// A patch map does not fit the tokenizer it lies beside.
    #[error("the patch map does not fit the tokenizer: {0}")]
    PatchMap(String),
    /// `patch_tokenizer.bin` is damaged, truncated, or of another version.
    #[error("patch_tokenizer.bin: {0}; write it again with `save`")]
    Artifact(String),
    /// An id outside the vocabulary was given to a decoder.
    #[error("token id {id} is outside the vocabulary of {vocab_size} tokens")]
    UnknownId {
        /// The id.
        id: u32,
        /// Number of ids of the tokenizer.
        vocab_size: usize,
    },
    /// The corpus has no documents.
    #[error("the corpus has no documents: {0}")]
    EmptyCorpus(String),
    /// A corpus file is not UTF-8.
    #[error("{}: not UTF-8 at byte {offset}; convert the file first", path.display())]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// Offset of the first bad byte in the (unpacked) file.
        offset: u64,
    },
    /// A line of a `.jsonl` file is not an object with the text field, or a row of a `.parquet` file
    /// has no text.
    #[error("{}:{line}: {reason}", path.display())]
    BadLine {
        /// The file.
        path: PathBuf,
        /// Line or row number, from 1.
        line: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// A Parquet file cannot be read or is not what is expected of it.
    #[error("{}: {reason}", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The vocabulary cannot be built from this base or with these settings.
    #[error("cannot build the vocabulary: {0}")]
    Build(String),
}

impl Error {
    /// Makes an I/O error on `path` into one of this crate, for `map_err`.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl Fn(std::io::Error) -> Self {
        move |source| Error::Io {
            action,
            path: path.into(),
            source,
        }
    }

    /// Makes a JSON error in `path` into one of this crate, for `map_err`.
    pub(crate) fn json(path: &Path) -> impl Fn(serde_json::Error) -> Self {
        move |source| Error::Json {
            path: path.into(),
            source,
        }
    }
}
