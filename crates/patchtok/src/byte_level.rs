//! GPT-2's spelling of bytes as printable characters, in which `tokenizer.json` writes tokens.
//!
//! The 188 bytes that are printable in Latin-1 stand for themselves; the other 68, in order, are
//! U+0100 and on (so a space is `Ġ`, U+0120). Source: the encoder published with GPT-2 (Radford et
//! al., 2019).

/// The character that spells `byte`.
pub(crate) fn to_char(byte: u8) -> char {
    if prints_itself(byte) {
        return byte as char;
    }
    let before = (0..byte).filter(|&b| !prints_itself(b)).count() as u32;
    char::from_u32(0x100 + before).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// The byte that `c` spells, `None` for a character that spells none.
pub(crate) fn to_byte(c: char) -> Option<u8> {
    match u32::from(c) {
        code @ 0..=0xFF => Some(code as u8).filter(|&b| prints_itself(b)),
        code => {
            let index = code.checked_sub(0x100)? as usize;
            (0..=255u8).filter(|&b| !prints_itself(b)).nth(index)
        }
    }
}

/// Spells a byte string.
pub(crate) fn spell(bytes: &[u8]) -> String {
    bytes.iter().map(|&b| to_char(b)).collect()
}

/// Reads a spelled byte string back; `None` when a character spells no byte.
pub(crate) fn unspell(text: &str) -> Option<Vec<u8>> {
    text.chars().map(to_byte).collect()
}

fn prints_itself(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_own_character() {
        for byte in 0..=255u8 {
            assert_eq!(to_byte(to_char(byte)), Some(byte));
        }
        assert_eq!(spell(b" the\n"), "ĠtheĊ");
        assert_eq!(unspell("ĠtheĊ").as_deref(), Some(&b" the\n"[..]));
        assert_eq!(to_byte(' '), None);
        assert_eq!(to_byte('\u{144}'), None);
    }
}
