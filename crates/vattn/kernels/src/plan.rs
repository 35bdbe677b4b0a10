//! How a batch is shared out over blocks and warps.

use crate::{Attention, Element, Launch, Sequence};

/// Warps of a block.
const WARPS: u32 = 4;
/// Query rows times heads that a warp of the wide kernel works on.
const WIDE: u32 = 4;
/// Tiles of rows below which a further split costs more than it saves.
const TILES_EACH: u32 = 4;
/// Blocks that share the rows of a sequence: more would make the merge long.
const MOST_SPLITS: u32 = 64;
/// Largest y and z of a grid.
const MOST_BLOCKS: u32 = 65535;

/// What cannot be computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A number outside its limits.
    #[error("{field} is {value}, it must be {least} to {most}")]
    Limit {
        /// Which number.
        field: &'static str,
        /// Its value.
        value: u64,
        /// The least allowed.
        least: u64,
        /// The most allowed.
        most: u64,
    },
    /// Something that must be a multiple of something else.
    #[error("{field} is {value}, it must be a multiple of {of}")]
    Multiple {
        /// Which number.
        field: &'static str,
        /// Its value.
        value: u64,
        /// What it must be a multiple of.
        of: u64,
    },
}

/// The rows of one sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rows {
    /// Device address of the first key row; where all layers lie in one row, of the part for this layer.
    pub k: u64,
    /// Device address of the first value row, likewise.
    pub v: u64,
    /// Number of query rows, at least 1.
    pub queries: u32,
    /// Number of key rows, those of the queries included.
    pub rows: u32,
}

impl Rows {
    /// The rows of one sequence; see the fields.
    #[must_use]
    pub fn new(k: u64, v: u64, queries: u32, rows: u32) -> Self {
        Self { k, v, queries, rows }
    }
}

/// Heads, sizes and strides of one layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    /// Type of all elements.
    pub element: Element,
    /// Query heads, a multiple of `kv_heads`.
    pub heads: u32,
    /// Key heads, at most 65,535.
    pub kv_heads: u32,
    /// Columns of a head, 1 to 128.
    pub head_size: u32,
    /// Bytes from query row to query row. It and the other strides are multiples of the element and nothing more.
    pub query_stride: u32,
    /// Bytes from output row to output row.
    pub out_stride: u32,
    /// Bytes from key row to key row, and from value row to value row.
    pub row_stride: u32,
    /// Factor of the scores, usually `1 / sqrt(head_size)`.
    pub scale: f32,
}

impl Shape {
    /// Rows without gaps, and the usual scale.
    #[must_use]
    pub fn packed(element: Element, heads: u32, kv_heads: u32, head_size: u32) -> Self {
        let row = |heads: u32| heads.saturating_mul(head_size).saturating_mul(element.bytes() as u32);
        Self {
            element,
            heads,
            kv_heads,
            head_size,
            query_stride: row(heads),
            out_stride: row(heads),
            row_stride: row(kv_heads),
            scale: 1.0 / (head_size as f32).sqrt(),
        }
    }

    /// Shares a batch out over a device of `multiprocessors`. All sequences are computed by one launch; how rows and heads
    /// are dealt out follows the sequence with the most query rows, so decoding sequences and prefills are better planned
    /// apart. O(batch).
    ///
    /// # Errors
    ///
    /// [`Error`] names the number that is outside its limits: an empty batch, a sequence with more query rows than key rows,
    /// heads that do not divide, strides shorter than a row, addresses or strides that are no multiple of the element.
    pub fn plan(&self, batch: &[Rows], multiprocessors: u32) -> Result<Plan, Error> {
        self.check()?;
        limit("sequences of the batch", batch.len() as u64, 1, u64::from(MOST_BLOCKS))?;
        let mut sequences = Vec::with_capacity(batch.len());
        let mut query_rows = 0u32;
        for rows in batch {
            limit(
                "query rows of a sequence",
                u64::from(rows.queries),
                1,
                u64::from(rows.rows),
            )?;
            limit("rows of a sequence", u64::from(rows.rows), 1, i32::MAX as u64)?;
            multiple("address of the keys", rows.k, self.element.bytes() as u64)?;
            multiple("address of the values", rows.v, self.element.bytes() as u64)?;
            sequences.push(Sequence {
                k: rows.k,
                v: rows.v,
                first_query: query_rows,
                queries: rows.queries,
                rows: rows.rows,
                reserved: 0,
            });
            let sum = u64::from(query_rows) + u64::from(rows.queries);
            limit(
                "query rows of the batch",
                sum,
                1,
                i32::MAX as u64 / u64::from(self.heads),
            )?;
            query_rows = sum as u32;
        }

        let group = self.heads / self.kv_heads;
        let most_slots = batch.iter().map(|rows| rows.queries * group).max().unwrap_or(1);
        let most_rows = batch.iter().map(|rows| rows.rows).max().unwrap_or(1);
        let wide = most_slots > 1;
        let slots = if wide { WIDE } else { 1 };
        // Warps without slots of their own help with the rows of others.
        let row_warps = match most_slots.div_ceil(slots) {
            1 => WARPS,
            2 => WARPS / 2,
            _ => 1,
        };
        let slot_blocks = most_slots.div_ceil(WARPS / row_warps * slots);
        let blocks = u64::from(slot_blocks) * u64::from(self.kv_heads) * batch.len() as u64;
        let idle = (2 * u64::from(multiprocessors))
            .div_ceil(blocks)
            .min(u64::from(MOST_SPLITS)) as u32;
        let splits = (most_rows / (row_warps * (32 / slots) * TILES_EACH)).clamp(1, idle.max(1));
        let columns = if self.head_size <= 64 { 64 } else { 128 };
        let attend = Launch {
            kernel: match (columns, wide) {
                (64, false) => "attend_d64_x1",
                (64, true) => "attend_d64_x4",
                (_, false) => "attend_d128_x1",
                (_, true) => "attend_d128_x4",
            },
            grid: [slot_blocks * splits, self.kv_heads, batch.len() as u32],
            block: [32 * WARPS, 1, 1],
            shared_bytes: if row_warps > 1 {
                WARPS * slots * (2 + columns) * 4
            } else {
                0
            },
        };
        let merge = (splits > 1).then_some(Launch {
            kernel: "merge_splits",
            grid: [query_rows, self.heads, 1],
            block: [self.head_size.next_multiple_of(32), 1, 1],
            shared_bytes: 0,
        });
        let partials = if splits > 1 {
            u64::from(query_rows) * u64::from(self.heads) * u64::from(splits)
        } else {
            0
        };
        Ok(Plan {
            sequences,
            query_rows,
            partial_bytes: partials * (2 + u64::from(self.head_size)) * 4,
            attend,
            merge,
            attention: Attention {
                query_stride: self.query_stride,
                out_stride: self.out_stride,
                row_stride: self.row_stride,
                heads: self.heads,
                group,
                head_size: self.head_size,
                row_warps,
                splits,
                scale: self.scale * std::f32::consts::LOG2_E,
                ..Attention::default()
            },
        })
    }

    fn check(&self) -> Result<(), Error> {
        let element = self.element.bytes() as u64;
        limit("head_size", u64::from(self.head_size), 1, 128)?;
        limit("kv_heads", u64::from(self.kv_heads), 1, u64::from(MOST_BLOCKS))?;
        limit("heads", u64::from(self.heads), 1, u64::from(MOST_BLOCKS))?;
        multiple("heads", u64::from(self.heads), u64::from(self.kv_heads))?;
        for (field, stride, heads) in [
            ("query_stride", self.query_stride, self.heads),
            ("out_stride", self.out_stride, self.heads),
            ("row_stride", self.row_stride, self.kv_heads),
        ] {
            let row = u64::from(heads) * u64::from(self.head_size) * element;
            limit(field, u64::from(stride), row, u64::from(u32::MAX))?;
            multiple(field, u64::from(stride), element)?;
        }
        Ok(())
    }
}

fn limit(field: &'static str, value: u64, least: u64, most: u64) -> Result<(), Error> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(Error::Limit {
        field,
        value,
        least,
        most,
    })
}

fn multiple(field: &'static str, value: u64, of: u64) -> Result<(), Error> {
    if value.is_multiple_of(of) {
        return Ok(());
    }
    Err(Error::Multiple { field, value, of })
}

/// What to launch for one batch and layer.
///
/// Layers of the same shape share a plan: only addresses differ.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The table for the device. Query rows lie one sequence after the other.
    pub sequences: Vec<Sequence>,
    /// Query rows of the batch, and output rows.
    pub query_rows: u32,
    /// Bytes of scratch memory for [`Attention::partial`]; 0 if there is nothing to merge.
    pub partial_bytes: u64,
    /// The first launch.
    pub attend: Launch,
    /// The launch after it, on the same stream.
    pub merge: Option<Launch>,
    /// The parameter of both; its four addresses are zero and for the caller to set.
    pub attention: Attention,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(heads: u32, kv_heads: u32, head_size: u32, queries: u32, rows: u32, sequences: usize) -> Plan {
        let batch = vec![Rows::new(0, 0, queries, rows); sequences];
        Shape::packed(Element::F16, heads, kv_heads, head_size)
            .plan(&batch, 132)
            .unwrap()
    }

    #[test]
    fn the_kernel_follows_the_slots_and_the_head_size() {
        assert_eq!(plan(12, 12, 64, 1, 9, 1).attend.kernel, "attend_d64_x1");
        assert_eq!(plan(32, 8, 128, 1, 9, 1).attend.kernel, "attend_d128_x4");
        assert_eq!(plan(12, 12, 65, 2, 9, 1).attend.kernel, "attend_d128_x4");
    }

    #[test]
    fn warps_share_rows_when_there_are_few_slots() {
        // Slots of a sequence and key head: 1, 4, 8 and 9.
        let shares = [(12, 12, 1), (32, 8, 1), (64, 8, 1), (12, 12, 9)];
        let row_warps =
            shares.map(|(heads, kv_heads, queries)| plan(heads, kv_heads, 64, queries, 9, 1).attention.row_warps);
        assert_eq!(row_warps, [4, 4, 2, 1]);
        assert_eq!(plan(12, 12, 64, 9, 9, 1).attend.shared_bytes, 0);
        assert_eq!(plan(12, 12, 64, 1, 9, 1).attend.shared_bytes, 4 * 66 * 4);
        assert_eq!(plan(32, 8, 128, 1, 9, 1).attend.shared_bytes, 4 * 4 * 130 * 4);
    }

    #[test]
    fn blocks_share_long_rows_when_multiprocessors_would_idle() {
        let long = plan(12, 12, 64, 1, 100_000, 1);
        assert_eq!(long.attention.splits, 22);
        assert_eq!(long.attend.grid, [22, 12, 1]);
        assert_eq!(long.merge.unwrap().grid, [1, 12, 1]);
        assert_eq!(long.partial_bytes, 12 * 22 * 66 * 4);
        // Enough sequences to fill the device, or too few rows to share.
        assert_eq!(plan(12, 12, 64, 1, 100_000, 64).merge, None);
        assert_eq!(plan(12, 12, 64, 1, 1023, 1).merge, None);
        assert_eq!(plan(12, 12, 64, 1, 1024, 1).attention.splits, 2);
        assert_eq!(plan(1, 1, 64, 1, 1 << 30, 1).attention.splits, MOST_SPLITS);
    }

    #[test]
    fn sequences_lie_one_after_the_other() {
        let shape = Shape::packed(Element::F32, 4, 2, 80);
        let batch = [Rows::new(4, 8, 3, 5), Rows::new(12, 16, 1, 1), Rows::new(20, 24, 7, 7)];
        let plan = shape.plan(&batch, 1).unwrap();
        let firsts: Vec<_> = plan.sequences.iter().map(|s| s.first_query).collect();
        assert_eq!((firsts, plan.query_rows), (vec![0, 3, 4], 11));
        // 7 rows of 2 heads are 14 slots: one block of 16.
        assert_eq!(plan.attend.grid, [1, 2, 3]);
    }

    #[test]
    fn every_bad_number_is_named() {
        let good = Shape::packed(Element::F16, 4, 2, 64);
        let rows = Rows::new(0, 0, 1, 1);
        let named = |shape: Shape, batch: &[Rows]| shape.plan(batch, 1).unwrap_err().to_string();
        for (shape, part) in [
            (Shape { head_size: 0, ..good }, "head_size is 0, it must be 1 to 128"),
            (Shape::packed(Element::F16, 4, 2, 129), "head_size is 129"),
            (Shape { kv_heads: 0, ..good }, "kv_heads is 0"),
            (Shape { kv_heads: 3, ..good }, "heads is 4, it must be a multiple of 3"),
            (Shape { heads: 0, ..good }, "heads is 0"),
            (
                Shape {
                    query_stride: 510,
                    ..good
                },
                "query_stride is 510, it must be 512",
            ),
            (
                Shape {
                    out_stride: 513,
                    ..good
                },
                "out_stride is 513, it must be a multiple of 2",
            ),
            (
                Shape {
                    row_stride: 255,
                    ..good
                },
                "row_stride is 255, it must be 256",
            ),
        ] {
            let message = named(shape, &[rows]);
            assert!(message.starts_with(part), "{message}");
        }
        for (batch, part) in [
            (vec![], "sequences of the batch is 0, it must be 1 to 65535"),
            (vec![Rows { queries: 0, ..rows }], "query rows of a sequence is 0"),
            (
                vec![Rows { queries: 2, ..rows }],
                "query rows of a sequence is 2, it must be 1 to 1",
            ),
            (
                vec![Rows { rows: u32::MAX, ..rows }],
                "rows of a sequence is 4294967295",
            ),
            (
                vec![Rows { k: 1, ..rows }],
                "address of the keys is 1, it must be a multiple of 2",
            ),
            (vec![Rows { v: 3, ..rows }], "address of the values is 3"),
            (
                vec![Rows::new(0, 0, 1 << 30, 1 << 30)],
                "query rows of the batch is 1073741824",
            ),
        ] {
            let message = named(good, &batch);
            assert!(message.starts_with(part), "{message}");
        }
    }
}
