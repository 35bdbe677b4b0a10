//! Fuzz targets: each takes any bytes and must neither panic nor lose anything. They run on damaged
//! files in the tests here, and under libFuzzer in `fuzz/`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use patchtok::{ChunkCounter, ChunkCounts, Corpus, PatchTokenizer};

/// A target by name.
pub(crate) struct Target {
    /// What it is called.
    pub(crate) name: &'static str,
    /// File with good bytes.
    pub(crate) seed: &'static str,
    /// Whether the bytes were good.
    pub(crate) run: fn(&[u8]) -> bool,
}

/// All targets.
pub(crate) const TARGETS: [Target; 10] = [
    Target {
        name: "patch_tokenizer.bin",
        seed: "patch_tokenizer.bin",
        run: |bytes| load("patch_tokenizer.bin", bytes),
    },
    Target {
        name: "tokenizer.json",
        seed: "tokenizer.json",
        run: |bytes| load("tokenizer.json", bytes),
    },
    Target {
        name: "patch_map.json",
        seed: "patch_map.json",
        run: |bytes| load("patch_map.json", bytes),
    },
    Target {
        name: "chunk_counts.parquet",
        seed: "chunk_counts.parquet",
        run: counts,
    },
    Target {
        name: "corpus.txt",
        seed: "corpus.txt",
        run: |bytes| corpus("x.txt", bytes),
    },
    Target {
        name: "corpus.jsonl",
        seed: "corpus.jsonl",
        run: |bytes| corpus("x.jsonl", bytes),
    },
    Target {
        name: "corpus.jsonl.gz",
        seed: "corpus.jsonl.gz",
        run: |bytes| corpus("x.jsonl.gz", bytes),
    },
    Target {
        name: "corpus.txt.zst",
        seed: "corpus.txt.zst",
        run: |bytes| corpus("x.txt.zst", bytes),
    },
    Target {
        name: "corpus.parquet",
        seed: "chunk_counts.parquet",
        run: |bytes| corpus("x.parquet", bytes),
    },
    Target {
        name: "encode",
        seed: "corpus.txt",
        run: encode,
    },
];

/// A file of those that version 1 wrote, or a seed.
pub(crate) fn fixture(name: &str) -> PathBuf {
    // The fuzz package lies in the one of the tests.
    let folders = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let mut folders = folders.map(|folder| folder.join("tests/fixtures/v1"));
    folders.find(|folder| folder.is_dir()).unwrap().join(name)
}

static TOKENIZER: LazyLock<PatchTokenizer> = LazyLock::new(|| PatchTokenizer::load(fixture("")).unwrap());

/// A tokenizer that is not patched, for which corpora are counted.
pub(crate) static BASE: LazyLock<PatchTokenizer> =
    LazyLock::new(|| PatchTokenizer::from_file(fixture("../../../data/gpt2/tokenizer.json")).unwrap());

/// Loads the bytes as one file of a tokenizer folder, the other files being good.
fn load(name: &str, bytes: &[u8]) -> bool {
    let folder = tempfile::tempdir().unwrap();
    if name == "patch_map.json" {
        fs::copy(fixture("tokenizer.json"), folder.path().join("tokenizer.json")).unwrap();
    }
    fs::write(folder.path().join(name), bytes).unwrap();
    let Ok(tokenizer) = PatchTokenizer::load(folder.path()) else {
        return false;
    };
    check(
        &tokenizer,
        b"The table pg_stat_activity\n\n  it's \xff\xc3\xa9 42<|endoftext|>",
    );
    true
}

/// A tokenizer that was accepted works.
fn check(tokenizer: &PatchTokenizer, bytes: &[u8]) {
    let ids = tokenizer.encode_bytes(bytes);
    assert_eq!(tokenizer.decode_bytes(&ids).unwrap(), bytes);
}

fn counts(bytes: &[u8]) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("counts.parquet");
    fs::write(&path, bytes).unwrap();
    ChunkCounts::load(&BASE, &[path], None).is_ok()
}

fn corpus(name: &str, bytes: &[u8]) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    // The seed of the Parquet reader is a counts file, whose texts are chunks.
    let field = if name.ends_with("parquet") { "chunk" } else { "text" };
    let corpus = Corpus::open(&path).unwrap().text_field(field);
    let strict = corpus.documents().all(|document| document.is_ok());
    // Skipping the bad records and counting on all threads finds the same documents.
    let corpus = corpus.skip_bad(true);
    let mut documents = corpus.documents();
    let texts: Result<Vec<String>, _> = documents.by_ref().collect();
    let counts = ChunkCounter::new(&BASE).count(&corpus, |_| {});
    match (texts, counts) {
        (Ok(texts), Ok(counts)) => {
            assert_eq!(counts.summary().documents, texts.len() as u64);
            assert_eq!(
                counts.summary().bytes,
                texts.iter().map(|text| text.len() as u64).sum::<u64>()
            );
            assert_eq!(&counts.summary().rejected, documents.rejected());
            assert!(!strict || documents.rejected().total() == 0);
        }
        (Ok(texts), Err(error)) => assert!(texts.is_empty(), "{error}"),
        (Err(_), counts) => assert!(counts.is_err()),
    }
    strict
}

fn encode(bytes: &[u8]) -> bool {
    check(&TOKENIZER, bytes);
    let text = String::from_utf8_lossy(bytes);
    assert_eq!(TOKENIZER.encode(&text), TOKENIZER.encode_reference(&text));
    // The same bytes as ids, most of which exist.
    let ids: Vec<u32> = bytes
        .chunks(2)
        .map(|pair| pair.iter().fold(0, |id, &byte| id << 8 | u32::from(byte)) % 1100)
        .collect();
    let decoded = TOKENIZER.decode(&ids);
    let mut stream = TOKENIZER.decode_stream();
    let streamed: Result<String, _> = ids.iter().map(|&id| stream.push(id)).collect();
    match (decoded, streamed) {
        (Ok(decoded), Ok(streamed)) => assert_eq!(streamed + &stream.finish(), decoded),
        (decoded, streamed) => assert!(decoded.is_err() && streamed.is_err()),
    }
    std::str::from_utf8(bytes).is_ok()
}
