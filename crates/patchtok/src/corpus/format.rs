//! How a file holds documents, and opening it.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::MultiGzDecoder;

use super::TEXT_EXTENSIONS;
use crate::{Error, Result};

/// What a file is, by the ending of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Text(Packing),
    Lines(Packing),
    Parquet,
}

/// How the bytes of a text or `.jsonl` file are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    Plain,
    Gzip,
    Zstd,
}

impl Format {
    /// The format that the ending of the name says, `None` for an ending that is not one of a text
    /// file.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?.to_ascii_lowercase();
        let (stem, packing) = Packing::of(&name);
        let ending = Path::new(stem).extension()?.to_str()?;
        match ending {
            "parquet" if packing == Packing::Plain => Some(Format::Parquet),
            "jsonl" | "ndjson" => Some(Format::Lines(packing)),
            _ => TEXT_EXTENSIONS.contains(&ending).then_some(Format::Text(packing)),
        }
    }

    /// The format of a file that was named though its ending says nothing.
    pub(super) fn text(path: &Path) -> Self {
        let name = path.to_string_lossy().to_ascii_lowercase();
        Format::Text(Packing::of(&name).1)
    }
}

impl Packing {
    /// The name without the ending that says how the file is packed, and what that says.
    fn of(name: &str) -> (&str, Self) {
        let packed = |ending, packing| Some((name.strip_suffix(ending)?, packing));
        packed(".gz", Packing::Gzip)
            .or_else(|| packed(".zst", Packing::Zstd))
            .unwrap_or((name, Packing::Plain))
    }

    /// The unpacked bytes of a file. `taken` counts the bytes of the file itself.
    pub(super) fn open(self, path: &Path, taken: &Arc<AtomicU64>) -> Result<Bytes> {
        let file = File::open(path).map_err(Error::io("read", path))?;
        let taken = taken.clone();
        let file = BufReader::with_capacity(READ_BYTES, Counted { inner: file, taken });
        self.unpack(file).map_err(Error::io("read", path))
    }

    fn unpack(self, packed: impl BufRead + Send + 'static) -> std::io::Result<Bytes> {
        Ok(match self {
            Packing::Plain => Box::new(packed),
            Packing::Gzip => Box::new(BufReader::with_capacity(READ_BYTES, MultiGzDecoder::new(packed))),
            Packing::Zstd => {
                let unpacked = zstd::stream::read::Decoder::with_buffer(packed)?;
                Box::new(BufReader::with_capacity(READ_BYTES, unpacked))
            }
        })
    }
}

/// Unpacked bytes of a source.
pub(super) type Bytes = Box<dyn BufRead + Send>;

/// Size of read buffers.
const READ_BYTES: usize = 1 << 16;

/// Standard input, unpacked, and whether it holds JSON lines: it has no name, so its first bytes
/// say what it is.
pub(super) fn standard_input(taken: &Arc<AtomicU64>) -> std::io::Result<(Bytes, bool)> {
    let taken = taken.clone();
    let mut packed = BufReader::with_capacity(
        READ_BYTES,
        Counted {
            inner: std::io::stdin(),
            taken,
        },
    );
    let packing = match packed.fill_buf()? {
        [0x1f, 0x8b, ..] => Packing::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Packing::Zstd,
        _ => Packing::Plain,
    };
    let mut bytes = packing.unpack(packed)?;
    let lines = bytes.fill_buf()?.trim_ascii_start().starts_with(b"{");
    Ok((bytes, lines))
}

/// A reader that adds what it reads to a counter which others watch.
struct Counted<R> {
    inner: R,
    taken: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.taken.fetch_add(length as u64, Ordering::Relaxed);
        Ok(length)
    }
}
