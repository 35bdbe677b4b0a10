//! The report of a build: for people, and as JSON.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Result;
use patchtok::{BuildReport, ChunkCounts, Corpus, CountSummary, PatchTokenizer, Sampling, TokenCount};
use serde::Serialize;

use crate::args;

/// New tokens, and removed ones, that are printed.
const TOP: usize = 20;

/// Points of the curve that are printed.
const POINTS: usize = 10;

/// The machine-readable report.
#[derive(Serialize)]
pub(crate) struct Report<'c> {
    schema: &'static str,
    vocab_size: usize,
    corpus: Part,
    heldout: Part,
    outside: Vec<Outside>,
    counts: &'c CountSummary,
    /// Of the chunks, when they did not fit into memory; the tokens of `build`, `corpus` and
    /// `heldout` are then estimates.
    sampling: Option<&'c Sampling>,
    pub(crate) build: BuildReport,
}

/// The tokens of a text before and after.
#[derive(Serialize)]
struct Part {
    words: u64,
    base: TokenCount,
    patched: TokenCount,
    saving_percent: f64,
    base_bytes_per_token: f64,
    patched_bytes_per_token: f64,
    /// Tokens per word.
    base_fertility: f64,
    patched_fertility: f64,
}

/// The tokens of a text of another domain before and after.
#[derive(Serialize)]
pub(crate) struct Outside {
    text: String,
    base: TokenCount,
    patched: TokenCount,
    /// Below zero when the text takes more tokens than before.
    saving_percent: f64,
}

impl Part {
    fn new(words: u64, base: TokenCount, patched: TokenCount) -> Self {
        let fertility = |count: &TokenCount| count.tokens as f64 / words.max(1) as f64;
        Part {
            words,
            base,
            patched,
            saving_percent: patched.saving_percent(&base),
            base_bytes_per_token: base.bytes_per_token(),
            patched_bytes_per_token: patched.bytes_per_token(),
            base_fertility: fertility(&base),
            patched_fertility: fertility(&patched),
        }
    }

    fn print(&self, out: &mut impl Write, name: &str) -> Result<()> {
        let Part { base, patched, .. } = self;
        writeln!(
            out,
            "{name:<11} {} documents, {} bytes, {} words",
            base.documents, base.bytes, self.words
        )?;
        writeln!(out, "            {} -> {} tokens", base.tokens, patched.tokens)?;
        writeln!(
            out,
            "            {:.2} % fewer tokens, {:.2} -> {:.2} bytes per token, {:.2} -> {:.2} tokens per word",
            self.saving_percent,
            self.base_bytes_per_token,
            self.patched_bytes_per_token,
            self.base_fertility,
            self.patched_fertility
        )?;
        Ok(())
    }
}

impl Outside {
    fn new(text: &str, base: TokenCount, patched: TokenCount) -> Self {
        Outside {
            text: text.into(),
            base,
            patched,
            saving_percent: patched.saving_percent(&base),
        }
    }

    /// Counts texts, which have names, with the base and with another tokenizer.
    pub(crate) fn all(
        texts: &[(String, Corpus)],
        base: &PatchTokenizer,
        tokens: impl Fn(&str) -> u64 + Sync,
    ) -> Result<Vec<Self>> {
        let count = |(name, corpus): &(String, Corpus)| {
            let patched = TokenCount::by(&tokens, corpus)?;
            Ok(Outside::new(name, TokenCount::of(base, corpus)?, patched))
        };
        texts.iter().map(count).collect()
    }

    pub(crate) fn print(&self, out: &mut impl Write) -> Result<()> {
        let (text, tokens, less) = (&self.text, self.base.tokens, self.patched.tokens);
        writeln!(
            out,
            "outside     {text}: {tokens} -> {less} tokens, {:.2} % fewer",
            self.saving_percent
        )?;
        Ok(())
    }
}

impl args::Report {
    /// Texts of other domains by their names.
    pub(crate) fn open_outside(&self, records: &args::Records) -> Result<Vec<(String, Corpus)>> {
        let open = |path: &PathBuf| Ok((path.display().to_string(), records.open_checked(&[path])?));
        self.outside.iter().map(open).collect()
    }
}

impl<'c> Report<'c> {
    pub(crate) fn new(
        tokenizer: &PatchTokenizer,
        counts: &'c ChunkCounts,
        build: BuildReport,
        outside: Vec<Outside>,
    ) -> Self {
        Report {
            schema: "patchtok.build.v1",
            vocab_size: tokenizer.vocab_size(),
            corpus: Part::new(build.words, build.base, build.patched),
            heldout: Part::new(build.heldout_words, build.heldout_base, build.heldout_patched),
            outside,
            counts: counts.summary(),
            sampling: counts.sampling(),
            build,
        }
    }

    /// The build in one line.
    pub(crate) fn headline(&self) -> String {
        let build = &self.build;
        let part = if self.has_heldout() {
            &self.heldout
        } else {
            &self.corpus
        };
        format!(
            "{} new tokens from {} documents, {:.1} MB: {:.1} % fewer tokens, {:.2} -> {:.2} bytes per token{}",
            build.swaps,
            build.base.documents,
            build.base.bytes as f64 / 1e6,
            part.saving_percent,
            part.base_bytes_per_token,
            part.patched_bytes_per_token,
            if self.has_heldout() { " on held-out text" } else { "" }
        )
    }

    /// Whether there is a held-out text.
    fn has_heldout(&self) -> bool {
        self.heldout.base.documents > 0
    }

    /// Prints the report on standard output.
    pub(crate) fn write(&self, json: bool) -> Result<()> {
        let mut stdout = std::io::stdout().lock();
        if json {
            serde_json::to_writer_pretty(&mut stdout, self)?;
            writeln!(stdout)?;
            return Ok(());
        }
        self.print(&mut stdout)?;
        self.print_curve(&mut stdout)?;
        self.print_tokens(&mut stdout)
    }

    fn print(&self, out: &mut impl Write) -> Result<()> {
        let Report { build, .. } = self;
        writeln!(
            out,
            "vocabulary  {} tokens, {} of {} swapped ({})",
            self.vocab_size, build.swaps, build.requested, build.stop
        )?;
        self.corpus.print(out, "corpus")?;
        if self.has_heldout() {
            self.heldout.print(out, "held-out")?;
        } else {
            writeln!(out, "held-out    no documents; name some with --heldout")?;
        }
        self.outside.iter().try_for_each(|outside| outside.print(out))?;
        if self.outside.is_empty() {
            writeln!(
                out,
                "outside     not measured; name text of another domain with --outside"
            )?;
        }
        let dead = build.tokens.iter().filter(|token| token.uses == 0).count();
        writeln!(
            out,
            "unused      {} -> {} tokens that neither the corpus nor the held-out text uses; {dead} of the new ones are\n             \x20           parts of others only",
            build.base_unused, build.patched_unused
        )?;
        if let Some(sampling) = self.sampling {
            writeln!(
                out,
                "sampled     {} of {} distinct chunks: all that occur {} times or more, of the others count/{}\n\
                 \x20           tokens are estimated; standard error of the corpus size {:.3} %",
                sampling.kept_chunks, self.counts.distinct_chunks, sampling.k, sampling.k, sampling.size_error_percent
            )?;
        }
        Ok(())
    }

    fn print_curve(&self, out: &mut impl Write) -> Result<()> {
        let curve = self.curve();
        let Some((last, before)) = curve.split_last().filter(|(_, before)| !before.is_empty()) else {
            return Ok(());
        };
        writeln!(
            out,
            "\n% fewer tokens by number of new ones\n{:>10} {:>8} {:>8}",
            "new", "corpus", "held-out"
        )?;
        let step = before.len().div_ceil(POINTS);
        for point in before.iter().step_by(step).skip(1).chain([last]) {
            let heldout = point.heldout.map_or("-".into(), |saving| format!("{saving:.2}"));
            writeln!(out, "{:>10} {:>8.2} {heldout:>8}", point.new_tokens, point.corpus)?;
        }
        Ok(())
    }

    fn print_tokens(&self, out: &mut impl Write) -> Result<()> {
        let Report { build, .. } = self;
        if !build.tokens.is_empty() {
            writeln!(
                out,
                "\nnew tokens by what they save\n{:>10} {:>8} {:>8}  token",
                "corpus", "held-out", "uses"
            )?;
        }
        for token in build.tokens.iter().take(TOP) {
            writeln!(
                out,
                "{:>10} {:>8} {:>8}  {:?}",
                token.saved, token.heldout_saved, token.uses, token.text
            )?;
        }
        if !build.removed.is_empty() {
            let used = build.removed.iter().filter(|removed| removed.uses > 0).count();
            writeln!(
                out,
                "\nremoved tokens by their uses; the corpus uses {used} of {}\n{:>10} {:>8}  token",
                build.removed.len(),
                "corpus",
                "held-out"
            )?;
        }
        for token in build.removed.iter().take(TOP) {
            writeln!(out, "{:>10} {:>8}  {:?}", token.uses, token.heldout_uses, token.text)?;
        }
        Ok(())
    }

    /// Savings in percent by the number of new tokens.
    pub(crate) fn curve(&self) -> Vec<Point> {
        let percent = |tokens: u64, base: u64| 100.0 * (1.0 - tokens as f64 / base.max(1) as f64);
        let point = |point: &patchtok::CurvePoint| Point {
            new_tokens: point.new_tokens,
            corpus: percent(point.tokens, self.corpus.base.tokens),
            heldout: self
                .has_heldout()
                .then(|| percent(point.heldout_tokens, self.heldout.base.tokens)),
        };
        self.build.curve.iter().map(point).collect()
    }
}

/// A point of the curve, in percent fewer tokens than the base takes.
pub(crate) struct Point {
    pub(crate) new_tokens: usize,
    pub(crate) corpus: f64,
    pub(crate) heldout: Option<f64>,
}
