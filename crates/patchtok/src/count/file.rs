//! Partial counts in a file: Parquet, sorted by chunk. `docs/counts.md` describes the columns.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::ColumnPath;

use super::{Basis, LISTED_DOCUMENTS, MAX_SUM, Row, Weight};
use crate::columns::{Column, ParquetFile, Values};
use crate::{Error, Result, files};

/// Key of the footer that names the format, and its value.
const FORMAT: (&str, &str) = ("format", "patchtok.chunk_counts.v1");

/// Key of the footer that names how the base cuts text.
const BASE: &str = "base";

/// Key of the footer that says how many documents of a chunk are listed at most.
const LISTED: &str = "listed_documents";

const SCHEMA: &str = "message chunk_counts {
    required binary chunk (STRING);
    required int64 count;
    required int64 heldout;
    required group documents (LIST) { repeated group list { required int64 element; } }
}";

/// Rows of a row group, all of which are in memory while it is written.
const GROUP_ROWS: usize = 1 << 16;

/// Text of a row group.
const GROUP_BYTES: usize = 1 << 24;

/// Rows that are read at a time.
const BATCH: usize = 512;

/// Rows on their way into a file.
pub(super) struct Writer<'f> {
    path: PathBuf,
    file: SerializedFileWriter<&'f mut File>,
    text: Vec<u8>,
    ends: Vec<usize>,
    counts: Vec<i64>,
    heldout: Vec<i64>,
    documents: Vec<i64>,
    /// Of `documents`: whether there is one, and whether it is another one of the same row.
    definitions: Vec<i16>,
    repetitions: Vec<i16>,
}

/// Writes a file of the rows that `fill` gives, in order; they list at most `listed` documents.
pub(super) fn write(
    path: &Path,
    basis: &Basis,
    listed: usize,
    fill: impl FnOnce(&mut Writer<'_>) -> Result<()>,
) -> Result<()> {
    files::write_with(path, |file| {
        let pairs = [
            (FORMAT.0, FORMAT.1.to_owned()),
            (BASE, basis.name().to_owned()),
            (LISTED, listed.to_string()),
        ];
        let mut writer = Writer::new(path, file, pairs).map_err(failed(path))?;
        fill(&mut writer)?;
        writer.finish().map_err(failed(path))
    })
}

fn failed(path: &Path) -> impl Fn(ParquetError) -> Error {
    move |error| Error::Parquet {
        path: path.into(),
        reason: format!("cannot write: {error}"),
    }
}

impl<'f> Writer<'f> {
    fn new(path: &Path, file: &'f mut File, pairs: [(&str, String); 3]) -> Result<Self, ParquetError> {
        let schema = Arc::new(parse_message_type(SCHEMA)?);
        let metadata = pairs.map(|(key, value)| KeyValue::new(key.to_owned(), value));
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
            .set_column_dictionary_enabled(ColumnPath::from("chunk"), false)
            .set_key_value_metadata(Some(metadata.to_vec()));
        Ok(Writer {
            path: path.into(),
            file: SerializedFileWriter::new(file, schema, Arc::new(properties.build()))?,
            text: Vec::new(),
            ends: Vec::new(),
            counts: Vec::new(),
            heldout: Vec::new(),
            documents: Vec::new(),
            definitions: Vec::new(),
            repetitions: Vec::new(),
        })
    }

    /// Appends a row, which was added to a summary; its chunk comes after that of the row before.
    pub(super) fn push(&mut self, row: Row<'_>) -> Result<()> {
        const {
            assert!(
                MAX_SUM <= i64::MAX as u64,
                "the numbers of a row are not above the sums"
            )
        };
        self.text.extend_from_slice(row.chunk);
        self.ends.push(self.text.len());
        self.counts.push(row.count.train as i64);
        self.heldout.push(row.count.heldout as i64);
        if row.documents.is_empty() {
            self.definitions.push(0);
            self.repetitions.push(0);
        }
        for (at, &document) in row.documents.iter().enumerate() {
            self.documents.push(document);
            self.definitions.push(1);
            self.repetitions.push(i16::from(at > 0));
        }
        if self.ends.len() == GROUP_ROWS || self.text.len() >= GROUP_BYTES {
            self.flush().map_err(failed(&self.path))?;
        }
        Ok(())
    }

    /// Writes a row group.
    fn flush(&mut self) -> Result<(), ParquetError> {
        let text = ByteArray::from(std::mem::take(&mut self.text));
        let mut start = 0;
        let chunks: Vec<ByteArray> = self
            .ends
            .iter()
            .map(|&end| {
                let chunk = text.slice(start, end - start);
                start = end;
                chunk
            })
            .collect();
        let mut group = self.file.next_row_group()?;
        let columns = [
            (&self.counts, None),
            (&self.heldout, None),
            (&self.documents, Some((&self.definitions, &self.repetitions))),
        ];
        if let Some(mut column) = group.next_column()? {
            column.typed::<ByteArrayType>().write_batch(&chunks, None, None)?;
            column.close()?;
        }
        for (values, levels) in columns {
            if let Some(mut column) = group.next_column()? {
                let definitions = levels.map(|(definitions, _)| definitions.as_slice());
                let repetitions = levels.map(|(_, repetitions)| repetitions.as_slice());
                column
                    .typed::<Int64Type>()
                    .write_batch(values, definitions, repetitions)?;
                column.close()?;
            }
        }
        group.close()?;
        self.ends.clear();
        self.counts.clear();
        self.heldout.clear();
        self.documents.clear();
        self.definitions.clear();
        self.repetitions.clear();
        Ok(())
    }

    fn finish(mut self) -> Result<(), ParquetError> {
        if !self.ends.is_empty() {
            self.flush()?;
        }
        self.file.close()?;
        Ok(())
    }
}

/// The rows of a file, in order.
pub(super) struct Reader {
    path: PathBuf,
    /// Documents that a row lists at most.
    listed: usize,
    file: ParquetFile,
    chunk: Column,
    /// `count`, `heldout`, `documents`.
    numbers: [Column; 3],
    group: usize,
    values: Option<(Values<ByteArrayType>, [Values<Int64Type>; 3])>,
    batch: Batch,
    /// Place of the next row in the batch.
    at: usize,
    /// The last chunk of the batch before.
    last: Option<ByteArray>,
}

/// Rows in memory.
#[derive(Default)]
struct Batch {
    chunks: Vec<ByteArray>,
    counts: Vec<i64>,
    heldout: Vec<i64>,
    documents: Vec<i64>,
    document_ends: Vec<usize>,
}

impl Reader {
    /// Opens a file of counts for bases like `basis`. A file that another engine wrote has the columns
    /// only, and its base cannot be checked.
    pub(super) fn open(path: &Path, basis: &Basis) -> Result<Self> {
        let file = ParquetFile::open(path)?;
        let wrong = |reason: String| {
            Err(Error::Parquet {
                path: path.into(),
                reason,
            })
        };
        if let Some(format) = file.metadata(FORMAT.0)
            && format != FORMAT.1
        {
            return wrong(format!("the format is {format:?}, this build reads {:?}", FORMAT.1));
        }
        if let Some(base) = file.metadata(BASE)
            && base != basis.name()
        {
            let own = basis.name();
            return wrong(format!(
                "it was counted with a base that cuts text in another way ({base:?}, this base {own:?}); count again \
                 with this base"
            ));
        }
        let listed = match file.metadata(LISTED).map(str::parse) {
            None => LISTED_DOCUMENTS,
            Some(Ok(listed)) => listed,
            Some(Err(_)) => return wrong(format!("the value of {LISTED:?} in the footer is no number")),
        };
        Ok(Reader {
            listed,
            path: path.into(),
            chunk: file.column::<ByteArrayType>("chunk")?,
            numbers: [
                file.column::<Int64Type>("count")?,
                file.column::<Int64Type>("heldout")?,
                file.column::<Int64Type>("documents")?,
            ],
            file,
            group: 0,
            values: None,
            batch: Batch::default(),
            at: 0,
            last: None,
        })
    }

    pub(super) fn listed(&self) -> usize {
        self.listed
    }

    /// The row that is next.
    pub(super) fn row(&self) -> Option<Row<'_>> {
        let (batch, at) = (&self.batch, self.at);
        let start = if at == 0 { 0 } else { batch.document_ends[at - 1] };
        Some(Row {
            chunk: batch.chunks.get(at)?.data(),
            count: Weight {
                train: batch.counts[at] as u64,
                heldout: batch.heldout[at] as u64,
            },
            documents: &batch.documents[start..batch.document_ends[at]],
        })
    }

    /// Moves to the next row, at first to the first one. Returns whether there is one.
    pub(super) fn advance(&mut self) -> Result<bool> {
        if self.at + 1 < self.batch.chunks.len() {
            self.at += 1;
            return Ok(true);
        }
        self.last = self.batch.chunks.pop().or(self.last.take());
        self.at = 0;
        self.read()?;
        Ok(!self.batch.chunks.is_empty())
    }

    /// Reads and checks the next batch; it is empty at the end of the file.
    fn read(&mut self) -> Result<()> {
        let batch = &mut self.batch;
        *batch = Batch::default();
        while batch.chunks.is_empty() && self.group < self.file.row_groups() {
            let (chunks, numbers) = match &mut self.values {
                Some(values) => values,
                None => {
                    let column = |column: Column| self.file.values(self.group, column);
                    let [count, heldout, documents] = self.numbers;
                    let numbers = [column(count)?, column(heldout)?, column(documents)?];
                    self.values.insert((self.file.values(self.group, self.chunk)?, numbers))
                }
            };
            let [counts, heldout, documents] = numbers;
            let null = ByteArray::from("");
            chunks.read(BATCH, |row| batch.chunks.push(row.first().unwrap_or(&null).clone()))?;
            let number = |row: &[i64]| row.first().copied().unwrap_or(0);
            counts.read(BATCH, |row| batch.counts.push(number(row)))?;
            heldout.read(BATCH, |row| batch.heldout.push(number(row)))?;
            documents.read(BATCH, |row| {
                batch.documents.extend_from_slice(row);
                batch.document_ends.push(batch.documents.len());
            })?;
            if batch.chunks.is_empty() {
                self.values = None;
                self.group += 1;
            }
        }
        self.check()
    }

    fn check(&self) -> Result<()> {
        let wrong = |reason: String| {
            Err(Error::Parquet {
                path: self.path.clone(),
                reason,
            })
        };
        let batch = &self.batch;
        let rows = batch.chunks.len();
        if [batch.counts.len(), batch.heldout.len(), batch.document_ends.len()] != [rows; 3] {
            return wrong("the columns differ in length".into());
        }
        if batch
            .counts
            .iter()
            .chain(&batch.heldout)
            .chain(&batch.documents)
            .any(|&number| number < 0)
        {
            return wrong("a number is negative".into());
        }
        let mut before = self.last.as_ref();
        for chunk in &batch.chunks {
            if before.is_some_and(|before| before.data() >= chunk.data()) {
                return wrong("the rows are not sorted by chunk, or a chunk stands twice".into());
            }
            if std::str::from_utf8(chunk.data()).is_err() {
                return wrong("a chunk is not UTF-8".into());
            }
            before = Some(chunk);
        }
        Ok(())
    }
}
