//! Tokens saved on held-out documents by each method, and on texts of other domains.

use patchtok::{
    AdaptivocabBuilder, AdaptivocabForm, ChunkCounter, Corpus, Mode, PatchTokenizer, Segmentation, TokenCount,
    VocabBuilder,
};

use crate::domains::{Domain, Domains};
use crate::figure::{Figure, Goal, Printer};

/// How many points more than the released AdaptiVocab saves swap-BPE is to save.
const BETTER_BY: f64 = 5.0;

/// A tokenizer of which only the number of tokens matters.
type Counter = Box<dyn Fn(&str) -> u64 + Sync>;

/// Prints the savings figures.
pub(crate) fn figures(
    domains: &Domains,
    gpt2: &PatchTokenizer,
    swaps: usize,
    printer: &mut Printer,
) -> anyhow::Result<()> {
    for missing in &domains.missing {
        printer.print(Figure::left_out(format!("saving on {missing}"), "%"))?;
    }
    for domain in &domains.adapted {
        let methods = methods(domain, gpt2, swaps)?;
        let base = TokenCount::of(gpt2, &domain.heldout)?;
        let mut savings = Vec::new();
        for (name, counter) in &methods {
            let saving = TokenCount::by(counter, &domain.heldout)?.saving_percent(&base);
            printer.print(Figure::new(
                format!("saving on held-out {}: {name}", domain.name),
                saving,
                "%",
            ))?;
            savings.push(saving);
        }
        printer.print(Figure::goal(
            format!("saving on held-out {}: swap-BPE - {}", domain.name, methods[4].0),
            savings[0] - savings[4],
            "points",
            Goal::AtLeast(BETTER_BY),
        ))?;
        let others = domains.adapted.iter().filter(|other| other.name != domain.name);
        let outside: Vec<(&str, &Corpus)> = others
            .map(|other| (other.name, &other.heldout))
            .chain(domains.outside.iter().map(|(name, corpus)| (*name, corpus)))
            .collect();
        let mut longer = longer(&methods[2].1, gpt2, &domain.heldout)?;
        for (name, text) in outside {
            let base = TokenCount::of(gpt2, text)?;
            let saving = TokenCount::by(&methods[0].1, text)?.saving_percent(&base);
            printer.print(Figure::goal(
                format!("saving outside, on {name}: swap-BPE of {}", domain.name),
                saving,
                "%",
                Goal::AtLeast(0.0),
            ))?;
            longer += self::longer(&methods[2].1, gpt2, text)?;
        }
        printer.print(Figure::goal(
            format!("texts of more tokens than with GPT-2: grown for {}", domain.name),
            longer as f64,
            "documents",
            Goal::AtMost(0.0),
        ))?;
    }
    Ok(())
}

/// Builds with every method: swap-BPE first, then its fewest tokens, then grown; the last is the
/// released AdaptiVocab.
fn methods(domain: &Domain, gpt2: &PatchTokenizer, swaps: usize) -> anyhow::Result<[(&'static str, Counter); 5]> {
    let counts = ChunkCounter::new(gpt2).count(&domain.train, |_| {})?;
    let swap_bpe = |mode, segmentation| -> anyhow::Result<Counter> {
        let builder = VocabBuilder::new(gpt2.clone()).swaps(swaps);
        let builder = builder.mode(mode).segmentation(segmentation);
        let tokenizer = builder.build_from_counts(&counts, |_| {})?.tokenizer;
        Ok(Box::new(move |text| tokenizer.encode(text).len() as u64))
    };
    let adaptivocab = |form| -> anyhow::Result<Counter> {
        let builder = AdaptivocabBuilder::new(gpt2.clone(), form).swaps(swaps);
        let tokenizer = builder.build(&domain.train)?;
        Ok(Box::new(move |text| tokenizer.encode(text).len() as u64))
    };
    Ok([
        ("swap-BPE", swap_bpe(Mode::Swap, Segmentation::Bpe)?),
        (
            "swap-BPE, fewest tokens",
            swap_bpe(Mode::Swap, Segmentation::MinTokens)?,
        ),
        ("grown", swap_bpe(Mode::Grow, Segmentation::Bpe)?),
        ("AdaptiVocab as published", adaptivocab(AdaptivocabForm::Paper)?),
        ("AdaptiVocab as released", adaptivocab(AdaptivocabForm::Released)?),
    ])
}

/// Documents that take more tokens than with the base.
fn longer(counter: &Counter, base: &PatchTokenizer, text: &Corpus) -> anyhow::Result<u64> {
    let longer = |text: &str| u64::from(counter(text) > base.encode(text).len() as u64);
    Ok(TokenCount::by(longer, text)?.tokens)
}
