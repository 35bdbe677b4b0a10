//! Files that appear complete or not at all, also when the program is interrupted.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, bail, ensure};

/// What a tokenizer folder holds; `--force` replaces folders of nothing else. The last two are
/// those of AdaptiVocab.
const FILES: [&str; 5] = [
    "tokenizer.json",
    "patch_map.json",
    "patch_tokenizer.bin",
    "base",
    "ngrams.json",
];

/// Exit status of an interrupted program: 128 and the number of SIGINT.
const INTERRUPTED: i32 = 130;

/// Temporary folders that exist. Held locked while a result is put in its place, so that an
/// interruption comes before or after.
static TEMPORARY: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn temporary() -> MutexGuard<'static, Vec<PathBuf>> {
    TEMPORARY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes Ctrl-C (and SIGTERM) remove the temporary folders and end the program.
pub(crate) fn clean_up_on_interrupt() -> Result<()> {
    ctrlc::set_handler(|| {
        let folders = temporary();
        for folder in folders.iter() {
            // There is nobody left to tell if this fails.
            let _ = fs::remove_dir_all(folder);
        }
        eprintln!("interrupted; nothing was written");
        process::exit(INTERRUPTED);
    })
    .context("cannot handle Ctrl-C")
}

/// A temporary folder beside a result, removed with all that is in it when it goes out of scope or
/// the program is interrupted.
pub(crate) struct Staging {
    folder: tempfile::TempDir,
}

impl Staging {
    /// Makes the folder beside `out`, and the folder that both are in.
    pub(crate) fn beside(out: &Path) -> Result<Self> {
        let parent = match out.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
        let mut folders = temporary();
        let folder = tempfile::Builder::new()
            .prefix(".build-vocab-")
            .suffix(".tmp")
            .tempdir_in(parent)
            .with_context(|| format!("cannot write beside {}", out.display()))?;
        folders.push(folder.path().into());
        Ok(Staging { folder })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Makes what `save` writes into a folder the folder `out`.
    pub(crate) fn save(&self, out: &Path, save: impl FnOnce(&Path) -> patchtok::Result<()>) -> Result<()> {
        let (new, old) = (self.path("new"), self.path("old"));
        save(&new)?;
        let _interruption_waits = temporary();
        if out.exists() {
            fs::rename(out, &old).with_context(|| format!("cannot replace {}", out.display()))?;
        }
        if let Err(error) = fs::rename(&new, out) {
            if old.exists() {
                fs::rename(&old, out).with_context(|| format!("cannot put {} back", out.display()))?;
            }
            return Err(error).with_context(|| format!("cannot write {}", out.display()));
        }
        Ok(())
    }

    /// Makes the file `name` of the folder the file `out`.
    pub(crate) fn publish(&self, name: &str, out: &Path) -> Result<()> {
        let _interruption_waits = temporary();
        fs::rename(self.path(name), out).with_context(|| format!("cannot write {}", out.display()))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let mut folders = temporary();
        folders.retain(|folder| folder != self.folder.path());
    }
}

/// Writes a file whole or not at all.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let staging = Staging::beside(path)?;
    fs::write(staging.path("file"), bytes).with_context(|| format!("cannot write {}", path.display()))?;
    staging.publish("file", path)
}

/// Fails when the tokenizer folder `out` may not be written.
pub(crate) fn check_folder(out: &Path, force: bool) -> Result<()> {
    if !out.exists() {
        return Ok(());
    }
    ensure!(
        out.is_dir(),
        "{} exists and is not a folder; name another --out",
        out.display()
    );
    let entries = fs::read_dir(out).with_context(|| out.display().to_string())?;
    for entry in entries {
        let name = entry.with_context(|| out.display().to_string())?.file_name();
        if !FILES.iter().any(|&file| name == file) {
            bail!(
                "{} holds other files ({}); name another --out",
                out.display(),
                name.display()
            );
        }
        ensure!(
            force,
            "{} already holds a tokenizer; --force replaces it",
            out.display()
        );
    }
    Ok(())
}

/// Fails when the file `out` may not be written.
pub(crate) fn check_file(out: &Path, force: bool) -> Result<()> {
    ensure!(!out.is_dir(), "{} is a folder; name a file with --out", out.display());
    ensure!(force || !out.exists(), "{} exists; --force replaces it", out.display());
    Ok(())
}
