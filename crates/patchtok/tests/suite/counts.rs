//! Counting a corpus at once, in parts, and with too little memory.

use std::fs;
use std::path::{Path, PathBuf};

use crate::bases;
use crate::common::{DEMO, GPT2, PATCHED, documents};
use patchtok::{
    Built, ChunkCounter, ChunkCounts, Corpus, CountSummary, Error, PatchTokenizer, VocabBuilder, merge_counts,
};

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
    let texts: Vec<String> = (0..16_000)
        .flat_map(|i| (0..1 + i % 9).map(move |_| format!("line {i} of the log, {}\n\n", i * i)))
        .collect();
    let bytes: usize = texts.iter().map(String::len).sum();
    let corpus = Corpus::from_texts(texts);
    let file = folder.path().join("counts.parquet");
    ChunkCounter::new(&DEMO).count_to_file(&corpus, &file, |_| {}).unwrap();
    let all = ChunkCounts::load(&DEMO, &[&file], Some(1 << 40)).unwrap();
    assert_eq!(all.sampling(), None);
    let sample = ChunkCounts::load(&DEMO, &[&file], Some(least_memory(&file))).unwrap();
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

/// The bytes that the error for too little memory says would do.
fn least_in(error: &Error) -> u64 {
    let message = error.to_string();
    let (_, least) = message.split_once("it takes ").unwrap_or_else(|| panic!("{message}"));
    least.split(' ').next().unwrap().parse().unwrap()
}

/// The least memory in which a vocabulary is built from the counts.
fn least_memory(counts: &Path) -> u64 {
    least_in(&ChunkCounts::load(&DEMO, &[counts], Some(1)).unwrap_err())
}

#[test]
fn too_little_memory_is_refused_with_what_would_do() {
    let folder = tempfile::tempdir().unwrap();
    let counter = ChunkCounter::new(&DEMO).memory(200 << 20, folder.path());
    let error = counter.count(&corpus(), |_| {}).unwrap_err();
    assert!(matches!(error, Error::Build(_)), "{error}");
    let least = least_in(&error);
    let counter = ChunkCounter::new(&DEMO).memory(least, folder.path());
    let built = build(&counter.count(&corpus(), |_| {}).unwrap());
    assert!(built.report.swaps > 0);
    // One word for which there is no room: known when it was counted.
    let word = Corpus::from_texts(["a".repeat(500_000)]);
    let error = counter.count(&word, |_| {}).unwrap_err();
    let enough = least_in(&error);
    assert!(enough > least, "{error}");
    let counter = ChunkCounter::new(&DEMO).memory(enough, folder.path());
    assert_eq!(counter.count(&word, |_| {}).unwrap().sampling(), None);
}

/// Bases that are read but not patched: a patched tokenizer, a Unigram model.
fn not_patchable() -> Vec<PatchTokenizer> {
    let mut file = bases::qwen_like();
    let model = &mut file["model"];
    let mut tokens: Vec<(String, u64)> =
        serde_json::from_value::<std::collections::BTreeMap<_, _>>(model["vocab"].clone())
            .unwrap()
            .into_iter()
            .collect();
    tokens.sort_by_key(|&(_, id)| id);
    let scores: Vec<_> = tokens
        .iter()
        .map(|(token, _)| serde_json::json!([token, -1.0]))
        .collect();
    *model = serde_json::json!({ "type": "Unigram", "unk_id": null, "vocab": scores, "byte_fallback": false });
    let (_folder, path) = bases::written(&file);
    vec![PatchTokenizer::from_file(path).unwrap(), PATCHED.clone()]
}

#[test]
fn bases_that_cannot_be_patched_are_refused_before_anything_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("a.txt");
    fs::write(&text, "text").unwrap();
    let corpus = Corpus::open(&text).unwrap();
    // Reading it would be another error.
    fs::remove_file(&text).unwrap();
    let (missing, out) = (folder.path().join("missing"), folder.path().join("out"));
    for base in &not_patchable() {
        let counter = ChunkCounter::new(base);
        for error in [
            counter.count(&corpus, |_| {}).unwrap_err(),
            counter.count_to_file(&corpus, &out, |_| {}).unwrap_err(),
            ChunkCounts::load(base, &[&missing], None).unwrap_err(),
            merge_counts(base, &[&missing], &out).unwrap_err(),
            VocabBuilder::new(base.clone()).build(&corpus).unwrap_err(),
            patchtok::AdaptivocabBuilder::new(base.clone(), patchtok::AdaptivocabForm::Paper)
                .build(&corpus)
                .unwrap_err(),
        ] {
            assert!(matches!(error, Error::Build(_)), "{error}");
        }
    }
}

#[test]
fn counts_of_a_base_that_cuts_in_another_way_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (_folder, path) = bases::written(&bases::qwen_like());
    let qwen = PatchTokenizer::from_file(path).unwrap();
    let [ours, theirs, merged] = ["ours", "theirs", "merged"].map(|name| folder.path().join(name));
    ChunkCounter::new(&DEMO)
        .count_to_file(&corpus(), &ours, |_| {})
        .unwrap();
    ChunkCounter::new(&qwen)
        .count_to_file(&corpus(), &theirs, |_| {})
        .unwrap();
    for error in [
        ChunkCounts::load(&DEMO, &[&theirs], None).unwrap_err(),
        ChunkCounts::load(&qwen, &[&ours], None).unwrap_err(),
        merge_counts(&DEMO, &[&ours, &theirs], &merged).unwrap_err(),
    ] {
        assert!(error.to_string().contains("another way"), "{error}");
    }
    assert!(!merged.exists());
    merge_counts(&DEMO, &[&ours, &ours], &merged).unwrap();
    assert!(
        ChunkCounts::load(&qwen, &[&merged], None).is_err(),
        "a merged file has a base, too"
    );
    // Other merges, the same chunks: counts for one are counts for the other.
    let again = folder.path().join("again");
    ChunkCounter::new(&GPT2)
        .count_to_file(&corpus(), &again, |_| {})
        .unwrap();
    assert_eq!(fs::read(&again).unwrap(), fs::read(&ours).unwrap());
    ChunkCounts::load(&GPT2, &[ours], None).unwrap();
}

#[test]
fn files_of_what_does_not_fit_stay_few() {
    let folder = tempfile::tempdir().unwrap();
    let spill = folder.path().join("spill");
    fs::create_dir(&spill).unwrap();
    // A batch has at most 16,384 records: these are 20 of them.
    let texts: Vec<String> = (0..20 * 16_384).map(|i| format!("{} x", i % 5000)).collect();
    let corpus = Corpus::from_texts(texts);
    let counter = ChunkCounter::new(&DEMO).hold_out_tenth();
    let (in_memory, in_files) = (folder.path().join("a"), folder.path().join("b"));
    let summary = counter.count_to_file(&corpus, &in_memory, |_| {}).unwrap();
    let mut most = 0;
    let limited = counter.memory(1, &spill);
    let count = |_| most = most.max(fs::read_dir(&spill).unwrap().count());
    assert_eq!(limited.count_to_file(&corpus, &in_files, count).unwrap(), summary);
    assert!((10..16).contains(&most), "{most} files");
    assert!(fs::read(in_memory).unwrap() == fs::read(in_files).unwrap());
}

#[test]
fn more_documents_are_listed_when_they_are_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let [twenty, eight, merged] = ["twenty", "eight", "merged"].map(|name| folder.path().join(name));
    let counter = ChunkCounter::new(&DEMO).list_documents(20);
    counter.count_to_file(&corpus(), &twenty, |_| {}).unwrap();
    ChunkCounter::new(&DEMO)
        .count_to_file(&corpus(), &eight, |_| {})
        .unwrap();
    let builder = || VocabBuilder::new(DEMO.clone()).swaps(100).min_documents(12);
    let build = |counts: &ChunkCounts| builder().build_from_counts(counts, |_| {}).unwrap();
    let in_memory = build(&counter.count(&corpus(), |_| {}).unwrap());
    assert!(in_memory.report.swaps > 20, "{} swaps", in_memory.report.swaps);
    let from_file = ChunkCounts::load(&DEMO, &[&twenty], None).unwrap();
    assert_same(&build(&from_file), &in_memory);
    // The same of parts, and through a merged file.
    let parts = [0, 1].map(|part| {
        let path = folder.path().join(format!("part {part}"));
        let corpus = corpus().shard(part, 2).unwrap();
        counter.count_to_file(&corpus, &path, |_| {}).unwrap();
        path
    });
    merge_counts(&DEMO, &parts, &merged).unwrap();
    assert_same(&build(&ChunkCounts::load(&DEMO, &[&merged], None).unwrap()), &in_memory);
    // Of several files the one that lists fewest decides.
    let both = ChunkCounts::load(&DEMO, &[&twenty, &eight], None).unwrap();
    assert!(builder().build_from_counts(&both, |_| {}).is_err());
}

/// Listed documents are part of what is planned: 8 bytes for each beyond the eighth.
#[test]
fn listed_documents_take_memory() {
    let folder = tempfile::tempdir().unwrap();
    // One chunk, for which the least memory has no room, in 12 documents.
    let corpus = Corpus::from_texts(vec!["a".repeat(150_000); 12]);
    let least = [8, 12].map(|listed| {
        let counter = ChunkCounter::new(&DEMO).list_documents(listed);
        let path = folder.path().join("counts");
        counter.count_to_file(&corpus, &path, |_| {}).unwrap();
        let least = least_in(&ChunkCounts::load(&DEMO, &[&path], Some(least_memory(&path))).unwrap_err());
        ChunkCounts::load(&DEMO, &[&path], Some(least)).unwrap();
        let count = |memory| counter.clone().memory(memory, folder.path()).count(&corpus, |_| {});
        count(least).unwrap();
        assert_eq!(least_in(&count(least - 1).unwrap_err()), least);
        least
    });
    assert_eq!(least[1] - least[0], 8 * 4);
}

/// What other programs find in the footer.
#[test]
fn the_footer_is_what_the_format_says() {
    let folder = tempfile::tempdir().unwrap();
    let (_folder, path) = bases::written(&bases::qwen_like());
    let qwen = PatchTokenizer::from_file(path).unwrap();
    // Chunks as of GPT-2, no normalizer, one special token; chunks as of Qwen, NFC, two.
    for (base, name) in [(&*GPT2, "2.0.1.0247d968"), (&qwen, "6.1.2.0aee74e4")] {
        let path = folder.path().join(name);
        ChunkCounter::new(base)
            .list_documents(9)
            .count_to_file(&corpus(), &path, |_| {})
            .unwrap();
        let expected = [
            ("format", "patchtok.chunk_counts.v1"),
            ("base", name),
            ("listed_documents", "9"),
        ];
        assert_eq!(
            crate::common::footer(&path),
            expected.map(|(key, value)| (key.into(), value.into()))
        );
    }
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
    // Sums that overflow, of documents and of special tokens.
    for chunk in ["", "<|endoftext|>"] {
        let most = folder.path().join("most.parquet");
        crate::common::write_counts(&most, &[(chunk, i64::MAX)]);
        let files = [&most, &most, &most];
        let merged = folder.path().join("merged.parquet");
        for error in [
            merge_counts(&DEMO, &files, &merged).unwrap_err(),
            ChunkCounts::load(&DEMO, &files, None).unwrap_err(),
        ] {
            assert!(error.to_string().contains("the limit is"), "{error}");
        }
        assert!(!merged.exists());
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
