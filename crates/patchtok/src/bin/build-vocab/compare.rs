//! `build` by the methods that swap-BPE is compared with.

use std::io::Write;

use anyhow::Result;
use patchtok::{AdaptivocabBuilder, AdaptivocabForm, TokenCount};
use serde::Serialize;

use crate::args;
use crate::bar::Bar;
use crate::output::{Staging, check_folder};
use crate::report::Outside;

/// The machine-readable report.
#[derive(Serialize)]
struct Report {
    schema: &'static str,
    method: &'static str,
    vocab_size: usize,
    requested: usize,
    swaps: usize,
    corpus: Saving,
    heldout: Saving,
    outside: Vec<Outside>,
}

/// Tokens of a text before and after.
#[derive(Serialize)]
struct Saving {
    base: TokenCount,
    patched: TokenCount,
    saving_percent: f64,
}

/// Builds an AdaptiVocab tokenizer, writes it and prints the report.
pub(crate) fn build(args: &args::Build, form: AdaptivocabForm) -> Result<()> {
    let out = &args.out;
    check_folder(&out.out, out.force)?;
    let base = args.base.open()?;
    base.check_patchable()?;
    let (corpus, heldout) = args.corpus.open_checked()?;
    let outside = args.report.open_outside(&args.corpus.records)?;
    let staging = Staging::beside(&out.out)?;
    let mut bar = Bar::new();
    bar.message("choosing n-grams");
    let requested = args.settings.swaps;
    let tokenizer = AdaptivocabBuilder::new(base.clone(), form)
        .swaps(requested)
        .build(&corpus)?;
    bar.message("counting tokens");
    let tokens = |text: &str| tokenizer.encode(text).len() as u64;
    let saving = |corpus| -> Result<Saving> {
        let base = TokenCount::of(&base, corpus)?;
        let patched = TokenCount::by(tokens, corpus)?;
        let saving_percent = patched.saving_percent(&base);
        Ok(Saving {
            base,
            patched,
            saving_percent,
        })
    };
    let report = Report {
        schema: "patchtok.build_adaptivocab.v1",
        method: match form {
            AdaptivocabForm::Paper => "adaptivocab-paper",
            _ => "adaptivocab-released",
        },
        vocab_size: tokenizer.vocab_size(),
        requested,
        swaps: tokenizer.ngrams().len(),
        corpus: saving(&corpus)?,
        heldout: saving(&heldout)?,
        outside: Outside::all(&outside, &base, tokens)?,
    };
    bar.finish();
    staging.save(&out.out, |folder| tokenizer.save(folder))?;
    let mut stdout = std::io::stdout().lock();
    if args.report.json {
        serde_json::to_writer_pretty(&mut stdout, &report)?;
        writeln!(stdout)?;
    } else {
        print(&mut stdout, &report)?;
    }
    Ok(())
}

fn print(out: &mut impl Write, report: &Report) -> Result<()> {
    writeln!(
        out,
        "vocabulary  {} tokens, {} of {} swapped by {}",
        report.vocab_size, report.swaps, report.requested, report.method
    )?;
    for (name, saving) in [("corpus", &report.corpus), ("held-out", &report.heldout)] {
        let Saving {
            base,
            patched,
            saving_percent,
        } = saving;
        writeln!(
            out,
            "{name:<11} {} documents, {} bytes\n            {} -> {} tokens\n            \
             {saving_percent:.2} % fewer tokens, {:.2} -> {:.2} bytes per token",
            base.documents,
            base.bytes,
            base.tokens,
            patched.tokens,
            base.bytes_per_token(),
            patched.bytes_per_token()
        )?;
    }
    report.outside.iter().try_for_each(|outside| outside.print(out))
}
