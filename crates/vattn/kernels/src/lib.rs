//! Attention kernels over key and value rows at contiguous addresses, as PTX that a driver compiles, and the description of
//! their launches as plain data. What launches them is the caller's: a driver API, candle's CUDA device, an emulator.
//!
//! The types you meet:
//!
//! * [`Element`]: f32, f16 or bf16; [`Element::ptx`] is the module to load.
//! * [`Shape`]: heads, sizes and strides of one layer. [`Shape::plan`] turns a batch of [`Rows`] into a [`Plan`].
//! * [`Plan`]: the table of sequences to copy to the device, the size of the scratch buffer, and the [`Launch`]es to make one
//!   after the other, all with the same [`Attention`] as their only parameter.
//!
//! ```
//! use vattn_kernels::{Element, Rows, Shape};
//!
//! // GPT-2 small in f16: 12 heads of 64, each query row and each key row 768 elements.
//! let shape = Shape::packed(Element::F16, 12, 12, 64);
//! // Two sequences that decode one token each, over 100 and 3 rows; addresses come from the cache.
//! let batch = [Rows::new(0x10_0000, 0x20_0000, 1, 100), Rows::new(0x30_0000, 0x40_0000, 1, 3)];
//! let plan = shape.plan(&batch, 132)?;
//!
//! assert_eq!(plan.query_rows, 2);
//! assert_eq!(plan.attend.kernel, "attend_d64_x1");
//! assert_eq!(plan.attend.block, [128, 1, 1]);
//! // 24 blocks would leave most of 132 multiprocessors idle, but 100 rows are too few to share out further.
//! assert_eq!((plan.attend.grid, plan.merge), ([1, 12, 2], None));
//! # Ok::<(), vattn_kernels::Error>(())
//! ```
//!
//! # What the kernel computes
//!
//! For query row `i` of a sequence with `queries` query rows and `rows` key rows, and each head: the softmax over the rows
//! `0 ..= rows - queries + i` of `scale * (query . key)`, times the values. Decode is `queries == 1`, prefill `queries == rows`,
//! a chunk of a prefill anything between. Heads may be grouped: head `h` reads key head `h / (heads / kv_heads)`. Sums are
//! f32 whatever the element. Keys, values and queries must be finite. Nothing past row `rows - 1` is read, so the pages
//! behind it need not be mapped.
//!
//! # How it is made
//!
//! `attention.cu` is the source, `make_ptx.py` makes the PTX from it, and with `--check` shows that the files are what it
//! makes. PTX 8.0 for compute capability 7.0: any GPU from Volta on, any driver from CUDA 12.0 on.

mod plan;

pub use plan::{Error, Plan, Rows, Shape};

/// Type of the elements of queries, keys, values and outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Element {
    /// 32-bit IEEE 754.
    F32,
    /// 16-bit IEEE 754.
    F16,
    /// The upper half of an f32.
    Bf16,
}

impl Element {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::F32, Self::F16, Self::Bf16];

    /// Bytes of an element.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// The PTX module with the kernels for this element.
    #[must_use]
    pub fn ptx(self) -> &'static str {
        match self {
            Self::F32 => include_str!("../attention_f32.ptx"),
            Self::F16 => include_str!("../attention_f16.ptx"),
            Self::Bf16 => include_str!("../attention_bf16.ptx"),
        }
    }
}

/// One sequence as the kernel reads it from device memory: `Sequence` in `attention.cu`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Sequence {
    /// Device address of key row 0, head 0, column 0.
    pub k: u64,
    /// Device address of value row 0, head 0, column 0.
    pub v: u64,
    /// Index of the first query row of the sequence among those of the batch.
    pub first_query: u32,
    /// Number of query rows, at least 1.
    pub queries: u32,
    /// Number of key rows, those of the queries included.
    pub rows: u32,
    /// Zero.
    pub reserved: u32,
}

impl Sequence {
    /// The bytes to copy to the device.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; size_of::<Self>()] {
        let mut bytes = [0; size_of::<Self>()];
        let words = [self.first_query, self.queries, self.rows, self.reserved];
        fill(&mut bytes, &[self.k, self.v], &words);
        bytes
    }
}

/// The parameter of every kernel, passed by value: `Attention` in `attention.cu`. A driver takes a pointer to it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[repr(C)]
pub struct Attention {
    /// Device address of the table of [`Sequence`]s, a multiple of 8.
    pub sequences: u64,
    /// Device address of the query rows of the batch, all sequences one after the other.
    pub queries: u64,
    /// Device address of the output rows, in the same order.
    pub out: u64,
    /// Device address of [`Plan::partial_bytes`] bytes, a multiple of 4; anything if that is 0.
    pub partial: u64,
    /// Bytes from query row to query row.
    pub query_stride: u32,
    /// Bytes from output row to output row.
    pub out_stride: u32,
    /// Bytes from key row to key row, and from value row to value row.
    pub row_stride: u32,
    /// Query heads.
    pub heads: u32,
    /// Query heads for each key head.
    pub group: u32,
    /// Columns of a head.
    pub head_size: u32,
    /// Warps of a block that share the rows of a sequence.
    pub row_warps: u32,
    /// Blocks that share the rows of a sequence.
    pub splits: u32,
    /// Factor of the scores times log2(e).
    pub scale: f32,
    /// Zero.
    pub reserved: u32,
}

impl Attention {
    /// The bytes of the parameter.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; size_of::<Self>()] {
        let mut bytes = [0; size_of::<Self>()];
        let words = [
            self.query_stride,
            self.out_stride,
            self.row_stride,
            self.heads,
            self.group,
            self.head_size,
            self.row_warps,
            self.splits,
            self.scale.to_bits(),
            self.reserved,
        ];
        fill(
            &mut bytes,
            &[self.sequences, self.queries, self.out, self.partial],
            &words,
        );
        bytes
    }
}

// The layouts that the kernels were compiled with: no padding between the members and none at the end.
const _: () = assert!(size_of::<Sequence>() == 2 * 8 + 4 * 4 && align_of::<Sequence>() == 8);
const _: () = assert!(size_of::<Attention>() == 4 * 8 + 10 * 4 && align_of::<Attention>() == 8);

fn fill(bytes: &mut [u8], long: &[u64], short: &[u32]) {
    let values = long
        .iter()
        .flat_map(|v| v.to_le_bytes())
        .chain(short.iter().flat_map(|v| v.to_le_bytes()));
    for (byte, value) in bytes.iter_mut().zip(values) {
        *byte = value;
    }
}

/// One kernel launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launch {
    /// Name of the kernel in the module of the element.
    pub kernel: &'static str,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory of a block: at most 17 KiB, so that no attribute must be set for it.
    pub shared_bytes: u32,
}

impl Launch {
    /// Names of all kernels of a module.
    pub const KERNELS: [&'static str; 5] = [
        "attend_d64_x1",
        "attend_d64_x4",
        "attend_d128_x1",
        "attend_d128_x4",
        "merge_splits",
    ];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_the_members_in_order() {
        let sequence = Sequence {
            k: 0x0807_0605_0403_0201,
            v: 0x100f_0e0d_0c0b_0a09,
            first_query: 0x1413_1211,
            queries: 0x1817_1615,
            rows: 0x1c1b_1a19,
            reserved: 0x201f_1e1d,
        };
        assert!(
            sequence
                .to_bytes()
                .iter()
                .enumerate()
                .all(|(i, b)| usize::from(*b) == i + 1)
        );
        let attention = Attention {
            partial: 7,
            query_stride: 8,
            scale: 1.0,
            reserved: 9,
            ..Attention::default()
        };
        let bytes = attention.to_bytes();
        assert_eq!((bytes[24], bytes[32], bytes[68]), (7, 8, 9));
        assert_eq!(bytes[64..68], 1f32.to_le_bytes());
    }

    #[test]
    fn every_module_has_the_kernels_that_plans_name() {
        for element in Element::ALL {
            let ptx = element.ptx();
            assert!(ptx.contains(".version 8.0") && ptx.contains(".target sm_70"));
            for kernel in Launch::KERNELS {
                assert!(ptx.contains(&format!(".entry {kernel}(")), "{kernel} in {element:?}");
            }
            assert_eq!(ptx.matches("_param_0[72]").count(), 5);
        }
    }
}
