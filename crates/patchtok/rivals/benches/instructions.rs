//! Instructions of encoding, decoding and building, counted by Callgrind: `cargo bench -p
//! patchtok-rivals`. A count hardly changes from run to run, so it shows changes that wall time hides.
//! It knows nothing of caches and branches: a smaller count may be slower. `docs/optimizations.md` says
//! what it needs and what came of it.

// The macros of gungraun make public items without documentation.
#![allow(missing_docs)]

#[path = "../../benches/demo/mod.rs"]
mod demo;

use std::hint::black_box;

use gungraun::{LibraryBenchmarkConfig, library_benchmark, library_benchmark_group, main};
use patchtok::{ChunkCounter, ChunkCounts, Corpus, PatchTokenizer, VocabBuilder};

use demo::{documents, gpt2};

/// What one benchmark works on.
struct Subject {
    tokenizer: PatchTokenizer,
    text: String,
    ids: Vec<u32>,
}

fn counts() -> ChunkCounts {
    let corpus = Corpus::from_texts(documents("manual-train", 200_000));
    let counts = ChunkCounter::new(&gpt2()).count(&corpus, |_| {});
    counts.expect("the corpus has documents")
}

/// GPT-2's tokenizer, or one with so many swaps, that has met the text before.
fn subject(swaps: usize) -> Subject {
    let tokenizer = match swaps {
        0 => gpt2(),
        _ => {
            let built = VocabBuilder::new(gpt2())
                .swaps(swaps)
                .build_from_counts(&counts(), |_| {});
            built.expect("the corpus is large enough").tokenizer
        }
    };
    let text = documents("manual-heldout", 100_000).concat();
    let ids = tokenizer.encode(&text);
    Subject { tokenizer, text, ids }
}

#[library_benchmark(setup = subject)]
#[bench::gpt2(0)]
#[bench::patched(1000)]
fn encode(subject: Subject) -> (usize, Subject) {
    (subject.tokenizer.encode(black_box(&subject.text)).len(), subject)
}

#[library_benchmark(setup = subject)]
#[bench::gpt2(0)]
fn decode(subject: Subject) -> (usize, Subject) {
    let bytes = subject.tokenizer.decode_bytes(black_box(&subject.ids));
    (bytes.map_or(0, |bytes| bytes.len()), subject)
}

#[library_benchmark]
#[bench::swaps_1000(setup = counts)]
fn build(counts: ChunkCounts) -> usize {
    let built = VocabBuilder::new(gpt2())
        .swaps(1000)
        .build_from_counts(black_box(&counts), |_| {});
    built.map_or(0, |built| built.report.swaps)
}

library_benchmark_group!(name = instructions, benchmarks = [encode, decode, build]);

main!(
    // Threads that wait for work count, too.
    config = LibraryBenchmarkConfig::default().env("RAYON_NUM_THREADS", "1"),
    library_benchmark_groups = instructions
);
