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

/// A cache with one sequence, and the numbers in it.
pub(crate) struct Setup {
    pub(crate) backend: CudaBackend,
    pub(crate) cache: KvCache<CudaBackend>,
    seq: SeqId,
    element: Element,
    keys: Vec<f32>,
    values: Vec<f32>,
    /// Its last rows ask.
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

/// Columns of a key row, and of a query row.
const COLUMNS: usize = (KV_HEADS * HEAD_SIZE) as usize;
const QUERY_COLUMNS: usize = (HEADS * HEAD_SIZE) as usize;

/// Key rows that fit one frame.
fn frame_rows(backend: &CudaBackend, element: Element) -> usize {
    backend.caps().frame_bytes / (COLUMNS * element.bytes())
}

impl Setup {
    /// Rows for one frame of keys and a little more, and one query.
    pub(crate) fn over_a_border(device: i32, element: Element) -> Result<Self, Box<dyn Error>> {
        let backend = CudaBackend::open(device)?;
        let rows = frame_rows(&backend, element) + 7;
        Self::new(backend, element, rows, 1)
    }

    fn new(backend: CudaBackend, element: Element, rows: usize, queries: usize) -> Result<Self, Box<dyn Error>> {
        let frame_bytes = backend.caps().frame_bytes;
        let row_bytes = COLUMNS * element.bytes();
        let geometry = Geometry::builder()
            .layers(1)
            .row_bytes(row_bytes)
            .max_tokens(rows)
            .max_sequences(1)
            .frame_bytes(frame_bytes)
            .build()?;
        let mut cache = KvCache::with_backend(backend.clone(), geometry, Config::new(8 * frame_bytes))?;
        let seq = cache.admit(rows)?;
        let (keys, values) = (numbers(rows * COLUMNS, 1), numbers(rows * COLUMNS, 2));
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
            queries: numbers(queries * QUERY_COLUMNS, 3),
            rows,
        })
    }

    /// Each query row over the rows up to its own, in f64.
    fn reference(&self) -> Vec<f64> {
        let queries = self.queries.chunks_exact(QUERY_COLUMNS);
        let before = self.rows - queries.len();
        let seen = |(index, query): (usize, _)| self.attended(query, before + index + 1);
        queries.enumerate().flat_map(seen).collect()
    }

    fn attended(&self, query: &[f32], rows: usize) -> Vec<f64> {
        let size = HEAD_SIZE as usize;
        let mut out = Vec::new();
        for head in 0..HEADS as usize {
            let first = head / (HEADS / KV_HEADS) as usize * size;
            let row = |of: &[f32], row: usize, column: usize| f64::from(of[row * COLUMNS + first + column]);
            let score = |index: usize| {
                let terms = (0..size).map(|c| f64::from(query[head * size + c]) * row(&self.keys, index, c));
                terms.sum::<f64>() / f64::from(HEAD_SIZE).sqrt()
            };
            let scores: Vec<f64> = (0..rows).map(score).collect();
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
        let queries = setup.queries.len() / QUERY_COLUMNS;
        let batch = [Rows::new(
            view.k as u64,
            view.v as u64,
            queries as u32,
            setup.rows as u32,
        )];
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

/// The kernel against the processor, for one new token and for several, with rows that end around the borders of frames.
pub(crate) fn attention(device: i32, element: Element) -> Found {
    let backend = CudaBackend::open(device)?;
    let frame = frame_rows(&backend, element);
    let lengths = [1, frame - 1, frame, frame + 1, frame + 7, 2 * frame, 2 * frame + 1];
    let (mut error, mut launches) = (0f64, 0);
    for (rows, queries) in lengths.into_iter().flat_map(|rows| [(rows, 1), (rows, 5.min(rows))]) {
        let setup = Setup::new(backend.clone(), element, rows, queries)?;
        let kernel = Attention::new(&setup)?;
        kernel.launch(StreamHandle::LEGACY)?;
        let result = kernel.result(element)?;
        kernel.free()?;
        let expected = setup.reference();
        if result.len() != expected.len() {
            return Err(format!("{} numbers instead of {}", result.len(), expected.len()).into());
        }
        let errors = result
            .iter()
            .zip(&expected)
            .map(|(got, expected)| (f64::from(*got) - expected).abs());
        // A NaN must not get lost in a maximum.
        error = errors.fold(error, |most, error| if error <= most { most } else { error });
        launches += 1;
    }
    // The result is rounded to the element; its values are at most 1.
    let limit = match element {
        Element::F32 => 1e-5,
        Element::F16 => 1e-3,
        Element::Bf16 => 8e-3,
    };
    let said = format!(
        "{launches} launches over 1 to {} rows, {frame} to a frame: largest error {error:.1e} of {limit:.0e} allowed",
        2 * frame + 1
    );
    match error <= limit {
        true => Ok((
            said,
            json!({"rows": lengths, "frame_rows": frame, "largest_error": error, "limit": limit}),
        )),
        false => Err(said.into()),
    }
}
