//! The attention kernel over rows of a cache, against the same on the processor.

use std::error::Error;
use std::ffi::CString;
use std::sync::Arc;

use serde_json::json;
use vattn::backend::Backend;
use vattn::cuda::CudaBackend;
use vattn::cuda::driver::{Driver, Grid, Module, StreamHandle};
use vattn::{Config, Geometry, KvCache, SeqId, Side};
use vattn_kernels::{Element, Launch, Plan, Rows, Shape};

use crate::report::Found;

const HEADS: u32 = 4;
const KV_HEADS: u32 = 2;
const HEAD_SIZE: u32 = 32;

/// A cache with one sequence whose rows cross the border of a frame, and the numbers in it.
pub(crate) struct Setup {
    pub(crate) backend: CudaBackend,
    pub(crate) cache: KvCache<CudaBackend>,
    seq: SeqId,
    element: Element,
    keys: Vec<f32>,
    values: Vec<f32>,
    queries: Vec<f32>,
    pub(crate) rows: usize,
}

/// Numbers from -1 to 1 in eighths, which all elements hold exactly.
fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let number = |index: usize| {
        (index as u32)
            .wrapping_mul(2_654_435_761)
            .wrapping_add(seed.wrapping_mul(97_531))
            >> 16
    };
    (0..count)
        .map(|index| (number(index) % 17) as f32 / 8.0 - 1.0)
        .collect()
}

fn to_bytes(numbers: &[f32], element: Element) -> Vec<u8> {
    let bytes = |number: &f32| match element {
        Element::F32 => number.to_le_bytes().to_vec(),
        Element::F16 => half::f16::from_f32(*number).to_le_bytes().to_vec(),
        Element::Bf16 => half::bf16::from_f32(*number).to_le_bytes().to_vec(),
    };
    numbers.iter().flat_map(bytes).collect()
}

fn from_bytes(bytes: &[u8], element: Element) -> Vec<f32> {
    let number = |bytes: &[u8]| match element {
        Element::F32 => f32::from_le_bytes(bytes.try_into().expect("four bytes")),
        Element::F16 => half::f16::from_le_bytes(bytes.try_into().expect("two bytes")).to_f32(),
        Element::Bf16 => half::bf16::from_le_bytes(bytes.try_into().expect("two bytes")).to_f32(),
    };
    bytes.chunks_exact(element.bytes()).map(number).collect()
}

impl Setup {
    /// Writes rows for one frame of keys and a little more.
    pub(crate) fn new(device: i32, element: Element) -> Result<Self, Box<dyn Error>> {
        let backend = CudaBackend::open(device)?;
        let columns = (KV_HEADS * HEAD_SIZE) as usize;
        let row_bytes = columns * element.bytes();
        let frame_bytes = backend.caps().frame_bytes;
        let rows = frame_bytes / row_bytes + 7;
        let geometry = Geometry::builder()
            .layers(1)
            .row_bytes(row_bytes)
            .max_tokens(rows)
            .max_sequences(1)
            .frame_bytes(frame_bytes)
            .build()?;
        let mut cache = KvCache::with_backend(backend.clone(), geometry, Config::new(8 * frame_bytes))?;
        let seq = cache.admit(rows)?;
        let (keys, values) = (numbers(rows * columns, 1), numbers(rows * columns, 2));
        // Row by row is how a model writes; what lies before a row decides nothing.
        cache.write_rows(seq, 0, Side::K, 0, &to_bytes(&keys, element))?;
        cache.write_rows(seq, 0, Side::V, 0, &to_bytes(&values, element))?;
        Ok(Self {
            backend,
            cache,
            seq,
            element,
            keys,
            values,
            queries: numbers((HEADS * HEAD_SIZE) as usize, 3),
            rows,
        })
    }

    /// One query row over all rows, in f64.
    fn reference(&self) -> Vec<f64> {
        let size = HEAD_SIZE as usize;
        let columns = (KV_HEADS * HEAD_SIZE) as usize;
        let mut out = Vec::new();
        for head in 0..HEADS as usize {
            let first = head / (HEADS / KV_HEADS) as usize * size;
            let row = |of: &[f32], row: usize, column: usize| f64::from(of[row * columns + first + column]);
            let score = |index: usize| {
                let terms = (0..size).map(|c| f64::from(self.queries[head * size + c]) * row(&self.keys, index, c));
                terms.sum::<f64>() / f64::from(HEAD_SIZE).sqrt()
            };
            let scores: Vec<f64> = (0..self.rows).map(score).collect();
            let top = scores.iter().copied().fold(f64::MIN, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - top).exp()).collect();
            let total: f64 = weights.iter().sum();
            for column in 0..size {
                let terms = weights
                    .iter()
                    .enumerate()
                    .map(|(index, weight)| weight * row(&self.values, index, column));
                out.push(terms.sum::<f64>() / total);
            }
        }
        out
    }
}

/// The kernel, ready to run over the rows of a [`Setup`].
pub(crate) struct Attention {
    driver: Arc<Driver>,
    module: Module,
    plan: Plan,
    buffers: u64,
    out: u64,
    out_bytes: usize,
}

impl Attention {
    pub(crate) fn new(setup: &Setup) -> Result<Self, Box<dyn Error>> {
        let driver = Arc::clone(setup.backend.driver());
        let view = setup.cache.view(setup.seq, 0)?;
        let shape = Shape::packed(setup.element, HEADS, KV_HEADS, HEAD_SIZE);
        let batch = [Rows::new(view.k as u64, view.v as u64, 1, setup.rows as u32)];
        let mut plan = shape.plan(&batch, driver.info()?.multiprocessors)?;
        let table: Vec<u8> = plan.sequences.iter().flat_map(|sequence| sequence.to_bytes()).collect();
        let queries = to_bytes(&setup.queries, setup.element);
        let place = |bytes: usize| bytes.next_multiple_of(256) as u64;
        let (stream, out_bytes) = (StreamHandle::LEGACY, queries.len());
        let sizes = [table.len(), queries.len(), out_bytes, plan.partial_bytes as usize];
        let buffers = driver.allocate(stream, sizes.iter().map(|&bytes| place(bytes) as usize).sum())?;
        plan.attention.sequences = buffers;
        plan.attention.queries = buffers + place(table.len());
        plan.attention.out = plan.attention.queries + place(queries.len());
        plan.attention.partial = plan.attention.out + place(out_bytes);
        driver.write(stream, plan.attention.sequences, &table)?;
        driver.write(stream, plan.attention.queries, &queries)?;
        Ok(Self {
            module: Module::load(&driver, setup.element.ptx())?,
            driver,
            buffers,
            out: plan.attention.out,
            out_bytes,
            plan,
        })
    }

    /// Starts the kernel on a stream.
    pub(crate) fn launch(&self, stream: StreamHandle) -> Result<(), Box<dyn Error>> {
        let mut parameter = self.plan.attention.to_bytes();
        for Launch {
            kernel,
            grid,
            block,
            shared_bytes,
        } in [Some(self.plan.attend), self.plan.merge].into_iter().flatten()
        {
            let grid = Grid {
                blocks: grid,
                threads: block,
                shared_bytes,
            };
            let mut arguments = [parameter.as_mut_ptr().cast()];
            // SAFETY: the kernels take this one parameter by value; its addresses are those of live buffers that are as
            // long as the plan says, and of rows that stay mapped until the stream was waited for.
            #[allow(unsafe_code)]
            unsafe {
                self.module
                    .launch(&CString::new(kernel)?, grid, stream, &mut arguments)?;
            }
        }
        Ok(())
    }

    fn result(&self, element: Element) -> Result<Vec<f32>, Box<dyn Error>> {
        let mut bytes = vec![0; self.out_bytes];
        self.driver.read(StreamHandle::LEGACY, self.out, &mut bytes)?;
        Ok(from_bytes(&bytes, element))
    }

    pub(crate) fn free(self) -> Result<(), Box<dyn Error>> {
        self.driver.synchronize()?;
        Ok(self.driver.free(StreamHandle::LEGACY, self.buffers)?)
    }
}

/// The kernel against the processor.
pub(crate) fn attention(device: i32, element: Element) -> Found {
    let setup = Setup::new(device, element)?;
    let kernel = Attention::new(&setup)?;
    kernel.launch(StreamHandle::LEGACY)?;
    let result = kernel.result(element)?;
    kernel.free()?;
    let expected = setup.reference();
    let error = result
        .iter()
        .zip(&expected)
        .map(|(got, expected)| (f64::from(*got) - expected).abs())
        .fold(0.0, f64::max);
    // The result is rounded to the element; its values are at most 1.
    let limit = match element {
        Element::F32 => 1e-5,
        Element::F16 => 1e-3,
        Element::Bf16 => 8e-3,
    };
    let rows = setup.rows;
    let said = format!("{rows} rows over a border of frames, largest error {error:.1e} of {limit:.0e} allowed");
    match error <= limit && result.len() == expected.len() {
        true => Ok((said, json!({"rows": rows, "largest_error": error, "limit": limit}))),
        false => Err(said.into()),
    }
}
