//! The shape of a cache and all its byte arithmetic.
//!
//! Lengths are tokens, everything else is bytes. A row may straddle frames and a frame may hold a broken number of rows,
//! so nothing here ever speaks of tokens per frame.

use crate::error::GeometryError;

/// Most regions a cache may have: the tables that the cache keeps for them stay below a few tens of mebibytes.
const MAX_REGIONS: usize = 1 << 20;

/// How the K and V rows of a sequence are laid out. Shapes are in rows of [`Geometry::row_bytes`] bytes.
///
/// Fewer regions mean fewer frames that are half empty and fewer calls for a growing sequence; more regions mean that
/// a kernel walks memory without gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Layout {
    /// `2 * layers` regions, each `[tokens]`: all K rows, or all V rows, of a layer. The layout of plain tensors.
    #[default]
    PerLayer,
    /// `layers` regions, each `[tokens, 2]`: the K and the V row of a token side by side.
    FusedKv,
    /// One region, `[tokens, layers, 2]`: everything of a token side by side. The choice where frames are large.
    Sliced,
}

/// Where the rows of a layer start within a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Placement {
    pub(crate) k_region: usize,
    pub(crate) k_offset: usize,
    pub(crate) v_region: usize,
    pub(crate) v_offset: usize,
}

/// The checked shape of a cache: how many regions there are, how large they are and how large a frame is.
///
/// A sequence owns [`Geometry::regions_per_sequence`] regions, as its [`Layout`] says. A region is contiguous address space
/// for `max_tokens` tokens of [`Geometry::stride_bytes`] bytes, rounded up to whole frames.
///
/// All functions are O(1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    layout: Layout,
    layers: usize,
    row_bytes: usize,
    max_tokens: usize,
    max_sequences: usize,
    frame_bytes: usize,
}

impl Geometry {
    /// Starts a geometry. Frames are 64 KiB unless told otherwise; everything else must be set.
    pub fn builder() -> GeometryBuilder {
        GeometryBuilder {
            layout: Layout::PerLayer,
            layers: 0,
            row_bytes: 0,
            max_tokens: 0,
            max_sequences: 0,
            frame_bytes: 64 << 10,
        }
    }

    /// How K and V rows lie in the regions.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Layers of the model.
    #[must_use]
    pub fn layers(&self) -> usize {
        self.layers
    }

    /// Bytes of one K row (and of one V row): KV heads x head size x element size.
    #[must_use]
    pub fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// Longest length of a sequence, in tokens.
    #[must_use]
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// Most sequences open at the same time.
    #[must_use]
    pub fn max_sequences(&self) -> usize {
        self.max_sequences
    }

    /// Bytes of a frame, the unit in which memory is mapped and given back.
    #[must_use]
    pub fn frame_bytes(&self) -> usize {
        self.frame_bytes
    }

    /// Regions of one sequence: `2 * layers`, `layers` or 1, by the layout.
    #[must_use]
    pub fn regions_per_sequence(&self) -> usize {
        match self.layout {
            Layout::PerLayer => 2 * self.layers,
            Layout::FusedKv => self.layers,
            Layout::Sliced => 1,
        }
    }

    /// Bytes of one token in one region, which is the distance from a row to that of the next token.
    #[must_use]
    pub fn stride_bytes(&self) -> usize {
        self.token_bytes() / self.regions_per_sequence()
    }

    /// Bytes of one token over all regions: `2 * layers * row_bytes`.
    #[must_use]
    pub fn token_bytes(&self) -> usize {
        2 * self.layers * self.row_bytes
    }

    /// Regions of the whole cache.
    #[must_use]
    pub fn regions(&self) -> usize {
        self.regions_per_sequence() * self.max_sequences
    }

    /// Bytes of address space of one region, a multiple of the frame.
    #[must_use]
    pub fn region_bytes(&self) -> usize {
        (self.max_tokens * self.stride_bytes()).next_multiple_of(self.frame_bytes)
    }

    /// Bytes of address space of all regions: what a cache that maps everything up front would hold.
    #[must_use]
    pub fn reserved_bytes(&self) -> usize {
        self.regions() * self.region_bytes()
    }

    /// Bytes that the rows of a sequence of `tokens` take over all its regions. `tokens` is at most `max_tokens`.
    #[must_use]
    pub fn used_bytes(&self, tokens: usize) -> usize {
        self.token_bytes() * tokens
    }

    /// Frames that back `tokens` tokens in one region: `ceil(tokens * stride_bytes / frame_bytes)`. `tokens` is at most
    /// `max_tokens`.
    #[must_use]
    pub fn region_frames(&self, tokens: usize) -> usize {
        (tokens * self.stride_bytes()).div_ceil(self.frame_bytes)
    }

    /// Frames that back a sequence of `tokens` over all its regions. `tokens` is at most `max_tokens`.
    #[must_use]
    pub fn sequence_frames(&self, tokens: usize) -> usize {
        self.regions_per_sequence() * self.region_frames(tokens)
    }

    /// Frames of one region that hold nothing but the first `tokens` tokens: what a sequence can share of them.
    pub(crate) fn whole_frames(&self, tokens: usize) -> usize {
        tokens * self.stride_bytes() / self.frame_bytes
    }

    /// Frames of a whole region.
    pub(crate) fn max_frames(&self) -> usize {
        self.region_frames(self.max_tokens)
    }

    /// Where the rows of a layer start.
    pub(crate) fn placement(&self, layer: usize) -> Placement {
        let row = self.row_bytes;
        let (k_region, k_offset, v_region, v_offset) = match self.layout {
            Layout::PerLayer => (2 * layer, 0, 2 * layer + 1, 0),
            Layout::FusedKv => (layer, 0, layer, row),
            Layout::Sliced => (0, 2 * layer * row, 0, (2 * layer + 1) * row),
        };
        Placement {
            k_region,
            k_offset,
            v_region,
            v_offset,
        }
    }
}

/// Builds a [`Geometry`].
#[derive(Debug, Clone, Copy)]
#[must_use = "call build() to get the geometry"]
pub struct GeometryBuilder {
    layout: Layout,
    layers: usize,
    row_bytes: usize,
    max_tokens: usize,
    max_sequences: usize,
    frame_bytes: usize,
}

impl GeometryBuilder {
    /// How K and V rows lie in the regions; [`Layout::PerLayer`] unless told otherwise.
    pub fn layout(mut self, layout: Layout) -> Self {
        self.layout = layout;
        self
    }

    /// Layers of the model, at least 1.
    pub fn layers(mut self, layers: usize) -> Self {
        self.layers = layers;
        self
    }

    /// Bytes of one K row of one layer, at least 1; a V row is as large.
    pub fn row_bytes(mut self, bytes: usize) -> Self {
        self.row_bytes = bytes;
        self
    }

    /// Longest length of a sequence in tokens, at least 1.
    pub fn max_tokens(mut self, tokens: usize) -> Self {
        self.max_tokens = tokens;
        self
    }

    /// Most sequences open, and prefixes published, at the same time, at least 1.
    pub fn max_sequences(mut self, sequences: usize) -> Self {
        self.max_sequences = sequences;
        self
    }

    /// Bytes of a frame: a power of two, and a multiple of the page of the backend (which the cache checks when it is
    /// made). A region wastes less than one frame; a smaller frame means more system calls while a sequence grows.
    pub fn frame_bytes(mut self, bytes: usize) -> Self {
        self.frame_bytes = bytes;
        self
    }

    /// Checks the shape.
    ///
    /// # Errors
    ///
    /// A [`GeometryError`] that names the field: a field that is zero, a frame that is not a power of two, more than
    /// 2^20 regions, or more bytes of address space than a pointer can span.
    pub fn build(self) -> Result<Geometry, GeometryError> {
        for (field, value) in [
            ("layers", self.layers),
            ("row_bytes", self.row_bytes),
            ("max_tokens", self.max_tokens),
            ("max_sequences", self.max_sequences),
        ] {
            if value == 0 {
                return Err(GeometryError::Zero { field });
            }
        }
        if !self.frame_bytes.is_power_of_two() {
            return Err(GeometryError::FrameBytes {
                value: self.frame_bytes,
            });
        }
        limit("layers", self.layers as u128, MAX_REGIONS / 2)?;
        limit("max_sequences", self.max_sequences as u128, MAX_REGIONS)?;
        let regions = self.max_sequences as u128
            * match self.layout {
                Layout::PerLayer => 2 * self.layers as u128,
                Layout::FusedKv => self.layers as u128,
                Layout::Sliced => 1,
            };
        limit("regions", regions, MAX_REGIONS)?;
        let rows_side_by_side = match self.layout {
            Layout::PerLayer => 1,
            Layout::FusedKv => 2,
            Layout::Sliced => 2 * self.layers as u128,
        };
        let stride = rows_side_by_side * self.row_bytes as u128;
        limit("bytes of a token in a region", stride, isize::MAX as usize)?;
        let rows = self.max_tokens as u128 * stride;
        let region = rows.next_multiple_of(self.frame_bytes as u128);
        limit("bytes of a region", region, isize::MAX as usize)?;
        limit("bytes of address space", regions * region, isize::MAX as usize)?;
        Ok(Geometry {
            layout: self.layout,
            layers: self.layers,
            row_bytes: self.row_bytes,
            max_tokens: self.max_tokens,
            max_sequences: self.max_sequences,
            frame_bytes: self.frame_bytes,
        })
    }
}

fn limit(field: &'static str, value: u128, limit: usize) -> Result<(), GeometryError> {
    if value > limit as u128 {
        return Err(GeometryError::TooLarge { field, value, limit });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpt2() -> GeometryBuilder {
        Geometry::builder()
            .layers(12)
            .row_bytes(3072)
            .max_tokens(1024)
            .max_sequences(4)
    }

    #[test]
    fn bytes_are_rounded_to_frames_and_never_tokens() {
        let g = gpt2().build().unwrap();
        assert_eq!(g.frame_bytes(), 65536);
        assert_eq!(g.regions_per_sequence(), 24);
        assert_eq!(g.region_bytes(), 1024 * 3072);
        assert_eq!(g.reserved_bytes(), 4 * 24 * 1024 * 3072);
        // 21 rows end 1,024 bytes before the frame does: row 21 straddles the boundary.
        assert_eq!([0, 1, 21, 22, 42, 43].map(|n| g.region_frames(n)), [0, 1, 1, 2, 2, 3]);
        assert_eq!(g.sequence_frames(22), 48);
        assert_eq!(g.used_bytes(22), 22 * 3072 * 24);
        // A row larger than a frame.
        let g = gpt2().row_bytes(10_000).frame_bytes(4096).build().unwrap();
        assert_eq!([1, 2, 3].map(|n| g.region_frames(n)), [3, 5, 8]);
        assert_eq!(g.region_bytes() % 4096, 0);
    }

    #[test]
    fn every_layout_holds_the_same_bytes() {
        for (layout, regions, stride, last) in [
            (Layout::PerLayer, 24, 3072, (22, 0, 23, 0)),
            (Layout::FusedKv, 12, 6144, (11, 0, 11, 3072)),
            (Layout::Sliced, 1, 73_728, (0, 67_584, 0, 70_656)),
        ] {
            let g = gpt2().layout(layout).build().unwrap();
            assert_eq!((g.regions_per_sequence(), g.stride_bytes()), (regions, stride));
            assert_eq!(g.used_bytes(10), 10 * 24 * 3072);
            let p = g.placement(11);
            assert_eq!((p.k_region, p.k_offset, p.v_region, p.v_offset), last);
            assert_eq!(g.whole_frames(1000), 1000 * stride / 65536);
        }
    }

    #[test]
    fn every_bad_field_is_named() {
        let zero = |b: GeometryBuilder| match b.build() {
            Err(GeometryError::Zero { field }) => field,
            other => panic!("{other:?}"),
        };
        assert_eq!(zero(gpt2().layers(0)), "layers");
        assert_eq!(zero(gpt2().row_bytes(0)), "row_bytes");
        assert_eq!(zero(gpt2().max_tokens(0)), "max_tokens");
        assert_eq!(zero(gpt2().max_sequences(0)), "max_sequences");
        for value in [0, 3, 4097, usize::MAX] {
            assert_eq!(
                gpt2().frame_bytes(value).build().unwrap_err(),
                GeometryError::FrameBytes { value }
            );
        }
    }

    #[test]
    fn extreme_shapes_are_refused_without_overflow() {
        let m = usize::MAX;
        for builder in [
            gpt2().layers(m),
            gpt2().max_sequences(m),
            gpt2().layers(1 << 10).max_sequences(1 << 10),
            gpt2().row_bytes(m),
            gpt2().max_tokens(m),
            gpt2().row_bytes(m).max_tokens(m),
            gpt2().frame_bytes(1 << 63),
            gpt2().max_tokens(1 << 50),
            gpt2()
                .layers(m)
                .max_sequences(m)
                .row_bytes(m)
                .max_tokens(m)
                .frame_bytes(1 << 63),
        ] {
            let error = builder.build().unwrap_err();
            let GeometryError::TooLarge { value, limit, .. } = error else {
                panic!("{error:?}");
            };
            assert!(value > limit as u128);
        }
    }
}
