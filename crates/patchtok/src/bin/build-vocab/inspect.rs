//! `inspect`.

use std::io::Write;

use anyhow::Result;
use serde::Serialize;

use crate::args;
use crate::counts::open;

/// What a tokenizer is.
#[derive(Serialize)]
struct Inspection {
    schema: &'static str,
    vocab_size: usize,
    special_ids: Vec<u32>,
    /// Lengths of the ordinary tokens in bytes.
    mean_token_bytes: f64,
    longest_token_bytes: usize,
    /// In the order of ids.
    new: Vec<New>,
    removed: Vec<Removed>,
}

#[derive(Serialize)]
struct New {
    id: u32,
    text: String,
    base_tokens: usize,
}

#[derive(Serialize)]
struct Removed {
    id: u32,
    text: String,
    pieces: Vec<u32>,
}

pub(crate) fn inspect(args: &args::Inspect) -> Result<()> {
    let tokenizer = open(&args.tokenizer)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let special_ids: Vec<u32> = tokenizer.special_ids().collect();
    let lengths: Vec<usize> = (0..tokenizer.vocab_size() as u32)
        .filter(|id| !special_ids.contains(id))
        .filter_map(|id| Some(tokenizer.token_bytes(id)?.len()))
        .collect();
    let map = tokenizer.patch_map();
    let inspection = Inspection {
        schema: "patchtok.inspect.v1",
        vocab_size: tokenizer.vocab_size(),
        mean_token_bytes: lengths.iter().sum::<usize>() as f64 / lengths.len().max(1) as f64,
        longest_token_bytes: lengths.iter().copied().max().unwrap_or(0),
        special_ids,
        new: map
            .into_iter()
            .flat_map(|map| map.new_tokens())
            .map(|new| New {
                id: new.id,
                text: text(&new.token),
                base_tokens: new.base_ids.len(),
            })
            .collect(),
        removed: map
            .into_iter()
            .flat_map(|map| map.removed_tokens())
            .map(|removed| Removed {
                id: removed.id,
                text: text(&removed.token),
                pieces: removed.pieces.clone(),
            })
            .collect(),
    };
    let mut stdout = std::io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut stdout, &inspection)?;
        writeln!(stdout)?;
        return Ok(());
    }
    print(&mut stdout, inspection, args.top)
}

fn print(out: &mut impl Write, mut inspection: Inspection, top: usize) -> Result<()> {
    writeln!(
        out,
        "vocabulary  {} tokens, {} special\ntokens      {:.2} bytes in the mean, {} at most",
        inspection.vocab_size,
        inspection.special_ids.len(),
        inspection.mean_token_bytes,
        inspection.longest_token_bytes
    )?;
    if inspection.new.is_empty() {
        writeln!(out, "patches     none: a base tokenizer")?;
        return Ok(());
    }
    writeln!(
        out,
        "patches     {} new tokens, {} removed\n\nnew tokens that stand for most tokens of the base\n{:>8} {:>6}  token",
        inspection.new.len(),
        inspection.removed.len(),
        "id",
        "stands"
    )?;
    inspection
        .new
        .sort_by_key(|new| (std::cmp::Reverse(new.base_tokens), new.id));
    for new in inspection.new.iter().take(top) {
        writeln!(out, "{:>8} {:>6}  {:?}", new.id, new.base_tokens, new.text)?;
    }
    writeln!(out, "\nremoved tokens\n{:>8}  token", "id")?;
    for removed in inspection.removed.iter().take(top) {
        writeln!(out, "{:>8}  {:?}", removed.id, removed.text)?;
    }
    Ok(())
}
