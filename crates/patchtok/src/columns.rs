//! Columns of Parquet files, through the column interface of the `parquet` crate: no Arrow arrays
//! are made.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use parquet::column::reader::{ColumnReaderImpl, get_typed_column_reader};
use parquet::data_type::DataType;
use parquet::errors::ParquetError;
use parquet::file::reader::FileReader;
use parquet::file::serialized_reader::SerializedFileReader;
use parquet::schema::types::ColumnDescriptor;

use crate::{Error, Result};

/// A Parquet file that is open for reading.
pub(crate) struct ParquetFile {
    path: PathBuf,
    reader: SerializedFileReader<File>,
}

impl ParquetFile {
    /// Opens a file and reads its footer.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("read", path))?;
        let reader = guarded(path, || SerializedFileReader::new(file))?;
        Ok(ParquetFile {
            path: path.into(),
            reader,
        })
    }

    pub(crate) fn row_groups(&self) -> usize {
        self.reader.num_row_groups()
    }

    /// The value of a key in the footer.
    pub(crate) fn metadata(&self, key: &str) -> Option<&str> {
        let pairs = self.reader.metadata().file_metadata().key_value_metadata()?;
        pairs.iter().find(|pair| pair.key == key)?.value.as_deref()
    }

    /// The column called `name`, or the one column below it when it is a group, if it is of type
    /// `T`.
    pub(crate) fn column<T: DataType>(&self, name: &str) -> Result<Column> {
        let schema = self.reader.metadata().file_metadata().schema_descr();
        let wrong = |what: String| Error::Parquet {
            path: self.path.clone(),
            reason: what,
        };
        let belongs = |column: &ColumnDescriptor| {
            column.path().parts().first().is_some_and(|part| part == name) || column.path().string() == name
        };
        let mut found = schema
            .columns()
            .iter()
            .enumerate()
            .filter(|(_, column)| belongs(column));
        let Some((index, column)) = found.next() else {
            let names: Vec<_> = schema.columns().iter().map(|column| column.path().string()).collect();
            return Err(wrong(format!("there is no column {name:?}, only {}", names.join(", "))));
        };
        if found.next().is_some() {
            return Err(wrong(format!(
                "{name:?} is a group of several columns; name one of them"
            )));
        }
        if column.physical_type() != T::get_physical_type() {
            return Err(wrong(format!(
                "column {name:?} is {}, not {}",
                column.physical_type(),
                T::get_physical_type()
            )));
        }
        Ok(Column {
            index,
            max_definition: column.max_def_level(),
            max_repetition: column.max_rep_level(),
        })
    }

    /// Starts reading `column` in a row group.
    pub(crate) fn values<T: DataType>(&self, group: usize, column: Column) -> Result<Values<T>> {
        let reader = guarded(&self.path, || {
            self.reader.get_row_group(group)?.get_column_reader(column.index)
        })?;
        Ok(Values {
            path: self.path.clone(),
            column,
            reader: get_typed_column_reader(reader),
            values: Vec::new(),
            definitions: Vec::new(),
            repetitions: Vec::new(),
        })
    }
}

/// A column of a file, found by name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    index: usize,
    max_definition: i16,
    max_repetition: i16,
}

/// A column of a row group, read a batch of rows at a time.
pub(crate) struct Values<T: DataType> {
    path: PathBuf,
    column: Column,
    reader: ColumnReaderImpl<T>,
    values: Vec<T::T>,
    definitions: Vec<i16>,
    repetitions: Vec<i16>,
}

impl<T: DataType> Values<T> {
    /// Reads up to `rows` rows and calls `value` for each with its values: one or none in a plain
    /// column, any number in a list. Returns how many rows there were, 0 at the end.
    pub(crate) fn read(&mut self, rows: usize, mut row: impl FnMut(&[T::T])) -> Result<usize> {
        self.values.clear();
        self.definitions.clear();
        self.repetitions.clear();
        let Values {
            path,
            column,
            reader,
            values,
            definitions,
            repetitions,
        } = self;
        let (read, _, levels) = guarded(path, || {
            reader.read_records(
                rows,
                (column.max_definition > 0).then_some(&mut *definitions),
                (column.max_repetition > 0).then_some(&mut *repetitions),
                values,
            )
        })?;
        let mut at = 0;
        let mut level = 0;
        for _ in 0..read {
            let start = at;
            loop {
                // The value of a level is there when all groups around it are.
                at += usize::from(
                    definitions
                        .get(level)
                        .is_none_or(|&level| level == column.max_definition),
                );
                level += 1;
                if level >= levels || repetitions.get(level).is_none_or(|&level| level == 0) {
                    break;
                }
            }
            row(values.get(start..at).ok_or_else(|| Error::Parquet {
                path: path.clone(),
                reason: "a page has fewer values than its levels say".into(),
            })?);
        }
        Ok(read)
    }
}

/// Runs a call into the `parquet` crate. That crate means to return errors for damaged files but
/// has panicked on some, so a panic becomes an error, too; nothing that the call touched is used
/// after it.
fn guarded<T>(path: &Path, call: impl FnOnce() -> Result<T, ParquetError>) -> Result<T> {
    let reason = match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "the file is damaged".into(),
    };
    Err(Error::Parquet {
        path: path.into(),
        reason,
    })
}
