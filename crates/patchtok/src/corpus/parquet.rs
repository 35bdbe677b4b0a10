//! Documents in a column of a Parquet file.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parquet::data_type::{ByteArray, ByteArrayType};

use crate::Result;
use crate::columns::{Column, ParquetFile, Values};

/// Rows in memory at a time.
const BATCH: usize = 64;

/// The rows of a column, in order.
pub(super) struct Rows {
    file: ParquetFile,
    column: Column,
    group: usize,
    values: Option<Values<ByteArrayType>>,
    rows: VecDeque<Option<ByteArray>>,
    /// Counts the bytes of the file that were read: a share of it for each row group.
    taken: Arc<AtomicU64>,
    share: u64,
}

impl Rows {
    pub(super) fn open(path: &Path, name: &str, taken: &Arc<AtomicU64>) -> Result<Self> {
        let file = ParquetFile::open(path)?;
        let length = std::fs::metadata(path).map_or(0, |data| data.len());
        Ok(Rows {
            column: file.column::<ByteArrayType>(name)?,
            share: length / (file.row_groups() as u64).max(1),
            file,
            group: 0,
            values: None,
            rows: VecDeque::new(),
            taken: taken.clone(),
        })
    }

    /// The value of the next row, which may be null.
    pub(super) fn next(&mut self) -> Result<Option<Option<ByteArray>>> {
        loop {
            if let Some(row) = self.rows.pop_front() {
                return Ok(Some(row));
            }
            let values = match &mut self.values {
                Some(values) => values,
                None if self.group == self.file.row_groups() => return Ok(None),
                None => self.values.insert(self.file.values(self.group, self.column)?),
            };
            let rows = &mut self.rows;
            if values.read(BATCH, |row| rows.push_back(row.first().cloned()))? == 0 {
                self.values = None;
                self.group += 1;
                self.taken.fetch_add(self.share, Ordering::Relaxed);
            }
        }
    }
}
