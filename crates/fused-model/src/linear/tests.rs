use super::*;
use crate::kernels::simd::Level;
use crate::kernels::simd::chosen::at_each_level;
use crate::rng::Rng;

fn random(rng: &mut Rng, len: usize) -> Vec<f32> {
    (0..len).map(|_| rng.normal()).collect()
}

/// A layer of random weights stored (inputs, outputs), with a bias.
struct Case {
    inputs: usize,
    outputs: usize,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Case {
    fn new(rng: &mut Rng, inputs: usize, outputs: usize) -> Self {
        Self {
            inputs,
            outputs,
            weight: random(rng, inputs * outputs),
            bias: random(rng, outputs),
        }
    }

    fn linear(&self, precision: Precision) -> Linear {
        let shape = (self.inputs, self.outputs);
        Linear::new(&self.weight, shape, (self.outputs, 1), Some(&self.bias), precision)
    }
}

fn forward(linear: &Linear, threads: usize, x: &[f32], then: Then, before: f32) -> Vec<f32> {
    let pool = Pool::new(threads).unwrap();
    let mut out = vec![before; x.len() / linear.inputs * linear.outputs];
    linear.forward(&pool, &mut Scratch::default(), &mut out, x, then);
    out
}

/// Shapes around every border: tiles, panels, groups of panels, the depth of a block, bytes of a step.
const SHAPES: [(usize, usize); 8] = [
    (1, 1),
    (3, 17),
    (16, 16),
    (64, 65),
    (100, 130),
    (1025, 33),
    (2050, 16),
    (30, 600),
];

const PRECISIONS: [Precision; 3] = [Precision::F32, Precision::F16, Precision::Int8];

/// What a product takes of `x`: itself, or in int8 the nearest of 255 numbers.
fn taken(precision: Precision, x: &[f32]) -> Vec<f64> {
    let top = x.iter().fold(0.0f32, |top, x| top.max(x.abs()));
    let (scale, inverse) = (f64::from(top / 127.0), 127.0 / top);
    let round = |x: f32| f64::from((x * inverse).round_ties_even()) * scale;
    x.iter()
        .map(|&x| {
            if precision == Precision::Int8 {
                round(x)
            } else {
                f64::from(x)
            }
        })
        .collect()
}

/// Weights and what the inputs are rounded to are taken as they are, so that only the additions round: in every precision and
/// at every level to a part of the sum of sizes.
#[test]
fn products_are_the_plain_sum_of_what_is_stored() {
    let mut rng = Rng::new(1);
    for (inputs, outputs) in SHAPES {
        let case = Case::new(&mut rng, inputs, outputs);
        for precision in PRECISIONS {
            let linear = case.linear(precision);
            let mut columns = vec![0.0; inputs * outputs];
            for (output, column) in columns.chunks_exact_mut(inputs).enumerate() {
                linear.column(output, column);
            }
            for rows in [1, 2, 3, 5, 6, 7, 12, 13, 25] {
                let x = random(&mut rng, rows * inputs);
                let sum = |x: &[f64], output: usize| {
                    let column = &columns[output * inputs..][..inputs];
                    let bias = f64::from(case.bias[output]);
                    let products = x.iter().zip(column).map(|(x, &weight)| x * f64::from(weight));
                    products.fold((bias, bias.abs()), |(sum, size), product| {
                        (sum + product, size + product.abs())
                    })
                };
                let wants: Vec<_> = x
                    .chunks_exact(inputs)
                    .map(|x| taken(precision, x))
                    .flat_map(|x| (0..outputs).map(move |output| sum(&x, output)))
                    .collect();
                at_each_level(|level| {
                    let stored = forward(&linear, 1, &x, Then::Store, 7.0);
                    let added = forward(&linear, 1, &x, Then::Add, 0.5);
                    for (at, &(want, size)) in wants.iter().enumerate() {
                        for (got, want) in [(stored[at], want), (added[at], want + 0.5)] {
                            assert!(
                                (f64::from(got) - want).abs() <= 1e-6 * (size + 0.5),
                                "{precision:?} {inputs}x{outputs}, {rows} rows, {level:?}: [{at}] is {got}, wants {want}"
                            );
                        }
                    }
                });
            }
        }
    }
}

fn one_by_one(linear: &Linear, x: &[f32]) -> Vec<f32> {
    x.chunks_exact(linear.inputs)
        .flat_map(|row| forward(linear, 1, row, Then::Store, 0.0))
        .collect()
}

/// Rows in batches of `rows` have the bits of `alone`.
fn assert_same_bits(linear: &Linear, x: &[f32], alone: &[f32], rows: usize, threads: usize) {
    for (x, alone) in x
        .chunks_exact(rows * linear.inputs)
        .zip(alone.chunks_exact(rows * linear.outputs))
    {
        let together = forward(linear, threads, x, Then::Store, 0.0);
        let same = together.iter().zip(alone).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same, "{linear:?}, {rows} rows, {threads} threads");
    }
}

#[test]
fn a_row_has_the_same_bits_in_every_batch_and_on_any_number_of_threads() {
    let mut rng = Rng::new(2);
    for (inputs, outputs) in SHAPES {
        let case = Case::new(&mut rng, inputs, outputs);
        let x = random(&mut rng, 40 * inputs);
        for precision in PRECISIONS {
            let linear = case.linear(precision);
            let alone = one_by_one(&linear, &x);
            for (rows, threads) in [(2, 1), (7, 2), (13, 3), (40, 2)] {
                assert_same_bits(&linear, &x, &alone, rows, threads);
            }
        }
    }
}

/// The same holds at every level, and all levels with fused products give the same bits.
#[test]
fn a_row_has_the_same_bits_at_every_level() {
    let mut rng = Rng::new(2);
    for (inputs, outputs) in SHAPES {
        let case = Case::new(&mut rng, inputs, outputs);
        let x = random(&mut rng, 25 * inputs);
        for precision in PRECISIONS {
            let linear = case.linear(precision);
            let mut fused = None;
            at_each_level(|level| {
                let alone = one_by_one(&linear, &x);
                for rows in [2, 5, 12, 25] {
                    assert_same_bits(&linear, &x, &alone, rows, 1);
                }
                if level != Level::Baseline {
                    assert_eq!(&alone, fused.get_or_insert_with(|| alone.clone()), "{level:?}");
                }
            });
        }
    }
}

#[test]
fn half_precision_is_the_product_of_the_rounded_weights() {
    let mut rng = Rng::new(3);
    let mut case = Case::new(&mut rng, 70, 40);
    let half = case.linear(Precision::F16);
    case.weight
        .iter_mut()
        .for_each(|weight| *weight = f16::from_f32(*weight).to_f32());
    let full = case.linear(Precision::F32);
    let x = random(&mut rng, 9 * 70);
    assert_eq!(
        forward(&half, 1, &x, Then::Store, 0.0),
        forward(&full, 1, &x, Then::Store, 0.0)
    );
}

/// The bytes of int8 layers are summed exactly, so every instruction set must give the sum of integers.
#[test]
fn bytes_are_summed_exactly() {
    let mut rng = Rng::new(4);
    let (inputs, outputs) = (514, 35);
    // Whole numbers up to 127, with 127 in each row and column, so that both scales are 1.
    let whole = |rng: &mut Rng| ((rng.normal() * 60.0).round()).clamp(-127.0, 127.0);
    let mut weight: Vec<f32> = (0..inputs * outputs).map(|_| whole(&mut rng)).collect();
    weight[..outputs].fill(127.0);
    for rows in [1, 4, 14] {
        let mut x: Vec<f32> = (0..rows * inputs).map(|_| whole(&mut rng)).collect();
        x.iter_mut().step_by(inputs).for_each(|x| *x = -127.0);
        let linear = Linear::new(&weight, (inputs, outputs), (outputs, 1), None, Precision::Int8);
        at_each_level(|level| {
            let out = forward(&linear, 1, &x, Then::Store, 0.0);
            for (out, x) in out.chunks_exact(outputs).zip(x.chunks_exact(inputs)) {
                for (output, &got) in out.iter().enumerate() {
                    let products = x
                        .iter()
                        .enumerate()
                        .map(|(input, &x)| x as i64 * weight[input * outputs + output] as i64);
                    assert_eq!(got as i64, products.sum::<i64>(), "{level:?}");
                }
            }
        });
    }
}

#[test]
fn columns_are_the_weights_as_stored() {
    let mut rng = Rng::new(5);
    let case = Case::new(&mut rng, 50, 37);
    for (precision, bound) in [(Precision::F32, 0.0), (Precision::F16, 1e-3), (Precision::Int8, 2e-2)] {
        let linear = case.linear(precision);
        let mut column = vec![0.0; 50];
        for output in [0, 15, 16, 36] {
            linear.column(output, &mut column);
            for (input, got) in column.iter().enumerate() {
                let want = case.weight[input * 37 + output];
                assert!(
                    (got - want).abs() <= bound * 4.0,
                    "{precision:?} [{input}][{output}]: {got} for {want}"
                );
            }
        }
    }
}

#[test]
fn activation_follows_the_bias() {
    let mut rng = Rng::new(6);
    let case = Case::new(&mut rng, 20, 90);
    let linear = case.linear(Precision::F32);
    let x = random(&mut rng, 3 * 20);
    let mut want = forward(&linear, 1, &x, Then::Store, 0.0);
    gelu::in_place(Activation::GeluTanh, &mut want);
    assert_eq!(forward(&linear, 2, &x, Then::Activate(Activation::GeluTanh), 9.0), want);
}
