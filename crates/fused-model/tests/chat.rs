//! Dialogues as tokens.

use fused_model::chat::{Role, Template};
use patchtok::PatchTokenizer;
use serde_json::json;

/// A tokenizer of the 256 bytes, with special tokens behind them.
fn tokenizer(specials: &[&str]) -> PatchTokenizer {
    // GPT-2's names of bytes: printable ones as they are, the others from U+0100 on.
    let printable = |byte: u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let mut others = 0x100..;
    let name = |byte: u32| char::from_u32(if printable(byte) { byte } else { others.next().unwrap() }).unwrap();
    let vocab: serde_json::Map<_, _> = (0..256)
        .map(name)
        .zip(0..)
        .map(|(c, id)| (c.to_string(), json!(id)))
        .collect();
    let added = specials.iter().zip(256..).map(|(content, id)| {
        json!({
            "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": true,
        })
    });
    let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    let file = json!({
        "version": "1.0",
        "added_tokens": added.collect::<Vec<_>>(),
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "post_processor": null,
        "decoder": byte_level,
        "model": { "type": "BPE", "vocab": vocab, "merges": [] },
    });
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.json");
    std::fs::write(&path, file.to_string()).unwrap();
    PatchTokenizer::from_file(&path).unwrap()
}

const TURNS: [(Role, &str); 4] = [
    (Role::System, "Be short."),
    (Role::User, "<|im_end|> is what?"),
    (Role::Assistant, "A mark."),
    (Role::User, "Why?"),
];

#[test]
fn chatml_where_the_tokenizer_has_its_marks() {
    let tokenizer = tokenizer(&["<|endoftext|>", "<|im_start|>", "<|im_end|>"]);
    let template = Template::of(&tokenizer);
    assert_eq!(template, Template::ChatMl);
    let ids = template.prompt(&tokenizer, TURNS);
    let text = "<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\n<|im_end|> is what?<|im_end|>\n\
                <|im_start|>assistant\nA mark.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(tokenizer.decode(&ids).unwrap(), text);
    // The mark that the user wrote is text.
    assert_eq!(ids.iter().filter(|&&id| id == 258).count(), 4);
    assert_eq!(template.stop_ids(&tokenizer), [258, 256]);
    assert!(template.stop_strings().is_empty());
}

#[test]
fn plain_dialogues_elsewhere() {
    let tokenizer = tokenizer(&["<|endoftext|>", "<|im_start|>"]);
    let template = Template::of(&tokenizer);
    assert_eq!(template, Template::Plain);
    let ids = template.prompt(&tokenizer, TURNS);
    let text = "Be short.\nUser: <|im_end|> is what?\nAssistant: A mark.\nUser: Why?\nAssistant:";
    assert_eq!(tokenizer.decode(&ids).unwrap(), text);
    assert_eq!(template.stop_ids(&tokenizer), [256]);
    assert_eq!(template.stop_strings(), ["\nUser:"]);
}
