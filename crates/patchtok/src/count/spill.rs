//! Counts that do not fit into memory, in files of a folder.

use std::fs;
use std::path::PathBuf;

use super::{Basis, Table, Weight, write_merged, write_tables};
use crate::{Error, Result};

/// Files of one generation that are added together. There are at most so many files, less one, of each
/// generation, and a row is written once for each: n times what fits into memory takes the logarithm
/// of n to this base.
const TOGETHER: usize = 16;

/// Files of sorted counts.
#[derive(Debug, Default)]
pub(super) struct Spill {
    /// The oldest generation first.
    files: Vec<Spilled>,
    /// Files made so far, which numbers the next one.
    made: usize,
}

#[derive(Debug)]
struct Spilled {
    path: PathBuf,
    /// How often its rows were added to others.
    generation: u32,
}

impl Spill {
    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// The files that together hold all counts.
    pub(super) fn paths(&self) -> Vec<&PathBuf> {
        self.files.iter().map(|file| &file.path).collect()
    }

    /// Writes tables to a new file in `folder`, and adds files together when there are many.
    pub(super) fn add(
        &mut self,
        folder: &std::path::Path,
        tables: &[Table],
        documents: Weight,
        basis: &Basis,
        listed: usize,
    ) -> Result<()> {
        let mut next = || {
            self.made += 1;
            folder.join(format!("counts-{}.parquet", self.made))
        };
        let path = next();
        write_tables(tables, documents, basis, listed, &path)?;
        self.files.push(Spilled { path, generation: 0 });
        while let Some(first) = self.files.len().checked_sub(TOGETHER)
            && self.files[first].generation == self.files[self.files.len() - 1].generation
        {
            let path = next();
            let parts: Vec<Spilled> = self.files.drain(first..).collect();
            let paths: Vec<&PathBuf> = parts.iter().map(|part| &part.path).collect();
            write_merged(basis, &paths, &path)?;
            for part in &parts {
                fs::remove_file(&part.path).map_err(Error::io("remove", &part.path))?;
            }
            let generation = parts[0].generation + 1;
            self.files.push(Spilled { path, generation });
        }
        Ok(())
    }
}
