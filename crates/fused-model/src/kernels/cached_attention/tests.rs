use super::*;
use crate::kernels::simd::chosen::at_each_level;
use crate::rng::Rng;

/// Queries, rows and positions of one attention, made from a seed.
struct Case {
    shape: Shape,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Case {
    fn new(rng: &mut Rng, head_dim: usize, group: usize, position: usize, queries: usize) -> Self {
        let heads = 2 * group;
        // A row of one more head than is worked on, columns behind them, queries further apart than they are wide.
        let shape = Shape {
            position,
            queries,
            query_stride: heads * head_dim + 5,
            heads,
            head_dim,
            group,
            row: 3 * head_dim + 2,
            column: head_dim,
        };
        let mut random = |len| (0..len).map(|_| rng.normal()).collect();
        let rows = (position + queries) * shape.row;
        Self {
            q: random(queries * shape.query_stride),
            k: random(rows),
            v: random(rows),
            shape,
        }
    }

    /// Queries from `first` on, at most `count` together.
    fn attend(&self, first: usize, count: usize, rows: impl Fn(&[f32], &mut dyn FnMut(Rows<'_>))) -> Vec<f32> {
        let shape = Shape {
            position: self.shape.position + first,
            queries: count,
            ..self.shape
        };
        let mut out = vec![f32::NAN; count * shape.heads * shape.head_dim];
        rows(&self.k, &mut |k| {
            rows(&self.v, &mut |v| {
                attend(
                    shape,
                    &mut out,
                    [&mut Vec::new(), &mut Vec::new()],
                    &self.q[first * shape.query_stride..],
                    k,
                    v,
                );
            });
        });
        out
    }

    fn together(&self) -> Vec<f32> {
        self.attend(0, self.shape.queries, |data, with| {
            let row = self.shape.row;
            with(Rows::F32(RowsOf::Contiguous { data, row }));
        })
    }

    /// The definition, in `f64`.
    fn plain(&self) -> Vec<f64> {
        let Shape {
            position,
            queries,
            query_stride,
            heads,
            head_dim,
            row,
            ..
        } = self.shape;
        let mut out = Vec::new();
        for (query, head) in (0..queries).flat_map(|query| (0..heads).map(move |head| (query, head))) {
            let at = |data: &[f32], token: usize, i: usize| f64::from(data[token * row + self.shape.stored(head) + i]);
            let q = |i: usize| f64::from(self.q[query * query_stride + head * head_dim + i]);
            let weights: Vec<f64> = (0..=position + query)
                .map(|token| (0..head_dim).map(|i| q(i) * at(&self.k, token, i)).sum::<f64>())
                .map(|score| (score / (head_dim as f64).sqrt()).exp())
                .collect();
            let sum: f64 = weights.iter().sum();
            out.extend((0..head_dim).map(|i| {
                let values = weights.iter().enumerate();
                values
                    .map(|(token, weight)| weight * at(&self.v, token, i))
                    .sum::<f64>()
                    / sum
            }));
        }
        out
    }
}

/// Widths that have vectors and two that have not, one of them whole vectors wide; positions and queries around the
/// borders of blocks.
fn cases() -> impl Iterator<Item = Case> {
    let mut rng = Rng::new(1);
    let widths = [8, 16, 32, 48, 64, 80, 96, 128]
        .into_iter()
        .flat_map(|width| [(width, 1), (width, 3)]);
    let places = [(0, 1), (0, 16), (3, 7), (14, 5), (16, 2), (31, 16), (40, 1)];
    widths
        .flat_map(move |width| places.map(|place| (width, place)))
        .map(move |((width, group), (position, queries))| Case::new(&mut rng, width, group, position, queries))
}

#[test]
fn it_is_the_definition() {
    for case in cases() {
        let plain = case.plain();
        let mut fused = None;
        at_each_level(|level| {
            let together = case.together();
            for (got, want) in together.iter().zip(&plain) {
                assert!(
                    (f64::from(*got) - want).abs() < 1e-5,
                    "{:?}, {level:?}: {got} for {want}",
                    case.shape
                );
            }
            // Levels with fused products give the same bits.
            if level != Level::Baseline {
                assert_eq!(&together, fused.get_or_insert_with(|| together.clone()), "{level:?}");
            }
        });
    }
}

#[test]
fn a_query_has_the_same_bits_alone_and_with_others() {
    at_each_level(|level| {
        for case in cases() {
            let alone: Vec<f32> = (0..case.shape.queries)
                .flat_map(|query| {
                    case.attend(query, 1, |data, with| {
                        let row = case.shape.row;
                        with(Rows::F32(RowsOf::Contiguous { data, row }));
                    })
                })
                .collect();
            assert_eq!(case.together(), alone, "{:?}, {level:?}", case.shape);
        }
    });
}

#[test]
fn it_has_the_same_bits_whatever_the_rows_are_cut_into() {
    at_each_level(|level| {
        for case in cases() {
            for tokens in [1, 5, 16, 20] {
                let row = case.shape.row;
                let cut = case.attend(0, case.shape.queries, |data, with| {
                    let (block, len) = (tokens * row, data.len());
                    // Blocks stand in memory from the last to the first.
                    let count = len.div_ceil(block);
                    let mut arena = vec![f32::NAN; count * block];
                    for (number, part) in (0..count).rev().zip(data.chunks(block)) {
                        arena[number * block..][..part.len()].copy_from_slice(part);
                    }
                    let table: Vec<usize> = (0..count).rev().collect();
                    let (arena, table) = (&arena[..], &table[..]);
                    with(Rows::F32(RowsOf::Blocks {
                        arena,
                        table,
                        stride: block,
                        offset: 0,
                        block,
                        row,
                        len,
                    }));
                });
                assert_eq!(
                    case.together(),
                    cut,
                    "{:?} in blocks of {tokens}, {level:?}",
                    case.shape
                );
            }
        }
    });
}

/// Rows in half precision give the bits of the same numbers in `f32`, widened once for many queries or as they are read.
#[test]
fn half_rows_have_the_bits_of_their_values() {
    at_each_level(|level| {
        for mut case in cases() {
            for x in case.k.iter_mut().chain(&mut case.v) {
                *x = f16::from_f32(*x).to_f32();
            }
            let row = case.shape.row;
            let half = |data: &[f32], with: &mut dyn FnMut(Rows<'_>)| {
                let data: Vec<f16> = data.iter().map(|&x| f16::from_f32(x)).collect();
                with(Rows::F16(RowsOf::Contiguous { data: &data, row }));
            };
            assert_eq!(
                case.together(),
                case.attend(0, case.shape.queries, half),
                "{:?}, {level:?}",
                case.shape
            );
            let alone: Vec<f32> = (0..case.shape.queries)
                .flat_map(|query| case.attend(query, 1, half))
                .collect();
            assert_eq!(case.together(), alone, "{:?}, {level:?}", case.shape);
        }
    });
}

#[test]
fn every_half_is_widened_exactly() {
    let halves: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
    at_each_level(|level| {
        let mut wide = vec![0.0f32; halves.len()];
        run(
            LANES,
            Widen {
                wide: &mut wide,
                halves: &halves,
            },
        );
        for (got, half) in wide.iter().zip(&halves) {
            let want = half.to_f32();
            assert!(
                got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(),
                "{half:?}, {level:?}: {got}"
            );
        }
    });
}
