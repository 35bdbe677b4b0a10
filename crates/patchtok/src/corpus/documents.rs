//! Documents: records that are texts.

use std::sync::Arc;

use super::Corpus;
use super::records::{BadRecord, Fault, Record, Records};
use crate::Result;

/// The documents of a [`Corpus`], in order.
pub struct Documents<'c> {
    records: Records<'c>,
    corpus: &'c Corpus,
    rejected: Rejected,
    failed: bool,
}

/// Records that are no documents.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Rejected {
    /// Records that are not UTF-8.
    pub not_utf8: u64,
    /// Lines that are not a JSON object.
    pub not_json: u64,
    /// Objects and rows without the text.
    pub no_text: u64,
    /// Lines longer than 256 MiB.
    pub too_long: u64,
    /// What is wrong with the first of them, and where it stands.
    pub first: Option<String>,
}

impl Rejected {
    /// Number of records rejected.
    pub fn total(&self) -> u64 {
        self.not_utf8 + self.not_json + self.no_text + self.too_long
    }

    /// Counts a record.
    pub(crate) fn add(&mut self, bad: &BadRecord) {
        *match bad.fault {
            Fault::NotUtf8 => &mut self.not_utf8,
            Fault::NotJson => &mut self.not_json,
            Fault::NoText => &mut self.no_text,
            Fault::TooLong => &mut self.too_long,
        } += 1;
        self.first.get_or_insert_with(|| bad.error.to_string());
    }
}

impl std::ops::AddAssign<&Rejected> for Rejected {
    fn add_assign(&mut self, other: &Rejected) {
        self.not_utf8 += other.not_utf8;
        self.not_json += other.not_json;
        self.no_text += other.no_text;
        self.too_long += other.too_long;
        if self.first.is_none() {
            self.first.clone_from(&other.first);
        }
    }
}

/// A document, and what identifies it.
pub(crate) struct Document {
    pub(crate) text: String,
    /// CRC-32 of the text.
    pub(crate) checksum: u32,
}

impl Corpus {
    /// The document that a record is. `None` when it is empty or belongs to another part of the
    /// corpus, or when it is none and bad records are skipped; these are added to `rejected`.
    pub(crate) fn document(&self, record: Record, rejected: &mut Rejected) -> Result<Option<Document>> {
        match record.into_text(self) {
            Ok(text) => {
                let checksum = crc32fast::hash(text.as_bytes());
                Ok((!text.is_empty() && self.holds(checksum)).then_some(Document { text, checksum }))
            }
            Err(bad) if self.skip_bad => {
                rejected.add(&bad);
                Ok(None)
            }
            Err(bad) => Err(bad.error),
        }
    }
}

impl std::fmt::Debug for Documents<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Documents")
            .field("rejected", &self.rejected)
            .finish_non_exhaustive()
    }
}

impl<'c> Documents<'c> {
    pub(super) fn new(corpus: &'c Corpus) -> Self {
        Documents {
            records: Records::new(corpus, Arc::default()),
            corpus,
            rejected: Rejected::default(),
            failed: false,
        }
    }

    /// The records skipped so far because they are no documents.
    pub fn rejected(&self) -> &Rejected {
        &self.rejected
    }

    fn read(&mut self) -> Result<Option<String>> {
        while let Some(record) = self.records.next()? {
            if let Some(document) = self.corpus.document(record, &mut self.rejected)? {
                return Ok(Some(document.text));
            }
        }
        Ok(None)
    }
}

impl Iterator for Documents<'_> {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let document = self.read().transpose();
        self.failed = matches!(document, None | Some(Err(_)));
        document
    }
}
