use std::collections::HashMap;

use tokenizers::utils::SysRegex;

use super::*;

fn pieces(splitter: Splitter, text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    splitter.for_each(text, |piece| pieces.push(piece));
    pieces
}

/// The pieces of `text` by the regular expression engine of the `tokenizers` library: matches and
/// what is between.
fn expected<'t>(pattern: &SysRegex, text: &'t str) -> Vec<&'t str> {
    let mut pieces = Vec::new();
    let mut done = 0;
    for (start, end) in pattern.find_iter(text) {
        pieces.extend([&text[done..start], &text[start..end]]);
        done = end;
    }
    pieces.push(&text[done..]);
    pieces.retain(|piece| !piece.is_empty());
    pieces
}

/// The splitters that cut by chunks, behind those whose pieces they join.
const CHUNKED: [(Splitter, Splitter); 5] = [
    (Splitter::Gpt2, Splitter::ChunkV1),
    (Splitter::Gpt2, Splitter::Chunk),
    (Splitter::DigitsGpt2, Splitter::DigitsChunk),
    (Splitter::Llama3, Splitter::Llama3Chunk),
    (Splitter::Qwen, Splitter::QwenChunk),
];

/// The pieces of `text` that end where a match of `ends` does.
fn merged_with_previous<'t>(ends: &SysRegex, text: &'t str) -> Vec<&'t str> {
    let places = ends.find_iter(text).map(|(_, end)| end).chain([text.len()]);
    let mut start = 0;
    let mut pieces: Vec<&str> = places
        .map(|end| &text[std::mem::replace(&mut start, end)..end])
        .collect();
    pieces.retain(|piece| !piece.is_empty());
    pieces
}

/// Numbers below what is asked for, the same for a seed.
fn numbers(mut state: u64) -> impl FnMut(usize) -> usize {
    move |below| {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 33) as usize % below
    }
}

/// The words and the chunks that the search for words gives.
fn by_blocks(splitter: Splitter, text: &str) -> [Vec<&str>; 2] {
    let (mut words, mut chunks, mut start) = (Vec::new(), Vec::new(), 0);
    pieces::for_each::<true>(splitter, text, pieces::Start::OF_TEXT, |piece| {
        let word = &text[piece.start..piece.end];
        let head = word.len().min(pieces::HEAD);
        assert_eq!(piece.head[..head], word.as_bytes()[..head]);
        words.push(word);
        if piece.cut && start < piece.start {
            chunks.push(&text[start..piece.start]);
            start = piece.start;
        }
    });
    if start < text.len() {
        chunks.push(&text[start..]);
    }
    let mut without_chunks = Vec::new();
    pieces::for_each::<false>(splitter, text, pieces::Start::OF_TEXT, |piece| {
        without_chunks.push(&text[piece.start..piece.end])
    });
    assert_eq!(without_chunks, words, "{text:?}");
    [words, chunks]
}

/// Searching by blocks gives what searching by characters gives, whatever stands where in a block.
#[test]
fn blocks_give_the_same_pieces() {
    let parts = [
        " ", " ", "  ", "\n", "\n\n", "\t", "'", "'s", "'re", "'l", "a", "b", "st", "the", "1", "23", ".", "--", "(",
        "\r\n", "'S", "\u{0}", "é", "—", "年", "２", "\u{a0}", "🦀",
    ];
    let mut next = numbers(3);
    for round in 0..6000 {
        // Mostly ASCII, sometimes nothing else, and sometimes long runs.
        let among = if round % 3 == 0 { parts.len() - 6 } else { parts.len() };
        let mut text = String::new();
        for _ in 0..next(90) {
            let part = parts[next(among)];
            let times = if next(40) == 0 { next(150) } else { 1 };
            text.push_str(&part.repeat(times));
            if next(3) > 0 {
                text.push_str(&" word"[next(2)..]);
            }
        }
        for (base, splitter) in CHUNKED {
            let expected = [pieces(base, &text), pieces(splitter, &text)];
            assert_eq!(by_blocks(splitter, &text), expected, "{splitter:?} of {text:?}");
        }
    }
}

#[test]
fn examples() {
    for (text, words, chunks) in [
        ("", vec![], vec![]),
        ("the  cat", vec!["the", " ", " cat"], vec!["the", " ", " cat"]),
        (
            "a \n\n  b\n",
            vec!["a", " \n\n ", " b", "\n"],
            vec!["a", " \n\n ", " b", "\n"],
        ),
        (
            "a.\n\nB\n\n\nc",
            vec!["a", ".", "\n", "\n", "B", "\n\n", "\n", "c"],
            vec!["a.\n\nB", "\n\n", "\nc"],
        ),
        ("\n\na\n\n", vec!["\n", "\n", "a", "\n\n"], vec!["\n\na", "\n\n"]),
        (
            "it's one\nline",
            vec!["it", "'s", " one", "\n", "line"],
            vec!["it's one\nline"],
        ),
        ("x'sy", vec!["x", "'s", "y"], vec!["x", "'s", "y"]),
        ("('select", vec!["('", "select"], vec!["('", "select"]),
        ("('from", vec!["('", "from"], vec!["('from"]),
        (" 's", vec![" '", "s"], vec![" '", "s"]),
        ("ああ・い", vec!["ああ", "・", "い"], vec!["ああ", "・", "い"]),
        ("a–b", vec!["a", "–", "b"], vec!["a–b"]),
        ("２年", vec!["２", "年"], vec!["２", "年"]),
    ] {
        assert_eq!(pieces(Splitter::Gpt2, text), words, "{text:?}");
        assert_eq!(pieces(Splitter::Chunk, text), chunks, "{text:?}");
    }
}

#[test]
fn examples_of_llama_3_and_qwen() {
    for (text, words, chunks) in [
        ("the  cat", vec!["the", " ", " cat"], vec!["the ", " cat"]),
        (
            "f(x);\n\n    g(x);\n",
            vec!["f", "(x", ");\n\n", "   ", " g", "(x", ");\n"],
            vec!["f(x);\n\n", "   ", " g(x);\n"],
        ),
        ("x\n \n y", vec!["x", "\n \n", " y"], vec!["x\n \n", " y"]),
        ("a.\n b", vec!["a", ".\n", " b"], vec!["a.\n", " b"]),
        (
            "It'Sa ('is",
            vec!["It", "'S", "a", " ('", "is"],
            vec!["It'S", "a ('", "is"],
        ),
        ("x'ſ", vec!["x", "'ſ"], vec!["x'ſ"]),
        ("--a -b", vec!["--", "a", " -", "b"], vec!["--", "a -", "b"]),
        ("年２", vec!["年", "２"], vec!["年", "２"]),
    ] {
        for (base, splitter) in &CHUNKED[3..] {
            assert_eq!(pieces(*base, text), words, "{text:?}");
            assert_eq!(pieces(*splitter, text), chunks, "{text:?}");
        }
    }
    for (splitter, expected) in [
        (Splitter::Llama3, vec!["a", " ", "123", "456", "7"]),
        (Splitter::Llama3Chunk, vec!["a 123", "456", "7"]),
        (Splitter::Qwen, vec!["a", " ", "1", "2", "3", "4", "5", "6", "7"]),
        (Splitter::QwenChunk, vec!["a 1", "2", "3", "4", "5", "6", "7"]),
    ] {
        assert_eq!(pieces(splitter, "a 1234567"), expected);
    }
}

/// Every letter that may stand behind the apostrophe of a contraction is known.
#[test]
fn contractions_in_capitals_and_small_letters() {
    let pattern = SysRegex::new(LLAMA3_PATTERN).unwrap();
    let mut found = 0;
    for c in '\0'..=char::MAX {
        for text in [format!("x'{c}y"), format!("x'l{c}y"), format!("x'{c}ey")] {
            let words = pieces(Splitter::Llama3, &text);
            found += usize::from(words.len() == 3 && words[1].starts_with('\''));
            assert_eq!(words, expected(&pattern, &text), "{text:?}");
        }
    }
    assert!(found > 20, "{found}");
}

#[test]
fn every_character_has_the_class_of_the_regular_expressions() {
    let gpt2 = SysRegex::new(GPT2_PATTERN).unwrap();
    // Three characters a line: alone, behind a letter, behind a digit. Runs tell letters, numbers
    // and others apart.
    for block in (0..=0x10FFFFu32).collect::<Vec<_>>().chunks(4096) {
        let text: String = block
            .iter()
            .filter_map(|&code| char::from_u32(code))
            .flat_map(|c| [c, 'a', c, '1', c, '\n'])
            .collect();
        assert_eq!(
            pieces(Splitter::Gpt2, &text),
            expected(&gpt2, &text),
            "block {:x}",
            block[0]
        );
    }
}

#[test]
fn random_texts_are_cut_like_the_patterns() {
    let alphabet: Vec<char> = " '’\t\r\n\n\n\u{a0}\u{3000}\u{2008}\u{85}sStrevmldſ01２①.-\"(—・ー年é中יא،\u{5b8}"
        .chars()
        .collect();
    let patterns = [
        (Splitter::Gpt2, GPT2_PATTERN),
        (Splitter::ChunkV1, CHUNK_PATTERN_V1),
        (Splitter::Chunk, CHUNK_PATTERN),
        (Splitter::Llama3, LLAMA3_PATTERN),
        (Splitter::Qwen, QWEN_PATTERN),
    ]
    .map(|(splitter, pattern)| (splitter, SysRegex::new(pattern).unwrap()));
    let ends = [
        (Splitter::Llama3, Splitter::Llama3Chunk, LLAMA3_CHUNK_ENDS),
        (Splitter::Qwen, Splitter::QwenChunk, QWEN_CHUNK_ENDS),
    ]
    .map(|(base, splitter, ends)| (base, splitter, SysRegex::new(ends).unwrap()));
    let mut next = numbers(7);
    for round in 0..8000 {
        let text: String = (0..round % 23).map(|_| alphabet[next(alphabet.len())]).collect();
        for (base, splitter) in &CHUNKED[1..3] {
            let mut parts = Vec::new();
            for chunk in pieces(*splitter, &text) {
                base.for_each_in_chunk(chunk, |piece| parts.push(piece));
            }
            assert!(
                parts == pieces(*base, &text) || pieces(*splitter, &text).contains(&"\n\n"),
                "{parts:?} of {text:?}"
            );
        }
        for (splitter, pattern) in &patterns {
            assert_eq!(
                pieces(*splitter, &text),
                expected(pattern, &text),
                "{splitter:?} of {text:?}"
            );
        }
        for (splitter, between) in [
            (Splitter::DigitsGpt2, &patterns[0].1),
            (Splitter::DigitsChunk, &patterns[2].1),
        ] {
            let mut parts = Vec::new();
            digits::for_each(&text, |part, is_digit| match is_digit {
                true => parts.push(part),
                false => parts.extend(expected(between, part)),
            });
            assert_eq!(pieces(splitter, &text), parts, "{splitter:?} of {text:?}");
        }
        for (base, splitter, ends) in &ends {
            let chunks = pieces(*splitter, &text);
            assert_eq!(chunks, merged_with_previous(ends, &text), "{splitter:?} of {text:?}");
            let mut parts = Vec::new();
            for chunk in chunks {
                base.for_each_in_chunk(chunk, |piece| parts.push(piece));
            }
            assert_eq!(parts, pieces(*base, &text), "{splitter:?} of {text:?}");
        }
    }
}

/// The words of a text may be asked for from any place where one starts.
#[test]
fn words_are_found_from_any_place() {
    let alphabet: Vec<char> = " '\n\nsta01２①.(—ー年é".chars().collect();
    let mut next = numbers(9);
    for round in 0..3000 {
        let text: String = (0..round % 29).map(|_| alphabet[next(alphabet.len())]).collect();
        for (_, splitter) in CHUNKED {
            let words = |start| {
                let mut words = Vec::new();
                pieces::for_each::<true>(splitter, &text, start, |piece| words.push(piece));
                words
            };
            let places = |words: &[pieces::Piece]| -> Vec<_> {
                words.iter().map(|word| (word.start, word.end, word.cut)).collect()
            };
            let all = words(pieces::Start::OF_TEXT);
            for (at, &word) in all.iter().enumerate() {
                let rest = words(pieces::Start::behind(splitter, &text, word));
                assert_eq!(
                    places(&rest),
                    places(&all[at + 1..]),
                    "{splitter:?} of {text:?} behind {at}"
                );
            }
        }
    }
}

/// One character of each class whose UTF-8 starts, or ends, with some bytes that are not a whole
/// character.
struct Partial {
    by_start: HashMap<Vec<u8>, Vec<char>>,
    by_end: HashMap<Vec<u8>, Vec<char>>,
}

impl Partial {
    fn new() -> Self {
        let mut partial = Partial {
            by_start: HashMap::new(),
            by_end: HashMap::new(),
        };
        for c in '\u{80}'..=char::MAX {
            let mut buffer = [0; 4];
            let bytes = c.encode_utf8(&mut buffer).as_bytes();
            for cut in 1..bytes.len() {
                for (map, part) in [
                    (&mut partial.by_start, &bytes[..cut]),
                    (&mut partial.by_end, &bytes[cut..]),
                ] {
                    let chars = map.entry(part.to_vec()).or_default();
                    if chars.iter().all(|&known| class::class_of(known) != class::class_of(c)) {
                        chars.push(c);
                    }
                }
            }
        }
        partial
    }

    /// Texts that hold `left` and `right` side by side, with characters at the outer ends
    /// completed, and the place where they meet. None when they meet inside a character.
    fn complete(&self, left: &[u8], right: &[u8]) -> Vec<(String, usize)> {
        if right[0] & 0xC0 == 0x80 {
            return Vec::new();
        }
        let continuation = left.iter().take_while(|&&byte| byte & 0xC0 == 0x80).count();
        let (partial, left) = left.split_at(continuation);
        let starts = match partial {
            [] => vec![String::new()],
            bytes => self
                .by_end
                .get(bytes)
                .map_or(vec![], |chars| chars.iter().map(char::to_string).collect()),
        };
        let last = right.iter().rposition(|&byte| byte & 0xC0 != 0x80).unwrap_or(0);
        let (right, ends) = match std::str::from_utf8(right) {
            Ok(_) => (right, vec![String::new()]),
            Err(_) => {
                let chars = self.by_start.get(&right[last..]);
                (
                    &right[..last],
                    chars.map_or(vec![], |chars| chars.iter().map(char::to_string).collect()),
                )
            }
        };
        let (Ok(left), Ok(right)) = (std::str::from_utf8(left), std::str::from_utf8(right)) else {
            return Vec::new();
        };
        let pairs = starts.iter().flat_map(|start| ends.iter().map(move |end| (start, end)));
        pairs
            .map(|(start, end)| (format!("{start}{left}{right}{end}"), start.len() + left.len()))
            .collect()
    }
}

/// Whether a piece ends at `place`.
fn has_border(splitter: Splitter, text: &str, place: usize) -> bool {
    let (mut end, mut found) = (0, false);
    splitter.for_each(text, |piece| {
        end += piece.len();
        found |= end == place;
    });
    found
}

/// What is said of two tokens holds in every context of the list.
#[test]
fn tokens_that_never_part_have_no_border_inside_a_chunk() {
    let partial = Partial::new();
    let tokens: Vec<Vec<u8>> = [
        "a", "s", "re", "1", " ", "\n", " a", "'", "('", "(", ".", "—", "é", "年", "ー", "・", "２", "\u{3000}",
        "\u{a0}", "r", "\r\n", "\t", ".\n",
    ]
    .iter()
    .map(|token| token.as_bytes().to_vec())
    .chain([&b"\xe3\x83"[..], b"\xe5", b"\xe2\x80", b"\x82", b"\x83\xbb", b"\xc2"].map(<[u8]>::to_vec))
    .collect();
    let (mut never, mut always) = (0, 0);
    for (base, splitter) in CHUNKED {
        for left in &tokens {
            for right in &tokens {
                let says = never_parts(splitter, left, right);
                let mut parts = false;
                for (text, place) in partial.complete(left, right) {
                    for before in ["", "a", "é", "1", " ", "\n", "(", "'", "—", "年", "\u{3000}"] {
                        for after in ["", "a", "é", "1", " ", "(", "'", "e", "\n"] {
                            let text = format!("{before}{text}{after}");
                            let place = before.len() + place;
                            parts |= has_border(base, &text, place) && !has_border(splitter, &text, place);
                        }
                    }
                }
                assert!(!(says && parts), "{left:?} {right:?}");
                never += usize::from(says);
                always += usize::from(!says && parts);
            }
        }
    }
    assert!(never > 100 && always > 100, "{never} never part, {always} do");
}

/// The premise of the equivalence of a patched tokenizer and its base: wherever GPT-2 cuts between
/// two tokens that have a merge, so does the chunk pattern. Tried for every merge of GPT-2, but the
/// one of two line ends, between characters of every class.
#[test]
fn no_merge_of_gpt2_reaches_across_a_border_inside_a_chunk() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/data/gpt2/tokenizer.json");
    let model = crate::base::read(path.as_ref()).unwrap();
    let partial = Partial::new();
    let mut borders = 0;
    for merge in model.merges() {
        let (left, right) = (
            model.vocab().get(merge.left).unwrap(),
            model.vocab().get(merge.right).unwrap(),
        );
        if [left, right] == [b"\n"; 2] {
            continue;
        }
        for (text, place) in partial.complete(left, right) {
            for before in ["", "a", "é", "1", " ", "\n", "(", "'", "—"] {
                for after in ["", "a", "é", "1", " ", "(", "'"] {
                    let text = format!("{before}{text}{after}");
                    let place = before.len() + place;
                    if has_border(Splitter::Gpt2, &text, place) {
                        borders += 1;
                        assert!(has_border(Splitter::Chunk, &text, place), "{text:?} at {place}");
                    }
                }
            }
        }
    }
    assert!(borders > 1000, "the contexts reached only {borders} borders");
}
