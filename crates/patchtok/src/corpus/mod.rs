//! Texts to build a vocabulary from: files, folders and streams, read as documents.

mod documents;
mod format;
mod json;
mod parquet;
mod records;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::{Error, Result};
pub use documents::{Documents, Rejected};
use format::Format;
pub(crate) use records::{Record, Records};

/// Name endings of text files; others are passed over in folders.
const TEXT_EXTENSIONS: [&str; 34] = [
    "txt", "text", "md", "markdown", "rst", "adoc", "asciidoc", "org", "tex", "html", "htm", "xml", "sgml", "csv",
    "tsv", "json", "yaml", "yml", "toml", "sql", "rs", "py", "c", "h", "cc", "cpp", "hpp", "java", "js", "ts", "go",
    "rb", "sh", "log",
];

/// A set of documents, opened but not read: every call of [`documents`](Corpus::documents) reads it
/// again, one piece at a time, so that a corpus may be larger than memory.
///
/// * A text file is one document. One of more than 1 MiB is cut at line ends into documents of that
///   size.
/// * A `.jsonl` file holds one document a line, in the field `text` of an object
///   ([`text_field`](Corpus::text_field) names another).
/// * Either may be compressed: `.gz` or `.zst` after the name.
/// * A `.parquet` file holds one document a row, in the string column of the same name.
/// * A folder is read recursively in the order of names; links to folders are not followed, and
///   files whose names do not end like one of these are passed over. A file that is named itself is
///   read as text whatever its ending.
/// * A path that does not exist and has `*`, `?` or `[` in it is a pattern: the files and folders
///   that it matches, in the order of names.
/// * `-` is standard input, which can be read once: JSON lines if it begins with `{`, otherwise
///   text; packed with gzip, zstd or not at all.
///
/// Empty documents are left out.
///
/// ```
/// use patchtok::Corpus;
/// let corpus = Corpus::from_texts(["one document", "", "another"]);
/// assert_eq!(corpus.documents().count(), 2);
/// ```
#[derive(Clone, Debug)]
pub struct Corpus {
    sources: Vec<Source>,
    text_field: String,
    /// For each split that led here, whether this is the held-out part.
    held_out: Vec<bool>,
    /// This part of so many of the records.
    shard: (u64, u64),
    skip_bad: bool,
}

#[derive(Clone, Debug)]
enum Source {
    File(PathBuf, Format),
    Stdin,
    Text(Arc<str>),
}

impl Corpus {
    /// Opens a file, a folder, a pattern or standard input.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read, [`Error::EmptyCorpus`] when a folder has no text
    /// files or a pattern matches nothing.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Corpus::open_all([path])
    }

    /// Opens several of them as one corpus, in the given order.
    ///
    /// # Errors
    /// As [`open`](Corpus::open).
    pub fn open_all<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>) -> Result<Self> {
        let mut sources = Vec::new();
        for path in paths {
            let path = path.as_ref();
            if path == "-" {
                if sources.iter().any(|source| matches!(source, Source::Stdin)) {
                    return Err(Error::EmptyCorpus("standard input is named twice".into()));
                }
                sources.push(Source::Stdin);
                continue;
            }
            match path.to_str().filter(|name| name.contains(['*', '?', '['])) {
                Some(pattern) if !path.exists() => {
                    for path in matches(pattern)? {
                        add(&path, &mut sources)?;
                    }
                }
                _ => add(path, &mut sources)?,
            }
        }
        if sources.is_empty() {
            return Err(Error::EmptyCorpus("no files were named".into()));
        }
        Ok(Corpus::new(sources))
    }

    /// A corpus of texts in memory, one document each.
    pub fn from_texts<T: Into<String>>(texts: impl IntoIterator<Item = T>) -> Self {
        let sources = texts
            .into_iter()
            .map(|text| Source::Text(Arc::from(text.into())))
            .collect();
        Corpus::new(sources)
    }

    fn new(sources: Vec<Source>) -> Self {
        Corpus {
            sources,
            text_field: "text".into(),
            held_out: Vec::new(),
            shard: (0, 1),
            skip_bad: false,
        }
    }

    /// Splits the corpus in two: nine tenths of the documents to learn from and one tenth to
    /// measure on. A document's place depends on its text only: equal documents stay together, and
    /// adding others moves none.
    pub fn split(self) -> (Corpus, Corpus) {
        let (mut learn, mut measure) = (self.clone(), self);
        learn.held_out.push(false);
        measure.held_out.push(true);
        (learn, measure)
    }

    /// Whether a document with this checksum belongs to this part of the corpus: each split looks
    /// at one decimal digit of it.
    fn holds(&self, checksum: u32) -> bool {
        let mut digits = checksum;
        self.held_out.iter().all(|&held_out| {
            let digit = digits % 10;
            digits /= 10;
            held_out == (digit == 0)
        })
    }

    /// Whether [`split`](Corpus::split) would hold out a document with this checksum.
    pub(crate) fn would_hold_out(&self, checksum: u32) -> bool {
        let digits = self.held_out.iter().fold(checksum, |digits, _| digits / 10);
        digits % 10 == 0
    }

    /// Part `index` of `count` of the corpus: record r of source s, both counted from 0, belongs to
    /// part (r + s) mod `count`. The parts together are the corpus. Files of one document that
    /// belong to other parts are not opened.
    ///
    /// # Errors
    /// [`Error::Build`] when `index` is not below `count`.
    pub fn shard(mut self, index: u64, count: u64) -> Result<Self> {
        if index >= count {
            return Err(Error::Build(format!(
                "there is no shard {index} of {count}: they count from 0"
            )));
        }
        self.shard = (index, count);
        Ok(self)
    }

    /// Sets the field of `.jsonl` objects, and the column of `.parquet` files, that holds the text.
    pub fn text_field(mut self, name: impl Into<String>) -> Self {
        self.text_field = name.into();
        self
    }

    /// Whether records that are no documents (not UTF-8, not JSON, without the text, too long) are
    /// skipped and counted in [`Documents::rejected`]. By default they are errors.
    pub fn skip_bad(mut self, skip: bool) -> Self {
        self.skip_bad = skip;
        self
    }

    /// Length of all files on disk, when all sources are files.
    pub(crate) fn file_bytes(&self) -> Option<u64> {
        let length = |source: &Source| match source {
            Source::File(path, _) => fs::metadata(path).ok().map(|data| data.len()),
            _ => None,
        };
        self.sources.iter().map(length).sum()
    }

    /// What messages call source `index`.
    fn name(&self, index: usize) -> PathBuf {
        match &self.sources[index] {
            Source::File(path, _) => path.clone(),
            Source::Stdin => "standard input".into(),
            Source::Text(_) => format!("text {index}").into(),
        }
    }

    /// Reads the documents in order. One document is in memory at a time.
    ///
    /// The iterator gives [`Error::Io`], or, without [`skip_bad`](Corpus::skip_bad),
    /// [`Error::NotUtf8`], [`Error::BadLine`] or [`Error::TooLarge`], and then ends.
    pub fn documents(&self) -> Documents<'_> {
        Documents::new(self)
    }
}

/// Adds a file, or the text files below a folder.
fn add(path: &Path, sources: &mut Vec<Source>) -> Result<()> {
    if !fs::metadata(path).map_err(Error::io("read", path))?.is_dir() {
        let format = Format::of(path).unwrap_or(Format::text(path));
        sources.push(Source::File(path.into(), format));
        return Ok(());
    }
    let (before, mut passed) = (sources.len(), 0);
    walk(path, sources, &mut passed)?;
    if sources.len() == before {
        return Err(Error::EmptyCorpus(format!(
            "{} has {passed} files, none with the ending of a text file (.txt, .md, .jsonl, ..., these with .gz \
             or .zst, or .parquet)",
            path.display()
        )));
    }
    Ok(())
}

/// Collects the text files below `folder` in the order of names and counts the files passed over.
fn walk(folder: &Path, sources: &mut Vec<Source>, passed: &mut usize) -> Result<()> {
    let fail = Error::io("read", folder);
    let mut entries = fs::read_dir(folder)
        .map_err(&fail)?
        .collect::<Result<Vec<_>, _>>()
        .map_err(&fail)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let kind = entry.file_type().map_err(Error::io("read", &path))?;
        if kind.is_dir() {
            walk(&path, sources, passed)?;
        } else if let Some(format) = Format::of(&path).filter(|_| !kind.is_symlink() || path.is_file()) {
            sources.push(Source::File(path, format));
        } else {
            *passed += 1;
        }
    }
    Ok(())
}

/// The paths that match a pattern, in the order of names.
fn matches(pattern: &str) -> Result<Vec<PathBuf>> {
    let found = glob::glob(pattern)
        .map_err(|error| Error::EmptyCorpus(format!("{pattern} is not a pattern: {error}")))?
        .map(|path| {
            path.map_err(|error| {
                let path = error.path().to_owned();
                Error::io("read", &path)(error.into())
            })
        })
        .collect::<Result<Vec<_>>>()?;
    if found.is_empty() {
        return Err(Error::EmptyCorpus(format!("no file matches {pattern}")));
    }
    Ok(found)
}
