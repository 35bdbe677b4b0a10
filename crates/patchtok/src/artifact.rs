//! `patch_tokenizer.bin`: the tokenizer in one checked binary file.
//!
//! ```text
//! offset  bytes
//! 0       8      magic "PATCHTOK"
//! 8       4      format version, u32 little-endian: 3
//! 12      8      payload length n, u64 little-endian
//! 20      4      CRC-32 (IEEE) of the payload, u32 little-endian
//! 24      n      payload: bincode 2, standard configuration, of `Payload`, `Segmentation` and `Frame`
//! ```
//!
//! Version 1 has no segmentation: it is byte pair encoding. Versions 1 and 2 have no frame: nothing is
//! normalized, merges are not ignored, and the post-processor is `ByteLevel`.
//!
//! A file that differs from this in any byte, or holds a tokenizer that contradicts itself, is an
//! error.

use serde::{Deserialize, Serialize};

use crate::model::{Frame, Merge, Model, Segmentation, Special, Vocab};
use crate::split::Splitter;
use crate::{Error, PatchMap, Result};

const MAGIC: [u8; 8] = *b"PATCHTOK";
const VERSION: u32 = 3;

/// The oldest version that is read.
const OLDEST: u32 = 1;
const HEADER: usize = 24;

/// Bound on what decoding may allocate.
const MAX_PAYLOAD_BYTES: usize = 1 << 28;

/// What the file holds. Changing it in any way takes a new [`VERSION`].
#[derive(Serialize, Deserialize)]
struct Payload {
    splitter: Splitter,
    /// Length of each token in bytes, by id.
    token_lengths: Vec<u32>,
    /// The tokens' bytes one after another.
    token_bytes: Vec<u8>,
    merges: Vec<Merge>,
    specials: Vec<Special>,
    patch_map: Option<PatchMap>,
}

/// The file as bytes.
pub(crate) fn encode(model: &Model, patch_map: Option<&PatchMap>) -> Result<Vec<u8>> {
    let payload = Payload {
        splitter: model.splitter(),
        token_lengths: model.vocab().iter().map(|(_, token)| token.len() as u32).collect(),
        token_bytes: model
            .vocab()
            .iter()
            .flat_map(|(_, token)| token.iter().copied())
            .collect(),
        merges: model.merges().to_vec(),
        specials: model.specials().to_vec(),
        patch_map: patch_map.cloned(),
    };
    let payload = bincode::serde::encode_to_vec((&payload, model.segmentation(), model.frame()), config())
        .map_err(|error| Error::Artifact(format!("cannot be written: {error}")))?;
    let mut file = Vec::with_capacity(HEADER + payload.len());
    file.extend_from_slice(&MAGIC);
    file.extend_from_slice(&VERSION.to_le_bytes());
    file.extend_from_slice(&(payload.len() as u64).to_le_bytes());
    file.extend_from_slice(&crc32fast::hash(&payload).to_le_bytes());
    file.extend_from_slice(&payload);
    Ok(file)
}

/// The tokenizer in a file; the patch map is not yet checked against the model.
pub(crate) fn decode(file: &[u8]) -> Result<(Model, Option<PatchMap>)> {
    let damaged = |what: String| Error::Artifact(what);
    let (magic, rest) = file.split_first_chunk().ok_or_else(|| damaged("too short".into()))?;
    if *magic != MAGIC {
        return Err(damaged("not a tokenizer file".into()));
    }
    let (version, rest) = rest.split_first_chunk().ok_or_else(|| damaged("too short".into()))?;
    let version = u32::from_le_bytes(*version);
    if !(OLDEST..=VERSION).contains(&version) {
        return Err(damaged(format!(
            "format version {version}, this build reads {OLDEST} to {VERSION}"
        )));
    }
    let (length, rest) = rest.split_first_chunk().ok_or_else(|| damaged("too short".into()))?;
    let (crc, payload) = rest.split_first_chunk().ok_or_else(|| damaged("too short".into()))?;
    let length = u64::from_le_bytes(*length);
    if payload.len() as u64 != length {
        return Err(damaged(format!(
            "{} bytes of payload, the header says {length}",
            payload.len()
        )));
    }
    if crc32fast::hash(payload) != u32::from_le_bytes(*crc) {
        return Err(damaged("the checksum does not match".into()));
    }
    let mut rest = payload;
    let payload: Payload = next(&mut rest)?;
    let segmentation = if version < 2 {
        Segmentation::Bpe
    } else {
        next(&mut rest)?
    };
    let frame = if version < 3 {
        Frame::default()
    } else {
        next(&mut rest)?
    };
    if !rest.is_empty() {
        return Err(damaged(format!("{} bytes follow the tokenizer", rest.len())));
    }
    let mut bytes = payload.token_bytes.as_slice();
    let mut vocab = Vocab::default();
    for length in payload.token_lengths {
        let (token, rest) = bytes
            .split_at_checked(length as usize)
            .ok_or_else(|| damaged("the tokens are longer than their bytes".into()))?;
        vocab.push(token);
        bytes = rest;
    }
    if !bytes.is_empty() {
        return Err(damaged(format!("{} bytes belong to no token", bytes.len())));
    }
    let model = Model::new(vocab, payload.merges, payload.specials, payload.splitter)?;
    let model = model.with_frame(frame)?.with_segmentation(segmentation);
    Ok((model, payload.patch_map))
}

/// Takes the next value off `rest`.
fn next<T: serde::de::DeserializeOwned>(rest: &mut &[u8]) -> Result<T> {
    let (value, read) = bincode::serde::decode_from_slice(rest, config())
        .map_err(|error| Error::Artifact(format!("the payload cannot be read: {error}")))?;
    *rest = &rest[read..];
    Ok(value)
}

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<MAX_PAYLOAD_BYTES>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PatchTokenizer;

    /// The 256 bytes, `ab`, `abc` and a special token.
    fn model() -> Model {
        let tokens = (0..=255u8).map(|byte| vec![byte]);
        let words = [&b"ab"[..], b"abc", b"<s>"].map(<[u8]>::to_vec);
        let (a, b, c) = (u32::from(b'a'), u32::from(b'b'), u32::from(b'c'));
        let merges = vec![
            Merge {
                left: a,
                right: b,
                result: 256,
            },
            Merge {
                left: 256,
                right: c,
                result: 257,
            },
        ];
        let special = Special {
            id: 258,
            content: "<s>".into(),
            normalized: false,
            special: true,
        };
        Model::new(tokens.chain(words).collect(), merges, vec![special], Splitter::Gpt2).unwrap()
    }

    /// A file whose header fits `payload`.
    fn file(payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u64).to_le_bytes();
        let crc = crc32fast::hash(payload).to_le_bytes();
        [&MAGIC[..], &VERSION.to_le_bytes(), &length, &crc, payload].concat()
    }

    #[test]
    fn a_model_comes_back() {
        let bytes = encode(&model(), None).unwrap();
        assert_eq!(decode(&bytes).unwrap(), (model(), None));
        assert_eq!(file(&bytes[HEADER..]), bytes);
    }

    #[test]
    fn old_versions_are_read() {
        let bytes = encode(&model(), None).unwrap();
        // The frame takes three bytes, the segmentation one.
        for (version, missing) in [(2, 3), (1, 4)] {
            let mut old = file(&bytes[HEADER..bytes.len() - missing]);
            assert!(decode(&old).is_err());
            old[8] = version;
            assert_eq!(decode(&old).unwrap(), (model(), None));
            old[8] = 4;
            assert!(decode(&old).is_err());
        }
    }

    #[test]
    fn the_frame_comes_back() {
        let frame = Frame {
            normalizer: crate::normalizer::Normalizer::Nfc,
            ignore_merges: true,
            post_processor: Some("{}".into()),
        };
        let model = model().with_frame(frame).unwrap();
        assert_eq!(decode(&encode(&model, None).unwrap()).unwrap(), (model, None));
        let broken = Frame {
            post_processor: Some("{".into()),
            ..Frame::default()
        };
        assert!(self::model().with_frame(broken).is_err());
    }

    #[test]
    fn the_segmentation_comes_back() {
        let model = model().with_segmentation(Segmentation::MinTokens);
        assert_eq!(decode(&encode(&model, None).unwrap()).unwrap(), (model, None));
    }

    /// A payload that was made to deceive, with a checksum that fits, is refused or is a tokenizer
    /// that works.
    #[test]
    fn no_payload_panics() {
        let bytes = encode(&model(), None).unwrap();
        let payload = &bytes[HEADER..];
        let (mut refused, mut worked) = (0, 0);
        for place in 0..payload.len() {
            for value in [payload[place] ^ 1, payload[place] ^ 0x80, 251, 253, 255] {
                let mut payload = payload.to_vec();
                payload[place] = value;
                match decode(&file(&payload)).and_then(|(model, map)| PatchTokenizer::new(model, map)) {
                    Err(_) => refused += 1,
                    Ok(tokenizer) => {
                        let ids = tokenizer.encode("abcab<s>");
                        assert_eq!(tokenizer.decode(&ids).unwrap(), "abcab<s>");
                        worked += 1;
                    }
                }
            }
        }
        assert!(refused > 1000 && worked > 10, "{refused} refused, {worked} worked");
        for length in 0..payload.len() {
            assert!(decode(&file(&payload[..length])).is_err(), "cut to {length}");
        }
        assert!(decode(&file(&[payload, &[0][..]].concat())).is_err(), "trailing byte");
    }
}
