//! Reading documents out of one file after another.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use serde_json::Value;

use super::{Corpus, Source, TEXT_EXTENSIONS};
use crate::{Error, Result};

/// Largest document; a compressed file could unpack to anything.
const MAX_DOCUMENT_BYTES: u64 = 1 << 30;

/// How a file holds documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Format {
    lines: bool,
    gzip: bool,
}

impl Format {
    /// The format that the ending of the name says, `None` for an ending that is not one of a text
    /// file.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?.to_ascii_lowercase();
        let (stem, gzip) = name
            .strip_suffix(".gz")
            .map_or((name.as_str(), false), |stem| (stem, true));
        let ending = Path::new(stem).extension()?.to_str()?;
        match ending {
            "jsonl" | "ndjson" => Some(Format { lines: true, gzip }),
            _ => TEXT_EXTENSIONS
                .contains(&ending)
                .then_some(Format { lines: false, gzip }),
        }
    }

    /// The format of a file that was named though its ending says nothing.
    pub(super) fn text(path: &Path) -> Self {
        Format {
            lines: false,
            gzip: path.extension().is_some_and(|ending| ending == "gz"),
        }
    }
}

/// The documents of a [`Corpus`], in order.
pub struct Documents<'c> {
    sources: std::slice::Iter<'c, Source>,
    corpus: &'c Corpus,
    /// The `.jsonl` file that is being read.
    lines: Option<Lines<'c>>,
    failed: bool,
}

impl std::fmt::Debug for Documents<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Documents")
            .field("files_left", &self.sources.len())
            .finish_non_exhaustive()
    }
}

impl<'c> Documents<'c> {
    pub(super) fn new(corpus: &'c Corpus) -> Self {
        Documents {
            sources: corpus.sources.iter(),
            corpus,
            lines: None,
            failed: false,
        }
    }

    /// The next document, which may be empty.
    fn read(&mut self) -> Result<Option<String>> {
        loop {
            if let Some(lines) = &mut self.lines {
                match lines.next(&self.corpus.text_field)? {
                    Some(text) => return Ok(Some(text)),
                    None => self.lines = None,
                }
            }
            match self.sources.next() {
                None => return Ok(None),
                Some(Source::Text(text)) => return Ok(Some(text.to_string())),
                Some(Source::File(path, format)) if format.lines => self.lines = Some(Lines::open(path, *format)?),
                Some(Source::File(path, format)) => return read_text(path, *format).map(Some),
            }
        }
    }
}

impl Iterator for Documents<'_> {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.failed {
            match self.read() {
                Ok(Some(text)) if text.is_empty() || !self.corpus.holds(&text) => {}
                Ok(document) => return document.map(Ok),
                Err(error) => {
                    self.failed = true;
                    return Some(Err(error));
                }
            }
        }
        None
    }
}

/// A `.jsonl` file and the place in it.
struct Lines<'c> {
    path: &'c PathBuf,
    reader: BufReader<Box<dyn Read + Send>>,
    line: u64,
    offset: u64,
}

impl<'c> Lines<'c> {
    fn open(path: &'c PathBuf, format: Format) -> Result<Self> {
        Ok(Lines {
            path,
            reader: BufReader::new(open(path, format)?),
            line: 0,
            offset: 0,
        })
    }

    /// The text of the next line that is not blank.
    fn next(&mut self, field: &str) -> Result<Option<String>> {
        let path = self.path;
        loop {
            let mut line = Vec::new();
            let length = (&mut self.reader)
                .take(MAX_DOCUMENT_BYTES + 1)
                .read_until(b'\n', &mut line)
                .map_err(Error::io("read", path))? as u64;
            if length == 0 {
                return Ok(None);
            }
            if length > MAX_DOCUMENT_BYTES {
                return Err(too_large(path));
            }
            let start = self.offset;
            self.offset += length;
            self.line += 1;
            let line = utf8(line, path, start)?;
            if line.trim().is_empty() {
                continue;
            }
            let bad = |reason: String| Error::BadLine {
                path: path.clone(),
                line: self.line,
                reason,
            };
            return match serde_json::from_str(&line) {
                Err(error) => Err(bad(error.to_string())),
                Ok(Value::Object(mut object)) => match object.remove(field) {
                    Some(Value::String(text)) => Ok(Some(text)),
                    _ => Err(bad(format!("the object has no string field {field:?}"))),
                },
                Ok(_) => Err(bad("the line is not an object".into())),
            };
        }
    }
}

fn read_text(path: &Path, format: Format) -> Result<String> {
    let mut bytes = Vec::new();
    open(path, format)?
        .take(MAX_DOCUMENT_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(Error::io("read", path))?;
    if bytes.len() as u64 > MAX_DOCUMENT_BYTES {
        return Err(too_large(path));
    }
    utf8(bytes, path, 0)
}

fn open(path: &Path, format: Format) -> Result<Box<dyn Read + Send>> {
    let file = File::open(path).map_err(Error::io("read", path))?;
    Ok(if format.gzip {
        Box::new(MultiGzDecoder::new(BufReader::new(file)))
    } else {
        Box::new(file)
    })
}

fn utf8(bytes: Vec<u8>, path: &Path, start: u64) -> Result<String> {
    String::from_utf8(bytes).map_err(|error| Error::NotUtf8 {
        path: path.into(),
        offset: start + error.utf8_error().valid_up_to() as u64,
    })
}

fn too_large(path: &Path) -> Error {
    Error::TooLarge {
        path: path.into(),
        what: "a document",
        limit: MAX_DOCUMENT_BYTES,
    }
}
