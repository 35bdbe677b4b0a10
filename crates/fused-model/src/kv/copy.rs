//! Rows of a sequence outside any store.

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::{KvError, KvGeometry, KvId, KvStore, Rows, RowsOf, check_cut};

/// Copies of the first rows of a sequence, in ordinary memory and in the store's type.
#[derive(Debug)]
pub(crate) struct RowsCopy {
    tokens: usize,
    /// K and V of each layer.
    layers: Vec<[Numbers; 2]>,
}

#[derive(Debug)]
enum Numbers {
    F32(Vec<f32>),
    F16(Vec<f16>),
}

impl Numbers {
    /// Copies the first `len` numbers.
    fn take(rows: Rows<'_>, len: usize) -> Self {
        fn first<T: Copy>(rows: RowsOf<'_, T>, len: usize) -> Vec<T> {
            let mut own = Vec::with_capacity(len);
            for run in rows.runs() {
                own.extend_from_slice(&run[..run.len().min(len - own.len())]);
            }
            own
        }
        match rows {
            Rows::F32(rows) => Self::F32(first(rows, len)),
            Rows::F16(rows) => Self::F16(first(rows, len)),
        }
    }

    /// Writes the row with this number to `to`. Widened numbers that are rounded again are the same numbers.
    fn put(&self, row: usize, to: &mut [f32]) {
        let at = row * to.len()..(row + 1) * to.len();
        match self {
            Self::F32(own) => to.copy_from_slice(&own[at]),
            Self::F16(own) => own[at].convert_to_f32_slice(to),
        }
    }
}

impl RowsCopy {
    /// Copies the first `tokens` rows of a sequence. O(bytes).
    pub(crate) fn take<S: KvStore + ?Sized>(store: &S, id: KvId, tokens: usize) -> Result<Self, KvError> {
        check_cut(tokens, store.len(id)?)?;
        let KvGeometry { layers, row_floats, .. } = *store.geometry();
        let copy = |layer| {
            let (k, v) = store.rows(id, layer)?;
            Ok([k, v].map(|rows| Numbers::take(rows, tokens * row_floats)))
        };
        Ok(Self {
            tokens,
            layers: (0..layers).map(copy).collect::<Result<_, KvError>>()?,
        })
    }

    /// A new sequence with these rows. O(bytes).
    pub(crate) fn put<S: KvStore + ?Sized>(&self, store: &mut S) -> Result<KvId, KvError> {
        let id = store.open()?;
        let filled = store.grow(&[(id, self.tokens)]).and_then(|()| {
            for (layer, [k, v]) in self.layers.iter().enumerate() {
                store.write(id, layer, 0..self.tokens, &mut |token, to_k, to_v| {
                    k.put(token, to_k);
                    v.put(token, to_v);
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
