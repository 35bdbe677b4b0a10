//! The folder of a run, which `--resume` continues.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use patchtok::{Corpus, PatchTokenizer};
use serde::{Deserialize, Serialize};

/// What a run learns from and is scored on, as fingerprints: a run that goes on with anything else is another run.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Inputs {
    tokenizer: String,
    text: String,
    heldout: String,
}

impl Inputs {
    pub(crate) fn new(tokenizer: &PatchTokenizer, stream: &[u32], heldout: &Corpus) -> Result<Self> {
        let ids = 0..tokenizer.vocab_size() as u32;
        let tokens = ids.map(|id| tokenizer.token_bytes(id).unwrap_or_default());
        let mut documents = Fnv::default();
        for document in heldout.documents() {
            documents.add(document?.as_bytes());
        }
        Ok(Self {
            tokenizer: Fnv::of(tokens),
            text: Fnv::of(stream.iter().map(|id| id.to_le_bytes())),
            heldout: documents.hex(),
        })
    }
}

/// Parts of a text or a vocabulary, as one number: FNV-1a with 64 bits.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn of<T: AsRef<[u8]>>(parts: impl Iterator<Item = T>) -> String {
        let mut all = Self::default();
        parts.for_each(|part| all.add(part.as_ref()));
        all.hex()
    }

    fn add(&mut self, part: &[u8]) {
        for &byte in part.iter().chain(&(part.len() as u64).to_le_bytes()) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    }

    fn hex(&self) -> String {
        format!("{:016x}", self.0)
    }
}

/// `run/` in the output folder: the log, the checkpoint, and the fingerprints of the inputs.
#[derive(Debug)]
pub(crate) struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    pub(crate) fn of(out: &Path) -> Self {
        Self { path: out.join("run") }
    }

    pub(crate) fn checkpoint(&self) -> PathBuf {
        self.path.join("checkpoint.safetensors")
    }

    fn inputs(&self) -> PathBuf {
        self.path.join("inputs.json")
    }

    /// Refuses to continue a run with other inputs.
    pub(crate) fn check(&self, inputs: &Inputs) -> Result<()> {
        let path = self.inputs();
        let name = || path.display().to_string();
        let text = std::fs::read_to_string(&path).with_context(name)?;
        let begun: Inputs = serde_json::from_str(&text).with_context(name)?;
        for (what, begun, now) in [
            ("tokenizer", &begun.tokenizer, &inputs.tokenizer),
            ("text to tune on", &begun.text, &inputs.text),
            ("held-out text", &begun.heldout, &inputs.heldout),
        ] {
            ensure!(
                begun == now,
                "the run in {} was begun with another {what}; name the same one, or begin afresh in another --out",
                self.path.display()
            );
        }
        Ok(())
    }

    /// Makes the folder of a new run.
    pub(crate) fn create(&self, inputs: &Inputs) -> Result<()> {
        let name = || self.path.display().to_string();
        std::fs::create_dir_all(&self.path).with_context(name)?;
        let mut file = tempfile::NamedTempFile::new_in(&self.path).with_context(name)?;
        serde_json::to_writer_pretty(&mut file, inputs)?;
        file.write_all(b"\n").with_context(name)?;
        file.persist(self.inputs()).with_context(name)?;
        Ok(())
    }

    /// The log, to be added to.
    pub(crate) fn log(&self) -> Result<File> {
        let path = self.path.join("log.jsonl");
        let file = File::options().create(true).append(true).open(&path);
        file.with_context(|| path.display().to_string())
    }
}

/// Refuses to write among files of somebody else, and to write over a run by accident.
pub(crate) fn check_out(out: &Path, resume: bool) -> Result<()> {
    let checkpoint = RunFolder::of(out).checkpoint();
    if resume {
        ensure!(
            checkpoint.exists(),
            "{} does not exist: nothing to resume",
            checkpoint.display()
        );
        return Ok(());
    }
    let mut entries = match std::fs::read_dir(out) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| out.display().to_string()),
    };
    if entries.next().is_some() {
        bail!(
            "{} is not empty; name another --out, or continue its run with --resume",
            out.display()
        );
    }
    Ok(())
}
