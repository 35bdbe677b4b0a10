//! Counting a corpus at once, in parts, and with too little memory.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{DEMO, documents};
use patchtok::{Built, ChunkCounter, ChunkCounts, Corpus, CountSummary, Error, VocabBuilder, merge_counts};

/// 300 KB of the demo manual, and documents with special tokens.
fn corpus() -> Corpus {
    let mut texts = documents("manual-train", 300_000);
    texts.extend((0..30).map(|i| format!("one<|endoftext|>two {}<|endoftext|>", i % 3)));
    Corpus::from_texts(texts)
}

fn build(counts: &ChunkCounts) -> Built {
    let builder = VocabBuilder::new(DEMO.clone()).swaps(300);
    builder.build_from_counts(counts, |_| {}).unwrap()
}

fn assert_same(a: &Built, b: &Built) {
    assert_eq!(a.tokenizer.patch_map(), b.tokenizer.patch_map());
    assert_eq!(a.report, b.report);
}

/// Counts shard `index` of `count` into a file.
fn count_shard(folder: &Path, index: u64, count: u64) -> PathBuf {
    let path = folder.join(format!("shard-{index}-{count}.parquet"));
    let corpus = corpus().shard(index, count).unwrap();
    let counter = ChunkCounter::new(&DEMO).hold_out_tenth();
    counter.count_to_file(&corpus, &path, |_| {}).unwrap();
    path
}

#[test]
fn shards_give_the_vocabulary_of_the_whole() {
    let folder = tempfile::tempdir().unwrap();
    let whole = ChunkCounter::new(&DEMO)
        .hold_out_tenth()
        .count(&corpus(), |_| {})
        .unwrap();
    let expected = build(&whole);
    for shards in [1, 3, 8] {
        let files: Vec<_> = (0..shards).map(|i| count_shard(folder.path(), i, shards)).collect();
        let counts = ChunkCounts::load(&DEMO, &files, None).unwrap();
        assert_eq!(counts.summary(), whole.summary());
        assert_same(&build(&counts), &expected);
        // The same through a merged file.
        let merged = folder.path().join("merged.parquet");
        assert_eq!(&merge_counts(&DEMO, &files, &merged).unwrap(), whole.summary());
        let counts = ChunkCounts::load(&DEMO, &[merged], None).unwrap();
        assert_same(&build(&counts), &expected);
    }
}

#[test]
fn any_tree_of_merges_gives_the_same_file() {
    let folder = tempfile::tempdir().unwrap();
    let files: Vec<_> = (0..5).map(|i| count_shard(folder.path(), i, 5)).collect();
    let merge = |name: &str, parts: &[&PathBuf]| {
        let out = folder.path().join(name);
        merge_counts(&DEMO, parts, &out).unwrap();
        out
    };
    let [a, b, c, d, e] = [0, 1, 2, 3, 4].map(|at| &files[at]);
    let flat = merge("flat", &[a, b, c, d, e]);
    let left = merge("left", &[&merge("ab", &[a, b]), c, &merge("de", &[d, e])]);
    let right = merge("right", &[&merge("edc", &[e, d, c]), &merge("b", &[b]), a]);
    for other in [left, right] {
        assert_eq!(
            fs::read(&flat).unwrap(),
            fs::read(&other).unwrap(),
            "{}",
            other.display()
        );
    }
}

#[test]
fn a_split_corpus_is_counted_as_it_would_be_read() {
    let (learn, measure) = corpus().split();
    let apart = ChunkCounter::new(&DEMO).heldout(measure).count(&learn, |_| {}).unwrap();
    let at_once = ChunkCounter::new(&DEMO)
        .hold_out_tenth()
        .count(&corpus(), |_| {})
        .unwrap();
    assert_eq!(apart.summary(), at_once.summary());
    let built = build(&at_once);
    assert_same(&build(&apart), &built);
    // What the report says of the held-out documents is what encoding them gives.
    let (learn, measure) = corpus().split();
    let count = |tokenizer, corpus| patchtok::TokenCount::of(tokenizer, corpus).unwrap();
    assert_eq!(built.report.heldout_base, count(&DEMO, &measure));
    assert_eq!(built.report.heldout_patched, count(&built.tokenizer, &measure));
    assert_eq!(built.report.base, count(&DEMO, &learn));
    assert_eq!(built.report.patched, count(&built.tokenizer, &learn));
}

#[test]
fn counts_that_do_not_fit_go_to_files() {
    let folder = tempfile::tempdir().unwrap();
    let spill = folder.path().join("spill");
    fs::create_dir(&spill).unwrap();
    let counter = ChunkCounter::new(&DEMO);
    let (in_memory, in_files) = (folder.path().join("a"), folder.path().join("b"));
    let summary = counter.count_to_file(&corpus(), &in_memory, |_| {}).unwrap();
    // Less than one batch of the corpus takes, so every batch is written to a file.
    let limited = counter.clone().memory(1 << 16, &spill);
    assert_eq!(limited.count_to_file(&corpus(), &in_files, |_| {}).unwrap(), summary);
    assert!(fs::read_dir(&spill).unwrap().count() > 0);
    assert_eq!(fs::read(in_memory).unwrap(), fs::read(in_files).unwrap());
}

#[test]
fn a_sample_fits_and_its_error_is_what_it_says() {
    let folder = tempfile::tempdir().unwrap();
    // Chunks of many counts: line i occurs 1 + i % 9 times.
    let texts: Vec<String> = (0..4000)
        .flat_map(|i| (0..1 + i % 9).map(move |_| format!("line {i} of the log, {}\n\n", i * i)))
        .collect();
    let bytes: usize = texts.iter().map(String::len).sum();
    let corpus = Corpus::from_texts(texts);
    let file = folder.path().join("counts.parquet");
    ChunkCounter::new(&DEMO).count_to_file(&corpus, &file, |_| {}).unwrap();
    let all = ChunkCounts::load(&DEMO, &[&file], Some(1 << 40)).unwrap();
    assert_eq!(all.sampling(), None);
    // 100 KB above what a build without chunks takes.
    let sample = ChunkCounts::load(&DEMO, &[&file], Some((200 << 20) + 100_000)).unwrap();
    let sampling = sample.sampling().unwrap();
    assert_eq!(sample.summary(), all.summary(), "the summary is of the whole");
    assert_eq!(sample.summary().bytes, bytes as u64);
    assert!(
        sampling.k > 1 && sampling.kept_chunks < sample.summary().distinct_chunks,
        "{sampling:?}"
    );
    let estimate = build_size(&sample);
    let error = 100.0 * (estimate as f64 / bytes as f64 - 1.0).abs();
    assert!(
        error < 4.0 * sampling.size_error_percent,
        "{estimate} of {bytes} bytes: {error} %, {sampling:?}"
    );
    assert!(sampling.size_error_percent < 10.0, "{sampling:?}");
}

/// The size of the corpus as its tokens say, which are single bytes when nothing is merged.
fn build_size(counts: &ChunkCounts) -> u64 {
    let built = VocabBuilder::new(crate::common::bytes_only()).swaps(0);
    built.build_from_counts(counts, |_| {}).unwrap().report.base.tokens
}

#[test]
fn bad_records_are_counted_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.jsonl");
    fs::write(
        &path,
        b"{\"text\": \"good\"}\nbad\n\n{\"text\": 1}\n\"\xff\"\n{\"text\": \"also good\"}",
    )
    .unwrap();
    let corpus = Corpus::open(&path).unwrap();
    let error = ChunkCounter::new(&DEMO).count(&corpus, |_| {}).unwrap_err();
    assert!(matches!(error, Error::BadLine { line: 2, .. }), "{error}");
    let counts = ChunkCounter::new(&DEMO).count(&corpus.skip_bad(true), |_| {}).unwrap();
    let CountSummary {
        documents, rejected, ..
    } = counts.summary();
    assert_eq!((*documents, rejected.total()), (2, 3));
    assert_eq!((rejected.not_json, rejected.no_text, rejected.not_utf8), (1, 1, 1));
    assert!(rejected.first.as_ref().unwrap().contains("x.jsonl:2"), "{rejected:?}");
}

#[test]
fn files_that_are_no_counts_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text");
    fs::write(&text, "no Parquet").unwrap();
    let other = folder.path().join("other.parquet");
    crate::common::write_parquet(&other, "chunk", &[Some(b"x")]);
    let unsorted = folder.path().join("unsorted.parquet");
    crate::common::write_counts(&unsorted, &[("b", 1), ("a", 1)]);
    let twice = folder.path().join("twice.parquet");
    crate::common::write_counts(&twice, &[("a", 1), ("a", 1)]);
    let negative = folder.path().join("negative.parquet");
    crate::common::write_counts(&negative, &[("a", -1)]);
    let huge = folder.path().join("huge.parquet");
    crate::common::write_counts(&huge, &[("", 1), ("a", i64::MAX), ("b", i64::MAX), ("c", i64::MAX)]);
    for (path, message) in [
        (&text, "Parquet"),
        (&other, "\"count\""),
        (&unsorted, "sorted"),
        (&twice, "twice"),
        (&negative, "negative"),
        (&huge, "damaged"),
    ] {
        let error = ChunkCounts::load(&DEMO, &[path], None).unwrap_err();
        assert!(error.to_string().contains(message), "{}: {error}", path.display());
    }
    // A file of an engine that knows nothing of this format.
    let foreign = folder.path().join("foreign.parquet");
    crate::common::write_counts(&foreign, &[("", 2), ("a b", 7), ("c", 1)]);
    let counts = ChunkCounts::load(&DEMO, &[foreign], None).unwrap();
    assert_eq!((counts.summary().documents, counts.summary().bytes), (2, 22));
}

#[test]
fn guards_beyond_the_listed_documents_are_refused() {
    let counts = ChunkCounter::new(&DEMO).count(&corpus(), |_| {}).unwrap();
    let builder = || VocabBuilder::new(DEMO.clone()).swaps(5).min_documents(9);
    let error = builder().build_from_counts(&counts, |_| {}).unwrap_err();
    assert!(error.to_string().contains("at most 8 documents"), "{error}");
    builder().build(corpus()).unwrap();
}
