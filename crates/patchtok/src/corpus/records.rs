//! Records, one after another, as they stand in the sources.

use std::io::{BufRead, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parquet::data_type::ByteArray;

use super::format::{Bytes, Format, standard_input};
use super::parquet::Rows;
use super::{Corpus, Source, json};
use crate::{Error, Result};

/// Longest record in bytes.
const MAX_RECORD_BYTES: u64 = 1 << 28;

/// Length of the documents that a long text file is cut into.
const TEXT_BYTES: u64 = 1 << 20;

/// A record: what may become a document.
#[derive(Debug)]
pub(crate) struct Record {
    source: usize,
    /// In its source, from 0.
    number: u64,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Shared(Arc<str>),
    /// Bytes of a text, and where they stand in the unpacked file.
    Text(Vec<u8>, u64),
    /// Line of JSON, and where it stands.
    Line(Vec<u8>, u64),
    Row(Option<ByteArray>),
    /// Line longer than a record may be.
    TooLong,
}

/// Why a record is no document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    NotUtf8,
    NotJson,
    NoText,
    TooLong,
}

/// A record that is no document.
#[derive(Debug)]
pub(crate) struct BadRecord {
    pub(super) fault: Fault,
    pub(super) error: Error,
}

impl Record {
    /// Bytes in memory.
    pub(crate) fn len(&self) -> usize {
        match &self.content {
            Content::Shared(text) => text.len(),
            Content::Text(bytes, _) | Content::Line(bytes, _) => bytes.len(),
            Content::Row(row) => row.as_ref().map_or(0, ByteArray::len),
            Content::TooLong => 0,
        }
    }

    /// The checksum of the place of the record: the name of its source and its number there.
    pub(crate) fn place_checksum(&self, corpus: &Corpus) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(corpus.name(self.source).as_os_str().as_encoded_bytes());
        hasher.update(&self.number.to_le_bytes());
        hasher.finalize()
    }

    /// The text of the record; a blank line is an empty one.
    pub(crate) fn into_text(self, corpus: &Corpus) -> Result<String, BadRecord> {
        let path = || corpus.name(self.source);
        let line = self.number + 1;
        let bad_line = |reason| Error::BadLine {
            path: path(),
            line,
            reason,
        };
        let utf8 = |bytes: Vec<u8>, offset: u64| {
            String::from_utf8(bytes).map_err(|error| BadRecord {
                fault: Fault::NotUtf8,
                error: Error::NotUtf8 {
                    path: path(),
                    offset: offset + error.utf8_error().valid_up_to() as u64,
                },
            })
        };
        match self.content {
            Content::Shared(text) => Ok(text.as_ref().into()),
            Content::Text(bytes, offset) => utf8(bytes, offset),
            Content::Line(bytes, offset) => {
                let field = &corpus.text_field;
                let json = utf8(bytes, offset)?;
                if json.trim_ascii().is_empty() {
                    return Ok(String::new());
                }
                match json::text_of(&json, field) {
                    Ok(Some(text)) => Ok(text),
                    Ok(None) => Err(BadRecord {
                        fault: Fault::NoText,
                        error: bad_line(format!("the object has no string field {field:?}")),
                    }),
                    Err(error) => Err(BadRecord {
                        fault: Fault::NotJson,
                        error: bad_line(error.to_string()),
                    }),
                }
            }
            Content::Row(None) => Err(BadRecord {
                fault: Fault::NoText,
                error: bad_line(format!("the row has no {:?}", corpus.text_field)),
            }),
            Content::Row(Some(bytes)) => match bytes.as_utf8() {
                Ok(text) => Ok(text.into()),
                Err(_) => Err(BadRecord {
                    fault: Fault::NotUtf8,
                    error: bad_line("the text is not UTF-8".into()),
                }),
            },
            Content::TooLong => Err(BadRecord {
                fault: Fault::TooLong,
                error: Error::TooLarge {
                    path: path(),
                    what: "a record",
                    limit: MAX_RECORD_BYTES,
                },
            }),
        }
    }
}

/// The records of a [`Corpus`] that belong to its shard, in order.
pub(crate) struct Records<'c> {
    corpus: &'c Corpus,
    /// Index of the source that is read next.
    next: usize,
    open: Option<Open>,
    /// Number of the next record of the open source.
    number: u64,
    taken: Arc<AtomicU64>,
}

/// A source that is being read.
enum Open {
    Shared(Arc<str>),
    Text(Stream),
    Lines(Stream),
    Rows(Box<Rows>),
}

impl<'c> Records<'c> {
    /// `taken` counts the bytes that are read from files.
    pub(crate) fn new(corpus: &'c Corpus, taken: Arc<AtomicU64>) -> Self {
        Records {
            corpus,
            next: 0,
            open: None,
            number: 0,
            taken,
        }
    }

    /// The next record.
    pub(crate) fn next(&mut self) -> Result<Option<Record>> {
        loop {
            let Some(open) = &mut self.open else {
                if self.next == self.corpus.sources.len() {
                    return Ok(None);
                }
                self.open = self.open_next()?;
                (self.next, self.number) = (self.next + 1, 0);
                continue;
            };
            let content = match open {
                Open::Shared(text) => (self.number == 0).then(|| Content::Shared(text.clone())),
                Open::Text(stream) => stream.text()?,
                Open::Lines(stream) => stream.line()?,
                Open::Rows(rows) => rows.next()?.map(Content::Row),
            };
            let Some(content) = content else {
                self.open = None;
                continue;
            };
            let (source, number) = (self.next - 1, self.number);
            self.number += 1;
            if self.belongs(source, number) {
                return Ok(Some(Record {
                    source,
                    number,
                    content,
                }));
            }
        }
    }

    fn belongs(&self, source: usize, number: u64) -> bool {
        let (index, count) = self.corpus.shard;
        (source as u64 + number) % count == index
    }

    /// Opens the next source; `None` when it has nothing for this shard.
    fn open_next(&self) -> Result<Option<Open>> {
        let (corpus, taken) = (self.corpus, &self.taken);
        let stream = |path: &PathBuf, bytes| Stream {
            path: path.clone(),
            bytes,
            offset: 0,
        };
        Ok(Some(match &corpus.sources[self.next] {
            Source::Text(text) => Open::Shared(text.clone()),
            Source::Stdin => {
                let path = corpus.name(self.next);
                let (bytes, lines) = standard_input(taken).map_err(Error::io("read", &path))?;
                let stream = stream(&path, bytes);
                if lines { Open::Lines(stream) } else { Open::Text(stream) }
            }
            Source::File(path, Format::Text(packing)) => {
                let length = std::fs::metadata(path).map_or(u64::MAX, |data| data.len());
                if length <= TEXT_BYTES && *packing == super::format::Packing::Plain && !self.belongs(self.next, 0) {
                    return Ok(None);
                }
                Open::Text(stream(path, packing.open(path, taken)?))
            }
            Source::File(path, Format::Lines(packing)) => Open::Lines(stream(path, packing.open(path, taken)?)),
            Source::File(path, Format::Parquet) => Open::Rows(Box::new(Rows::open(path, &corpus.text_field, taken)?)),
        }))
    }
}

/// Unpacked bytes and the place in them.
struct Stream {
    path: PathBuf,
    bytes: Bytes,
    offset: u64,
}

impl Stream {
    /// The next document of a text: up to the end of the line that [`TEXT_BYTES`] end in.
    fn text(&mut self) -> Result<Option<Content>> {
        let fail = Error::io("read", &self.path);
        let mut text = Vec::new();
        (&mut self.bytes)
            .take(TEXT_BYTES)
            .read_to_end(&mut text)
            .map_err(&fail)?;
        if text.len() as u64 == TEXT_BYTES {
            // A line that goes on and on is cut where a character ends.
            (&mut self.bytes)
                .take(TEXT_BYTES)
                .read_until(b'\n', &mut text)
                .map_err(&fail)?;
            while text.last() != Some(&b'\n')
                && let Some(&next) = self.bytes.fill_buf().map_err(&fail)?.first()
                && next & 0xc0 == 0x80
                && text.len() as u64 <= 2 * TEXT_BYTES + 3
            {
                text.push(next);
                self.bytes.consume(1);
            }
        }
        let offset = self.offset;
        self.offset += text.len() as u64;
        Ok((!text.is_empty()).then_some(Content::Text(text, offset)))
    }

    /// The next line.
    fn line(&mut self) -> Result<Option<Content>> {
        let fail = Error::io("read", &self.path);
        let mut line = Vec::new();
        let length = (&mut self.bytes)
            .take(MAX_RECORD_BYTES + 1)
            .read_until(b'\n', &mut line)
            .map_err(&fail)? as u64;
        let offset = self.offset;
        self.offset += length;
        if length > MAX_RECORD_BYTES {
            self.offset += self.bytes.skip_until(b'\n').map_err(&fail)? as u64;
            return Ok(Some(Content::TooLong));
        }
        Ok((length > 0).then_some(Content::Line(line, offset)))
    }
}
