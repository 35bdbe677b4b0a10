//! Linear layers for inference: weights packed once into panels, products that read them once per call.
//!
//! A panel holds sixteen outputs of a layer: `[outputs/16][inputs][16]`, so that one step along the inputs is one vector.
//! The rows of the input are cut into tiles of a few rows; a tile keeps its sums of up to four panels in registers while it
//! walks along the inputs. One row takes four panels at a time because one stream of reads does not fill the memory
//! bus; many rows take two, which leaves registers for twelve rows.
//!
//! The sum of each output is one chain of fused products along the inputs, in order, whatever the tile: **a row of the
//! result has the same bits in every batch**, and so has everything computed from it.
#![allow(unsafe_code)] // threads write disjoint columns of one output

mod float;
mod int8;
mod tiles;

use half::f16;

use crate::config::Activation;
use crate::kernels::gelu;
use crate::pages::Buffer;
use crate::threads::Pool;
use tiles::{OutPtr, PANEL, Tiles};

/// How weights are kept and multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 4 bytes a weight, exact.
    #[default]
    F32,
    /// 2 bytes a weight, rounded to nearest; widened to `f32` before each product.
    F16,
    /// 1 byte a weight with one scale an output; inputs are rounded to a byte with one scale a row; sums are exact integers.
    Int8,
}

impl Precision {
    /// Most inputs of a layer.
    pub(crate) fn max_inputs(self) -> usize {
        match self {
            Self::F32 | Self::F16 => usize::MAX,
            Self::Int8 => int8::MAX_INPUTS,
        }
    }
}

/// What becomes of the product with its bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// It replaces the output.
    Store,
    /// It goes through the activation and replaces the output.
    Activate(Activation),
    /// It is added to the output: a residual branch.
    Add,
}

/// Buffers of a product, reused over calls.
#[derive(Debug, Default, Clone)]
pub(crate) struct Scratch {
    floats: Vec<f32>,
    bytes: Vec<u8>,
    scales: Vec<f32>,
}

#[derive(Debug)]
enum Weights {
    F32(Buffer<f32>),
    F16(Buffer<f16>),
    Int8(int8::Weights),
}

/// A linear layer with packed weights.
#[derive(Debug)]
pub(crate) struct Linear {
    inputs: usize,
    outputs: usize,
    weights: Weights,
    /// Zeros where the layer has none; padded to whole groups of panels.
    bias: Vec<f32>,
}

impl Linear {
    /// Packs a matrix whose weight from input `i` to output `j` is `weight[i * strides.0 + j * strides.1]`.
    pub(crate) fn new(
        weight: &[f32],
        (inputs, outputs): (usize, usize),
        strides: (usize, usize),
        bias: Option<&[f32]>,
        precision: Precision,
    ) -> Self {
        let panels = padded_panels(outputs);
        let at = |panel: usize, input: usize, lane: usize| {
            let output = panel * PANEL + lane;
            if output < outputs {
                weight[input * strides.0 + output * strides.1]
            } else {
                0.0
            }
        };
        let packed = || {
            (0..panels).flat_map(move |panel| {
                (0..inputs).flat_map(move |input| (0..PANEL).map(move |lane| at(panel, input, lane)))
            })
        };
        let len = panels * inputs * PANEL;
        let weights = match precision {
            Precision::F32 => Weights::F32(Buffer::new(len, packed())),
            Precision::F16 => Weights::F16(Buffer::new(len, packed().map(f16::from_f32))),
            Precision::Int8 => Weights::Int8(int8::Weights::new(inputs, panels, at)),
        };
        let mut padded = vec![0.0; panels * PANEL];
        if let Some(bias) = bias {
            padded[..outputs].copy_from_slice(bias);
        }
        Self {
            inputs,
            outputs,
            weights,
            bias: padded,
        }
    }

    /// Bytes of the packed weights: what a product reads.
    pub(crate) fn bytes(&self) -> usize {
        match &self.weights {
            Weights::F32(panels) => size_of_val(&panels[..]),
            Weights::F16(panels) => size_of_val(&panels[..]),
            Weights::Int8(weights) => weights.bytes(),
        }
    }

    /// The weights of one output, `(inputs)`, as they are stored.
    pub(crate) fn column(&self, output: usize, out: &mut [f32]) {
        let (panel, lane) = (output / PANEL, output % PANEL);
        let start = panel * self.inputs * PANEL + lane;
        match &self.weights {
            Weights::F32(panels) => {
                for (out, weight) in out.iter_mut().zip(panels[start..].iter().step_by(PANEL)) {
                    *out = *weight;
                }
            }
            Weights::F16(panels) => {
                for (out, weight) in out.iter_mut().zip(panels[start..].iter().step_by(PANEL)) {
                    *out = weight.to_f32();
                }
            }
            Weights::Int8(weights) => weights.column(output, out),
        }
    }

    /// `out (rows, outputs)` from `x (rows, inputs)`. Every output element is computed by one thread; the split over threads
    /// does not change its bits.
    pub(crate) fn forward(&self, pool: &Pool, scratch: &mut Scratch, out: &mut [f32], x: &[f32], then: Then) {
        let rows = x.len() / self.inputs;
        assert_eq!(x.len(), rows * self.inputs, "input rows of a linear layer");
        assert_eq!(out.len(), rows * self.outputs, "output rows of a linear layer");
        let tile_rows = match self.weights {
            Weights::F32(_) | Weights::F16(_) => float::tile_rows(),
            Weights::Int8(_) => int8::tile_rows(),
        };
        let tiles = Tiles::new(rows, tile_rows);
        let target = OutPtr::new(out, self.outputs);
        let add = then == Then::Add;
        match &self.weights {
            Weights::F32(panels) => {
                let a = float::pack(pool, &mut scratch.floats, x, &tiles);
                let job = float::Job::new(&tiles, a, panels, &self.bias, self.inputs, target, add);
                // SAFETY: `split` gives each panel to one thread.
                self.split(pool, &target, rows, then, &|range| unsafe { float::run(&job, range) });
            }
            Weights::F16(panels) => {
                let a = float::pack(pool, &mut scratch.floats, x, &tiles);
                let job = float::Job::new(&tiles, a, panels, &self.bias, self.inputs, target, add);
                // SAFETY: `split` gives each panel to one thread.
                self.split(pool, &target, rows, then, &|range| unsafe { float::run(&job, range) });
            }
            Weights::Int8(weights) => {
                int8::quantize(pool, &mut scratch.bytes, &mut scratch.scales, x, &tiles);
                let job = int8::Job::new(
                    &tiles,
                    &scratch.bytes,
                    &scratch.scales,
                    weights,
                    &self.bias,
                    target,
                    add,
                );
                // SAFETY: as above.
                self.split(pool, &target, rows, then, &|range| unsafe { int8::run(&job, range) });
            }
        }
    }

    /// Gives each thread a share of the panels.
    fn split(
        &self,
        pool: &Pool,
        target: &OutPtr<'_>,
        rows: usize,
        then: Then,
        product: &(dyn Fn(std::ops::Range<usize>) + Sync),
    ) {
        let (groups, threads) = (padded_panels(self.outputs) / tiles::GROUP, pool.threads());
        pool.run(&|thread| {
            let share = |thread: usize| groups * thread / threads * tiles::GROUP;
            let range = share(thread)..share(thread + 1);
            if range.is_empty() {
                return;
            }
            product(range.clone());
            if let Then::Activate(activation) = then {
                for row in 0..rows {
                    // SAFETY: these panels are this thread's alone.
                    let columns = unsafe { target.columns(row, range.clone()) };
                    gelu::in_place(activation, columns);
                }
            }
        });
    }
}

/// Panels of so many outputs, in whole groups.
fn padded_panels(outputs: usize) -> usize {
    outputs.div_ceil(PANEL).next_multiple_of(tiles::GROUP)
}

#[cfg(test)]
mod tests;
