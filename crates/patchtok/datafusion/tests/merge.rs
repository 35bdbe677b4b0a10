//! The file that DataFusion's sum becomes is the one that patchtok makes, and what patchtok refuses is refused.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, LazyLock};

use datafusion::arrow::array::{ArrayRef, Int64Array, ListArray, RecordBatch, StringArray};
use datafusion::arrow::datatypes::Int64Type;
use datafusion::parquet::arrow::ArrowWriter;
use patchtok::{ChunkCounter, ChunkCounts, Corpus, PatchTokenizer, VocabBuilder};
use patchtok_datafusion::{Error, Limits, merge_counts};

const GPT2: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../data/gpt2/tokenizer.json");
const MANUAL: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../bench/demo/corpus/manual-heldout.jsonl.gz"
);

static BASE: LazyLock<PatchTokenizer> = LazyLock::new(|| PatchTokenizer::from_file(GPT2).unwrap());

/// 300 KB of the demo manual, and documents with special tokens.
fn corpus() -> Corpus {
    let mut texts = Vec::new();
    let mut bytes = 0;
    for text in Corpus::open(MANUAL).unwrap().documents() {
        let text = text.unwrap();
        bytes += text.len();
        if bytes > 300_000 {
            break;
        }
        texts.push(text);
    }
    texts.extend((0..30).map(|i| format!("one<|endoftext|>two {}<|endoftext|>", i % 3)));
    Corpus::from_texts(texts)
}

/// Counts the corpus in `count` shards.
fn shards(folder: &Path, count: u64) -> Vec<PathBuf> {
    let shard = |index| {
        // What means something in a URL or in a pattern means nothing in a path.
        let path = folder.join(format!("counts {index} of [{count}] %20#?ä"));
        let corpus = corpus().shard(index, count).unwrap();
        let counter = ChunkCounter::new(&BASE).hold_out_tenth();
        counter.count_to_file(&corpus, &path, |_| {}).unwrap();
        path
    };
    (0..count).map(shard).collect()
}

/// The names in a folder.
fn names(folder: &Path) -> Vec<PathBuf> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    names.sort();
    names
}

/// Chunk, count, held-out count and documents.
type Row<'a> = (Option<&'a str>, Option<i64>, Option<i64>, Option<Vec<Option<i64>>>);

/// A file as other engines write them: columns that may be null, other names of list elements.
fn foreign(path: &Path, rows: &[Row<'_>]) {
    let columns: [(&str, ArrayRef); 4] = [
        ("chunk", Arc::new(rows.iter().map(|row| row.0).collect::<StringArray>())),
        ("count", Arc::new(rows.iter().map(|row| row.1).collect::<Int64Array>())),
        (
            "heldout",
            Arc::new(rows.iter().map(|row| row.2).collect::<Int64Array>()),
        ),
        (
            "documents",
            Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(
                rows.iter().map(|row| row.3.clone()),
            )),
        ),
    ];
    write(path, columns);
}

fn write(path: &Path, columns: [(&str, ArrayRef); 4]) {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut writer = ArrowWriter::try_new(fs::File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

#[test]
fn shards_give_the_file_and_the_vocabulary_of_patchtok() {
    let folder = tempfile::tempdir().unwrap();
    let [ours, theirs, whole] = ["ours", "theirs", "whole"].map(|name| folder.path().join(name));
    ChunkCounter::new(&BASE)
        .hold_out_tenth()
        .count_to_file(&corpus(), &whole, |_| {})
        .unwrap();
    let built = |counts: &Path| {
        let counts = ChunkCounts::load(&BASE, &[counts], None).unwrap();
        let builder = VocabBuilder::new(BASE.clone()).swaps(200);
        builder.build_from_counts(&counts, |_| {}).unwrap()
    };
    let expected = built(&whole);
    assert_eq!(expected.report.swaps, 200);
    for (count, threads) in [(1, 2), (3, 1), (20, 3)] {
        let files = shards(folder.path(), count);
        let limits = Limits {
            threads: Some(threads),
            memory: None,
        };
        let summary = merge_counts(&BASE, &files, &ours, limits).unwrap();
        assert_eq!(patchtok::merge_counts(&BASE, &files, &theirs).unwrap(), summary);
        assert!(fs::read(&ours).unwrap() == fs::read(&theirs).unwrap(), "{count} shards");
        let merged = built(&ours);
        assert_eq!(merged.report, expected.report);
        assert_eq!(merged.tokenizer.patch_map(), expected.tokenizer.patch_map());
    }
}

#[test]
fn what_does_not_fit_into_memory_goes_to_disk() {
    let folder = tempfile::tempdir().unwrap();
    // Chunks of 200 bytes, 30 MB in all, a third of which both files have.
    let files = [0, 1].map(|file| {
        let path = folder.path().join(format!("part {file}"));
        let texts = (0..100_000).map(|i| format!("{:0200}", i + file * 50_000));
        ChunkCounter::new(&BASE)
            .count_to_file(&Corpus::from_texts(texts), &path, |_| {})
            .unwrap();
        path
    });
    let [ours, theirs] = ["ours", "theirs"].map(|name| folder.path().join(name));
    let limits = Limits {
        threads: Some(2),
        memory: Some(MEMORY),
    };
    let summary = merge_counts(&BASE, &files, &ours, limits).unwrap();
    assert!(summary.distinct_bytes > MEMORY as u64, "{summary:?}");
    patchtok::merge_counts(&BASE, &files, &theirs).unwrap();
    assert!(fs::read(&ours).unwrap() == fs::read(&theirs).unwrap());
    assert_eq!(names(folder.path()).len(), 4, "nothing else is left");
}

#[test]
fn what_patchtok_refuses_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let files = shards(folder.path(), 2);
    let out = folder.path().join("out");
    let refused = |base: &PatchTokenizer, files: &[&Path]| {
        let before = names(folder.path());
        let error = merge_counts(base, files, &out, Limits::default()).unwrap_err();
        assert_eq!(names(folder.path()), before, "nothing is left after: {error}");
        error
    };
    // Another base: the same merges, one special token more.
    let mut other: serde_json::Value = serde_json::from_slice(&fs::read(GPT2).unwrap()).unwrap();
    let mut special = other["added_tokens"][0].clone();
    special["content"] = "<|more|>".into();
    special["id"] = 50257.into();
    other["added_tokens"].as_array_mut().unwrap().push(special);
    let path = folder.path().join("tokenizer.json");
    fs::write(&path, other.to_string()).unwrap();
    let other = PatchTokenizer::from_file(&path).unwrap();
    let theirs = patchtok::merge_counts(&other, &files, &out).unwrap_err().to_string();
    let error = refused(&other, &[&files[0], &files[1]]);
    assert!(matches!(error, Error::Counts(_)), "{error}");
    assert_eq!(error.to_string(), theirs);
    // Files that are missing, cut off, or something else.
    let damaged = folder.path().join("damaged");
    let whole = fs::read(&files[1]).unwrap();
    for length in [0, 3, 100, whole.len() / 2, whole.len() - 1] {
        fs::write(&damaged, &whole[..length]).unwrap();
        let error = refused(&BASE, &[&files[0], &damaged]);
        assert!(error.to_string().contains("damaged"), "{error}");
    }
    // The beginning is gone, the footer is there.
    let mut beginning = whole.clone();
    beginning[4..whole.len() / 2].fill(0);
    fs::write(&damaged, beginning).unwrap();
    refused(&BASE, &[&files[0], &damaged]);
    refused(&BASE, &[&files[0], &folder.path().join("missing")]);
    let error = refused(&BASE, &[&files[0], &files[1], &files[0]]);
    assert!(matches!(error, Error::Twice(_)), "{error}");
    // Negative numbers, of which the sum is none, and sums that no corpus has.
    for (first, second) in [(-1, 5), (i64::MAX, i64::MAX)] {
        let parts = [(1, first), (2, second)].map(|(part, count)| {
            let path = folder.path().join(format!("{part}"));
            let documents = ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(1)])]);
            write(
                &path,
                [
                    ("chunk", Arc::new(StringArray::from(vec!["a"]))),
                    ("count", Arc::new(Int64Array::from(vec![count]))),
                    ("heldout", Arc::new(Int64Array::from(vec![0]))),
                    ("documents", Arc::new(documents)),
                ],
            );
            path
        });
        refused(&BASE, &[&parts[0], &parts[1]]);
    }
}

/// Rows in no order, chunks that stand twice, nothing where there may be nothing.
#[test]
fn files_of_other_engines_are_added() {
    let folder = tempfile::tempdir().unwrap();
    let [one, two, out, alone] = ["one", "two", "out", "alone"].map(|name| folder.path().join(name));
    let some = |ids: &[i64]| Some(ids.iter().map(|&id| Some(id)).collect());
    foreign(
        &one,
        &[
            (Some("b"), Some(2), Some(1), some(&[9, 3])),
            (None, Some(5), Some(2), None),
            (Some("a"), Some(7), None, some(&[1, 2, 3, 4, 5])),
            (Some("b"), Some(1), Some(1), Some(vec![Some(4), None])),
        ],
    );
    foreign(
        &two,
        &[
            (Some("c"), None, Some(6), None),
            (Some("a"), Some(1), Some(0), some(&[8, 7, 6, 5, 4, 9])),
            (Some(""), Some(1), Some(0), some(&[])),
        ],
    );
    merge_counts(&BASE, &[&one, &two], &out, Limits::default()).unwrap();
    foreign(
        &alone,
        &[
            (Some(""), Some(6), Some(2), None),
            (Some("a"), Some(8), Some(0), some(&[1, 2, 3, 4, 5, 6, 7, 8])),
            (Some("b"), Some(3), Some(2), some(&[3, 4, 9])),
            (Some("c"), Some(0), Some(6), None),
        ],
    );
    let expected = folder.path().join("expected");
    patchtok::merge_counts(&BASE, &[alone], &expected).unwrap();
    assert!(fs::read(&out).unwrap() == fs::read(&expected).unwrap());
}

/// As many documents are listed as the file lists that lists fewest.
#[test]
fn more_documents_are_listed_if_all_files_list_more() {
    let folder = tempfile::tempdir().unwrap();
    let [twelve, twenty, thirty, ours, theirs] =
        ["twelve", "twenty", "thirty", "ours", "theirs"].map(|name| folder.path().join(name));
    for (path, listed) in [(&twelve, 12), (&twenty, 20), (&thirty, 30)] {
        let counter = ChunkCounter::new(&BASE).list_documents(listed);
        counter.count_to_file(&corpus(), path, |_| {}).unwrap();
    }
    for files in [[&twelve, &twenty], [&thirty, &twenty]] {
        merge_counts(&BASE, &files, &ours, Limits::default()).unwrap();
        patchtok::merge_counts(&BASE, &files, &theirs).unwrap();
        assert!(fs::read(&ours).unwrap() == fs::read(&theirs).unwrap(), "{files:?}");
    }
}

#[test]
fn the_program_says_how_it_went() {
    let folder = tempfile::tempdir().unwrap();
    let files = shards(folder.path(), 2);
    let run = |more: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_patchtok-datafusion"))
            .current_dir(folder.path())
            .args(["--base", GPT2, "--out", "sum.parquet"])
            .args(&files)
            .args(more)
            .output()
            .unwrap()
    };
    let output = run(&["--memory", "1G"]);
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8(output.stdout).unwrap().contains("distinct"));
    let sum = fs::read(folder.path().join("sum.parquet")).unwrap();
    let output = run(&[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("--force"));
    assert!(run(&["--force", "--threads", "1"]).status.success());
    assert!(fs::read(folder.path().join("sum.parquet")).unwrap() == sum);
    for wrong in [["--memory", "much"], ["--threads", "0"], ["--swaps", "9"]] {
        assert_eq!(run(&wrong).status.code(), Some(2), "{wrong:?}");
    }
}

const MEMORY: usize = 24 << 20;
