//! Encoding and decoding, in ratios to other crates.
//!
//! All encoders work on one thread and on the same text, in turns; a round is one pass of each. A
//! speed is the median over the rounds in MB of text per second of CPU time of the process, a ratio
//! the median of the ratios of the rounds. Before any of it, the ids of every encoder are compared
//! with those of `tokenizers` 0.23.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, bail};
use patchtok::{PatchTokenizer, VocabBuilder};

use crate::figure::{Figure, Goal, Printer};
use crate::rivals::{self, Named, Ours};
use crate::texts::{self, Text};
use crate::{cpu_seconds, median};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// English prose to encode, instead of the held-out demo corpora.
    #[arg(long, value_name = "FILE")]
    prose: Option<PathBuf>,
    /// Program text to encode, instead of the sources of this workspace.
    #[arg(long, value_name = "FILE")]
    code: Option<PathBuf>,
    /// How much of each text is encoded.
    #[arg(long, value_name = "BYTES", default_value_t = 10_000_000)]
    bytes: usize,
    /// How often each encoder encodes it; figures are medians.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Number of swaps of the patched tokenizers.
    #[arg(long, default_value_t = 10_000)]
    pub(crate) swaps: usize,
}

/// What a slow encoder encodes in a round.
const SLOW_BYTES: usize = 200_000;

/// Prints the speed figures.
pub(crate) fn figures(options: &Options, printer: &mut Printer) -> anyhow::Result<()> {
    let path = texts::gpt2();
    let gpt2 = PatchTokenizer::from_file(&path)?;
    let patched = VocabBuilder::new(gpt2.clone())
        .swaps(options.swaps)
        .build(texts::demo("manual-train")?)?
        .tokenizer;
    let patched_name = format!("patchtok with {} swaps", options.swaps);
    let mut rivals = rivals::all(&path)?;
    for (name, reason) in rivals::LEFT_OUT {
        printer.print(Figure::left_out(
            format!("encode: {name} is left out, {reason}"),
            "MB/s",
        ))?;
    }
    let prose = texts::prose(options.prose.as_deref(), options.bytes)?;
    let code = texts::code(options.code.as_deref(), options.bytes)?;
    for text in [&prose, &code] {
        check_patched(&patched, text)?;
        check(&gpt2, &mut rivals, text)?;
        let mut encoders = vec![
            Named::new("patchtok", Ours::new(&gpt2)),
            Named::new(patched_name.as_str(), Ours::new(&patched)),
        ];
        encoders.append(&mut rivals);
        for (size, pieces) in [("100 KB", &text.documents), ("100 bytes", &text.short)] {
            let rates = rates(
                &mut encoders,
                pieces,
                options.rounds,
                |encoder| encoder.encodes,
                |encoder, text| encode(encoder, text),
            )?;
            report(&format!("encode {} in {size}", text.name), &encoders, &rates, printer)?;
        }
        let ids: Vec<Vec<u32>> = gpt2.encode_batch(&text.documents);
        encoders.remove(1);
        let rates = rates(
            &mut encoders,
            &ids,
            options.rounds,
            |encoder| encoder.decodes,
            |encoder, ids| decode(encoder, ids),
        )?;
        for (Named { name, .. }, rates) in encoders.iter().zip(&rates) {
            let figure = format!("decode {} in 100 KB: {name}", text.name);
            if rates.is_empty() {
                printer.print(Figure::left_out(format!("{figure} gives another text"), "MB/s"))?;
                continue;
            }
            printer.print(match name.as_str() {
                "patchtok" => Figure::goal(figure, median(rates)?, "MB/s", Goal::AtLeast(500.0)),
                _ => Figure::new(figure, median(rates)?, "MB/s"),
            })?;
        }
        rivals = encoders.split_off(1);
        for (name, tokenizer) in [("patchtok", &gpt2), (&patched_name, &patched)] {
            let figure = format!("encode_batch {} in 100 KB: {name}, 2 threads / 1 thread", text.name);
            let ratio = two_threads(tokenizer, &text.documents, options.rounds)?;
            printer.print(Figure::goal(figure, ratio, "ratio", Goal::AtLeast(1.7)))?;
        }
    }
    for (name, tokenizer) in [("patchtok", &gpt2), (&patched_name, &patched)] {
        let figure = format!("load patch_tokenizer.bin: {name}");
        printer.print(Figure::goal(
            figure,
            load(tokenizer, options.rounds)?,
            "ms",
            Goal::AtMost(30.0),
        ))?;
    }
    Ok(())
}

/// Milliseconds of CPU time that it takes to read a tokenizer from its binary file and encode one
/// sentence.
fn load(tokenizer: &PatchTokenizer, rounds: usize) -> anyhow::Result<f64> {
    let folder = tempfile::tempdir()?;
    tokenizer.save(folder.path())?;
    let mut times = Vec::new();
    for _ in 0..rounds {
        let start = cpu_seconds();
        let loaded = PatchTokenizer::load(folder.path())?;
        let ids = loaded.encode("The table has one row per server process.");
        times.push(1e3 * (cpu_seconds() - start));
        if ids != tokenizer.encode("The table has one row per server process.") {
            bail!("the loaded tokenizer differs");
        }
    }
    median(&times)
}

/// How much faster two threads are than one, by the clock on the wall. On a machine that is busy
/// this says more about the machine.
fn two_threads(tokenizer: &PatchTokenizer, documents: &[String], rounds: usize) -> anyhow::Result<f64> {
    // Enough that starting is not what is measured.
    let bytes: usize = documents.iter().map(String::len).sum();
    let documents: Vec<&String> = documents
        .iter()
        .cycle()
        .take(documents.len() * (20_000_000 / bytes + 1))
        .collect();
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    let (one, two) = (pool(1)?, pool(2)?);
    let mut ratios = Vec::new();
    for round in 0..=rounds {
        let time = |pool: &rayon::ThreadPool| {
            let start = Instant::now();
            let tokens = pool.install(|| tokenizer.encode_batch(&documents)).len();
            (start.elapsed().as_secs_f64(), tokens)
        };
        let ((one, _), (two, _)) = (time(&one), time(&two));
        if round > 0 {
            ratios.push(one / two);
        }
    }
    median(&ratios)
}

/// The exported patched tokenizer gives the same ids in `tokenizers` 0.23.
fn check_patched(patched: &PatchTokenizer, text: &Text) -> anyhow::Result<()> {
    let theirs = patched.to_hf()?;
    for piece in text.documents.iter().chain(text.short.iter().take(2000)) {
        let expected = theirs
            .encode_fast(piece.as_str(), false)
            .map_err(|error| anyhow::anyhow!(error))?;
        if patched.encode(piece) != expected.get_ids() {
            bail!("the patched tokenizer and tokenizers 0.23 differ on {} text", text.name);
        }
    }
    Ok(())
}

/// Finds out which rivals give the ids of `gpt2`, which must be those of `tokenizers` 0.23, the first
/// of them; the others are left out where they do not.
fn check(gpt2: &PatchTokenizer, rivals: &mut [Named<'_>], text: &Text) -> anyhow::Result<()> {
    for rival in &mut *rivals {
        (rival.encodes, rival.decodes) = (true, true);
        for piece in text.documents.iter().chain(text.short.iter().take(2000)) {
            let ids = gpt2.encode(piece);
            rival.encodes &= rival.encoder.encode(piece) == ids;
            rival.decodes &= rival.encoder.decode(&ids).as_deref() == Some(piece);
        }
    }
    match rivals.first() {
        Some(first) if first.encodes => Ok(()),
        _ => bail!("patchtok and tokenizers 0.23 differ on {} text", text.name),
    }
}

/// MB/s of text of each encoder that is timed in each round of `work` on all items.
fn rates<T>(
    encoders: &mut [Named<'_>],
    items: &[T],
    rounds: usize,
    is_timed: impl Fn(&Named<'_>) -> bool,
    mut work: impl FnMut(&mut Named<'_>, &T) -> anyhow::Result<usize>,
) -> anyhow::Result<Vec<Vec<f64>>> {
    let mut rates = vec![Vec::new(); encoders.len()];
    // The first round fills caches and is not counted.
    for round in 0..=rounds {
        for (encoder, rates) in encoders.iter_mut().zip(&mut rates) {
            if !is_timed(encoder) {
                continue;
            }
            let limit = if encoder.encoder.is_slow() {
                SLOW_BYTES
            } else {
                usize::MAX
            };
            let mut bytes = 0;
            let start = cpu_seconds();
            for item in items {
                bytes += work(encoder, item)?;
                if bytes >= limit {
                    break;
                }
            }
            if round > 0 {
                rates.push(bytes as f64 / 1e6 / (cpu_seconds() - start));
            }
        }
    }
    Ok(rates)
}

/// Encodes a text and returns its length in bytes.
fn encode(Named { encoder, .. }: &mut Named<'_>, text: &str) -> anyhow::Result<usize> {
    encoder.encode(text);
    Ok(text.len())
}

/// Decodes ids and returns the length in bytes of their text.
fn decode(Named { encoder, name, .. }: &mut Named<'_>, ids: &[u32]) -> anyhow::Result<usize> {
    let text = encoder.decode(ids).with_context(|| format!("{name} cannot decode"))?;
    Ok(text.len())
}

/// Prints the speed of every encoder and the ratios of ours, the first two, to the rivals.
fn report(label: &str, encoders: &[Named<'_>], rates: &[Vec<f64>], printer: &mut Printer) -> anyhow::Result<()> {
    for (Named { name, .. }, rates) in encoders.iter().zip(rates) {
        printer.print(match rates.as_slice() {
            [] => Figure::left_out(format!("{label}: {name} gives other ids"), "MB/s"),
            rates => Figure::new(format!("{label}: {name}"), median(rates)?, "MB/s"),
        })?;
    }
    for (Named { name, .. }, ours) in encoders.iter().zip(rates).take(2) {
        for (Named { name: rival, .. }, theirs) in encoders.iter().zip(rates).skip(2) {
            if theirs.is_empty() {
                continue;
            }
            let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
            let figure = format!("{label}: {name} / {rival}");
            let goal = match (name.as_str(), rival.as_str()) {
                ("patchtok", "tokenizers 0.23") => Some(80.0),
                ("patchtok", "fastokens") => Some(1.0),
                (_, "fastokens") => Some(0.6),
                _ => None,
            };
            printer.print(match goal {
                Some(goal) => Figure::goal(figure, median(&ratios)?, "ratio", Goal::AtLeast(goal)),
                None => Figure::new(figure, median(&ratios)?, "ratio"),
            })?;
        }
    }
    Ok(())
}
