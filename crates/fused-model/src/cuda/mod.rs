//! GPT-2 on a CUDA device: weights and activations in memory of candle's device, keys and values in rows of the virtual
//! store in place.
//!
//! Matrix products are cuBLAS's, on candle's handle. Attention is the kernel of `vattn-kernels`, which reads rows at their
//! contiguous addresses, and what is left are the small kernels of `gpt2.cu`. All are shipped as PTX, which the driver
//! compiles for the device.
//!
//! # Order of work
//!
//! candle's default device works on the per-thread default stream: the same handle is another stream on every thread, and
//! nothing orders them. A model may be made on one thread and run on others, so it records an event behind what it has started,
//! and whoever runs it next, or drops it, lets his stream wait for that event first. Rows are held by a fence of the same kind:
//! the allocator gives no memory back before it is done.

mod kernels;

use candle_core::{CudaDevice, Device};
use vattn::cuda::CudaBackend;
use vattn::cuda::driver::Event;
use vattn_kernels::{Element, Plan, Rows, Shape};

use self::kernels::{Bias, ENTRY, Into, Kernels, Matrix, Norm};
use crate::config::Gpt2Config;
use crate::error::ModelError;
use crate::kv::{CudaKv, KvError, KvGeometry, KvStore};
use crate::model::{Batch, CausalLm, Chunk, Logits, Part, plan};
use crate::params::Params;

use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DeviceRepr, ValidAsZeroBits};

/// Most columns of a head that the attention kernel takes.
const MOST_HEAD_DIM: usize = 128;

#[derive(Debug)]
struct Linear {
    weight: Matrix,
    bias: CudaSlice<f32>,
}

#[derive(Debug)]
struct Block {
    ln1: Norm,
    qkv: Linear,
    proj: Linear,
    ln2: Norm,
    fc: Linear,
    fc_proj: Linear,
}

#[derive(Debug)]
struct Weights {
    /// The token embedding `(V, C)`, and the head of a tied model.
    wte: Matrix,
    wpe: CudaSlice<f32>,
    blocks: Vec<Block>,
    ln_f: Norm,
    /// The head `(V, C)` of an untied model.
    head: Option<Matrix>,
}

/// Buffers of a pass on the device; they grow to the largest pass and stay.
#[derive(Debug)]
struct Work {
    /// Id and position of each row.
    places: CudaSlice<u32>,
    /// Rows that logits are wanted for.
    picked: CudaSlice<u32>,
    /// Rows of the cache: for each layer, an entry for each sequence.
    table: CudaSlice<u64>,
    x: CudaSlice<f32>,
    normed: CudaSlice<f32>,
    qkv: CudaSlice<f32>,
    attended: CudaSlice<f32>,
    wide: CudaSlice<f32>,
    logits: CudaSlice<f32>,
    partial: CudaSlice<f32>,
}

/// Sequences one after the other that one attention plan suits: all decode, or all have a longer chunk.
struct Group {
    plan: Plan,
    /// Its first sequence.
    first: usize,
    /// Its first row.
    row: usize,
}

/// A GPT-2 model ready to run on a CUDA device, in `f32`, over a [`CudaKv`].
///
/// It may be made on one thread and run on another. A pass has ended when [`CausalLm::forward`] returns.
#[derive(Debug)]
pub struct CudaGpt2 {
    config: Gpt2Config,
    backend: CudaBackend,
    multiprocessors: u32,
    /// Behind all work that this model has started, on any thread.
    last: Event,
    work: Work,
    weights: Weights,
    kernels: Kernels,
    parts: Batch,
    logits: Vec<f32>,
}

impl CudaGpt2 {
    /// Copies a model's weights to `device`, a CUDA device of candle on whichever stream, and compiles the kernels for it.
    ///
    /// # Errors
    /// [`ModelError::Tensor`] when it is not a CUDA device, has no room, or refuses the kernels; [`ModelError::NoDevice`] when
    /// it does not manage virtual memory; [`ModelError::Request`] for heads of more than 128 columns;
    /// [`ModelError::Mismatch`] for the weights of another family.
    pub fn new(params: &Params, device: &Device) -> Result<Self, ModelError> {
        let device: &CudaDevice = device.as_cuda_device()?;
        let config = params.config().gpt2()?.clone();
        if config.head_dim() > MOST_HEAD_DIM {
            return Err(ModelError::Request(format!(
                "the model has heads of {} columns; the attention kernel takes {MOST_HEAD_DIM}: run it on the CPU",
                config.head_dim()
            )));
        }
        let ordinal = device.cuda_stream().context().ordinal();
        let backend = CudaBackend::open(ordinal as i32)?;
        let kernels = Kernels::new(device)?;
        let weights = Weights::new(params, &kernels)?;
        let work = Work::new(&kernels)?;
        Ok(Self {
            config,
            multiprocessors: backend.driver().info()?.multiprocessors,
            last: backend.driver().record(kernels.stream())?,
            backend,
            work,
            weights,
            kernels,
            parts: Batch::default(),
            logits: Vec::new(),
        })
    }

    /// A store for this model on its device: up to `max_sequences` sequences, `budget_bytes` of memory at most.
    ///
    /// # Errors
    /// [`KvError::Allocator`] when addresses cannot be had.
    pub fn store(&self, max_sequences: usize, budget_bytes: usize) -> Result<CudaKv, KvError> {
        CudaKv::with_backend(self.backend.clone(), &self.kv_geometry(max_sequences), budget_bytes)
    }

    /// The model's shape.
    pub fn config(&self) -> &Gpt2Config {
        &self.config
    }

    /// The device's allocator.
    pub fn backend(&self) -> &CudaBackend {
        &self.backend
    }

    /// The store as one of this device.
    fn rows_on_device<'a>(&self, kv: &'a mut dyn KvStore) -> Result<&'a mut CudaKv, ModelError> {
        let name = kv.name();
        let store = kv.cuda().ok_or_else(|| {
            ModelError::Mismatch(format!(
                "the KV store is {name}; a model on CUDA needs a store on its device"
            ))
        })?;
        let (own, other) = (self.backend.driver().ordinal(), store.device());
        if own != other {
            return Err(ModelError::Mismatch(format!(
                "the KV store is on CUDA device {other} and the model on {own}: make both on one"
            )));
        }
        Ok(store)
    }

    /// Starts the pass. Returns how many rows of logits come.
    fn start(&mut self, store: &CudaKv, chunks: &[Chunk<'_>], wanted: Logits) -> Result<usize, ModelError> {
        self.backend.driver().wait_event(self.kernels.stream(), &self.last)?;
        let Self {
            config,
            kernels,
            weights,
            work,
            parts,
            ..
        } = self;
        let (c, inner, vocab) = (config.n_embd, config.inner(), config.vocab_size);
        let rows = parts.iter().map(|part| part.rows).sum::<usize>();
        let picked: Vec<_> = match wanted {
            Logits::Last => parts.iter().map(|part| (part.row + part.rows - 1) as u32).collect(),
            Logits::All => Vec::new(),
        };
        let outputs = if picked.is_empty() { rows } else { picked.len() };
        let places = parts.iter().zip(chunks).flat_map(|(part, chunk)| {
            let positions = part.start as u32..;
            chunk
                .ids
                .iter()
                .zip(positions)
                .flat_map(|(&id, position)| [id, position])
        });
        let places: Vec<_> = places.collect();
        let groups = groups(config, store, parts, self.multiprocessors)?;
        let table = table(store, parts, &groups, config.n_layer)?;
        let partial = groups.iter().map(|group| group.plan.partial_bytes).max().unwrap_or(0);

        kernels.put(&places, &mut work.places)?;
        kernels.put(&picked, &mut work.picked)?;
        kernels.put(&table, &mut work.table)?;
        for (buffer, floats) in [
            (&mut work.x, rows * c),
            (&mut work.normed, rows * c),
            (&mut work.qkv, rows * 3 * c),
            (&mut work.attended, rows * c),
            (&mut work.wide, rows * inner),
            (&mut work.logits, outputs * vocab),
            (&mut work.partial, partial as usize / size_of::<f32>()),
        ] {
            kernels.reserve(buffer, floats)?;
        }

        let (size, epsilon) = ((rows, c), config.layer_norm_epsilon as f32);
        kernels.embed(&mut work.x, &work.places, &weights.wte.data, &weights.wpe, size)?;
        for (layer, block) in weights.blocks.iter().enumerate() {
            kernels.layer_norm(&mut work.normed, &work.x, None, &block.ln1, size, epsilon)?;
            kernels.product(&mut work.qkv, &work.normed, &block.qkv.weight, rows, Into::Store)?;
            kernels.bias(&mut work.qkv, &block.qkv.bias, rows, Bias::Add)?;
            for group in &groups {
                let first = layer * parts.len() + group.first;
                // SAFETY: the table was written for these groups. `plan` has grown the sequences, so that their rows are
                // mapped and the new ones their own. The caller holds the store until a fence or a wait is behind this.
                #[allow(unsafe_code)]
                unsafe {
                    kernels.attend(
                        &group.plan,
                        (&work.table, first),
                        (&work.qkv, &mut work.attended),
                        (group.row, c),
                        &mut work.partial,
                    )
                }?;
            }
            kernels.bias(&mut work.x, &block.proj.bias, rows, Bias::Add)?;
            kernels.product(&mut work.x, &work.attended, &block.proj.weight, rows, Into::Add)?;

            kernels.layer_norm(&mut work.normed, &work.x, None, &block.ln2, size, epsilon)?;
            kernels.product(&mut work.wide, &work.normed, &block.fc.weight, rows, Into::Store)?;
            let activate = Bias::Activate(config.activation_function);
            kernels.bias(&mut work.wide, &block.fc.bias, rows, activate)?;
            kernels.bias(&mut work.x, &block.fc_proj.bias, rows, Bias::Add)?;
            kernels.product(&mut work.x, &work.wide, &block.fc_proj.weight, rows, Into::Add)?;
        }
        let last = (wanted == Logits::Last).then_some(&work.picked);
        kernels.layer_norm(&mut work.normed, &work.x, last, &weights.ln_f, (outputs, c), epsilon)?;
        let head = weights.head.as_ref().unwrap_or(&weights.wte);
        kernels.product(&mut work.logits, &work.normed, head, outputs, Into::Store)?;
        Ok(outputs)
    }

    /// Puts a fence and an event behind what was started.
    fn hold(&mut self, store: &mut CudaKv) -> Result<(), ModelError> {
        let stream = self.kernels.stream();
        self.last = self.backend.driver().record(stream)?;
        let fence = self.backend.fence_on(&[stream]).map_err(KvError::from)?;
        store.in_use(self.parts.iter().map(|part| part.sequence), fence)?;
        Ok(())
    }
}

impl CausalLm for CudaGpt2 {
    fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    fn context(&self) -> usize {
        self.config.n_positions
    }

    fn kv_geometry(&self, max_sequences: usize) -> KvGeometry {
        self.config.kv_geometry(max_sequences)
    }

    fn forward(&mut self, kv: &mut dyn KvStore, chunks: &[Chunk<'_>], wanted: Logits) -> Result<&[f32], ModelError> {
        self.rows_on_device(kv)?;
        let rows = chunks.iter().map(|chunk| chunk.ids.len()).sum::<usize>();
        let widest = self
            .config
            .vocab_size
            .max(self.config.inner())
            .max(3 * self.config.n_embd);
        if rows > i32::MAX as usize / widest {
            return Err(ModelError::Request(format!(
                "a pass of {rows} tokens; at most {} fit the counts of the kernels: cut it",
                i32::MAX as usize / widest
            )));
        }
        let mut parts = std::mem::take(&mut self.parts);
        let planned = plan(&mut parts, self, kv, chunks);
        self.parts = parts;
        planned?;

        let store = self.rows_on_device(kv)?;
        let started = self.start(store, chunks, wanted);
        // Also a pass that failed has started something.
        let held = self.hold(store);
        let ended = self.kernels.wait();
        if started.is_err() || held.is_err() || ended.is_err() {
            // Nothing is behind the device's own end.
            let _ = self.backend.driver().synchronize();
        }
        let outputs = started?;
        held?;
        ended?;
        self.logits.resize(outputs * self.config.vocab_size, 0.0);
        self.kernels.read(&self.work.logits, &mut self.logits)?;
        Ok(&self.logits)
    }
}

impl Drop for CudaGpt2 {
    fn drop(&mut self) {
        // The buffers are freed in the order of this thread's stream. Where even that wait is refused, the device is waited for.
        let driver = self.backend.driver();
        if driver.wait_event(self.kernels.stream(), &self.last).is_err() {
            let _ = driver.synchronize();
        }
    }
}

impl Weights {
    fn new(params: &Params, kernels: &Kernels) -> Result<Self, ModelError> {
        let config = params.config().gpt2()?;
        let (c, inner, vocab) = (config.n_embd, config.inner(), config.vocab_size);
        let values = |name: &str| {
            let values = params.get(name);
            values.ok_or_else(|| ModelError::Mismatch(format!("the model has no weights called {name}")))
        };
        let vector = |name: String| kernels.upload(values(&name)?);
        let matrix = |name: &str, (inputs, outputs), by_output| {
            let data = kernels.upload(values(name)?)?;
            Ok::<_, ModelError>(Matrix {
                data,
                inputs,
                outputs,
                by_output,
            })
        };
        let norm = |part: String| {
            Ok::<_, ModelError>(Norm {
                weight: vector(format!("{part}.weight"))?,
                bias: vector(format!("{part}.bias"))?,
            })
        };
        let linear = |part: String, shape| {
            Ok::<_, ModelError>(Linear {
                weight: matrix(&format!("{part}.weight"), shape, false)?,
                bias: vector(format!("{part}.bias"))?,
            })
        };
        let block = |layer| {
            let part = |name: &str| format!("transformer.h.{layer}.{name}");
            Ok::<_, ModelError>(Block {
                ln1: norm(part("ln_1"))?,
                qkv: linear(part("attn.c_attn"), (c, 3 * c))?,
                proj: linear(part("attn.c_proj"), (c, c))?,
                ln2: norm(part("ln_2"))?,
                fc: linear(part("mlp.c_fc"), (c, inner))?,
                fc_proj: linear(part("mlp.c_proj"), (inner, c))?,
            })
        };
        let untied = !config.tie_word_embeddings;
        Ok(Self {
            wte: matrix("transformer.wte.weight", (c, vocab), true)?,
            wpe: vector("transformer.wpe.weight".into())?,
            blocks: (0..config.n_layer).map(block).collect::<Result<_, _>>()?,
            ln_f: norm("transformer.ln_f".into())?,
            head: untied.then(|| matrix("lm_head.weight", (c, vocab), true)).transpose()?,
        })
    }
}

impl Work {
    fn new(kernels: &Kernels) -> Result<Self, ModelError> {
        Ok(Self {
            places: kernels.room(1)?,
            picked: kernels.room(1)?,
            table: kernels.room(1)?,
            x: kernels.room(1)?,
            normed: kernels.room(1)?,
            qkv: kernels.room(1)?,
            attended: kernels.room(1)?,
            wide: kernels.room(1)?,
            logits: kernels.room(1)?,
            partial: kernels.room(1)?,
        })
    }
}

impl Kernels {
    /// Gives a buffer room for this many values; what it held is lost then.
    fn reserve<T: DeviceRepr + ValidAsZeroBits>(
        &self,
        buffer: &mut CudaSlice<T>,
        values: usize,
    ) -> Result<(), ModelError> {
        if buffer.len() < values {
            *buffer = self.room(values.next_power_of_two())?;
        }
        Ok(())
    }

    /// Copies values to a buffer, which grows where they do not fit.
    fn put<T: DeviceRepr + ValidAsZeroBits>(&self, values: &[T], to: &mut CudaSlice<T>) -> Result<(), ModelError> {
        self.reserve(to, values.len())?;
        match values.is_empty() {
            true => Ok(()),
            false => self.write(values, to),
        }
    }
}

/// Shares the sequences out: neighbours that all decode, or that all have more than one new token, go together.
fn groups(config: &Gpt2Config, store: &CudaKv, parts: &[Part], multiprocessors: u32) -> Result<Vec<Group>, ModelError> {
    let mut first = 0;
    let neighbours = parts.chunk_by(|a, b| (a.rows == 1) == (b.rows == 1));
    let group = |parts: &[Part]| {
        let batch = parts.iter().map(|part| {
            let (k, v, _) = store.addresses(part.sequence, 0)?;
            Ok(Rows::new(k, v, part.rows as u32, (part.start + part.rows) as u32))
        });
        let batch = batch.collect::<Result<Vec<_>, KvError>>()?;
        let (_, _, row_stride) = store.addresses(parts[0].sequence, 0)?;
        let packed = Shape::packed(
            Element::F32,
            config.n_head as u32,
            config.n_head as u32,
            config.head_dim() as u32,
        );
        let shape = Shape {
            query_stride: 3 * packed.query_stride,
            row_stride: row_stride as u32,
            ..packed
        };
        let refused = |error: vattn_kernels::Error| ModelError::Request(error.to_string());
        let group = Group {
            plan: shape.plan(&batch, multiprocessors).map_err(refused)?,
            first,
            row: parts[0].row,
        };
        first += parts.len();
        Ok(group)
    };
    neighbours.map(group).collect()
}

/// Entries of all layers for the kernels, as words.
fn table(store: &CudaKv, parts: &[Part], groups: &[Group], layers: usize) -> Result<Vec<u64>, ModelError> {
    let mut words = Vec::with_capacity(layers * parts.len() * ENTRY);
    for layer in 0..layers {
        let sequences = groups.iter().flat_map(|group| &group.plan.sequences);
        for (part, sequence) in parts.iter().zip(sequences) {
            let (k, v, _) = store.addresses(part.sequence, layer)?;
            let bytes = vattn_kernels::Sequence { k, v, ..*sequence }.to_bytes();
            words.extend(bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)));
        }
    }
    Ok(words)
}
