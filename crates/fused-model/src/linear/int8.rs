//! Products with weights in one byte.
#![allow(unsafe_code)] // vectors and pointers into matrices whose sizes are checked in `Job::new`

#[cfg(target_arch = "aarch64")]
use std::arch::aarch64::int32x4_t;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::__m256i;
use std::ops::Range;

use super::tiles::{OutPtr, PANEL, Panels, Registers, Tiles, Together, for_each_tile, tile_for};
use crate::kernels::simd::{Level, each, max_abs, simd_fn};
#[cfg(target_arch = "x86_64")]
use crate::kernels::vector::{Avx2, Vnni};
use crate::kernels::vector::{Float, Int, Plain, prefetch};
#[cfg(target_arch = "aarch64")]
use crate::kernels::vector::{Neon, NeonDot};
use crate::pages::Buffer;
use crate::threads::{Parts, Pool};

/// Inputs multiplied by one instruction.
const STEP: usize = 4;
/// Rows handled at a time.
const ROWS: usize = 240;
/// Most inputs of a layer: their sum of products of 255 by 127 must fit `i32`.
pub(super) const MAX_INPUTS: usize = i32::MAX as usize / (255 * 127);

/// Panels `[outputs/16][inputs/4][16][4]` of `round(w / scale)`, one scale an output.
#[derive(Debug)]
pub(super) struct Weights {
    inputs: usize,
    panels: Buffer<i8>,
    scales: Vec<f32>,
    /// 128 times the sum of an output's bytes.
    offsets: Vec<i32>,
}

impl Weights {
    /// Rounds the weights `at(panel, input, lane)`.
    pub(super) fn new(inputs: usize, panels: usize, at: impl Fn(usize, usize, usize) -> f32) -> Self {
        assert!(
            inputs <= MAX_INPUTS,
            "{inputs} inputs; int8 layers take at most {MAX_INPUTS}"
        );
        let steps = inputs.div_ceil(STEP);
        let mut bytes = vec![0; panels * steps * PANEL * STEP];
        let (mut scales, mut offsets) = (vec![0.0; panels * PANEL], vec![0; panels * PANEL]);
        for panel in 0..panels {
            for lane in 0..PANEL {
                let column = || (0..inputs).map(|input| at(panel, input, lane));
                let scale = column().fold(0.0f32, |top, weight| top.max(weight.abs())) / 127.0;
                let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
                let mut sum = 0;
                for (input, weight) in column().enumerate() {
                    let byte = (weight * inverse).round().clamp(-127.0, 127.0) as i8;
                    bytes[((panel * steps + input / STEP) * PANEL + lane) * STEP + input % STEP] = byte;
                    sum += i32::from(byte);
                }
                scales[panel * PANEL + lane] = scale;
                offsets[panel * PANEL + lane] = 128 * sum;
            }
        }
        Self {
            inputs,
            panels: Buffer::new(bytes.len(), bytes.iter().copied()),
            scales,
            offsets,
        }
    }

    fn steps(&self) -> usize {
        self.inputs.div_ceil(STEP)
    }

    pub(super) fn bytes(&self) -> usize {
        self.panels.len() + self.scales.len() * size_of::<f32>()
    }

    /// The weights of one output.
    pub(super) fn column(&self, output: usize, out: &mut [f32]) {
        let (panel, lane) = (output / PANEL, output % PANEL);
        for (input, out) in out.iter_mut().enumerate().take(self.inputs) {
            let at = ((panel * self.steps() + input / STEP) * PANEL + lane) * STEP + input % STEP;
            *out = f32::from(self.panels[at]) * self.scales[output];
        }
    }
}

/// Rounds the rows of `x (rows, inputs)` to bytes, 128 above their value, packed by tiles: `[inputs/4][height][4]` each; one
/// scale a row.
pub(super) fn quantize(pool: &Pool, packed: &mut Vec<u8>, scales: &mut Vec<f32>, x: &[f32], tiles: &Tiles) {
    let inputs = x.len() / tiles.rows().max(1);
    let len = inputs.div_ceil(STEP) * STEP;
    // Bytes behind the last input meet weights of zero; they need only be there.
    packed.resize(tiles.rows() * len, 128);
    scales.resize(tiles.rows(), 0.0);
    let (bytes, scales) = (Parts::new(packed), Parts::new(scales));
    pool.for_each(tiles.count(), &|_, tile| {
        let rows = tiles.range(tile);
        // SAFETY: each task has a tile of its own, and tiles are disjoint.
        let (part, scales) = unsafe { (bytes.part(rows.start * len..rows.end * len), scales.part(rows.clone())) };
        for ((at, row), scale) in rows.clone().enumerate().zip(scales) {
            let steps = part[at * STEP..].chunks_mut(rows.len() * STEP);
            *scale = quantize_row(steps, &x[row * inputs..][..inputs]);
        }
    });
}

/// Writes one row's bytes at the start of each of `steps`; its scale.
fn quantize_row<'a>(mut steps: impl Iterator<Item = &'a mut [u8]>, x: &[f32]) -> f32 {
    let scale = max_abs(x) / 127.0;
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    let mut bytes = [128; 16 * STEP];
    for x in x.chunks(bytes.len()) {
        round(&mut bytes, x, inverse);
        for (from, to) in bytes
            .chunks_exact(STEP)
            .zip(steps.by_ref().take(x.len().div_ceil(STEP)))
        {
            to[..STEP].copy_from_slice(from);
        }
    }
    scale
}

simd_fn! {
    /// Rounds `x * inverse`, at most 127 in size, to bytes that are 128 above it.
    fn round(bytes: &mut [u8], x: &[f32], inverse: f32) {
        // Adding 1.5 * 2^23 rounds to the nearest integer, ties to even, and leaves it in the low bits.
        const ROUND: f32 = 12_582_912.0;
        for (byte, x) in bytes.iter_mut().zip(x) {
            *byte = (x * inverse + ROUND).to_bits() as u8 ^ 0x80;
        }
    }
}

/// One product: tiles of rounded rows times panels of bytes.
#[derive(Debug)]
pub(super) struct Job<'a> {
    tiles: &'a Tiles,
    a: &'a [u8],
    row_scales: &'a [f32],
    weights: &'a Weights,
    bias: &'a [f32],
    out: OutPtr<'a>,
    add: bool,
}

impl<'a> Job<'a> {
    pub(super) fn new(
        tiles: &'a Tiles,
        a: &'a [u8],
        row_scales: &'a [f32],
        weights: &'a Weights,
        bias: &'a [f32],
        out: OutPtr<'a>,
        add: bool,
    ) -> Self {
        assert_eq!(
            a.len(),
            tiles.rows() * weights.steps() * STEP,
            "packed rows of a product"
        );
        assert_eq!(row_scales.len(), tiles.rows(), "scales of a product");
        Self {
            tiles,
            a,
            row_scales,
            weights,
            bias,
            out,
            add,
        }
    }
}

type Tile = unsafe fn(&Job<'_>, usize, Panels, &Range<usize>);

unsafe fn plain<const M: usize, const P: usize>(job: &Job<'_>, row: usize, panels: Panels, steps: &Range<usize>) {
    // SAFETY: the caller's promise; this function enables the instruction set.
    unsafe { tile::<Plain<i32>, M, P>(job, row, panels, steps) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn avx2<const M: usize, const P: usize>(job: &Job<'_>, row: usize, panels: Panels, steps: &Range<usize>) {
    // SAFETY: the caller's promise; this function enables the instruction set.
    unsafe { tile::<Avx2<__m256i>, M, P>(job, row, panels, steps) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn vnni<const M: usize, const P: usize>(job: &Job<'_>, row: usize, panels: Panels, steps: &Range<usize>) {
    // SAFETY: the caller's promise; this function enables the instruction set.
    unsafe { tile::<Vnni, M, P>(job, row, panels, steps) }
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
unsafe fn neon<const M: usize, const P: usize>(job: &Job<'_>, row: usize, panels: Panels, steps: &Range<usize>) {
    // SAFETY: the caller's promise; this function enables the instruction set.
    unsafe { tile::<Neon<int32x4_t>, M, P>(job, row, panels, steps) }
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon,dotprod")]
unsafe fn neon_dot<const M: usize, const P: usize>(job: &Job<'_>, row: usize, panels: Panels, steps: &Range<usize>) {
    // SAFETY: the caller's promise; this function enables the instruction set.
    unsafe { tile::<NeonDot, M, P>(job, row, panels, steps) }
}

fn registers() -> Registers {
    match Level::get() {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512Vnni => Registers::Many,
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 | Level::Avx2 => Registers::Few,
        #[cfg(target_arch = "aarch64")]
        Level::Neon | Level::NeonDot => Registers::Few,
        Level::Baseline => Registers::Arrays,
    }
}

/// The tile of this processor for a height and a number of panels.
fn tile_for_shape(shape: (usize, usize)) -> Tile {
    match Level::get() {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512Vnni => tile_for!(Many, shape, vnni),
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 | Level::Avx2 => tile_for!(Few, shape, avx2),
        #[cfg(target_arch = "aarch64")]
        Level::NeonDot => tile_for!(Few, shape, neon_dot),
        #[cfg(target_arch = "aarch64")]
        Level::Neon => tile_for!(Few, shape, neon),
        Level::Baseline => tile_for!(Arrays, shape, plain),
    }
}

/// Most rows of a tile on this processor.
pub(super) fn tile_rows() -> usize {
    registers().rows()
}

/// The product of all rows with some panels, by the widest instruction set there is.
///
/// # Safety
/// Nobody else works on these panels of the output at the same time.
pub(super) unsafe fn run(job: &Job<'_>, panels: Range<usize>) {
    assert!(panels.end * PANEL <= job.bias.len(), "panels of a product");
    let steps = job.weights.steps();
    for_each_tile(
        job.tiles,
        registers(),
        steps,
        (panels, Together::Neighbours),
        (ROWS, steps.max(1)),
        |rows, panels, steps| {
            // SAFETY: the processor has the instruction set; rows, panels and steps lie inside the job's matrices; nobody else
            // works on the panels.
            unsafe { tile_for_shape((rows.len(), panels.count))(job, rows.start, panels, steps) }
        },
    );
}

/// `M` rows from `row` times `P` panels.
///
/// # Safety
/// Inlined into a function that enables `V`'s instruction set, on a processor that has it; rows and panels lie inside the
/// job, nobody else works on these panels of the output, and `all` is every step of the job.
#[inline(always)]
unsafe fn tile<V: Int, const M: usize, const P: usize>(job: &Job<'_>, row: usize, panels: Panels, all: &Range<usize>) {
    let steps = all.end;
    // SAFETY: the caller's promise. A tile's rows start at `row * 4 * steps` and hold M times 4 bytes a step; a panel holds
    // 16 times 4 bytes a step.
    unsafe {
        let a = job.a.as_ptr().add(row * steps * STEP).cast::<u32>();
        let panel_len = steps * PANEL * STEP;
        let b = job.weights.panels.as_ptr().add(panels.first * panel_len);
        let stride = panels.spacing * panel_len;
        let mut sums = [[V::zero(); P]; M];
        for step in 0..steps {
            if M > 1 {
                // The panels after these, as in the products of floats.
                each!(
                    p < P,
                    prefetch(b.wrapping_add(panels.next * panel_len + p * stride + step * PANEL * STEP))
                );
            }
            each!(r < M, {
                let x = a.add(step * M + r).read_unaligned();
                each!(
                    p < P,
                    sums[r][p] = sums[r][p].add_dots(x, b.add(p * stride + step * PANEL * STEP))
                );
            });
        }
        each!(r < M, p < P, finish::<V>(job, row + r, panels.at(p), sums[r][p]));
    }
}

/// Scales a sum, adds the bias, and writes it.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
unsafe fn finish<V: Int>(job: &Job<'_>, row: usize, panel: usize, sum: V) {
    let at = panel * PANEL;
    assert!(at + PANEL <= job.bias.len() && job.bias.len() == job.weights.scales.len());
    // SAFETY: the caller's promise; scales, offsets and bias are as long as one another and hold the panel.
    unsafe {
        let scales = V::Float::load(job.weights.scales.as_ptr().add(at)).mul(V::Float::splat(job.row_scales[row]));
        let sum = match V::OFFSET {
            true => sum.sub(job.weights.offsets.as_ptr().add(at)),
            false => sum,
        };
        let value = V::Float::load(job.bias.as_ptr().add(at)).add_product(sum.to_float(), scales);
        let value = match job.add {
            true => job.out.load::<V::Float>(row, panel).add(value),
            false => value,
        };
        job.out.store(row, panel, value);
    }
}
