//! What runs on the device: each kernel, each product and each copy behind a function that checks the sizes first. All
//! calls of the device stand here.

#![allow(unsafe_code)]

use std::sync::Arc;

use candle_core::CudaDevice;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::cublas::sys::cublasOperation_t as Operation;
use candle_core::cuda_backend::cudarc::cublas::{CudaBlas, Gemm, GemmConfig};
use candle_core::cuda_backend::cudarc::driver::{
    CudaFunction, CudaSlice, CudaStream, DeviceRepr, DeviceSlice, LaunchConfig, PushKernelArg, ValidAsZeroBits,
};
use vattn::cuda::driver::StreamHandle;
use vattn_kernels::{Attention, Element, Launch, Plan};

use crate::config::Activation;
use crate::error::ModelError;

const PTX: &str = include_str!("gpt2.ptx");

/// Threads of a block of the elementwise kernels.
const THREADS: usize = 256;

/// What a product does with what its output holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Into {
    /// It is overwritten.
    Store,
    /// The product is added.
    Add,
}

/// What follows a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bias {
    /// It is added.
    Add,
    /// It is added, then the activation is taken.
    Activate(Activation),
}

/// A matrix on the device.
#[derive(Debug)]
pub(super) struct Matrix {
    pub(super) data: CudaSlice<f32>,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    /// Whether it lies as `(outputs, inputs)` and not as `(inputs, outputs)`.
    pub(super) by_output: bool,
}

/// Scale and shift of a layer norm.
#[derive(Debug)]
pub(super) struct Norm {
    pub(super) weight: CudaSlice<f32>,
    pub(super) bias: CudaSlice<f32>,
}

/// The parameter of the attention kernels, passed by value.
#[repr(transparent)]
struct Parameter(Attention);

// SAFETY: the kernels take this structure, `Attention` in attention.cu, by value; it is `repr(C)` without padding, and its
// crate asserts its size.
unsafe impl DeviceRepr for Parameter {}

/// Compiled kernels and the streams they run on: candle's stream of the device.
pub(super) struct Kernels {
    stream: Arc<CudaStream>,
    blas: Arc<CudaBlas>,
    embed: CudaFunction,
    layer_norm: CudaFunction,
    bias_add: CudaFunction,
    bias_gelu_tanh: CudaFunction,
    bias_gelu_erf: CudaFunction,
    append: CudaFunction,
    attention: Vec<(&'static str, CudaFunction)>,
}

impl std::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernels")
            .field("stream", &self.stream)
            .finish_non_exhaustive()
    }
}

impl Kernels {
    pub(super) fn new(device: &CudaDevice) -> Result<Self, ModelError> {
        let own = |name| {
            let function = device.get_or_load_custom_func(name, "fused_model_gpt2", PTX)?;
            Ok::<_, ModelError>(function.into_cuda_function())
        };
        let attend = |&name: &&'static str| {
            let ptx = Element::F32.ptx();
            let function = device.get_or_load_custom_func(name, "vattn_attention_f32", ptx)?;
            Ok::<_, ModelError>((name, function.into_cuda_function()))
        };
        Ok(Self {
            stream: device.cuda_stream(),
            blas: device.cublas_handle(),
            embed: own("embed")?,
            layer_norm: own("layer_norm")?,
            bias_add: own("bias_add")?,
            bias_gelu_tanh: own("bias_gelu_tanh")?,
            bias_gelu_erf: own("bias_gelu_erf")?,
            append: own("append")?,
            attention: Launch::KERNELS.iter().map(attend).collect::<Result<_, _>>()?,
        })
    }

    /// The stream for calls of the allocator's driver. Where it is the per-thread default stream, it means another one on
    /// every thread.
    pub(super) fn stream(&self) -> StreamHandle {
        // SAFETY: candle's stream belongs to the primary context of its device, and lives as long as this value, which
        // every user of the handle holds.
        unsafe { StreamHandle::from_raw(self.stream.cu_stream().cast()) }
    }

    /// Waits for all work of the stream.
    pub(super) fn wait(&self) -> Result<(), ModelError> {
        Ok(self.stream.synchronize().w()?)
    }

    /// Copies values to new memory of the device.
    pub(super) fn upload<T: DeviceRepr>(&self, values: &[T]) -> Result<CudaSlice<T>, ModelError> {
        Ok(self.stream.clone_htod(values).w()?)
    }

    /// Memory of the device for this many values, of which nothing is known.
    pub(super) fn room<T: DeviceRepr + ValidAsZeroBits>(&self, values: usize) -> Result<CudaSlice<T>, ModelError> {
        // SAFETY: every bit pattern is a value of such a type, and the kernels write what they later read.
        Ok(unsafe { self.stream.alloc(values) }.w()?)
    }

    /// Copies values to the start of a buffer.
    pub(super) fn write<T: DeviceRepr>(&self, values: &[T], to: &mut CudaSlice<T>) -> Result<(), ModelError> {
        Ok(self.stream.memcpy_htod(values, to).w()?)
    }

    /// Copies the start of a buffer to the host. Wait for the stream before looking at it.
    pub(super) fn read(&self, from: &CudaSlice<f32>, to: &mut [f32]) -> Result<(), ModelError> {
        Ok(self.stream.memcpy_dtoh(&from.slice(..to.len()), to).w()?)
    }

    /// `out (rows, width)` = token embedding + position embedding; `places (rows, 2)` holds ids and positions, which the
    /// caller has checked against the tables.
    pub(super) fn embed(
        &self,
        out: &mut CudaSlice<f32>,
        places: &CudaSlice<u32>,
        wte: &CudaSlice<f32>,
        wpe: &CudaSlice<f32>,
        (rows, width): (usize, usize),
    ) -> Result<(), ModelError> {
        fits("embeddings", out, rows * width);
        fits("places", places, 2 * rows);
        let columns = width as u32;
        let mut launch = self.stream.launch_builder(&self.embed);
        launch.arg(out).arg(places).arg(wte).arg(wpe).arg(&columns);
        // SAFETY: these are the arguments of the kernel; the sizes were checked, ids and positions by the caller.
        unsafe { launch.launch(blocks(rows, THREADS)) }.w()?;
        Ok(())
    }

    /// `out (count, width)`: layer norms of the rows of `x` that `picked (count)` names, or of its first rows.
    pub(super) fn layer_norm(
        &self,
        out: &mut CudaSlice<f32>,
        x: &CudaSlice<f32>,
        picked: Option<&CudaSlice<u32>>,
        norm: &Norm,
        (count, width): (usize, usize),
        epsilon: f32,
    ) -> Result<(), ModelError> {
        fits("norms", out, count * width);
        fits("input of a norm", x, count * width);
        fits("norm weights", &norm.weight, width);
        fits("norm biases", &norm.bias, width);
        let (rows, columns, all) = (count as u32, width as u32, 0u64);
        let mut launch = self.stream.launch_builder(&self.layer_norm);
        launch.arg(out).arg(x);
        match picked {
            Some(picked) => {
                fits("picked rows", picked, count);
                launch.arg(picked);
            }
            None => {
                launch.arg(&all);
            }
        }
        launch.arg(&norm.weight).arg(&norm.bias);
        launch.arg(&rows).arg(&columns).arg(&epsilon);
        // SAFETY: these are the arguments of the kernel; the sizes were checked, picked rows are rows of the pass.
        unsafe { launch.launch(blocks((32 * count).div_ceil(THREADS), THREADS)) }.w()?;
        Ok(())
    }

    /// Each row of `out (rows, width)` and `bias (width)`.
    pub(super) fn bias(
        &self,
        out: &mut CudaSlice<f32>,
        bias: &CudaSlice<f32>,
        rows: usize,
        then: Bias,
    ) -> Result<(), ModelError> {
        let count = rows * bias.len();
        fits("output of a bias", out, count);
        let function = match then {
            Bias::Add => &self.bias_add,
            Bias::Activate(Activation::GeluTanh) => &self.bias_gelu_tanh,
            Bias::Activate(Activation::GeluErf) => &self.bias_gelu_erf,
        };
        let (elements, columns) = (count as u32, bias.len() as u32);
        let mut launch = self.stream.launch_builder(function);
        launch.arg(out).arg(bias).arg(&elements).arg(&columns);
        // SAFETY: these are the arguments of the kernels; the size was checked, and fits 32 bits.
        unsafe { launch.launch(blocks(count.div_ceil(THREADS), THREADS)) }.w()?;
        Ok(())
    }

    /// `out (rows, outputs)` = `x (rows, inputs)` times the matrix, by cuBLAS in f32.
    pub(super) fn product(
        &self,
        out: &mut CudaSlice<f32>,
        x: &CudaSlice<f32>,
        matrix: &Matrix,
        rows: usize,
        into: Into,
    ) -> Result<(), ModelError> {
        fits("output of a product", out, rows * matrix.outputs);
        fits("input of a product", x, rows * matrix.inputs);
        fits("weights", &matrix.data, matrix.inputs * matrix.outputs);
        // cuBLAS takes matrices column by column: ours, row by row, are its transposed ones.
        let (transa, lda) = match matrix.by_output {
            true => (Operation::CUBLAS_OP_T, matrix.inputs),
            false => (Operation::CUBLAS_OP_N, matrix.outputs),
        };
        let config = GemmConfig {
            transa,
            transb: Operation::CUBLAS_OP_N,
            m: matrix.outputs as i32,
            n: rows as i32,
            k: matrix.inputs as i32,
            alpha: 1.0,
            lda: lda as i32,
            ldb: matrix.inputs as i32,
            beta: if into == Into::Add { 1.0 } else { 0.0 },
            ldc: matrix.outputs as i32,
        };
        // SAFETY: the sizes were checked, and the buffers are different ones.
        Ok(unsafe { self.blas.gemm(config, &matrix.data, x, out) }.w()?)
    }

    /// Attention of a group of sequences whose keys, values and queries stand in `qkv (rows, 3, width)` from row `row` on:
    /// keys and values go to their rows of the cache, then every query attends over all rows of its sequence, to
    /// `out (rows, width)`. Entries `first..` of the table name the rows of the cache.
    ///
    /// # Safety
    /// The table holds the plan's sequences from `first` on. Their rows are mapped and stay so until the stream has come
    /// past this, and the last `queries` rows of each are its own alone.
    pub(super) unsafe fn attend(
        &self,
        plan: &Plan,
        (table, first): (&CudaSlice<u64>, usize),
        (qkv, out): (&CudaSlice<f32>, &mut CudaSlice<f32>),
        (row, width): (usize, usize),
        partial: &mut CudaSlice<f32>,
    ) -> Result<(), ModelError> {
        let (entries, last) = (first + plan.sequences.len(), row + plan.query_rows as usize);
        fits("table", table, entries * ENTRY);
        fits("queries, keys and values", qkv, last * 3 * width);
        fits("attended rows", out, last * width);
        fits("partial sums", partial, plan.partial_bytes as usize / size_of::<f32>());

        let longest = plan.sequences.iter().map(|sequence| sequence.queries).max();
        let grid = LaunchConfig {
            grid_dim: (longest.unwrap_or(1), plan.sequences.len() as u32, 1),
            block_dim: (THREADS as u32, 1, 1),
            shared_mem_bytes: 0,
        };
        let (entries, rows) = (
            table.slice(first * ENTRY..entries * ENTRY),
            qkv.slice(row * 3 * width..),
        );
        let columns = width as u32;
        let mut launch = self.stream.launch_builder(&self.append);
        launch
            .arg(&entries)
            .arg(&rows)
            .arg(&columns)
            .arg(&plan.attention.row_stride);
        // SAFETY: these are the arguments of the kernel; the sizes were checked, the rest is the caller's promise.
        unsafe { launch.launch(grid) }.w()?;

        let parameter = Parameter(Attention {
            sequences: address(table, &self.stream) + (first * ENTRY * size_of::<u64>()) as u64,
            queries: address(qkv, &self.stream) + (row * 3 * width * size_of::<f32>()) as u64,
            out: address(out, &self.stream) + (row * width * size_of::<f32>()) as u64,
            partial: address(partial, &self.stream),
            ..plan.attention
        });
        for launch in [Some(plan.attend), plan.merge].into_iter().flatten() {
            let found = self.attention.iter().find(|(name, _)| *name == launch.kernel);
            let (_, function) = found.expect("every kernel that plans name was loaded");
            let [[x, y, z], [tx, ty, tz]] = [launch.grid, launch.block];
            let grid = LaunchConfig {
                grid_dim: (x, y, z),
                block_dim: (tx, ty, tz),
                shared_mem_bytes: launch.shared_bytes,
            };
            // SAFETY: the kernels take this one parameter; what its addresses point to is the caller's promise.
            unsafe { self.stream.launch_builder(function).arg(&parameter).launch(grid) }.w()?;
        }
        Ok(())
    }
}

/// Words of an entry of the table, `vattn_kernels::Sequence`.
pub(super) const ENTRY: usize = size_of::<vattn_kernels::Sequence>() / size_of::<u64>();

/// The address of a buffer, for use on the stream alone.
fn address<T>(slice: &CudaSlice<T>, stream: &CudaStream) -> u64 {
    use candle_core::cuda_backend::cudarc::driver::DevicePtr;
    slice.device_ptr(stream).0
}

/// A kernel must not be started on less memory than it touches.
fn fits<T>(what: &str, slice: &impl DeviceSlice<T>, values: usize) {
    assert!(
        slice.len() >= values && values <= i32::MAX as usize,
        "{what}: {values} values in a buffer of {}",
        slice.len()
    );
}

fn blocks(blocks: usize, threads: usize) -> LaunchConfig {
    LaunchConfig {
        grid_dim: (blocks as u32, 1, 1),
        block_dim: (threads as u32, 1, 1),
        shared_mem_bytes: 0,
    }
}
