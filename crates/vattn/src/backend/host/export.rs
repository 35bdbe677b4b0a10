//! Prefixes for other processes: the memory file, and where in it the rows lie.

// Memory at an address cannot be read in safe Rust.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::ptr;

use rustix::fs;

use super::file::MemoryFile;
use super::reservation::Reservation;
use super::{HostBackend, page_bytes};
use crate::backend::Access;
use crate::cache::KvCache;
use crate::error::{BackendError, Error, Result};
use crate::geometry::{Geometry, Layout};
use crate::rows::{KvView, Side};
use crate::sequence::PrefixId;

/// Where the rows of a prefix lie in the memory file of its cache. Plain data: it goes to another process by any way that
/// carries bytes (feature `serde`), and the file by a way that carries files: inheritance, or a socket with `SCM_RIGHTS`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct ExportedPrefix {
    /// Tokens of the prefix.
    pub tokens: u64,
    /// Layers of the model.
    pub layers: u64,
    /// Bytes of one K row, and of one V row.
    pub row_bytes: u64,
    /// Bytes of a frame.
    pub frame_bytes: u64,
    /// For each region the places of its frames in the file, in runs. `2 * layers` regions are the layout
    /// [`Layout::PerLayer`], `layers` are [`Layout::FusedKv`], one is [`Layout::Sliced`].
    pub regions: Vec<Vec<Extent>>,
}

/// A run of bytes of the memory file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Extent {
    /// First byte.
    pub offset: u64,
    /// Number of bytes, whole frames.
    pub bytes: u64,
}

impl KvCache<HostBackend> {
    /// Says where a prefix lies, for [`ImportedPrefix::map`] in another process. O(frames of the prefix).
    ///
    /// The cache does not know who has it: keep the prefix published, and the cache awake, until every reader is done. Afterwards a
    /// reader would see other bytes.
    ///
    /// # Errors
    ///
    /// [`Error::NotPublished`], [`Error::Asleep`].
    pub fn export_prefix(&self, prefix: PrefixId) -> Result<ExportedPrefix> {
        let tokens = self.prefix_len(prefix)?;
        self.awake()?;
        let frame_bytes = self.geometry.frame_bytes() as u64;
        let mut locked = self.shared.lock();
        let regions = locked.body(prefix.0.slot()).regions.iter().map(|region| {
            let mut extents: Vec<Extent> = Vec::new();
            for frame in &region.frames {
                let offset = frame.0 * frame_bytes;
                match extents.last_mut() {
                    Some(last) if last.offset + last.bytes == offset => last.bytes += frame_bytes,
                    _ => extents.push(Extent {
                        offset,
                        bytes: frame_bytes,
                    }),
                }
            }
            extents
        });
        Ok(ExportedPrefix {
            tokens: tokens as u64,
            layers: self.geometry.layers() as u64,
            row_bytes: self.geometry.row_bytes() as u64,
            frame_bytes,
            regions: regions.collect(),
        })
    }

    /// The memory file, open for reading only: a mapping of it cannot be made writable. It is closed on exec unless it
    /// is passed on as a standard stream or with `SCM_RIGHTS`. Whoever has it can read every row of this cache, so pass it to
    /// processes that may.
    ///
    /// # Errors
    ///
    /// The process has too many open files, or `/proc` is not mounted.
    pub fn memory_file(&self) -> io::Result<OwnedFd> {
        let file = self.shared.space.backend.file.as_fd().as_raw_fd();
        Ok(File::open(format!("/proc/self/fd/{file}"))?.into())
    }
}

/// The rows of a prefix that a cache in another process holds, mapped read-only: no memory of its own, no copy.
///
/// The rows are those of [`KvCache::export_prefix`] for as long as the other process keeps its side of the bargain. This
/// type reads them only by copying, and gives addresses to kernels.
#[derive(Debug)]
pub struct ImportedPrefix {
    geometry: Geometry,
    memory: Reservation,
    region_stride: usize,
    /// Keeps the pages even when the other process has ended.
    _file: MemoryFile,
}

impl ImportedPrefix {
    /// Maps a prefix out of the memory file of its cache. The description may come from anywhere: it is checked.
    ///
    /// # Errors
    ///
    /// [`Error::Geometry`] for a shape that no cache has; [`Error::Backend`] for extents that are not whole frames within
    /// the file, or do not hold the rows, and when the system refuses the mappings.
    pub fn map(file: OwnedFd, exported: &ExportedPrefix) -> Result<Self> {
        let geometry = geometry(exported)?;
        let refused = |what: u64, hint| {
            let error = BackendError::new("import", usize::try_from(what).unwrap_or(usize::MAX), hint, invalid());
            Error::from(error)
        };
        let file_bytes = fs::fstat(&file)
            .map_err(|errno| BackendError::new("fstat", 0, "pass the memory file of the cache", errno.into()))?
            .st_size as u64;
        let frame = exported.frame_bytes;
        if !geometry.frame_bytes().is_multiple_of(page_bytes()) {
            return Err(refused(frame, "use frames of whole pages"));
        }
        let needed = (geometry.max_frames() * geometry.frame_bytes()) as u64;
        for extents in &exported.regions {
            let mut total = 0_u64;
            for extent in extents {
                let whole =
                    extent.bytes > 0 && extent.bytes.is_multiple_of(frame) && extent.offset.is_multiple_of(frame);
                let end = extent.offset.checked_add(extent.bytes);
                if !whole || end.is_none_or(|end| end > file_bytes) {
                    return Err(refused(extent.offset, "use extents of whole frames within the file"));
                }
                total = total.saturating_add(extent.bytes);
            }
            if total != needed {
                return Err(refused(total, "use as many frames for each region as its rows need"));
            }
        }
        // A page without access behind each region, as in a cache.
        let region_stride = geometry.region_bytes() + page_bytes();
        let memory = Reservation::new(region_stride * geometry.regions(), page_bytes())?;
        let file = MemoryFile::from_fd(file);
        for (index, extents) in exported.regions.iter().enumerate() {
            let mut start = index * region_stride;
            for extent in extents {
                let run = start..start + extent.bytes as usize;
                memory.map(run, &file, extent.offset, Access::Read, true)?;
                start += extent.bytes as usize;
            }
        }
        Ok(Self {
            geometry,
            memory,
            region_stride,
            _file: file,
        })
    }

    /// Tokens of the prefix.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a prefix is never empty")]
    pub fn len(&self) -> usize {
        self.geometry.max_tokens()
    }

    /// The shape of the prefix: a cache with one sequence of just its length.
    #[must_use]
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Addresses of the rows of one layer, for kernels; they are read-only and stay while this value lives. O(1).
    ///
    /// # Errors
    ///
    /// [`Error::Layer`].
    pub fn view(&self, layer: usize) -> Result<KvView> {
        let layers = self.geometry.layers();
        if layer >= layers {
            return Err(Error::Layer { layer, layers });
        }
        let at = self.geometry.placement(layer);
        let region = |region: usize| self.memory.base().expose_provenance() + region * self.region_stride;
        Ok(KvView {
            k: region(at.k_region) + at.k_offset,
            v: region(at.v_region) + at.v_offset,
            row_bytes: self.geometry.row_bytes(),
            stride_bytes: self.geometry.stride_bytes(),
            len: self.len(),
            mapped_bytes: self.geometry.region_bytes(),
        })
    }

    /// Copies rows of one layer to `bytes`, one behind the other.
    ///
    /// # Errors
    ///
    /// [`Error::Layer`], [`Error::Rows`], [`Error::BufferSize`].
    pub fn read_rows(&self, layer: usize, side: Side, tokens: Range<usize>, bytes: &mut [u8]) -> Result<()> {
        let view = self.view(layer)?;
        let Range { start, end } = tokens;
        if start > end || end > view.len {
            let len = view.len;
            return Err(Error::Rows { start, end, len });
        }
        let expected = (end - start) * view.row_bytes;
        if bytes.len() != expected {
            return Err(Error::BufferSize {
                bytes: bytes.len(),
                expected,
            });
        }
        let base = match side {
            Side::K => view.k_ptr(),
            Side::V => view.v_ptr(),
        };
        for (token, row) in (start..end).zip(bytes.chunks_mut(view.row_bytes)) {
            // SAFETY: `map` has mapped as many bytes of the file, readable, as the rows below `len` need, and the file cannot
            // shrink: its length is sealed, or it was not made by a cache and an access past its end is a signal. The
            // target is a slice of this process, so the two do not overlap. The bytes are copied without ever making a
            // reference to them.
            unsafe { ptr::copy_nonoverlapping(base.add(token * view.stride_bytes), row.as_mut_ptr(), row.len()) }
        }
        Ok(())
    }
}

/// The shape of an exported prefix, if there is a cache of that shape.
fn geometry(exported: &ExportedPrefix) -> Result<Geometry> {
    let narrow = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    let layers = narrow(exported.layers);
    let layout = match exported.regions.len() {
        1 => Layout::Sliced,
        regions if regions == layers => Layout::FusedKv,
        regions if Some(regions) == layers.checked_mul(2) => Layout::PerLayer,
        regions => {
            let hint = "use one region, one for each layer, or two for each layer";
            return Err(BackendError::new("import of regions", regions, hint, invalid()).into());
        }
    };
    let geometry = Geometry::builder()
        .layout(layout)
        .layers(layers)
        .row_bytes(narrow(exported.row_bytes))
        .max_tokens(narrow(exported.tokens))
        .max_sequences(1)
        .frame_bytes(narrow(exported.frame_bytes))
        .build()?;
    Ok(geometry)
}

fn invalid() -> io::Error {
    io::ErrorKind::InvalidInput.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKENS: usize = 50;
    const ROW: usize = 3000;

    fn cache(layout: Layout) -> KvCache {
        let geometry = Geometry::builder()
            .layout(layout)
            .layers(2)
            .row_bytes(ROW)
            .max_tokens(64)
            .max_sequences(3)
            .frame_bytes(16 << 10)
            .build()
            .unwrap();
        KvCache::new(geometry, 4 << 20).unwrap()
    }

    fn row(layer: usize, side: Side, token: usize) -> Vec<u8> {
        let seed = layer * 131 + usize::from(side == Side::V) * 67 + token * 7;
        (0..ROW).map(|byte| (seed + byte) as u8).collect()
    }

    /// A prefix with known rows.
    fn published(layout: Layout) -> (KvCache, PrefixId) {
        let mut cache = cache(layout);
        let seq = cache.admit(TOKENS).unwrap();
        for layer in 0..2 {
            for side in [Side::K, Side::V] {
                for token in 0..TOKENS {
                    cache
                        .write_rows(seq, layer, side, token, &row(layer, side, token))
                        .unwrap();
                }
            }
        }
        let prefix = cache.publish_prefix(seq, TOKENS).unwrap();
        cache.free(seq).unwrap();
        (cache, prefix)
    }

    #[test]
    fn an_imported_prefix_has_the_rows_and_takes_no_memory() {
        for layout in [Layout::PerLayer, Layout::FusedKv, Layout::Sliced] {
            let (cache, prefix) = published(layout);
            let before = cache.stats().physical_bytes;
            let imported = ImportedPrefix::map(cache.memory_file().unwrap(), &cache.export_prefix(prefix).unwrap());
            let imported = imported.unwrap();
            assert_eq!(imported.len(), TOKENS);
            let mut bytes = vec![0; ROW];
            for layer in 0..2 {
                for side in [Side::K, Side::V] {
                    for token in [0, 1, 5, 20, TOKENS - 1] {
                        imported.read_rows(layer, side, token..token + 1, &mut bytes).unwrap();
                        assert!(bytes == row(layer, side, token), "{layout:?} {layer} {side:?} {token}");
                    }
                }
            }
            assert_eq!(cache.stats().physical_bytes, before);
            // The rows outlive the cache, since the file does.
            drop(cache);
            imported.read_rows(0, Side::K, 0..1, &mut bytes).unwrap();
        }
    }

    #[test]
    fn wrong_rows_and_buffers_are_refused() {
        let (cache, prefix) = published(Layout::PerLayer);
        let imported =
            ImportedPrefix::map(cache.memory_file().unwrap(), &cache.export_prefix(prefix).unwrap()).unwrap();
        let mut bytes = vec![0; ROW];
        let read = |layer, tokens, bytes: &mut [u8]| imported.read_rows(layer, Side::K, tokens, bytes);
        assert!(matches!(
            read(2, 0..1, &mut bytes),
            Err(Error::Layer { layer: 2, layers: 2 })
        ));
        assert!(matches!(read(0, 50..51, &mut bytes), Err(Error::Rows { end: 51, .. })));
        assert!(matches!(read(0, 0..2, &mut bytes), Err(Error::BufferSize { .. })));
    }

    #[test]
    fn descriptions_that_do_not_fit_the_file_are_refused() {
        let (cache, prefix) = published(Layout::PerLayer);
        let good = cache.export_prefix(prefix).unwrap();
        let refused = |change: fn(&mut ExportedPrefix)| {
            let mut bad = good.clone();
            change(&mut bad);
            let result = ImportedPrefix::map(cache.memory_file().unwrap(), &bad);
            assert!(result.is_err(), "{bad:?}");
        };
        refused(|bad| bad.tokens = 0);
        refused(|bad| bad.tokens = u64::MAX);
        refused(|bad| bad.tokens += 20);
        refused(|bad| bad.layers = 3);
        refused(|bad| bad.row_bytes = u64::MAX);
        refused(|bad| bad.frame_bytes = 100);
        refused(|bad| bad.frame_bytes = 512);
        refused(|bad| bad.regions.clear());
        refused(|bad| bad.regions[3].clear());
        refused(|bad| bad.regions[3][0].offset = u64::MAX - 100);
        refused(|bad| bad.regions[3][0].offset = u64::MAX << 14);
        refused(|bad| bad.regions[3][0].offset += 1);
        refused(|bad| bad.regions[3][0].bytes = u64::MAX << 14);
        refused(|bad| bad.regions[3][0].bytes = 0);
    }

    #[test]
    fn the_file_that_is_passed_on_cannot_be_written_through() {
        let (cache, prefix) = published(Layout::PerLayer);
        let exported = cache.export_prefix(prefix).unwrap();
        let extent = exported.regions[0][0];
        let window = Reservation::new(extent.bytes as usize, page_bytes()).unwrap();
        let file = MemoryFile::from_fd(cache.memory_file().unwrap());
        let map = |access| window.map(0..extent.bytes as usize, &file, extent.offset, access, false);
        assert!(map(Access::ReadWrite).is_err());
        map(Access::Read).unwrap();
        assert!(window.protect(0..extent.bytes as usize, Access::ReadWrite).is_err());
    }
}
