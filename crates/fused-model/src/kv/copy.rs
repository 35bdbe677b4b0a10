//! Rows of a sequence outside any store.

use super::{KvError, KvGeometry, KvId, KvStore, check_cut};

/// Copies of the first rows of a sequence, in ordinary memory.
#[derive(Debug)]
pub(crate) struct RowsCopy {
    tokens: usize,
    /// K and V of each layer.
    layers: Vec<[Vec<f32>; 2]>,
}

impl RowsCopy {
    /// Copies the first `tokens` rows of a sequence. O(bytes).
    pub(crate) fn take<S: KvStore + ?Sized>(store: &S, id: KvId, tokens: usize) -> Result<Self, KvError> {
        check_cut(tokens, store.len(id)?)?;
        let KvGeometry { layers, row_floats, .. } = *store.geometry();
        let copy = |layer| {
            let (k, v) = store.rows(id, layer)?;
            Ok([k, v].map(|rows| {
                let mut own = Vec::with_capacity(tokens * row_floats);
                rows.iter().take(tokens).for_each(|row| own.extend_from_slice(row));
                own
            }))
        };
        Ok(Self {
            tokens,
            layers: (0..layers).map(copy).collect::<Result<_, KvError>>()?,
        })
    }

    /// A new sequence with these rows. O(bytes).
    pub(crate) fn put<S: KvStore + ?Sized>(&self, store: &mut S) -> Result<KvId, KvError> {
        let id = store.open()?;
        let row = store.geometry().row_floats;
        let filled = store.grow(&[(id, self.tokens)]).and_then(|()| {
            for (layer, [k, v]) in self.layers.iter().enumerate() {
                store.write(id, layer, 0..self.tokens, &mut |token, to_k, to_v| {
                    let at = token * row..(token + 1) * row;
                    to_k.copy_from_slice(&k[at.clone()]);
                    to_v.copy_from_slice(&v[at]);
                })?;
            }
            Ok(())
        });
        match filled {
            Ok(()) => Ok(id),
            Err(error) => {
                store.free(id)?;
                Err(error)
            }
        }
    }

    /// Rows of each layer.
    pub(crate) fn tokens(&self) -> usize {
        self.tokens
    }
}
