//! `encode` and `decode`.

use std::io::{Read, Write};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::args;
use crate::counts::open;

#[derive(Serialize)]
struct Encoded {
    ids: Vec<u32>,
    tokens: Vec<String>,
}

pub(crate) fn encode(args: &args::Encode) -> Result<()> {
    let tokenizer = open(&args.tokenizer)?;
    let text = match &args.text {
        Some(text) => text.clone().into_bytes(),
        None => standard_input()?,
    };
    let ids = tokenizer.encode_bytes(&text);
    let mut stdout = std::io::stdout().lock();
    if args.ids {
        let ids: Vec<_> = ids.iter().map(u32::to_string).collect();
        writeln!(stdout, "{}", ids.join(" "))?;
        return Ok(());
    }
    let tokens = ids
        .iter()
        .map(|&id| tokenizer.decode(&[id]))
        .collect::<Result<_, _>>()?;
    let encoded = Encoded { ids, tokens };
    if args.json {
        serde_json::to_writer(&mut stdout, &encoded)?;
        writeln!(stdout)?;
        return Ok(());
    }
    for (id, token) in encoded.ids.iter().zip(&encoded.tokens) {
        writeln!(stdout, "{id:>7}  {token:?}")?;
    }
    writeln!(stdout, "{} tokens, {} bytes", encoded.ids.len(), text.len())?;
    Ok(())
}

pub(crate) fn decode(args: &args::Decode) -> Result<()> {
    let tokenizer = open(&args.tokenizer)?;
    let ids = if args.ids.is_empty() {
        let text = String::from_utf8(standard_input()?).context("standard input is not UTF-8")?;
        text.split(|c: char| c.is_whitespace() || c == ',')
            .filter(|word| !word.is_empty())
            .map(|word| word.parse().with_context(|| format!("{word:?} is no token id")))
            .collect::<Result<_>>()?
    } else {
        args.ids.clone()
    };
    Ok(std::io::stdout().lock().write_all(&tokenizer.decode_bytes(&ids)?)?)
}

fn standard_input() -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::io::stdin()
        .lock()
        .read_to_end(&mut bytes)
        .context("cannot read standard input")?;
    Ok(bytes)
}
