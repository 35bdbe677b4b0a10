//! Counts that do not fit into memory, in files of a folder.

use std::fs;
use std::path::PathBuf;

use super::{Basis, Table, Weight, write_merged, write_tables};
use crate::{Error, Result};

/// Files that are added together, and so open, at a time. There are at most so many, less one, of each generation: n
/// files become at most 15 for each hexadecimal digit of n.
const TOGETHER: usize = 16;

/// Files of sorted counts.
#[derive(Debug)]
pub(super) struct Spill<'b> {
    basis: &'b Basis,
    folder: PathBuf,
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

impl<'b> Spill<'b> {
    /// No counts yet; files will be in `folder`.
    pub(super) fn new(basis: &'b Basis, folder: PathBuf) -> Self {
        Spill {
            basis,
            folder,
            files: Vec::new(),
            made: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Writes tables to a new file.
    pub(super) fn write(&mut self, tables: &[Table], documents: Weight, listed: usize) -> Result<()> {
        let path = self.next_path();
        write_tables(tables, documents, self.basis, listed, &path)?;
        self.files.push(Spilled { path, generation: 0 });
        Ok(())
    }

    /// Adds files together as long as there are too many of a generation. It takes memory for 16 open files.
    pub(super) fn settle(&mut self) -> Result<()> {
        while let Some(first) = self.files.len().checked_sub(TOGETHER)
            && self.files[first].generation == self.files[self.files.len() - 1].generation
        {
            self.add_from(first)?;
        }
        Ok(())
    }

    /// The files that together hold all counts, fewer than 16 of them, for which the newest are added together.
    pub(super) fn few(&mut self) -> Result<Vec<&PathBuf>> {
        while let Some(first) = self.files.len().checked_sub(TOGETHER) {
            self.add_from(first.max(TOGETHER - 2))?;
        }
        Ok(self.files.iter().map(|file| &file.path).collect())
    }

    /// Makes one file of those from the one at `first` on.
    fn add_from(&mut self, first: usize) -> Result<()> {
        let path = self.next_path();
        let parts: Vec<Spilled> = self.files.drain(first..).collect();
        let paths: Vec<&PathBuf> = parts.iter().map(|part| &part.path).collect();
        write_merged(self.basis, &paths, &path)?;
        for part in &parts {
            fs::remove_file(&part.path).map_err(Error::io("remove", &part.path))?;
        }
        let generation = parts[0].generation + 1;
        self.files.push(Spilled { path, generation });
        Ok(())
    }

    fn next_path(&mut self) -> PathBuf {
        self.made += 1;
        self.folder.join(format!("counts-{}.parquet", self.made))
    }
}

#[cfg(test)]
mod tests {
    use super::super::counter::hash;
    use super::super::{Basis, LISTED_DOCUMENTS};
    use super::*;
    use crate::PatchTokenizer;

    /// However many files were written, few are there, fewer are left in the end, and these hold all counts.
    #[test]
    fn files_stay_few_and_hold_all_counts() {
        let gpt2 = concat!(env!("CARGO_MANIFEST_DIR"), "/data/gpt2/tokenizer.json");
        let basis = Basis::of(&PatchTokenizer::from_file(gpt2).unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let out = |name: &str| folder.path().join(name);
        // The last two have 16 and 17 files at first: 1 + 15, and 1 + 1 + 15.
        for count in [1, 15, 16, 31, 256 + 16 + 15] {
            let spilled = folder.path().join(count.to_string());
            fs::create_dir(&spilled).unwrap();
            let mut spill = Spill::new(&basis, spilled.clone());
            let mut all = [Table::default()];
            let mut documents = Weight::default();
            for file in 0..count {
                let mut table = [Table::default()];
                for chunk in ["every".into(), format!("{}", file % 7), format!("own {file}")] {
                    let chunk: String = chunk;
                    let hash = hash(chunk.as_bytes());
                    table[0].add(hash, chunk.as_bytes(), Some(file), LISTED_DOCUMENTS);
                    all[0].add(hash, chunk.as_bytes(), Some(file), LISTED_DOCUMENTS);
                }
                let one = Weight { train: 1, heldout: 2 };
                documents += one;
                spill.write(&table, one, LISTED_DOCUMENTS).unwrap();
                spill.settle().unwrap();
                let digits = [0, 4, 8].map(|shift| ((file as usize + 1) >> shift) & 15);
                assert_eq!(spill.files.len(), digits.iter().sum::<usize>(), "after {}", file + 1);
            }
            let few: Vec<PathBuf> = spill.few().unwrap().into_iter().cloned().collect();
            assert!(few.len() < TOGETHER, "{} files", few.len());
            assert_eq!(fs::read_dir(&spilled).unwrap().count(), few.len());
            let (merged, whole) = (out("merged"), out("whole"));
            write_merged(&basis, &few, &merged).unwrap();
            write_tables(&all, documents, &basis, LISTED_DOCUMENTS, &whole).unwrap();
            assert!(fs::read(&merged).unwrap() == fs::read(&whole).unwrap(), "{count} files");
        }
    }
}
