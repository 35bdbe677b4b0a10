//! Times of encoding, decoding and building, by the clock: `cargo bench -p patchtok`. They say how a
//! change compares with the run before it on the same machine; how the crate compares with others is
//! measured by `cargo run --release -p patchtok-rivals`.

mod demo;

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use patchtok::{ChunkCounter, Corpus, PatchTokenizer, VocabBuilder};

use demo::{documents, gpt2};

/// Text to encode, and to build from.
const ENCODED: usize = 100_000;
const LEARNT: usize = 1_000_000;

const SWAPS: usize = 2000;

fn patched() -> PatchTokenizer {
    let corpus = Corpus::from_texts(documents("manual-train", LEARNT));
    let built = VocabBuilder::new(gpt2()).swaps(SWAPS).build(corpus);
    built.expect("the corpus is large enough").tokenizer
}

fn encode_and_decode(criterion: &mut Criterion) {
    let text = documents("manual-heldout", ENCODED).concat();
    let short: Vec<&str> = text.split_inclusive('\n').collect();
    for (name, tokenizer) in [("gpt2", gpt2()), ("patched", patched())] {
        let ids = tokenizer.encode(&text);
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Bytes(text.len() as u64));
        let mut out = Vec::new();
        group.bench_function("encode a document", |bencher| {
            bencher.iter(|| {
                out.clear();
                tokenizer.encode_into(black_box(&text), &mut out);
                out.len()
            });
        });
        group.bench_function("encode its lines", |bencher| {
            bencher.iter(|| {
                out.clear();
                for line in &short {
                    tokenizer.encode_into(black_box(line), &mut out);
                }
                out.len()
            });
        });
        group.bench_function("decode", |bencher| {
            bencher.iter(|| tokenizer.decode_bytes(black_box(&ids)).map(|bytes| bytes.len()));
        });
        group.finish();
    }
}

fn build(criterion: &mut Criterion) {
    let documents = documents("manual-train", LEARNT);
    let bytes: usize = documents.iter().map(String::len).sum();
    let corpus = Corpus::from_texts(documents);
    let base = gpt2();
    let mut group = criterion.benchmark_group("build");
    group.throughput(Throughput::Bytes(bytes as u64)).sample_size(10);
    let counter = ChunkCounter::new(&base);
    group.bench_function("count", |bencher| {
        bencher.iter(|| counter.count(black_box(&corpus), |_| {}))
    });
    let counts = counter.count(&corpus, |_| {}).expect("the corpus has documents");
    group.bench_function("select", |bencher| {
        bencher.iter_batched(
            || VocabBuilder::new(base.clone()).swaps(SWAPS),
            |builder| builder.build_from_counts(black_box(&counts), |_| {}),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2));
    targets = encode_and_decode, build
}
criterion_main!(benches);
