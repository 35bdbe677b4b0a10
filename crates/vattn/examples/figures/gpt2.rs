//! The shape that most figures use: GPT-2 small in f32.

use anyhow::Result;
use vattn::{Geometry, KvCache, SeqId};

/// Layers.
pub(crate) const LAYERS: usize = 12;
/// Bytes of a K row: 12 heads of 64 floats.
pub(crate) const ROW: usize = 3072;

/// Room for `sequences` sequences of 1,024 tokens.
pub(crate) fn geometry(sequences: usize, frame_bytes: usize) -> Result<Geometry> {
    let geometry = Geometry::builder()
        .layers(LAYERS)
        .row_bytes(ROW)
        .max_tokens(1024)
        .max_sequences(sequences)
        .frame_bytes(frame_bytes)
        .build()?;
    Ok(geometry)
}

/// Writes every row of a sequence.
pub(crate) fn fill(cache: &mut KvCache, seq: SeqId, seed: u8) -> Result<()> {
    let len = cache.len(seq)?;
    for layer in 0..cache.geometry().layers() {
        let (k, v) = cache.rows_mut(seq, layer, 0..len)?;
        k.fill(seed);
        v.fill(seed ^ 0xff);
    }
    Ok(())
}
