//! Texts to build a vocabulary from: files and folders, read as a stream of documents.

mod read;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::{Error, Result};
pub use read::Documents;
use read::Format;

/// Name endings of files that are one document each; others are passed over in folders.
const TEXT_EXTENSIONS: [&str; 34] = [
    "txt", "text", "md", "markdown", "rst", "adoc", "asciidoc", "org", "tex", "html", "htm", "xml", "sgml", "csv",
    "tsv", "json", "yaml", "yml", "toml", "sql", "rs", "py", "c", "h", "cc", "cpp", "hpp", "java", "js", "ts", "go",
    "rb", "sh", "log",
];

/// A set of documents, opened but not read: every call of [`documents`](Corpus::documents) reads it
/// again.
///
/// * A text file is one document.
/// * A `.jsonl` file holds one document a line, in the field `text` of an object
///   ([`text_field`](Corpus::text_field) names another).
/// * Either may be compressed: `.gz` after the name.
/// * A folder is read recursively in the order of names; links to folders are not followed, and
///   files whose names do not end like those of text files are passed over. A file that is named
///   itself is read whatever its ending.
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
}

#[derive(Clone, Debug)]
enum Source {
    File(PathBuf, Format),
    Text(Arc<str>),
}

impl Corpus {
    /// Opens a file or a folder.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read, [`Error::EmptyCorpus`] when a folder has no text
    /// files.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Corpus::open_all([path])
    }

    /// Opens several files and folders as one corpus, in the given order.
    ///
    /// # Errors
    /// As [`open`](Corpus::open).
    pub fn open_all<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>) -> Result<Self> {
        let mut sources = Vec::new();
        for path in paths {
            let path = path.as_ref();
            if is_folder(path)? {
                let (before, mut passed) = (sources.len(), 0);
                walk(path, &mut sources, &mut passed)?;
                if sources.len() == before {
                    return Err(Error::EmptyCorpus(format!(
                        "{} has {passed} files, none with the ending of a text file (.txt, .md, .jsonl, \
                         ..., or these with .gz)",
                        path.display()
                    )));
                }
            } else {
                let format = Format::of(path).unwrap_or(Format::text(path));
                sources.push(Source::File(path.into(), format));
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

    /// Whether a document belongs to this part of the corpus: each split looks at one decimal digit
    /// of its checksum.
    fn holds(&self, document: &str) -> bool {
        let mut digits = crc32fast::hash(document.as_bytes());
        self.held_out.iter().all(|&held_out| {
            let digit = digits % 10;
            digits /= 10;
            held_out == (digit == 0)
        })
    }

    /// Sets the field of `.jsonl` objects that holds the text.
    pub fn text_field(mut self, name: impl Into<String>) -> Self {
        self.text_field = name.into();
        self
    }

    /// Reads the documents in order. One document is in memory at a time.
    ///
    /// The iterator gives [`Error::Io`], [`Error::NotUtf8`], [`Error::BadLine`] or
    /// [`Error::TooLarge`] and then ends.
    pub fn documents(&self) -> Documents<'_> {
        Documents::new(self)
    }
}

fn is_folder(path: &Path) -> Result<bool> {
    Ok(fs::metadata(path).map_err(Error::io("read", path))?.is_dir())
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
