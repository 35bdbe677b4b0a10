//! The tensors of a Hugging Face directory: `model.safetensors`, or the shards that `model.safetensors.index.json` names,
//! mapped into memory and widened one tensor at a time.
#![allow(unsafe_code)] // mapping a file

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::tensor::{Dtype, Metadata, SafeTensors};

use crate::error::ModelError;

/// Faults of a file that one message names.
const NAMED_FAULTS: usize = 8;

/// How far reading a model has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Weights read.
    pub done: usize,
    /// Weights of the model.
    pub total: usize,
}

/// One mapped file.
#[derive(Debug)]
struct Shard {
    path: PathBuf,
    map: Mmap,
    header: Metadata,
    /// First byte behind the header.
    data: usize,
}

impl Shard {
    fn open(path: PathBuf) -> Result<Self, ModelError> {
        let io = |source| ModelError::Io {
            path: path.clone(),
            source,
        };
        let file = File::open(&path).map_err(io)?;
        // SAFETY: a mapped file must not change while it is mapped. This process changes none: it writes files aside and
        // renames them, which leaves the mapped one whole. That no other process does is asked of the caller
        // (`docs/models.md`), since no system call can promise it.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        let (header_bytes, header) = SafeTensors::read_metadata(&map).map_err(|error| ModelError::Weights {
            path: path.clone(),
            why: format!("not a safetensors file: {error}"),
        })?;
        Ok(Self {
            path,
            map,
            header,
            data: size_of::<u64>() + header_bytes,
        })
    }

    /// Where a tensor of this file is, the file being number `shard`.
    fn place(&self, shard: usize, name: &str) -> Option<Place> {
        let info = self.header.info(name)?;
        let (start, end) = info.data_offsets;
        Some(Place {
            shard,
            dtype: info.dtype,
            shape: info.shape.clone(),
            bytes: self.data + start..self.data + end,
        })
    }
}

/// A tensor in a shard.
#[derive(Debug)]
struct Place {
    shard: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Range<usize>,
}

/// The weight files of a directory.
#[derive(Debug)]
pub(crate) struct WeightFiles {
    /// The file that faults of the whole are charged to: the only one, or the index.
    path: PathBuf,
    shards: Vec<Shard>,
    /// By the name without the prefix.
    places: BTreeMap<String, Place>,
    prefix: &'static str,
}

impl WeightFiles {
    /// Maps the files of `dir`. Names are compared without `prefix`, which some files have and others lack.
    ///
    /// # Errors
    /// [`ModelError::Io`] for a file that cannot be mapped, [`ModelError::Weights`] for one that is damaged.
    pub(crate) fn open(dir: &Path, prefix: &'static str) -> Result<Self, ModelError> {
        let single = dir.join("model.safetensors");
        let index = dir.join("model.safetensors.index.json");
        let mut files = Self {
            path: single.clone(),
            shards: Vec::new(),
            places: BTreeMap::new(),
            prefix,
        };
        if index.exists() && !single.exists() {
            files.path = index;
            files.open_shards(dir)?;
        } else {
            let shard = Shard::open(single)?;
            for name in shard.header.offset_keys() {
                if let Some(place) = shard.place(0, &name) {
                    files.add(&name, place)?;
                }
            }
            files.shards.push(shard);
        }
        Ok(files)
    }

    fn open_shards(&mut self, dir: &Path) -> Result<(), ModelError> {
        #[derive(serde::Deserialize)]
        struct Index {
            weight_map: BTreeMap<String, String>,
        }
        let index = crate::files::read(&self.path)?;
        let index: Index =
            serde_json::from_slice(&index).map_err(|error| self.fault(format!("not an index of shards: {error}")))?;
        let mut numbers: BTreeMap<String, usize> = BTreeMap::new();
        for (name, file) in index.weight_map {
            let shard = match numbers.get(&file) {
                Some(&shard) => shard,
                None => {
                    // A name, not a path: an index must not reach files elsewhere.
                    if Path::new(&file).file_name().is_none_or(|last| last != file.as_str()) {
                        return Err(self.fault(format!("tensor {name} is in {file:?}, which is no name of a file")));
                    }
                    self.shards.push(Shard::open(dir.join(&file))?);
                    numbers.insert(file.clone(), self.shards.len() - 1);
                    self.shards.len() - 1
                }
            };
            let place = self.shards[shard].place(shard, &name);
            let place =
                place.ok_or_else(|| self.fault(format!("tensor {name} is not in {file}, which should have it")))?;
            self.add(&name, place)?;
        }
        Ok(())
    }

    fn add(&mut self, name: &str, place: Place) -> Result<(), ModelError> {
        let short = self.short(name).to_owned();
        match self.places.insert(short, place) {
            None => Ok(()),
            Some(_) => Err(self.fault(format!(
                "tensor {name} is there twice, with and without the prefix {:?}: save the model again",
                self.prefix
            ))),
        }
    }

    fn short<'n>(&self, name: &'n str) -> &'n str {
        name.strip_prefix(self.prefix).unwrap_or(name)
    }

    fn fault(&self, why: String) -> ModelError {
        ModelError::Weights {
            path: self.path.clone(),
            why,
        }
    }

    /// Checks that every tensor is there, in its shape and in a type that can be read. Nothing is allocated for weights
    /// before this: a hostile configuration cannot ask for more memory than the files hold.
    ///
    /// # Errors
    /// [`ModelError::Weights`] naming the first faults and counting the others.
    pub(crate) fn check<'t>(&self, wanted: impl Iterator<Item = (&'t str, &'t [usize])>) -> Result<(), ModelError> {
        let mut faults: Vec<String> = wanted.filter_map(|(name, shape)| self.fault_of(name, shape)).collect();
        if faults.is_empty() {
            return Ok(());
        }
        let unnamed = faults.len().saturating_sub(NAMED_FAULTS);
        faults.truncate(NAMED_FAULTS);
        if unnamed > 0 {
            faults.push(format!("and {unnamed} more"));
        }
        Err(self.fault(faults.join("; ")))
    }

    fn fault_of(&self, name: &str, shape: &[usize]) -> Option<String> {
        let Some(place) = self.places.get(self.short(name)) else {
            return Some(format!("tensor {name} is missing; config.json asks for {shape:?}"));
        };
        if place.shape != shape {
            return Some(format!(
                "tensor {name} has shape {:?}; config.json asks for {shape:?}",
                place.shape
            ));
        }
        (!matches!(place.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16)).then(|| {
            format!(
                "tensor {name}: type {:?} is not supported; save the model as F32, F16 or BF16",
                place.dtype
            )
        })
    }

    /// The values of a tensor, in place where they are `f32`.
    ///
    /// # Errors
    /// As [`check`](Self::check); [`ModelError::Weights`] for a value that is not finite.
    pub(crate) fn read(&self, name: &str, shape: &[usize]) -> Result<Cow<'_, [f32]>, ModelError> {
        self.check(std::iter::once((name, shape)))?;
        let place = &self.places[self.short(name)];
        let shard = &self.shards[place.shard];
        let bytes = &shard.map[place.bytes.clone()];
        let values = match place.dtype {
            Dtype::F32 => match bytemuck::try_cast_slice(bytes) {
                Ok(values) if cfg!(target_endian = "little") => Cow::Borrowed(values),
                _ => widen(bytes, f32::from_le_bytes),
            },
            Dtype::F16 => widen(bytes, |bytes| f16::from_le_bytes(bytes).to_f32()),
            _ => widen(bytes, |bytes| bf16::from_le_bytes(bytes).to_f32()),
        };
        match values.iter().find(|value| !value.is_finite()) {
            None => Ok(values),
            Some(bad) => Err(ModelError::Weights {
                path: shard.path.clone(),
                why: format!("tensor {name} holds {bad}"),
            }),
        }
    }
}

fn widen<const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> f32) -> Cow<'_, [f32]> {
    Cow::Owned(bytes.as_chunks::<N>().0.iter().map(|bytes| number(*bytes)).collect())
}
