use super::*;
use crate::split::Splitter;
use crate::{CurvePoint, TokenCount};

const GPT2: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/data/gpt2/tokenizer.json");

fn base() -> PatchTokenizer {
    PatchTokenizer::from_file(GPT2).unwrap()
}

fn new_tokens(built: &Built) -> Vec<String> {
    let map = built.tokenizer.patch_map().unwrap();
    map.new_tokens()
        .map(|new| String::from_utf8_lossy(&new.token).into_owned())
        .collect()
}

#[test]
fn no_swaps_give_the_base_tokens() {
    let corpus = Corpus::from_texts(["It's a 'test'.\n\n  Only a test, of course — 'tis 42."]);
    let built = VocabBuilder::new(base()).swaps(0).build(&corpus).unwrap();
    assert_eq!((built.report.swaps, built.report.stop), (0, Stop::Requested));
    let text = "('select' don't \u{a0} x";
    assert_eq!(built.tokenizer.encode(text), base().encode(text));
}

#[test]
fn guards_hold() {
    let texts = vec!["alpha beta 1234 5678 gamma\n\n\n\nbeta beta beta beta delta"; 12];
    let corpus = Corpus::from_texts(texts.clone());
    let build = |builder: VocabBuilder| builder.swaps(100).build(&corpus).unwrap();
    let built = build(VocabBuilder::new(base()).max_token_bytes(12));
    assert_eq!(built.report.stop, Stop::NoMoreCandidates);
    let tokens = new_tokens(&built);
    assert!(tokens.iter().any(|token| token == " beta beta"), "{tokens:?}");
    for token in &tokens {
        assert!(token.len() <= 12, "{token:?}");
        assert!(token.trim().parse::<u64>().is_err(), "{token:?}");
    }
    assert_eq!(build(VocabBuilder::new(base()).min_documents(13)).report.swaps, 0);
    assert_eq!(build(VocabBuilder::new(base()).min_count(13)).report.swaps, 0);
    assert_ne!(build(VocabBuilder::new(base()).min_count(12)).report.swaps, 0);
}

#[test]
fn a_stall_needs_held_out_text() {
    let corpus = Corpus::from_texts(vec!["The quick brown fox jumps over the lazy dog."; 12]);
    let counts = ChunkCounter::new(&base()).count(&corpus, |_| {}).unwrap();
    let builder = VocabBuilder::new(base()).swaps(5);
    let error = builder.clone().stop_on_stall(true).build_from_counts(&counts, |_| {});
    assert!(error.unwrap_err().to_string().contains("no document is held out"));
    let nothing = Corpus::from_texts([""]);
    assert!(builder.clone().stop_when_stalled(nothing).build(&corpus).is_err());
    assert_eq!(builder.build_from_counts(&counts, |_| {}).unwrap().report.swaps, 5);
}

#[test]
fn a_swap_keeps_every_other_id() {
    let base = base();
    let pinned = base.encode(" rawdownload")[0];
    let corpus = Corpus::from_texts(vec!["SELECT * FROM pg_stat_activity WHERE state = 'active';"; 10]);
    let built = VocabBuilder::new(base.clone())
        .swaps(7)
        .pin([pinned])
        .build(&corpus)
        .unwrap();
    let map = built.tokenizer.patch_map().unwrap();
    assert_eq!(built.tokenizer.vocab_size(), base.vocab_size());
    assert_eq!(map.new_tokens().len(), 7);
    assert_eq!(built.tokenizer.token_bytes(pinned), base.token_bytes(pinned));
    for id in 0..base.vocab_size() as u32 {
        let same = built.tokenizer.token_bytes(id) == base.token_bytes(id);
        assert_eq!(same, map.base_ids(id).is_none(), "token {id}");
        if let Some(base_ids) = map.base_ids(id) {
            assert_eq!(
                base.decode_bytes(base_ids).unwrap(),
                built.tokenizer.token_bytes(id).unwrap()
            );
            assert!(base_ids.len() > 1);
        }
    }
    for removed in map.removed_tokens() {
        assert_eq!(Some(&removed.token[..]), base.token_bytes(removed.id));
        assert_eq!(built.tokenizer.decode_bytes(&removed.pieces).unwrap(), removed.token);
    }
}

/// Every merge saves its count, so the greedy sum is exact, runs of one token included.
#[test]
fn the_report_counts_what_the_tokenizer_does() {
    let texts: Vec<String> = (0..40)
        .map(|i| {
            format!(
                "ha ha ha ha{} aaaaaaaaaaa --------- {i} the end of the line",
                " ha".repeat(i % 5)
            )
        })
        .collect();
    let corpus = Corpus::from_texts(texts);
    let built = VocabBuilder::new(base()).swaps(60).build(&corpus).unwrap();
    let report = &built.report;
    assert_eq!(TokenCount::of(&base(), &corpus).unwrap(), report.base);
    assert_eq!(TokenCount::of(&built.tokenizer, &corpus).unwrap(), report.patched);
    let saved: u64 = report.tokens.iter().map(|token| token.saved).sum();
    assert_eq!(
        report.base.tokens - report.patched.tokens,
        saved,
        "nothing removed was in use"
    );
    assert_eq!(report.tokens.len(), report.swaps);
    assert_eq!(report.words, (0..40).map(|i| 10 + i % 5).sum::<u64>());
    let uses = |id: u32| {
        report
            .removed
            .iter()
            .find(|removed| removed.id == id)
            .map(|removed| removed.uses)
    };
    assert_eq!(report.removed.len(), report.swaps);
    assert_eq!(report.tokens.first().and_then(|token| uses(token.id)), Some(0));
    // Unused are all tokens but those that the corpus shows, whichever they are.
    let used: HashSet<u32, Hasher> = corpus
        .documents()
        .flat_map(|text| built.tokenizer.encode(&text.unwrap()))
        .collect();
    assert_eq!(
        report.patched_unused as usize,
        built.tokenizer.vocab_size() - 1 - used.len()
    );
}

/// The last point of the curve is what the tokenizer takes, and each point is what a tokenizer with so
/// many new tokens would.
#[test]
fn the_curve_ends_where_the_tokenizer_is() {
    let text = |i: usize| format!("Row {} of the table {} is not null.\n\nDefault: {i}", i % 7, i % 11);
    let corpus = Corpus::from_texts((0..300).map(text));
    let heldout = Corpus::from_texts((300..330).map(text));
    let build = |swaps| {
        let builder = VocabBuilder::new(base()).swaps(swaps);
        let counts = ChunkCounter::new(&builder.base)
            .heldout(heldout.clone())
            .count(&corpus, |_| {})
            .unwrap();
        builder.build_from_counts(&counts, |_| {}).unwrap()
    };
    let built = build(40);
    let curve = &built.report.curve;
    assert_eq!(curve.len(), built.report.swaps + 1);
    let blank_lines = 300;
    assert_eq!(
        curve[0].tokens + blank_lines,
        built.report.base.tokens,
        "nothing removed was in use, and a blank line is one token"
    );
    for new in [0, 7, built.report.swaps] {
        let report = build(new).report;
        let point = CurvePoint {
            new_tokens: new,
            tokens: report.patched.tokens,
            heldout_tokens: report.heldout_patched.tokens,
        };
        assert_eq!(curve[new], point);
    }
}

#[test]
fn a_removed_token_that_is_made_again_keeps_its_id() {
    // The 256 bytes, `ab`, `abc` and two words that nothing uses.
    let tokens = (0..=255u8).map(|byte| vec![byte]);
    let words = [&b"ab"[..], b"abc", b"xy", b"xz"].map(<[u8]>::to_vec);
    let code = |byte: u8| u32::from(byte);
    let merge = |left, right, result| Merge { left, right, result };
    let merges = vec![
        merge(code(b'a'), code(b'b'), 256),
        merge(256, code(b'c'), 257),
        merge(code(b'x'), code(b'y'), 258),
        merge(code(b'x'), code(b'z'), 259),
    ];
    let base = Model::new(tokens.chain(words).collect(), merges, Vec::new(), Splitter::Gpt2).unwrap();
    let base = PatchTokenizer::new(base, None).unwrap();
    let corpus = Corpus::from_texts(["abc abc abc abc"]);
    let chunks = ChunkCounter::new(&base).count(&corpus, |_| {}).unwrap();
    let removed = [258, 257].map(|id| Removal {
        id,
        loss: Weight::default(),
    });
    let kept = without(base.model(), &removed).unwrap();
    let guards = Guards {
        min_documents: 1,
        min_count: 1,
        max_token_bytes: 48,
    };
    let losses = removed.map(|removal| removal.loss);
    let grown = grow::grow(&kept, &removed, &losses, &chunks, guards, false, |_| {}).unwrap();
    // `abc` is the most frequent pair; ` abc` comes next and gets the id that is left.
    let patch = Patch::new(&kept, &removed, &grown.merges).unwrap();
    assert_eq!(patch.new, [258]);
    let patched = patch.tokenizer(&base, Segmentation::Bpe).unwrap();
    assert_eq!(patched.encode("abc abc"), [257, 258]);
    assert_eq!(patched.token_bytes(258), Some(&b" abc"[..]));
    let map = patched.patch_map().unwrap();
    assert_eq!(map.base_ids(257), None);
    assert_eq!(map.base_ids(258), Some(&[32, 257][..]));
    assert_eq!(map.removed_tokens().next().unwrap().pieces, [120, 121]);
}

#[test]
fn a_stall_on_the_heldout_corpus_stops() {
    let corpus = Corpus::from_texts((0..400).map(|i| {
        let word: String = (0..6)
            .map(|k| char::from(b'a' + ((i / 4 * 7919 + k * 104_729) >> (k + 3)) as u8 % 26))
            .collect();
        format!("x{word}y{word}z").repeat(4)
    }));
    let free = VocabBuilder::new(base()).swaps(500).build(&corpus).unwrap();
    let heldout = Corpus::from_texts(["Nothing of that kind."]);
    let stalled = VocabBuilder::new(base())
        .swaps(500)
        .stop_when_stalled(heldout)
        .build(&corpus)
        .unwrap();
    assert!(free.report.swaps > 100, "{}", free.report.swaps);
    assert_eq!((stalled.report.swaps, stalled.report.stop), (0, Stop::HeldOutStalled));
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let corpus = Corpus::from_texts(
        (0..600).map(|i| format!("Row {} of the table {} is not null.\n  Default: {i}", i % 7, i % 11)),
    );
    let build = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| VocabBuilder::new(base()).swaps(50).build(&corpus))
            .unwrap()
    };
    let (one, four) = (build(1), build(4));
    assert_eq!(one.tokenizer.model(), four.tokenizer.model());
    assert_eq!(one.tokenizer.patch_map(), four.tokenizer.patch_map());
    assert_eq!(one.report, four.report);
}

#[test]
fn a_patched_base_and_an_empty_corpus_are_refused() {
    let corpus = Corpus::from_texts(vec!["one two three"; 10]);
    let built = VocabBuilder::new(base()).swaps(1).build(&corpus).unwrap();
    let error = VocabBuilder::new(built.tokenizer).build(&corpus).unwrap_err();
    assert!(matches!(error, Error::Build(_)), "{error}");
    let error = VocabBuilder::new(base()).build(Corpus::from_texts([""])).unwrap_err();
    assert!(matches!(error, Error::EmptyCorpus(_)), "{error}");
}
