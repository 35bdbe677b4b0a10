//! The shipped PTX against attention written out plainly in f64.
//!
//! Key and value rows end where their buffer ends: a kernel that touches a byte past the last row faults.

use crate::support::Buffers;
use half::{bf16, f16};
use vattn_cuda_emu::ptx::{FaultKind, Module};
use vattn_kernels::{Attention, Element, Launch, Rows, Shape};

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

fn encode(element: Element, x: f32) -> Vec<u8> {
    match element {
        Element::F32 => x.to_le_bytes().into(),
        Element::F16 => f16::from_f32(x).to_le_bytes().into(),
        Element::Bf16 => bf16::from_f32(x).to_le_bytes().into(),
    }
}

fn decode(element: Element, bytes: &[u8]) -> f64 {
    match element {
        Element::F32 => f32::from_le_bytes(bytes.try_into().unwrap()).into(),
        Element::F16 => f16::from_le_bytes(bytes.try_into().unwrap()).into(),
        Element::Bf16 => bf16::from_le_bytes(bytes.try_into().unwrap()).into(),
    }
}

/// Largest error allowed for values up to 1: rounding of the result, and sums in f32 with approximate exponentials.
fn tolerance(element: Element) -> f64 {
    match element {
        Element::F32 => 4e-6,
        Element::F16 => 6e-4,
        Element::Bf16 => 5e-3,
    }
}

/// `rows` rows of `row` elements, `stride` bytes apart, with gaps of NaN; the last row has no gap after it.
fn matrix(random: &mut Random, element: Element, rows: usize, row: usize, stride: usize) -> Vec<u8> {
    let size = element.bytes();
    let mut bytes = vec![0xff; rows.saturating_sub(1) * stride + row * size];
    for r in 0..rows {
        for c in 0..row {
            let at = r * stride + c * size;
            bytes[at..at + size].copy_from_slice(&encode(element, random.next()));
        }
    }
    bytes
}

struct Case {
    shape: Shape,
    /// Query rows and key rows of each sequence.
    batch: Vec<(u32, u32)>,
    multiprocessors: u32,
}

impl Case {
    /// Runs the kernels and compares every output. Returns how many blocks shared the rows.
    fn check(&self, module: &Module) -> u32 {
        let (shape, element) = (self.shape, self.shape.element);
        let (size, head_size) = (element.bytes(), shape.head_size as usize);
        let mut random = Random(u64::from(shape.head_size) << 32 | self.batch.len() as u64);
        let mut memory = Buffers::default();
        let kv_row = shape.kv_heads as usize * head_size;
        let rows: Vec<_> = self
            .batch
            .iter()
            .map(|(queries, rows)| {
                let mut map = || {
                    memory.map(matrix(
                        &mut random,
                        element,
                        *rows as usize,
                        kv_row,
                        shape.row_stride as usize,
                    ))
                };
                let (k, v) = (map(), map());
                Rows::new(k, v, *queries, *rows)
            })
            .collect();
        let plan = shape.plan(&rows, self.multiprocessors).unwrap();
        let q_row = shape.heads as usize * head_size;
        let query_rows = plan.query_rows as usize;
        let queries = memory.map(matrix(
            &mut random,
            element,
            query_rows,
            q_row,
            shape.query_stride as usize,
        ));
        let out = memory.map(vec![0xff; (query_rows - 1) * shape.out_stride as usize + q_row * size]);
        let table = plan.sequences.iter().flat_map(|s| s.to_bytes()).collect();
        let attention = Attention {
            sequences: memory.map(table),
            queries,
            out,
            partial: memory.map(vec![0xff; plan.partial_bytes as usize]),
            ..plan.attention
        };
        for launch in [Some(plan.attend), plan.merge].into_iter().flatten() {
            let Launch {
                kernel,
                grid,
                block,
                shared_bytes,
            } = launch;
            let kernel = module.kernel(kernel).unwrap();
            kernel
                .launch(grid, block, shared_bytes as usize, &attention.to_bytes(), &mut memory)
                .unwrap();
        }

        let read = |buffer: u64, row: usize, stride: u32, column: usize| {
            let at = row * stride as usize + column * size;
            decode(element, &memory.bytes(buffer)[at..at + size])
        };
        let mut first = 0;
        for sequence in &rows {
            for i in 0..sequence.queries as usize {
                let seen = (sequence.rows - sequence.queries) as usize + i + 1;
                for head in 0..shape.heads as usize {
                    let column = head * head_size;
                    let kv_column = head / (shape.heads / shape.kv_heads) as usize * head_size;
                    let score = |row| {
                        let product = |d| {
                            read(queries, first + i, shape.query_stride, column + d)
                                * read(sequence.k, row, shape.row_stride, kv_column + d)
                        };
                        f64::from(shape.scale) * (0..head_size).map(product).sum::<f64>()
                    };
                    let scores: Vec<_> = (0..seen).map(score).collect();
                    let top = scores.iter().copied().fold(f64::MIN, f64::max);
                    let weights: Vec<_> = scores.iter().map(|score| (score - top).exp()).collect();
                    let total: f64 = weights.iter().sum();
                    for d in 0..head_size {
                        let value = |(row, weight): (usize, &f64)| {
                            weight * read(sequence.v, row, shape.row_stride, kv_column + d)
                        };
                        let expected = weights.iter().enumerate().map(value).sum::<f64>() / total;
                        let found = read(out, first + i, shape.out_stride, column + d);
                        assert!(
                            (found - expected).abs() <= tolerance(element),
                            "{shape:?} batch {:?} query {i} head {head} column {d}: {found}, not {expected}",
                            self.batch
                        );
                    }
                }
            }
            first += sequence.queries as usize;
        }
        plan.attention.splits
    }
}

fn module(element: Element) -> Module {
    Module::parse(element.ptx()).unwrap()
}

#[test]
fn decode_over_lengths_at_tile_and_page_borders() {
    for element in Element::ALL {
        let module = module(element);
        let lengths = [1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 257];
        for (heads, kv_heads, head_size) in [(2, 2, 64), (4, 1, 80), (6, 2, 128)] {
            let shape = Shape::packed(element, heads, kv_heads, head_size);
            let batch = lengths.map(|rows| (1, rows)).into();
            Case {
                shape,
                batch,
                multiprocessors: 1,
            }
            .check(&module);
        }
    }
}

#[test]
fn prefill_and_chunks_are_causal() {
    for element in Element::ALL {
        let module = module(element);
        for (heads, kv_heads, head_size) in [(2, 2, 16), (4, 2, 96)] {
            let shape = Shape::packed(element, heads, kv_heads, head_size);
            let batch = vec![(1, 1), (17, 17), (65, 65), (9, 129), (2, 33)];
            Case {
                shape,
                batch,
                multiprocessors: 1,
            }
            .check(&module);
        }
    }
}

#[test]
fn every_head_size_from_1_to_128() {
    for element in Element::ALL {
        let module = module(element);
        for head_size in [1, 2, 3, 16, 31, 32, 33, 48, 63, 64, 65, 80, 96, 97, 127, 128] {
            for batch in [vec![(1, 37)], vec![(3, 19), (1, 5)]] {
                let shape = Shape::packed(element, 3, 3, head_size);
                Case {
                    shape,
                    batch,
                    multiprocessors: 1,
                }
                .check(&module);
            }
        }
    }
}

#[test]
fn blocks_that_share_rows_agree_after_the_merge() {
    for element in Element::ALL {
        let module = module(element);
        for (heads, kv_heads, head_size, queries) in [(2, 2, 64, 1), (4, 1, 80, 1), (2, 1, 33, 3)] {
            let shape = Shape::packed(element, heads, kv_heads, head_size);
            let batch = vec![(queries, 1100), (queries, 3), (queries, 513)];
            let splits = Case {
                shape,
                batch,
                multiprocessors: 24,
            }
            .check(&module);
            assert!(splits > 1);
        }
    }
}

#[test]
fn rows_may_have_gaps() {
    for element in Element::ALL {
        let size = element.bytes() as u32;
        let mut shape = Shape::packed(element, 4, 2, 20);
        shape.row_stride += 7 * size;
        shape.query_stride += 3 * size;
        shape.out_stride += 5 * size;
        let batch = vec![(1, 40), (6, 8)];
        Case {
            shape,
            batch,
            multiprocessors: 1,
        }
        .check(&module(element));
    }
}

/// The barrier between the warps of a block is needed, and its absence is found.
#[test]
fn without_its_barrier_the_kernel_is_a_race() {
    let text = Element::F32.ptx().replace("bar.sync", "// bar.sync");
    let module = Module::parse(&text).unwrap();
    let shape = Shape::packed(Element::F32, 1, 1, 64);
    let mut memory = Buffers::default();
    let [k, v, queries, out] = [256 * 256, 256 * 256, 256, 256].map(|bytes| memory.map(vec![0; bytes]));
    let plan = shape.plan(&[Rows::new(k, v, 1, 256)], 1).unwrap();
    let sequences = memory.map(plan.sequences[0].to_bytes().into());
    let attention = Attention {
        sequences,
        queries,
        out,
        ..plan.attention
    };
    let Launch {
        kernel,
        grid,
        block,
        shared_bytes,
    } = plan.attend;
    let kernel = module.kernel(kernel).unwrap();
    let fault = kernel
        .launch(grid, block, shared_bytes as usize, &attention.to_bytes(), &mut memory)
        .unwrap_err();
    assert!(matches!(fault.kind, FaultKind::Race { .. }), "{fault}");
}

/// A page that is missing in the middle of the rows is found at the row that needs it.
#[test]
fn a_row_that_is_not_mapped_faults() {
    let module = module(Element::F16);
    let shape = Shape::packed(Element::F16, 1, 1, 64);
    let mut memory = Buffers::default();
    let [k, v, queries, out] = [40 * 128, 39 * 128, 128, 128].map(|bytes| memory.map(vec![0; bytes]));
    let plan = shape.plan(&[Rows::new(k, v, 1, 40)], 1).unwrap();
    let sequences = memory.map(plan.sequences[0].to_bytes().into());
    let attention = Attention {
        sequences,
        queries,
        out,
        ..plan.attention
    };
    let Launch {
        kernel,
        grid,
        block,
        shared_bytes,
    } = plan.attend;
    let kernel = module.kernel(kernel).unwrap();
    let fault = kernel
        .launch(grid, block, shared_bytes as usize, &attention.to_bytes(), &mut memory)
        .unwrap_err();
    let FaultKind::Global(access) = fault.kind else {
        panic!("{fault}")
    };
    assert_eq!(access.at, v + 39 * 128);
    assert!(
        fault.instruction.starts_with("ld.global.nc.u16"),
        "{}",
        fault.instruction
    );
}
