//! A model whose next token depends on every row it finds in the store, at no cost: a row that is lost, stale, another
//! sequence's or at another position changes the output.

use fused_model::kv::{KvGeometry, KvStore, KvType};
use fused_model::{CausalLm, Chunk, Logits, ModelError, argmax};

const LAYERS: usize = 2;
const ROW: usize = 4;

/// Logits are a hash of the rows of all tokens so far.
#[derive(Debug, Clone)]
pub(crate) struct ToyLm {
    pub(crate) vocab: usize,
    pub(crate) context: usize,
    /// Passes to go until one fails after its rows are written.
    pub(crate) fails_in: Option<usize>,
    logits: Vec<f32>,
}

fn mix(hash: u64, value: u64) -> u64 {
    let mut z = (hash ^ value).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The K (0) or V (1) row of a token in a layer: small whole numbers, the same in every type of a store.
fn row(layer: usize, part: usize, token: u32, position: usize) -> [f32; ROW] {
    [token as f32, position as f32, layer as f32, part as f32]
}

impl ToyLm {
    pub(crate) fn new(vocab: usize, context: usize) -> Self {
        Self {
            vocab,
            context,
            fails_in: None,
            logits: Vec::new(),
        }
    }

    /// Logits after `tokens`, from the tokens alone.
    pub(crate) fn logits_after(&self, tokens: &[u32]) -> Vec<f32> {
        let mut hash = 0;
        for layer in 0..LAYERS {
            for part in 0..2 {
                for (position, &token) in tokens.iter().enumerate() {
                    for value in row(layer, part, token, position) {
                        hash = mix(hash, u64::from(value.to_bits()));
                    }
                }
            }
        }
        self.logits_of(hash)
    }

    /// The greedy continuation by the definition, up to `max_tokens` or a token of `stop`.
    pub(crate) fn greedy(&self, prompt: &[u32], max_tokens: usize, stop: &[u32]) -> Vec<u32> {
        let mut tokens = prompt.to_vec();
        for _ in 0..max_tokens {
            let next = argmax(&self.logits_after(&tokens));
            if stop.contains(&next) {
                break;
            }
            tokens.push(next);
        }
        tokens.split_off(prompt.len())
    }

    fn logits_of(&self, hash: u64) -> Vec<f32> {
        let logit = |id| (mix(hash, id as u64) >> 40) as f32 / (1 << 22) as f32;
        (0..self.vocab).map(logit).collect()
    }

    fn read(&self, kv: &dyn KvStore, chunk: &Chunk<'_>, len: usize) -> Result<Vec<f32>, ModelError> {
        let mut hash = 0;
        for layer in 0..LAYERS {
            let (k, v) = kv.rows(chunk.sequence, layer)?;
            for rows in [k, v] {
                for value in &rows.to_vec()[..len * ROW] {
                    hash = mix(hash, u64::from(value.to_bits()));
                }
            }
        }
        Ok(self.logits_of(hash))
    }
}

impl CausalLm for ToyLm {
    fn vocab_size(&self) -> usize {
        self.vocab
    }

    fn context(&self) -> usize {
        self.context
    }

    fn kv_geometry(&self, max_sequences: usize) -> KvGeometry {
        KvGeometry {
            layers: LAYERS,
            row_floats: ROW,
            numbers: KvType::F32,
            max_tokens: self.context,
            max_sequences,
        }
    }

    fn forward(&mut self, kv: &mut dyn KvStore, chunks: &[Chunk<'_>], wanted: Logits) -> Result<&[f32], ModelError> {
        assert!(!chunks.is_empty(), "a pass without chunks");
        let mut lengths = Vec::new();
        for chunk in chunks {
            assert!(!chunk.ids.is_empty(), "a chunk without tokens");
            assert!(
                lengths.iter().all(|&(id, _)| id != chunk.sequence),
                "a sequence twice in a pass"
            );
            let len = kv.len(chunk.sequence)? + chunk.ids.len();
            assert!(len <= self.context, "{len} tokens");
            lengths.push((chunk.sequence, len));
        }
        kv.grow(&lengths)?;
        let mut logits = Vec::new();
        for (chunk, &(_, len)) in chunks.iter().zip(&lengths) {
            let start = len - chunk.ids.len();
            for layer in 0..LAYERS {
                kv.write(chunk.sequence, layer, start..len, &mut |i, k, v| {
                    k.copy_from_slice(&row(layer, 0, chunk.ids[i], start + i));
                    v.copy_from_slice(&row(layer, 1, chunk.ids[i], start + i));
                })?;
            }
            let first = if wanted == Logits::All { start + 1 } else { len };
            for len in first..=len {
                logits.extend(self.read(kv, chunk, len)?);
            }
        }
        self.logits = logits;
        if let Some(left) = &mut self.fails_in {
            match left.checked_sub(1) {
                Some(fewer) => *left = fewer,
                None => {
                    self.fails_in = None;
                    return Err(ModelError::Request("injected".into()));
                }
            }
        }
        Ok(&self.logits)
    }
}
