//! What counts depend on in a base.

use hashbrown::HashSet;

use crate::model::Hasher;
use crate::{PatchTokenizer, Result};

/// The special tokens of a base, which are cut out of texts, and a name for all that decides how texts
/// are cut into chunks.
#[derive(Debug)]
pub(super) struct Basis {
    specials: HashSet<Vec<u8>, Hasher>,
    name: String,
}

impl Basis {
    /// What counts for `base` depend on.
    ///
    /// # Errors
    /// Those of [`PatchTokenizer::check_patchable`].
    pub(super) fn of(base: &PatchTokenizer) -> Result<Self> {
        base.check_patchable()?;
        let model = base.model();
        let mut specials: Vec<(&str, bool)> = model
            .specials()
            .iter()
            .map(|special| (special.content.as_str(), special.normalized))
            .collect();
        specials.sort_unstable();
        let mut checksum = crc32fast::Hasher::new();
        for &(content, normalized) in &specials {
            checksum.update(&(content.len() as u64).to_le_bytes());
            checksum.update(content.as_bytes());
            checksum.update(&[u8::from(normalized)]);
        }
        let splitter = model.splitter().chunked().unwrap_or(model.splitter());
        Ok(Basis {
            name: format!(
                "{}.{}.{}.{:08x}",
                splitter as u8,
                model.normalizer() as u8,
                specials.len(),
                checksum.finalize()
            ),
            specials: specials
                .iter()
                .map(|(content, _)| content.as_bytes().to_vec())
                .collect(),
        })
    }

    /// Whether a row counts a special token, which is no part of any chunk.
    pub(super) fn is_special(&self, chunk: &[u8]) -> bool {
        self.specials.contains(chunk)
    }

    /// The name: equal for bases that cut every text in the same way, whatever their merges are.
    /// `docs/counts.md` says what it is made of.
    pub(super) fn name(&self) -> &str {
        &self.name
    }
}
