//! This engine as one side of `peers/run.sh`: it waits for a line, runs it, answers with one line.
//!
//! `greedy N` gives the ids that follow a fixed prompt; `decode BATCH` seconds of a step; `prompt TOKENS` seconds.

use std::collections::btree_map::{BTreeMap, Entry};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};
use fused_model::kv::StaticKv;
use fused_model::{CausalLm, Gpt2, Options, Precision, Request, generate};

use crate::workload::{CONTEXT, Prompt, Sequences, ids};

/// Loads the model in `dir`, says `ready`, and answers lines until there are no more.
pub(crate) fn answer(dir: &Path, precision: Precision, threads: usize) -> Result<()> {
    let mut model = Gpt2::load(dir, Options { precision, threads })?;
    let mut batches = BTreeMap::new();
    let mut prompts = BTreeMap::new();
    say("ready")?;
    for line in std::io::stdin().lines() {
        let line = line?;
        let (what, number) = line
            .split_once(' ')
            .with_context(|| format!("{line:?} is no workload"))?;
        let number: usize = number.parse().with_context(|| format!("{line:?} is no workload"))?;
        say(&match what {
            "greedy" => {
                let mut kv = StaticKv::new(&model.kv_geometry(1))?;
                let request = Request::greedy(ids(CONTEXT), number);
                let ids = generate(&mut model, &mut kv, &[request], 1, &mut |_| {})?.remove(0);
                ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")
            }
            "decode" => {
                let sequences = match batches.entry(number) {
                    Entry::Occupied(entry) => entry.into_mut(),
                    Entry::Vacant(entry) => entry.insert(Sequences::new(&mut model, number, CONTEXT)?),
                };
                sequences.decode(&mut model)?.to_string()
            }
            "prompt" => {
                let prompt = match prompts.entry(number) {
                    Entry::Occupied(entry) => entry.into_mut(),
                    Entry::Vacant(entry) => entry.insert(Prompt::new(&model, number)?),
                };
                prompt.read(&mut model)?.to_string()
            }
            _ => bail!("{line:?} is no workload"),
        })?;
    }
    Ok(())
}

fn say(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}
