//! Runs, scores, adapts and trains GPT-2 and Llama-family models on the CPU, with a choice of where keys and values live. It joins a patched tokenizer ([`patchtok`]) and a virtual-memory KV cache ([`vattn`]) to one model, and
//! keeps the alternatives beside them so that they can be compared. With feature `cuda` GPT-2 runs on a CUDA device too.
//!
//! You will meet these types and functions:
//!
//! * [`Params`], all weights of a model, whose shape is a [`ModelConfig`]: drawn at random, read from or written to a Hugging
//!   Face directory; [`Model`], a [`Gpt2`] or a [`Llama`] made from them;
//! * [`load`](load()), which makes a model ready to run from a Hugging Face directory, behind [`CausalLm`];
//! * [`kv::KvStore`], where it keeps keys and values: [`kv::StaticKv`] reserves every sequence's longest length,
//!   [`kv::PagedKv`] hands out blocks, [`kv::VirtualKv`] maps memory behind contiguous addresses as sequences grow; each
//!   keeps them in `f32` or, at half the bytes, in f16 ([`kv::KvType`]);
//! * [`Engine`], which serves many [`Request`]s at once, [`generate`], which continues a batch of them, and
//!   [`score`](score()), which says how many bits per byte a model needs for a text;
//! * [`adapt`], which gives the new tokens of a patched tokenizer rows and writes Hugging Face directories;
//! * [`train::Trainer`], which trains a model from scratch or tunes an adapted one.
//!
//! ```
//! use fused_model::kv::{KvStore, VirtualKv};
//! use fused_model::{CausalLm, Gpt2, Gpt2Config, Options, Params, Request, generate};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // 64 tokens of vocabulary, 32 of context, width 16, 2 layers, 2 heads; weights drawn from seed 1.
//! let params = Params::random(Gpt2Config::new(64, 32, 16, 2, 2), 1);
//! let mut model = Gpt2::new(&params, Options::default())?;
//!
//! // Room for 4 sequences, in frames of 64 KiB, 16 MiB at most.
//! let mut kv = VirtualKv::new(&model.kv_geometry(4), 64 << 10, 16 << 20)?;
//!
//! let request = Request::greedy(vec![3, 14, 15], 8);
//! let outputs = generate(&mut model, &mut kv, &[request.clone(), request], 2, &mut |_event| {})?;
//! assert_eq!(outputs[0].len(), 8);
//! assert_eq!(outputs[0], outputs[1]);
//! assert_eq!(kv.memory().used_bytes, 0); // finished sequences give their memory back
//! # Ok(())
//! # }
//! ```
//!
//! It is a library to call, not a server.
//!
//! # Features
//!
//! * `cuda`: `CudaGpt2` and `kv::CudaKv`, the model on a CUDA device of candle. It takes the CUDA toolkit to build, and the program
//!   starts only where the driver is; `docs/cuda.md` says what of it has met a real card.

pub mod adapt;
mod attention;
pub mod chat;
mod config;
#[cfg(feature = "cuda")]
mod cuda;
pub mod engine;
mod error;
mod files;
mod gpt2;
pub mod hub;
mod kernels;
pub mod kv;
mod linear;
mod llama;
mod load;
mod model;
mod pages;
mod params;
mod pass;
mod reference;
mod rng;
mod score;
mod threads;
pub mod train;
mod weights;

pub use config::{Activation, Gpt2Config};
#[cfg(feature = "cuda")]
pub use cuda::CudaGpt2;
pub use engine::{Engine, EngineConfig, Event, Reply, Request, generate};
pub use error::ModelError;
pub use gpt2::Gpt2;
pub use gpt2::reference::ReferenceGpt2;
pub use linear::Precision;
pub use llama::reference::ReferenceLlama;
pub use llama::{Llama, LlamaConfig, RopeScaling};
pub use load::{Model, end_ids, load, load_and_tell};
pub use model::{CausalLm, Chunk, Logits, Options, argmax};
pub use params::{ModelConfig, Params, SaveAs};
pub use score::{Heldout, Score, score, score_model};
pub use weights::Progress;
