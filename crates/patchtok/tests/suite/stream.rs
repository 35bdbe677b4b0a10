//! Texts that come in parts, and the places of tokens in a text.

use patchtok::{Corpus, Mode, PatchTokenizer, Segmentation, VocabBuilder};
use tokenizers::Tokenizer;

use crate::bases;
use crate::common::{DEMO, GPT2, PATCHED, Random, documents, gpt2_path};

/// One of each kind.
fn all() -> Vec<(&'static str, PatchTokenizer)> {
    let mut all = vec![
        ("demo", DEMO.clone()),
        ("gpt2", GPT2.clone()),
        ("patched", PATCHED.clone()),
    ];
    let build = |base: &PatchTokenizer| VocabBuilder::new(base.clone()).swaps(300);
    let corpus = || Corpus::from_texts(documents("manual-train", 200_000));
    let fewest = build(&DEMO).segmentation(Segmentation::MinTokens).build(corpus());
    all.push(("fewest", fewest.unwrap().tokenizer));
    for (name, file) in [("llama 3", bases::llama3()), ("qwen", bases::qwen_like())] {
        let (_folder, path) = bases::written(&file);
        let base = PatchTokenizer::from_file(path).unwrap();
        let grown = build(&base).mode(Mode::Grow).build(corpus()).unwrap().tokenizer;
        all.extend([(name, base), (name, grown)]);
    }
    all
}

fn streamed<'t>(tokenizer: &PatchTokenizer, parts: impl IntoIterator<Item = &'t str>) -> Vec<u32> {
    let (mut stream, mut ids) = (tokenizer.encode_stream(), Vec::new());
    for part in parts {
        stream.push(part, &mut ids);
    }
    stream.finish(&mut ids);
    ids
}

/// A text of a few random ones, with characters that compose.
fn text(random: &mut Random) -> String {
    const JOINED: [&str; 8] = [
        "e\u{301}",
        "\u{1100}\u{1161}\u{11a8}",
        "o\u{323}\u{302}",
        "\u{302}",
        "'",
        "\n",
        "  ",
        "<|end",
    ];
    (0..1 + random.below(3))
        .map(|_| random.text() + JOINED[random.below(8)])
        .collect()
}

#[test]
fn a_stream_gives_the_ids_of_the_whole_wherever_it_is_cut() {
    let mut random = Random(51);
    for (name, tokenizer) in all() {
        for round in 0..250 {
            let text = text(&mut random);
            let ids = tokenizer.encode(&text);
            let places: Vec<usize> = (1..text.len()).filter(|&at| text.is_char_boundary(at)).collect();
            // In two, at every place; in characters; and in random parts.
            for &place in places.iter().filter(|_| round % 5 == 0) {
                let parts = [&text[..place], &text[place..]];
                assert_eq!(streamed(&tokenizer, parts), ids, "{name}: {text:?} cut at {place}");
            }
            let chars = text.char_indices().map(|(at, c)| &text[at..at + c.len_utf8()]);
            assert_eq!(streamed(&tokenizer, chars), ids, "{name}: {text:?} by characters");
            let mut start = 0;
            let mut parts = Vec::new();
            for &place in &places {
                if random.below(8) == 0 {
                    parts.push(&text[start..place]);
                    start = place;
                }
            }
            parts.push(&text[start..]);
            assert_eq!(streamed(&tokenizer, parts.iter().copied()), ids, "{name}: {parts:?}");
        }
        for document in documents("rust-heldout", 50_000) {
            let bytes = document.as_bytes().chunks(37);
            let parts: Vec<&str> = bytes.map(|part| std::str::from_utf8(part).unwrap_or("?")).collect();
            assert_eq!(
                streamed(&tokenizer, parts.iter().copied()),
                tokenizer.encode(&parts.concat()),
                "{name}"
            );
        }
    }
}

/// What is held back is short, and a stream can be used again and dropped at any time.
#[test]
fn a_stream_holds_little_back() {
    let document = documents("manual-heldout", 100_000).concat();
    for (name, tokenizer) in all() {
        if tokenizer.segmentation() == Segmentation::MinTokens {
            // Nothing is known of a chunk before it ends.
            continue;
        }
        let (mut stream, mut ids) = (tokenizer.encode_stream(), Vec::new());
        let mut pushed = 0;
        for part in document.split_inclusive(' ') {
            stream.push(part, &mut ids);
            pushed += part.len();
            if pushed % 64 == 0 {
                let held = pushed - tokenizer.decode_bytes(&ids).unwrap().len();
                assert!(held < 600, "{name} holds {held} bytes back after {pushed}");
            }
        }
        stream.finish(&mut ids);
        assert_eq!(ids, tokenizer.encode(&document), "{name}");
        ids.clear();
        stream.push("one two", &mut ids);
        stream.finish(&mut ids);
        assert_eq!(ids, tokenizer.encode("one two"), "{name}");
        stream.push("the beginning of the", &mut ids);
        drop(stream);
        assert_eq!(
            tokenizer.encode("end"),
            PatchTokenizer::encode(&tokenizer.clone(), "end"),
            "{name}"
        );
    }
}

#[test]
fn offsets_are_those_of_hugging_face() {
    let theirs = Tokenizer::from_file(gpt2_path()).unwrap();
    let patched = PATCHED.to_hf().unwrap();
    let mut random = Random(52);
    for (ours, theirs) in [(&*GPT2, &theirs), (&*PATCHED, &patched)] {
        for _ in 0..2000 {
            let text = random.text();
            let bytes = ours.encode_with_byte_offsets(&text);
            let chars = ours.encode_with_char_offsets(&text);
            let ids = ours.encode(&text);
            assert!(bytes.iter().map(|(id, _)| id).eq(&ids), "{text:?}");
            assert!(chars.iter().map(|(id, _)| id).eq(&ids), "{text:?}");
            let mut end = 0;
            for (id, range) in &bytes {
                assert_eq!(ours.token_bytes(*id), Some(&text.as_bytes()[range.clone()]), "{text:?}");
                assert_eq!(range.start, end);
                end = range.end;
            }
            assert_eq!(end, text.len());
            // There a token that ends inside a character stands for all of it.
            let wide = bytes.iter().map(|(_, range)| {
                let start = (0..=range.start).rev().find(|&at| text.is_char_boundary(at));
                let end = (range.end..).find(|&at| text.is_char_boundary(at));
                (start.unwrap(), end.unwrap())
            });
            let expected = theirs.encode(text.as_str(), false).unwrap();
            assert!(wide.eq(expected.get_offsets().iter().copied()), "{text:?}");
            let expected = theirs.encode_char_offsets(text.as_str(), false).unwrap();
            let chars = chars.iter().map(|(_, range)| (range.start, range.end));
            assert!(chars.eq(expected.get_offsets().iter().copied()), "{text:?}");
        }
    }
}

/// Where a text is normalized, what tokens stand for becomes these tokens.
#[test]
fn offsets_of_a_normalized_text() {
    let (_folder, path) = bases::written(&bases::qwen_like());
    let tokenizer = PatchTokenizer::from_file(path).unwrap();
    let places = |text| -> Vec<_> {
        let places = tokenizer.encode_with_byte_offsets(text).into_iter();
        places
            .map(|(id, range)| (tokenizer.decode(&[id]).unwrap(), range))
            .collect()
    };
    assert_eq!(
        places("1<|endoftext|>e\u{301}2"),
        [
            ("1".into(), 0..1),
            ("<|endoftext|>".into(), 1..14),
            ("\u{fffd}".into(), 14..17),
            ("\u{fffd}".into(), 14..17),
            ("2".into(), 17..18)
        ]
    );
    let mut random = Random(53);
    for _ in 0..2000 {
        let text = text(&mut random);
        let places = tokenizer.encode_with_byte_offsets(&text);
        assert!(places.iter().map(|(id, _)| *id).eq(tokenizer.encode(&text)), "{text:?}");
        let (mut start, mut end) = (0, 0);
        for (_, range) in places {
            assert!(
                range.start >= start && range.start <= end && range.end >= end,
                "{text:?}: {range:?}"
            );
            (start, end) = (range.start, range.end);
        }
        assert_eq!(end, text.len(), "{text:?}");
        let chars = tokenizer.encode_with_char_offsets(&text);
        assert_eq!(chars.last().map_or(0, |(_, range)| range.end), text.chars().count());
    }
}
