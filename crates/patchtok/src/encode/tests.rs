use std::collections::{HashMap, HashSet};

use super::*;
use crate::model::{Merge, Vocab};
use crate::split::Splitter;

/// The 256 bytes and tokens made by `merges` of byte strings, lowest rank first.
fn model(merges: &[(Vec<u8>, Vec<u8>)], splitter: Splitter) -> Model {
    model_with(0, merges, splitter)
}

/// [`model`] with so many tokens that nothing makes behind the bytes.
fn model_with(unused: usize, merges: &[(Vec<u8>, Vec<u8>)], splitter: Splitter) -> Model {
    let mut tokens: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
    tokens.extend((0..unused).map(|number| format!("unused {number}").into_bytes()));
    tokens.extend(merges.iter().map(|(left, right)| [&left[..], right].concat()));
    let ids: HashMap<&[u8], u32> = tokens.iter().map(Vec::as_slice).zip(0..).collect();
    let merges = merges.iter().map(|(left, right)| Merge {
        left: ids[&left[..]],
        right: ids[&right[..]],
        result: ids[&[&left[..], right].concat()[..]],
    });
    let merges = merges.collect();
    Model::new(tokens.into_iter().collect::<Vocab>(), merges, Vec::new(), splitter).unwrap()
}

/// Up to `count` random merges, each of tokens that are there already; `parts` are there from the
/// start.
fn random_merges(random: &mut Random, parts: &[&str], count: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut tokens: Vec<Vec<u8>> = parts.iter().map(|part| part.as_bytes().to_vec()).collect();
    let mut known: HashSet<Vec<u8>> = tokens.iter().cloned().collect();
    let mut merges = Vec::new();
    for _ in 0..4 * count {
        let (left, right) = (random.pick(&tokens).clone(), random.pick(&tokens).clone());
        let result = [&left[..], &right].concat();
        if merges.len() < count && result.len() <= 24 && known.insert(result.clone()) {
            tokens.push(result);
            merges.push((left, right));
        }
    }
    merges
}

fn reference(encoder: &Encoder, model: &Model, text: &str) -> Vec<u32> {
    let mut ids = Vec::new();
    model.splitter().for_each(text, |piece| {
        let bytes = piece.bytes();
        let mut symbols = bytes.map(|byte| model.byte_ids()[usize::from(byte)]).collect();
        reference::merge(&mut symbols, encoder.merges());
        ids.append(&mut symbols);
    });
    ids
}

/// The tokens of `bytes` and the steps that the encoder for long pieces takes.
fn linear(encoder: &Encoder, model: &Model, bytes: &[u8]) -> (Vec<u32>, u64) {
    let tables = Tables {
        model,
        merges: &encoder.merges,
        spines: encoder.spines.as_ref().unwrap(),
        trie: &Trie::new(model, encoder.tokens(model)),
    };
    let (mut scratch, mut out) = (linear::Scratch::default(), Vec::new());
    linear::encode(bytes, encoder.all, tables, &mut scratch, &mut out);
    (out, scratch.steps)
}

/// Scanning, the heap and the trie give the tokens of the reference, for random merges over a small
/// alphabet.
#[test]
fn every_way_equals_the_reference() {
    let mut random = Random(1);
    for round in 0..300 {
        let letters = &["a", "b", "c", "d"][..1 + round % 4];
        let count = 1 + random.below(60);
        let mut merges = random_merges(&mut random, letters, count);
        // Ranks need not follow the order in which tokens came to be.
        let in_order = round % 3 != 0 || merges.len() < 2;
        if !in_order {
            let swap = random.below(merges.len());
            merges.swap(0, swap);
        }
        let model = model(&merges, Splitter::Gpt2);
        let encoder = Encoder::new(&model);
        assert!(!in_order || encoder.spines.is_some());
        for _ in 0..20 {
            let text: String = (0..1 + random.below(90)).map(|_| *random.pick(letters)).collect();
            let expected = reference(&encoder, &model, &text);
            let symbols = || text.bytes().map(|byte| model.byte_ids()[usize::from(byte)]);
            let mut heaped = Vec::new();
            let pair = |left, right| encoder.merges.get(left, right);
            heap::merge(symbols(), pair, &mut heap::Scratch::default(), &mut heaped);
            assert_eq!(heaped, expected, "heap of {text:?}");
            if text.len() <= scan::LIMIT {
                let mut scanned = Vec::new();
                scan::merge(symbols(), |left, right| encoder.merges.get(left, right), &mut scanned);
                assert_eq!(scanned, expected, "scan of {text:?}");
            }
            if encoder.spines.is_some() {
                assert_eq!(
                    linear(&encoder, &model, text.as_bytes()).0,
                    expected,
                    "trie of {text:?}"
                );
            }
            let mut whole = Vec::new();
            encoder.encode(&model, &text, &mut Memory::default(), &mut whole);
            assert_eq!(whole, expected, "{text:?}");
        }
    }
}

/// Two stages give the tokens of the reference for random merges inside and across words, and for
/// texts with all that chunks care about.
#[test]
fn two_stages_equal_the_reference() {
    let parts = ["a", "b", "s", " ", "'", ".", "1", "\n", "é", "ー", "・", "２", "年"];
    let mut random = Random(2);
    let mut staged = 0;
    for round in 0..300 {
        // The bytes of the parts that have several, first.
        let mut merges = Vec::new();
        for part in parts.iter().filter(|part| part.len() > 1) {
            let bytes = part.as_bytes();
            for end in 1..bytes.len() {
                let merge = (bytes[..end].to_vec(), bytes[end..=end].to_vec());
                if !merges.contains(&merge) {
                    merges.push(merge);
                }
            }
        }
        let of_parts = merges.len();
        let letters = random_merges(&mut random, &["a", "b", "s"], round % 20);
        merges.extend(letters);
        let mut known: HashSet<Vec<u8>> = merges.iter().map(|(left, right)| [&left[..], right].concat()).collect();
        let words = ["a", "b", "s", " ", "'", ".", "é", "ー"];
        for merge in random_merges(&mut random, &words[..4 + round % 5], 40) {
            if known.insert([&merge.0[..], &merge.1].concat()) {
                merges.push(merge);
            }
        }
        let is_made = |merges: &[(Vec<u8>, Vec<u8>)], token: &Vec<u8>| {
            token.len() == 1 || merges.iter().any(|(left, right)| [&left[..], right].concat() == *token)
        };
        merges = (0..merges.len())
            .filter(|&at| is_made(&merges[..at], &merges[at].0) && is_made(&merges[..at], &merges[at].1))
            .map(|at| merges[at].clone())
            .collect();
        let splitters = [
            Splitter::Chunk,
            Splitter::ChunkV1,
            Splitter::Llama3Chunk,
            Splitter::QwenChunk,
        ];
        // Sometimes with ids of more than 16 bits. What joins letters then has the lower 16 bits of letters, from `a` on.
        let unused = if round % 30 == 7 {
            (1 << 16) - 256 - of_parts + usize::from(b'a')
        } else {
            0
        };
        let model = model_with(unused, &merges, splitters[round % 4]);
        let encoder = Encoder::new(&model);
        staged += usize::from(encoder.phrases.is_some() && encoder.inside_words > 0);
        let mut memory = Memory::default();
        for _ in 0..30 {
            let length = random.below(120);
            let mut text: String = (0..length).map(|_| *random.pick(&parts)).collect();
            if length.is_multiple_of(16) {
                // A word so long that it is not remembered.
                text.extend((0..300).map(|_| *random.pick(&parts[..3])));
            }
            let mut out = Vec::new();
            encoder.encode(&model, &text, &mut memory, &mut out);
            assert_eq!(out, reference(&encoder, &model, &text), "{text:?} {merges:?}");
        }
    }
    assert!(staged > 200, "{staged} of 300 have two stages");
}

fn gpt2(splitter: Splitter) -> Model {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/data/gpt2/tokenizer.json");
    let model = crate::base::read(path.as_ref()).unwrap();
    let (vocab, merges) = (model.vocab().clone(), model.merges().to_vec());
    Model::new(vocab, merges, model.specials().to_vec(), splitter).unwrap()
}

/// No merge of GPT-2 goes to the second stage, and each of its tokens is one that its bytes give.
#[test]
fn all_of_gpt2_is_in_the_first_stage() {
    let model = gpt2(Splitter::ChunkV1);
    let encoder = Encoder::new(&model);
    assert_eq!(encoder.inside_words, 50_000);
    assert!(encoder.phrases.is_none());
    assert_eq!(encoder.whole.len(), 50_000);
}

/// Whatever the text, a long piece takes a bounded number of steps for each of its bytes.
#[test]
fn the_time_of_a_long_piece_is_linear() {
    let model = gpt2(Splitter::Gpt2);
    let encoder = Encoder::new(&model);
    let mut random = Random(3);
    let mut texts: Vec<String> = [
        "a", "=", "-", "ab", "aab", "abcabcd", "the", "tion", "0", "\u{3042}", "'",
    ]
    .iter()
    .map(|unit| unit.repeat((1 << 18) / unit.len()))
    .collect();
    texts.push((0..1 << 18).map(|_| *random.pick(&["a", "b"])).collect());
    texts.push((0..1 << 18).map(|_| *random.pick(&["t", "h", "e", "s"])).collect());
    for text in &texts {
        let half = &text[..text.len() / 2 / 3 * 3];
        let (_, steps_of_half) = linear(&encoder, &model, half.as_bytes());
        let (ids, steps) = linear(&encoder, &model, text.as_bytes());
        let bytes: Vec<u8> = ids
            .iter()
            .flat_map(|&id| model.vocab().get(id).unwrap())
            .copied()
            .collect();
        assert_eq!(bytes, text.as_bytes());
        let a_byte = steps as f64 / text.len() as f64;
        assert!(a_byte < 40.0, "{a_byte} steps a byte of {:?}", &text[..6]);
        let growth = steps as f64 / steps_of_half as f64;
        assert!(growth < 2.1, "{growth} times the steps for twice of {:?}", &text[..6]);
    }
    // A megabyte of one letter, the whole way.
    let text = "a".repeat(1 << 20);
    let mut memory = Memory::default();
    let mut ids = Vec::new();
    encoder.encode(&model, &text, &mut memory, &mut ids);
    assert!(
        memory.scratch.linear.steps < 40 << 20,
        "{}",
        memory.scratch.linear.steps
    );
    let mut heaped = Vec::new();
    let symbols = text.bytes().map(|byte| model.byte_ids()[usize::from(byte)]);
    let pair = |left, right| encoder.merges.get(left, right);
    heap::merge(symbols, pair, &mut heap::Scratch::default(), &mut heaped);
    assert_eq!(ids, heaped);
}

/// GPT-2 by chunks, with phrases of ` a`: two, three, four, six, eight and so on.
fn gpt2_with_phrases() -> Model {
    let model = gpt2(Splitter::Chunk);
    let (mut vocab, mut merges) = (model.vocab().clone(), model.merges().to_vec());
    // Two line ends come after all other merges.
    let is_blank_line = |merge: &Merge| vocab.get(merge.result) == Some(b"\n\n");
    let at = merges.iter().position(is_blank_line).unwrap();
    let blank_line = merges.remove(at);
    merges.push(blank_line);
    let id = |token: &[u8]| model.vocab().iter().find(|(_, known)| *known == token).unwrap().0;
    let one = id(b" a");
    let mut add = |left: u32, right: u32| {
        let result = vocab.len() as u32;
        let token = [vocab.get(left).unwrap(), vocab.get(right).unwrap()].concat();
        vocab.push(&token);
        merges.push(Merge { left, right, result });
        result
    };
    let mut twice = add(one, one);
    let mut thrice = add(twice, one);
    for _ in 0..3 {
        (twice, thrice) = (add(twice, twice), add(thrice, thrice));
    }
    Model::new(vocab, merges, model.specials().to_vec(), Splitter::Chunk).unwrap()
}

/// Phrases that may go on for ever take a bounded number of steps for each byte, too.
#[test]
fn the_time_of_a_long_phrase_is_linear() {
    let model = gpt2_with_phrases();
    let encoder = Encoder::new(&model);
    assert!(encoder.phrases.is_some());
    for unit in [" a", " a a a a a", " a a b a a a", "\n\n a", "x a", "é a", " a\n"] {
        let mut of_half = None;
        for length in [1 << 17, 1 << 18] {
            let text = unit.repeat(length / unit.len());
            let (mut memory, mut ids) = (Memory::default(), Vec::new());
            encoder.encode(&model, &text, &mut memory, &mut ids);
            let mut heaped = Vec::new();
            let pair = |left, right| encoder.merges.get(left, right);
            model.splitter().for_each(&text, |chunk| {
                let symbols = chunk.bytes().map(|byte| model.byte_ids()[usize::from(byte)]);
                heap::merge(symbols, pair, &mut heap::Scratch::default(), &mut heaped);
            });
            assert_eq!(ids, heaped, "{unit:?}");
            for steps in [memory.scratch.linear.steps, memory.pending.steps] {
                assert!(steps < 40 * length as u64, "{steps} steps for {unit:?}");
            }
            let steps = memory.scratch.linear.steps + memory.pending.steps;
            let half = *of_half.get_or_insert(steps);
            assert!(10 * steps <= 21 * half, "{half} and {steps} steps for {unit:?}");
        }
    }
}

/// Words of the lengths at which something changes, in every order, with and without a second stage.
#[test]
fn words_of_every_length() {
    let mut random = Random(5);
    let inside_words = [
        ("a", "b"),
        ("b", "a"),
        ("ab", "ab"),
        ("c", "c"),
        (" ", "a"),
        (" ", " "),
        ("  ", " "),
    ];
    let across = [("ab", " a"), ("cc", " a"), ("ab a", "b"), ("\n", " ")];
    let merges: Vec<_> = inside_words.into_iter().chain(across).collect();
    let merges: Vec<_> = merges
        .iter()
        .map(|(left, right)| (left.as_bytes().to_vec(), right.as_bytes().to_vec()))
        .collect();
    for splitter in [Splitter::Gpt2, Splitter::Chunk] {
        let model = model(&merges, splitter);
        let encoder = Encoder::new(&model);
        assert_eq!(encoder.phrases.is_some(), splitter == Splitter::Chunk);
        let mut memory = Memory::default();
        for _ in 0..150 {
            let mut text = String::new();
            for _ in 0..random.below(100) {
                let length = *random.pick(&[1, 1, 2, 3, 4, 5, 7, 8, 13, 14, 15, 16, 31, 32, 33, 254, 255, 256, 300]);
                let letters = *random.pick(&["a", "ab", "abc", " ", "abcc", "\n"]);
                text.extend(
                    (0..length)
                        .map(|_| random.pick(letters.as_bytes()))
                        .map(|&byte| char::from(byte)),
                );
                text += *random.pick(&[" ", "", "\n", "  "]);
            }
            let mut out = Vec::new();
            encoder.encode(&model, &text, &mut memory, &mut out);
            assert_eq!(out, reference(&encoder, &model, &text), "{text:?}");
        }
    }
}

/// A text that is one long island, in small parts, takes a bounded number of steps for each byte, too.
#[test]
fn the_time_of_a_long_phrase_in_parts_is_linear() {
    let model = gpt2_with_phrases();
    let encoder = Encoder::new(&model);
    let text = " a".repeat(1 << 16);
    let mut whole = Vec::new();
    encoder.encode(&model, &text, &mut Memory::default(), &mut whole);
    let (mut memory, mut ids, mut start) = (Memory::default(), Vec::new(), Start::OF_TEXT);
    for end in (0..text.len()).step_by(64) {
        start = encoder.encode_part(&model, &text[..end], start, &mut memory, &mut ids);
        assert!(ids.is_empty(), "the island goes on");
    }
    encoder.finish(&model, &text, start, &mut memory, &mut ids);
    assert_eq!(ids, whole);
    let steps = memory.pending.steps;
    assert!(steps < 2 * text.len() as u64, "{steps} steps");
}

/// A table gives what was put into it, or nothing, however full it is.
#[test]
fn a_full_table_loses_entries_and_mixes_none_up() {
    let mut table = cache::Table::<64>::default();
    let mut random = Random(4);
    let tokens = |key: cache::Key| (key % 7 * 1000) as u32;
    let (mut hits, mut misses) = (0, 0);
    for _ in 0..100_000 {
        let key = 1 + random.below(200) as cache::Key;
        match table.get(key) {
            Some(found) => {
                hits += 1;
                assert_eq!((found.count(), found.ids()[0]), (1, tokens(key)));
            }
            None => {
                misses += 1;
                table.insert(key, cache::Tokens::new(&[tokens(key)], 0));
            }
        }
        let found = table.at(cache::Table::<64>::first_place(key));
        assert_eq!((found.key, found.tokens.ids()[0]), (key, tokens(key)));
    }
    assert!(hits > 20_000 && misses > 20_000, "{hits} hits, {misses} misses");
}

/// The cache of words stays right when it overflows.
#[test]
fn a_full_cache_starts_again() {
    let merges = [("a", "b"), ("ab", "c")].map(|(left, right)| (left.into(), right.into()));
    let model = model(&merges, Splitter::Gpt2);
    let encoder = Encoder::new(&model);
    let (mut memory, mut ids) = (Memory::default(), Vec::new());
    let mut length = 0;
    for number in 0..300_000u32 {
        let word: String = (0..24)
            .map(|bit| if number >> bit & 1 == 0 { 'a' } else { 'c' })
            .collect();
        let text = format!("ab{} {word}", &word[..(number % 22) as usize]);
        ids.clear();
        encoder.encode(&model, &text, &mut memory, &mut ids);
        length += ids.len();
        if number % 1000 == 0 {
            assert_eq!(ids, reference(&encoder, &model, &text), "{text:?}");
        }
    }
    assert!(length > 300_000);
}

/// A small generator (xorshift*), so that the cases are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit
    }

    fn pick<'t, T>(&mut self, from: &'t [T]) -> &'t T {
        &from[self.below(from.len())]
    }
}
