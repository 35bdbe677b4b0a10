//! The corpora that tokenizers are adapted to, and texts of other domains.

use std::path::{Path, PathBuf};

use patchtok::Corpus;

use crate::texts;

/// How the corpora are made.
const HOW: &str = "python3 crates/patchtok/rivals/corpora.py makes it";

const ADAPTED: [&str; 3] = ["postgresql-doc", "rust-doc", "linux-doc"];
const OUTSIDE: [&str; 4] = ["python-doc", "fortunes", "manpages-de", "manpages-ja"];
const LARGE: &str = "hundred-megabytes";

#[derive(clap::Args)]
pub(crate) struct Corpora {
    /// Folder with the corpora [default: target/corpora of the workspace].
    #[arg(long, value_name = "DIR")]
    corpora: Option<PathBuf>,
}

/// A corpus that tokenizers are adapted to.
pub(crate) struct Domain {
    pub(crate) name: &'static str,
    /// Nine tenths of the documents.
    pub(crate) train: Corpus,
    /// The other tenth.
    pub(crate) heldout: Corpus,
}

/// All that savings are measured on.
pub(crate) struct Domains {
    pub(crate) adapted: Vec<Domain>,
    /// Texts that nothing is adapted to.
    pub(crate) outside: Vec<(&'static str, Corpus)>,
    /// What is missing, and how to get it.
    pub(crate) missing: Vec<String>,
}

impl Corpora {
    /// The corpora that are there, or without any the demo's.
    pub(crate) fn domains(&self) -> anyhow::Result<Domains> {
        let mut missing = Vec::new();
        let mut found = Vec::new();
        for name in ADAPTED.into_iter().chain(OUTSIDE) {
            match self.open(name) {
                Some(corpus) => found.push((name, corpus?)),
                None => missing.push(format!("{name}: {HOW}")),
            }
        }
        let (adapted, mut outside): (Vec<_>, Vec<_>) = found.into_iter().partition(|(name, _)| ADAPTED.contains(name));
        let mut adapted: Vec<_> = adapted
            .into_iter()
            .map(|(name, corpus)| {
                let (train, heldout) = corpus.split();
                Domain { name, train, heldout }
            })
            .collect();
        if adapted.is_empty() {
            adapted.push(Domain {
                name: "demo manual",
                train: texts::demo("manual-train")?,
                heldout: texts::demo("manual-heldout")?,
            });
            outside.push(("demo rust", texts::demo("rust-heldout")?));
        }
        Ok(Domains {
            adapted,
            outside,
            missing,
        })
    }

    /// The corpus on which building is measured, or why there is none.
    pub(crate) fn large(&self) -> Result<PathBuf, String> {
        let path = self.path(LARGE);
        if path.exists() {
            Ok(path)
        } else {
            Err(format!("{LARGE}: {HOW}"))
        }
    }

    fn open(&self, name: &str) -> Option<patchtok::Result<Corpus>> {
        let path = self.path(name);
        path.exists().then(|| Corpus::open(path))
    }

    fn path(&self, name: &str) -> PathBuf {
        let default = || texts::root().join("target/corpora");
        let folder = self.corpora.as_deref().map_or_else(default, Path::to_path_buf);
        folder.join(format!("{name}.jsonl"))
    }
}
