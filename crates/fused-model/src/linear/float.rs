//! Products with weights in `f32` or `f16`.
#![allow(unsafe_code)] // vectors and pointers into matrices whose sizes are checked in `Job::new`

#[cfg(target_arch = "aarch64")]
use std::arch::aarch64::float32x4_t;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::__m256;
use std::ops::Range;

use super::tiles::{OutPtr, PANEL, Panels, Registers, Tiles, Together, for_each_tile, tile_for};
use crate::kernels::simd::{Level, each};
#[cfg(target_arch = "aarch64")]
use crate::kernels::vector::Neon;
#[cfg(target_arch = "x86_64")]
use crate::kernels::vector::{Avx2, Avx512};
use crate::kernels::vector::{Element, Float, Plain, prefetch};
use crate::threads::{Parts, Pool};

/// Inputs handled at a time: two panels of it and the tiles of [`ROWS`] rows stay in the second-level cache.
const DEPTH: usize = 1024;
/// Rows handled at a time.
const ROWS: usize = 120;

/// One product: tiles of packed rows times panels of weights.
#[derive(Debug)]
pub(super) struct Job<'a, E> {
    tiles: &'a Tiles,
    /// Rows packed by [`pack`].
    a: &'a [f32],
    panels: &'a [E],
    bias: &'a [f32],
    inputs: usize,
    out: OutPtr<'a>,
    add: bool,
}

impl<'a, E: Element> Job<'a, E> {
    pub(super) fn new(
        tiles: &'a Tiles,
        a: &'a [f32],
        panels: &'a [E],
        bias: &'a [f32],
        inputs: usize,
        out: OutPtr<'a>,
        add: bool,
    ) -> Self {
        assert_eq!(a.len(), tiles.rows() * inputs, "packed rows of a product");
        assert_eq!(panels.len(), bias.len() * inputs, "packed weights of a product");
        Self {
            tiles,
            a,
            panels,
            bias,
            inputs,
            out,
            add,
        }
    }
}

/// Packs `x (rows, inputs)` by tiles: `[inputs][height]` each. One row is taken as it is.
pub(super) fn pack<'a>(pool: &Pool, packed: &'a mut Vec<f32>, x: &'a [f32], tiles: &Tiles) -> &'a [f32] {
    if tiles.rows() <= 1 {
        return x;
    }
    let inputs = x.len() / tiles.rows();
    packed.resize(x.len(), 0.0);
    let parts = Parts::new(packed);
    pool.for_each(tiles.count(), &|_, tile| {
        let rows = tiles.range(tile);
        // SAFETY: each task has a tile of its own, and tiles are disjoint.
        let part = unsafe { parts.part(rows.start * inputs..rows.end * inputs) };
        let x = &x[rows.start * inputs..rows.end * inputs];
        for (input, to) in part.chunks_exact_mut(rows.len()).enumerate() {
            let from = x[input..].iter().step_by(inputs);
            to.iter_mut().zip(from).for_each(|(to, &x)| *to = x);
        }
    });
    packed
}

type Tile<E> = unsafe fn(&Job<'_, E>, usize, Panels, &Range<usize>);

unsafe fn plain<E: Element, const M: usize, const P: usize>(
    job: &Job<'_, E>,
    row: usize,
    panels: Panels,
    depth: &Range<usize>,
) {
    // SAFETY: the caller's promise; this function enables the instruction set.
    unsafe { tile::<Plain<f32>, E, M, P>(job, row, panels, depth) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn avx2<E: Element, const M: usize, const P: usize>(
    job: &Job<'_, E>,
    row: usize,
    panels: Panels,
    depth: &Range<usize>,
) {
    // SAFETY: the caller's promise; this function enables the instruction set.
    unsafe { tile::<Avx2<__m256>, E, M, P>(job, row, panels, depth) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn avx512<E: Element, const M: usize, const P: usize>(
    job: &Job<'_, E>,
    row: usize,
    panels: Panels,
    depth: &Range<usize>,
) {
    // SAFETY: the caller's promise; this function enables the instruction set.
    unsafe { tile::<Avx512, E, M, P>(job, row, panels, depth) }
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
unsafe fn neon<E: Element, const M: usize, const P: usize>(
    job: &Job<'_, E>,
    row: usize,
    panels: Panels,
    depth: &Range<usize>,
) {
    // SAFETY: the caller's promise; this function enables the instruction set.
    unsafe { tile::<Neon<float32x4_t>, E, M, P>(job, row, panels, depth) }
}

fn registers() -> Registers {
    match Level::get() {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 | Level::Avx512Vnni => Registers::Many,
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => Registers::Few,
        #[cfg(target_arch = "aarch64")]
        Level::Neon | Level::NeonDot => Registers::Few,
        Level::Baseline => Registers::Arrays,
    }
}

/// The tile of this processor for a height and a number of panels.
fn tile_for_shape<E: Element>(shape: (usize, usize)) -> Tile<E> {
    match Level::get() {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 | Level::Avx512Vnni => tile_for!(Many, shape, avx512::<E>),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => tile_for!(Few, shape, avx2::<E>),
        #[cfg(target_arch = "aarch64")]
        Level::Neon | Level::NeonDot => tile_for!(Few, shape, neon::<E>),
        Level::Baseline => tile_for!(Arrays, shape, plain::<E>),
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
pub(super) unsafe fn run<E: Element>(job: &Job<'_, E>, panels: Range<usize>) {
    assert!(panels.end * PANEL <= job.bias.len(), "panels of a product");
    for_each_tile(
        job.tiles,
        registers(),
        job.inputs,
        (panels, Together::Spread),
        (ROWS, DEPTH),
        |rows, panels, depth| {
            // SAFETY: the processor has the instruction set; rows, panels and depth lie inside the job's matrices; nobody else
            // works on the panels.
            unsafe { tile_for_shape::<E>((rows.len(), panels.count))(job, rows.start, panels, depth) }
        },
    );
}

/// `M` rows from `row` times `P` panels, along the inputs in `depth`.
///
/// # Safety
/// Inlined into a function that enables `V`'s instruction set, on a processor that has it; rows, panels and depth lie
/// inside the job, and nobody else works on these panels of the output.
#[inline(always)]
unsafe fn tile<V: Float, E: Element, const M: usize, const P: usize>(
    job: &Job<'_, E>,
    row: usize,
    panels: Panels,
    depth: &Range<usize>,
) {
    // SAFETY: the caller's promise. A tile's packed rows start at `row * inputs` and hold M floats an input; a panel holds
    // `PANEL` weights an input.
    unsafe {
        let a = job.a.as_ptr().add(row * job.inputs + depth.start * M);
        let panel_len = job.inputs * PANEL;
        let b = job.panels.as_ptr().add(panels.first * panel_len + depth.start * PANEL);
        let stride = panels.spacing * panel_len;
        let mut sums = [[V::zero(); P]; M];
        each!(r < M, p < P, {
            sums[r][p] = start::<V, E>(job, row + r, panels.at(p), depth.start == 0);
        });
        for input in 0..depth.len() {
            let mut weights = [V::zero(); P];
            if M > 1 {
                // The panels after these: the processor's own prefetching stops at the end of a page, which four streams
                // of one row make good, and two do not.
                each!(
                    p < P,
                    prefetch(b.wrapping_add(panels.next * panel_len + p * stride + input * PANEL))
                );
            }
            each!(p < P, weights[p] = E::load::<V>(b.add(p * stride + input * PANEL)));
            each!(r < M, {
                let x = V::splat(*a.add(input * M + r));
                each!(p < P, sums[r][p] = sums[r][p].add_product(x, weights[p]));
            });
        }
        each!(r < M, p < P, job.out.store(row + r, panels.at(p), sums[r][p]));
    }
}

/// What a sum starts from: the bias at the first input, with the output where the product is added to it; what is there
/// already behind the first input.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
unsafe fn start<V: Float, E: Element>(job: &Job<'_, E>, row: usize, panel: usize, first: bool) -> V {
    // SAFETY: the caller's promise; the bias is padded to whole panels.
    unsafe {
        let bias = V::load(job.bias.as_ptr().add(panel * PANEL));
        match (first, job.add) {
            (true, false) => bias,
            (true, true) => job.out.load::<V>(row, panel).add(bias),
            (false, _) => job.out.load(row, panel),
        }
    }
}
