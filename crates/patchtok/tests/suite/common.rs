//! Tokenizers and texts that the tests share.

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use patchtok::{Built, Corpus, PatchTokenizer, VocabBuilder};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// GPT-2's `tokenizer.json`.
pub(crate) fn gpt2_path() -> PathBuf {
    root().join("data/gpt2/tokenizer.json")
}

/// The `tokenizer.json` of the demo base: the first 8,191 tokens of GPT-2 and `<|endoftext|>`.
pub(crate) fn demo_path() -> PathBuf {
    root().join("../bench/demo/base/tokenizer.json")
}

pub(crate) static GPT2: LazyLock<PatchTokenizer> = LazyLock::new(|| PatchTokenizer::from_file(gpt2_path()).unwrap());

pub(crate) static DEMO: LazyLock<PatchTokenizer> = LazyLock::new(|| PatchTokenizer::from_file(demo_path()).unwrap());

/// The demo base with 1,000 swaps.
pub(crate) static PATCHED: LazyLock<PatchTokenizer> = LazyLock::new(|| patched(&DEMO, 1000).tokenizer);

/// The first documents of a demo corpus, up to `bytes` in all.
pub(crate) fn documents(name: &str, bytes: usize) -> Vec<String> {
    let path = root().join(format!("../bench/demo/corpus/{name}.jsonl.gz"));
    let mut left = bytes;
    let mut documents = Vec::new();
    for text in Corpus::open(path).unwrap().documents() {
        let text = text.unwrap();
        let Some(rest) = left.checked_sub(text.len()) else {
            break;
        };
        left = rest;
        documents.push(text);
    }
    documents
}

/// A tokenizer patched for a part of the demo manual.
pub(crate) fn patched(base: &PatchTokenizer, swaps: usize) -> Built {
    let corpus = Corpus::from_texts(documents("manual-train", 400_000));
    VocabBuilder::new(base.clone()).swaps(swaps).build(corpus).unwrap()
}

/// A small generator (xorshift*), so that the cases are the same in every run.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// A text of up to 12 parts: words, contractions, numbers, white space, punctuation, characters
    /// of many blocks, emoji sequences, bytes that are not UTF-8 (as U+FFFD), and special tokens.
    pub(crate) fn text(&mut self) -> String {
        const WORDS: [&str; 12] = [
            "the",
            " the",
            " of the",
            "table",
            " column",
            "SELECT",
            " * FROM",
            "naïve",
            " Straße",
            "été",
            "你好",
            "コンピューター",
        ];
        const CONTRACTIONS: [&str; 12] = [
            "'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'x", "''", "’s", "'select",
        ];
        const SPACES: [&str; 10] = [
            " ", "  ", "\n", "\n\n", "\r\n", "\t", "    ", "\u{a0}", "\u{3000}", "\u{2009}",
        ];
        const MARKS: [&str; 14] = [
            ".",
            ",",
            "(",
            "\"",
            "'",
            "--------",
            "=>",
            "::",
            "—",
            "…",
            "，",
            "・",
            "،",
            "<|endoftext|>",
        ];
        const EMOJI: [&str; 4] = ["🙂", "👩‍👩‍👧", "🇩🇪", "e\u{301}"];
        const BLOCKS: [(u32, u32); 12] = [
            (0x20, 0x7f),
            (0x80, 0x250),
            (0x370, 0x400),
            (0x400, 0x500),
            (0x590, 0x600),
            (0x600, 0x700),
            (0x900, 0x980),
            (0xe00, 0xe80),
            (0x2000, 0x2100),
            (0x3040, 0x3100),
            (0x4e00, 0x4f00),
            (0x1f300, 0x1f600),
        ];
        let mut text = String::new();
        for _ in 0..self.below(13) {
            match self.below(9) {
                0 | 1 => text.push_str(self.pick(&WORDS)),
                2 => text.push_str(self.pick(&CONTRACTIONS)),
                3 => text.push_str(&self.below(100_000).to_string()),
                4 => text.push_str(self.pick(&SPACES)),
                5 => text.push_str(self.pick(&MARKS)),
                6 => text.push_str(self.pick(&EMOJI)),
                7 => {
                    let (from, to) = self.pick(&BLOCKS);
                    for _ in 0..1 + self.below(4) {
                        text.extend(char::from_u32(from + self.below((to - from) as usize) as u32));
                    }
                }
                _ => {
                    let bytes: Vec<u8> = (0..self.below(8)).map(|_| self.below(256) as u8).collect();
                    text.push_str(&String::from_utf8_lossy(&bytes));
                }
            }
        }
        text
    }
}

/// A tokenizer of the 256 bytes and `<|endoftext|>`.
pub(crate) fn bytes_only() -> PatchTokenizer {
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(demo_path()).unwrap()).unwrap();
    let vocab = json["model"]["vocab"].as_object().unwrap();
    // Byte tokens are the ones of one character.
    let bytes: serde_json::Map<String, serde_json::Value> = vocab
        .keys()
        .filter(|token| token.chars().count() == 1)
        .zip(0..)
        .map(|(token, id)| (token.clone(), id.into()))
        .collect();
    json["added_tokens"][0]["id"] = bytes.len().into();
    json["model"]["vocab"] = bytes.into();
    json["model"]["merges"] = serde_json::json!([]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, json.to_string()).unwrap();
    PatchTokenizer::from_file(&path).unwrap()
}

/// Writes a Parquet file with one column of optional strings.
pub(crate) fn write_parquet(path: &std::path::Path, column: &str, rows: &[Option<&[u8]>]) {
    let schema = format!("message m {{ optional int64 id; optional binary {column} (STRING); }}");
    let levels: Vec<i16> = rows.iter().map(|row| i16::from(row.is_some())).collect();
    let texts: Vec<ByteArray> = rows.iter().flatten().map(|row| row.to_vec().into()).collect();
    let ids: Vec<i64> = (0..rows.len() as i64).collect();
    let mut file = new_parquet(path, &schema);
    for (levels, texts, ids) in [(&levels, &texts, &ids), (&levels, &texts, &ids)] {
        let mut group = file.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let all = vec![1; ids.len()];
        column.typed::<Int64Type>().write_batch(ids, Some(&all), None).unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column
            .typed::<ByteArrayType>()
            .write_batch(texts, Some(levels), None)
            .unwrap();
        column.close().unwrap();
        group.close().unwrap();
    }
    file.close().unwrap();
}

/// Writes counts as Spark would: every column nullable, every list with its own names, no metadata.
pub(crate) fn write_counts(path: &std::path::Path, rows: &[(&str, i64)]) {
    let schema = "message spark_schema {
        optional binary chunk (STRING);
        optional int64 count;
        optional int64 heldout;
        optional group documents (LIST) { repeated group list { optional int64 element; } }
    }";
    let mut file = new_parquet(path, schema);
    let mut group = file.next_row_group().unwrap();
    let there = vec![1; rows.len()];
    let mut column = group.next_column().unwrap().unwrap();
    let chunks: Vec<ByteArray> = rows.iter().map(|row| row.0.into()).collect();
    column
        .typed::<ByteArrayType>()
        .write_batch(&chunks, Some(&there), None)
        .unwrap();
    column.close().unwrap();
    for values in [rows.iter().map(|row| row.1).collect::<Vec<_>>(), vec![0; rows.len()]] {
        let mut column = group.next_column().unwrap().unwrap();
        column
            .typed::<Int64Type>()
            .write_batch(&values, Some(&there), None)
            .unwrap();
        column.close().unwrap();
    }
    // Two documents a row.
    let documents: Vec<i64> = (0..2 * rows.len() as i64).collect();
    let definitions = vec![3; documents.len()];
    let repetitions: Vec<i16> = documents.iter().map(|document| (document % 2) as i16).collect();
    let mut column = group.next_column().unwrap().unwrap();
    let typed = column.typed::<Int64Type>();
    typed
        .write_batch(&documents, Some(&definitions), Some(&repetitions))
        .unwrap();
    column.close().unwrap();
    group.close().unwrap();
    file.close().unwrap();
}

/// The pairs in the footer of a Parquet file.
pub(crate) fn footer(path: &std::path::Path) -> Vec<(String, String)> {
    let file = SerializedFileReader::new(std::fs::File::open(path).unwrap()).unwrap();
    let pairs = file.metadata().file_metadata().key_value_metadata().unwrap();
    pairs
        .iter()
        .map(|pair| (pair.key.clone(), pair.value.clone().unwrap()))
        .collect()
}

fn new_parquet(path: &std::path::Path, schema: &str) -> SerializedFileWriter<std::fs::File> {
    let schema = Arc::new(parse_message_type(schema).unwrap());
    SerializedFileWriter::new(std::fs::File::create(path).unwrap(), schema, Arc::default()).unwrap()
}
