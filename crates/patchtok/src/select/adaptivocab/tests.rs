use std::collections::BTreeMap;

use super::*;
use crate::Error;
use crate::model::{Merge, Model};
use crate::split::Splitter;

fn gpt2() -> PatchTokenizer {
    PatchTokenizer::from_file(concat!(env!("CARGO_MANIFEST_DIR"), "/data/gpt2/tokenizer.json")).unwrap()
}

/// The 256 bytes, then `ab`, `abc`, `cc`, `bcc`.
fn small() -> PatchTokenizer {
    let bytes = (0..=255u8).map(|byte| vec![byte]);
    let words = [&b"ab"[..], b"abc", b"cc", b"bcc"].map(<[u8]>::to_vec);
    let (a, b, c) = (u32::from(b'a'), u32::from(b'b'), u32::from(b'c'));
    let merges = [(a, b), (256, c), (c, c), (b, 258)]
        .iter()
        .zip(256..)
        .map(|(&(left, right), result)| Merge { left, right, result })
        .collect();
    let model = Model::new(bytes.chain(words).collect(), merges, Vec::new(), Splitter::Gpt2).unwrap();
    PatchTokenizer::new(model, None).unwrap()
}

/// The choice by its definition: all overlaps in a table, all scores compared in each round.
fn select_by_definition(documents: &[Vec<u32>], limit: usize, min_overlaps: i64) -> Vec<Vec<u32>> {
    let mut at: Vec<(usize, usize, &[u32])> = Vec::new();
    for (number, document) in documents.iter().enumerate() {
        for length in 2..=LONGEST {
            for (start, ngram) in document.windows(length).enumerate() {
                at.push((number, start, ngram));
            }
        }
    }
    let mut counts: BTreeMap<&[u32], i64> = BTreeMap::new();
    for (.., ngram) in &at {
        *counts.entry(ngram).or_default() += 1;
    }
    counts.retain(|_, count| *count >= 2);
    let mut overlaps: BTreeMap<(&[u32], &[u32]), i64> = BTreeMap::new();
    for &(document, start, one) in &at {
        for &(other_document, other_start, other) in &at {
            let meet = start < other_start + other.len() && other_start < start + one.len();
            if document == other_document && meet && (start, one.len()) != (other_start, other.len()) {
                *overlaps.entry((one, other)).or_default() += 1;
            }
        }
    }
    let first = counts.clone();
    let mut selected: Vec<Vec<u32>> = Vec::new();
    while selected.len() < limit {
        let padded = |ngram: &[u32]| {
            let mut ids = [u32::MAX; LONGEST];
            ids[..ngram.len()].copy_from_slice(ngram);
            ids
        };
        let best = counts
            .iter()
            .max_by_key(|(ngram, count)| {
                (
                    **count * ngram.len() as i64,
                    first[*ngram],
                    std::cmp::Reverse(padded(ngram)),
                )
            })
            .map(|(ngram, count)| (*ngram, *count));
        let Some((best, count)) = best.filter(|(_, count)| *count > 0) else {
            break;
        };
        assert!(count > 0);
        counts.remove(best);
        selected.push(best.to_vec());
        for (other, count) in &mut counts {
            let overlaps = overlaps.get(&(best, *other)).copied().unwrap_or(0);
            *count -= if overlaps >= min_overlaps { overlaps } else { 0 };
        }
    }
    selected
}

#[test]
fn the_choice_is_that_of_its_definition() {
    let base = gpt2();
    let words = [" the", " of", " a", " key", " row", ".", "\n"];
    let mut state = 11u64;
    let mut next = |below: usize| {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 33) as usize % below
    };
    for round in 0..40 {
        let documents: Vec<String> = (0..4)
            .map(|_| (0..10 + next(40)).map(|_| words[next(2 + round % 6)]).collect())
            .collect();
        let ids: Vec<Vec<u32>> = documents.iter().map(|text| base.encode(text)).collect();
        let corpus = Corpus::from_texts(documents);
        for min_overlaps in [1, 3] {
            let counts = Counts::of(&Stream::read(&base, &corpus, 0).unwrap()).unwrap();
            assert_eq!(
                counts.select(12, min_overlaps),
                select_by_definition(&ids, 12, min_overlaps),
                "round {round}"
            );
        }
    }
}

#[test]
fn the_released_form_narrows_the_candidates() {
    let base = gpt2();
    let corpus = Corpus::from_texts(["20482048 a b a b. 1 2", "20482048. a b a b x 1 2"]);
    let mut counts = Counts::of(&Stream::read(&base, &corpus, 0).unwrap()).unwrap();
    let spelled = |counts: &Counts| -> Vec<String> {
        let selected = counts.select(100, 1);
        selected.iter().map(|ids| base.decode(ids).unwrap()).collect()
    };
    let number = |token: &String| token.bytes().all(|byte| byte.is_ascii_digit());
    assert!(spelled(&counts).iter().any(number));
    // As in the released code, a token with a space is not one of digits.
    counts.drop_digits(&base);
    let left = spelled(&counts);
    assert!(
        left.contains(&" 1 2".to_owned()) && !left.iter().any(number),
        "{left:?}"
    );
    counts.keep_most_frequent(1);
    assert_eq!(spelled(&counts), [" a b"]);
    let short = Corpus::from_texts(["forty nine words or fewer are too few"]);
    let error = AdaptivocabBuilder::new(base, AdaptivocabForm::Released)
        .build(&short)
        .unwrap_err();
    assert!(matches!(error, Error::EmptyCorpus(_)), "{error}");
}

#[test]
fn removal_follows_each_form() {
    let base = small();
    let mut uses = vec![0; 260];
    (uses[256], uses[257], uses[258], uses[259]) = (5, 0, 2, 0);
    assert_eq!(removal::least_used(base.model(), &uses, 3), [259, 257, 258]);
    assert_eq!(
        removal::unseen_and_longest(base.model(), &uses, 4),
        [259, 257, 258, 256]
    );
    uses[257] = 1;
    assert_eq!(removal::unseen_and_longest(base.model(), &uses, 2), [259, 257]);
    // Taken apart as far as the parts are removed too.
    let (a, b, c) = (u32::from(b'a'), u32::from(b'b'), u32::from(b'c'));
    assert_eq!(removal::pieces(base.model(), &[257, 256]), [vec![a, b, c], vec![a, b]]);
    assert_eq!(removal::pieces(base.model(), &[259]), [vec![b, 258]]);
    // A special token has no merge: it is kept, but takes one of the places.
    let gpt2 = gpt2();
    let unseen = removal::unseen_and_longest(gpt2.model(), &vec![0; gpt2.vocab_size()], 10_000);
    assert_eq!(unseen.len(), 9_999);
}

#[test]
fn encoding_takes_apart_and_matches() {
    let base = small();
    let c = u32::from(b'c');
    let tokenizer = |matching| {
        let removed = vec![
            Removed {
                id: 257,
                pieces: vec![256, c],
            },
            Removed {
                id: 259,
                pieces: vec![u32::from(b'b'), 258],
            },
        ];
        let ngram = |id, ids: &[u32]| Ngram { id, ids: ids.to_vec() };
        let ngrams = vec![ngram(257, &[256, c]), ngram(259, &[256, c, 256])];
        NgramTokenizer::new(base.clone(), removed, ngrams, matching).unwrap()
    };
    // `abc` `ab` of the base becomes `ab` `c` `ab`.
    assert_eq!(tokenizer(Matching::Longest).encode("abcab"), [259]);
    assert_eq!(tokenizer(Matching::FirstChosen).encode("abcab"), [257, 256]);
    for matching in [Matching::Longest, Matching::FirstChosen] {
        let tokenizer = tokenizer(matching);
        let text = "abcabbccccabcab é";
        assert_eq!(
            tokenizer.decode_bytes(&tokenizer.encode(text)).unwrap(),
            text.as_bytes()
        );
    }
}

#[test]
fn built_saved_and_loaded_both_forms_are_lossless() {
    let texts: Vec<String> = (0..60)
        .map(|i| {
            format!(
                "Row {} of the table {} is not null, and it is\n  the {i}th. ",
                i % 7,
                i % 11
            )
            .repeat(9)
        })
        .collect();
    let corpus = Corpus::from_texts(texts);
    let folder = tempfile::tempdir().unwrap();
    for form in [AdaptivocabForm::Paper, AdaptivocabForm::Released] {
        let build = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let builder = AdaptivocabBuilder::new(gpt2(), form).swaps(40);
            pool.install(|| builder.build(&corpus)).unwrap()
        };
        let built = build(1);
        assert_eq!(built.vocab_size(), gpt2().vocab_size());
        assert!(built.ngrams().len() > 10, "{}", built.ngrams().len());
        assert_eq!(built.removed().len(), built.ngrams().len());
        assert!(
            built.ngrams().eq(build(3).ngrams()),
            "the number of threads changes the choice"
        );
        built.save(folder.path()).unwrap();
        let loaded = NgramTokenizer::load(folder.path()).unwrap();
        for text in corpus.documents().take(3).map(Result::unwrap).chain([
            "Unlike <|endoftext|> the table 'x' — ２年, rawdownload\n\n".into(),
            String::new(),
        ]) {
            let ids = built.encode(&text);
            assert_eq!(loaded.encode(&text), ids);
            assert_eq!(built.decode_bytes(&ids).unwrap(), text.as_bytes());
        }
    }
}

#[test]
fn a_file_that_does_not_fit_its_base_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = Corpus::from_texts(vec!["one two three four"; 5]);
    let built = AdaptivocabBuilder::new(small(), AdaptivocabForm::Paper)
        .swaps(2)
        .build(&corpus)
        .unwrap();
    built.save(folder.path()).unwrap();
    let path = folder.path().join("ngrams.json");
    let good = std::fs::read_to_string(&path).unwrap();
    for (from, to) in [
        ("\"removed\":[{\"id\":259,", "\"removed\":[{\"id\":258,"),
        ("\"removed\":[{\"id\":259,", "\"removed\":[{\"id\":25900,"),
        ("\"ngrams\":[{\"id\":259,", "\"ngrams\":[{\"id\":7,"),
        (",\"ids\":[", ",\"ids\":[99999,"),
        ("ngrams.v1", "ngrams.v2"),
    ] {
        assert!(good.contains(from), "{good}");
        std::fs::write(&path, good.replacen(from, to, 1)).unwrap();
        assert!(NgramTokenizer::load(folder.path()).is_err(), "{to}");
    }
}
