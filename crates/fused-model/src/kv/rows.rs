//! Rows of a sequence where they lie.

use half::f16;

use super::KvType;

/// K or V rows of one layer of a sequence, in token order.
#[derive(Debug, Clone, Copy)]
pub enum Rows<'a> {
    /// Of a store of [`KvType::F32`].
    F32(RowsOf<'a, f32>),
    /// Of a store of [`KvType::F16`].
    F16(RowsOf<'a, f16>),
}

/// Rows of numbers of one type.
#[derive(Debug, Clone, Copy)]
pub enum RowsOf<'a, T> {
    /// Packed rows in one run of memory.
    Contiguous {
        /// The rows.
        data: &'a [T],
        /// Numbers of a row.
        row: usize,
    },
    /// Equal blocks of packed rows scattered over one memory.
    Blocks {
        /// The memory all blocks live in.
        arena: &'a [T],
        /// Block numbers of the sequence.
        table: &'a [usize],
        /// Numbers from one block number to the next.
        stride: usize,
        /// Numbers from a block's start to this layer's rows.
        offset: usize,
        /// Numbers of rows in a full block.
        block: usize,
        /// Numbers of a row.
        row: usize,
        /// Numbers of rows in all.
        len: usize,
    },
}

impl<'a> Rows<'a> {
    /// Packed rows in one run of memory.
    pub(super) fn contiguous(numbers: KvType, bytes: &'a [u8], row: usize) -> Self {
        match numbers {
            KvType::F32 => Self::F32(RowsOf::Contiguous {
                data: bytemuck::cast_slice(bytes),
                row,
            }),
            KvType::F16 => Self::F16(RowsOf::Contiguous {
                data: bytemuck::cast_slice(bytes),
                row,
            }),
        }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(rows) => rows.len(),
            Self::F16(rows) => rows.len(),
        }
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A copy of all numbers, row after row, widened to `f32`.
    pub fn to_vec(&self) -> Vec<f32> {
        match self {
            Self::F32(rows) => rows.runs().flatten().copied().collect(),
            Self::F16(rows) => rows.runs().flatten().map(|x| x.to_f32()).collect(),
        }
    }
}

impl<'a, T> RowsOf<'a, T> {
    /// The runs of memory, whole packed rows each, in token order.
    pub(crate) fn runs(&self) -> impl Iterator<Item = &'a [T]> {
        let (whole, parts) = match *self {
            Self::Contiguous { data, .. } => (Some(data), None),
            Self::Blocks {
                arena,
                table,
                stride,
                offset,
                block,
                len,
                ..
            } => {
                let run = move |(index, &number): (usize, &usize)| {
                    let start = number * stride + offset;
                    &arena[start..start + block.min(len - index * block)]
                };
                (None, Some(table[..len.div_ceil(block)].iter().enumerate().map(run)))
            }
        };
        whole.into_iter().chain(parts.into_iter().flatten())
    }

    fn len(&self) -> usize {
        match *self {
            Self::Contiguous { data, row } => data.len() / row,
            Self::Blocks { row, len, .. } => len / row,
        }
    }
}
