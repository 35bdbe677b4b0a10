//! Models, tokenizers and text of a run: the embedded demonstration or the user's own.

use std::path::{Path, PathBuf};

use fused_model::{CausalLm, Model, Options, Params, Score, adapt, score};
use patchtok::{Corpus, PatchTokenizer, Progress, VocabBuilder};

use crate::cli::Files;
use crate::error::BenchError;
use crate::measure::tokens;
use crate::progress::Stage;
use crate::report::{CorpusInput, ModelShape, NotMeasured};
use crate::workload::Pages;

/// GPT-2's own tokenizer.
const GPT2_TOKENIZER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../patchtok/data/gpt2/tokenizer.json");
/// Tokens exchanged in it for the demonstration.
const GPT2_SWAPS: usize = 10_000;

/// A model and the tokenizer that goes with it.
#[derive(Debug)]
pub struct Subject {
    /// The tokenizer.
    pub tokenizer: PatchTokenizer,
    /// The model, ready to generate.
    pub model: Model,
    /// The same tokenizer in the `tokenizers` crate, if that can read its file.
    hugging_face: Option<tokenizers::Tokenizer>,
    params: Params,
    /// The id before every document.
    start: u32,
}

impl Subject {
    /// Loads a model and its tokenizer from one directory.
    ///
    /// # Errors
    ///
    /// If a file is missing or damaged, or if the two do not belong together.
    pub fn load(folder: &Path) -> Result<Self, BenchError> {
        Self::new(Params::load(folder)?, PatchTokenizer::load(folder)?, folder)
    }

    fn new(params: Params, tokenizer: PatchTokenizer, tokenizer_folder: &Path) -> Result<Self, BenchError> {
        let config = params.config();
        if tokenizer.vocab_size() > config.vocab_size() {
            return Err(BenchError::Input(format!(
                "the tokenizer in {} has {} tokens and its model only {}: they do not belong together",
                tokenizer_folder.display(),
                tokenizer.vocab_size(),
                config.vocab_size()
            )));
        }
        let json = config.to_json();
        let start = ["bos_token_id", "eos_token_id"]
            .into_iter()
            .find_map(|name| u32::try_from(json.get(name)?.as_u64()?).ok())
            .or(tokenizer.eos_id())
            .ok_or_else(|| {
                BenchError::Input(format!(
                    "neither config.json nor the tokenizer in {} names a token that starts or ends a text; set \
                 bos_token_id",
                    tokenizer_folder.display()
                ))
            })?;
        let hugging_face = tokenizers::Tokenizer::from_file(tokenizer_folder.join("tokenizer.json")).ok();
        Ok(Self {
            model: Model::new(&params, Options::default())?,
            tokenizer,
            hugging_face,
            params,
            start,
        })
    }

    /// Encodes a document and scores it.
    ///
    /// # Errors
    ///
    /// If the model refuses it.
    pub fn score(&self, document: &str) -> Result<Score, BenchError> {
        Ok(score(
            &self.params,
            self.start,
            &self.tokenizer.encode(document),
            document.len(),
        )?)
    }

    /// Another model and tokenizer, with the same id before every document.
    ///
    /// # Errors
    ///
    /// If the weights do not make a model.
    pub fn with(&self, params: Params, tokenizer: PatchTokenizer) -> Result<Self, BenchError> {
        Ok(Self {
            model: Model::new(&params, Options::default())?,
            tokenizer,
            hugging_face: None,
            params,
            start: self.start,
        })
    }

    /// The weights, as they are scored.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// The id before every document.
    pub fn start(&self) -> u32 {
        self.start
    }

    /// Shape of the model.
    pub fn shape(&self) -> ModelShape {
        let config = self.params.config();
        ModelShape {
            architecture: config.family(),
            vocab_size: config.vocab_size(),
            n_positions: config.context(),
            n_embd: config.width(),
            n_layer: config.layers(),
            n_head: config.query_heads(),
        }
    }
}

/// A corpus and where it came from.
#[derive(Debug)]
pub struct HeldOut {
    /// The pages.
    pub pages: Pages,
    path: PathBuf,
}

impl HeldOut {
    /// Reads a file or folder of text.
    ///
    /// # Errors
    ///
    /// If it cannot be read, is not UTF-8, or has no text.
    pub fn read(path: PathBuf) -> Result<Self, BenchError> {
        Ok(Self {
            pages: Pages::read(&path)?,
            path,
        })
    }

    /// Its description in the report.
    pub fn describe(&self) -> CorpusInput {
        CorpusInput {
            path: self.path.display().to_string(),
            pages: self.pages.texts.len(),
            bytes: self.pages.bytes(),
            truncated: self.pages.truncated,
        }
    }
}

/// Everything a run needs.
#[derive(Debug)]
pub struct Loaded {
    /// `demo` or `own`.
    pub mode: &'static str,
    /// Directory of the base model.
    pub base_model: String,
    /// Directory of the fused arm's model, or of the tokenizer it was adapted to.
    pub fused_model: String,
    /// `shipped`, `given`, or `adapted on the fly, not tuned`.
    pub fused_model_origin: &'static str,
    /// The normal side.
    pub base: Subject,
    /// The fused side.
    pub patched: Subject,
    /// Held-out text of the domain.
    pub domain: HeldOut,
    /// Held-out text of another domain.
    pub out_of_domain: Option<HeldOut>,
    /// GPT-2's tokenizer, and the same patched for the domain.
    gpt2: Option<[PatchTokenizer; 2]>,
    /// Training text of the domain.
    train: Option<PathBuf>,
}

impl Loaded {
    /// Loads what the command line asks for.
    ///
    /// # Errors
    ///
    /// If a file is missing or damaged, if tokenizer and model do not belong together, or if a
    /// corpus is empty or not UTF-8.
    pub fn new(files: &Files) -> Result<Self, BenchError> {
        match (&files.model, &files.tokenizer, &files.corpus) {
            (Some(model), Some(tokenizer), Some(corpus)) => {
                Self::own(model, tokenizer, corpus, files.fused_model.as_deref())
            }
            _ => Self::demo(&files.demo),
        }
    }

    fn demo(folder: &Path) -> Result<Self, BenchError> {
        let [base, adapted] = ["base", "adapted"].map(|name| folder.join(name));
        let corpus = folder.join("corpus");
        let domain = HeldOut::read(corpus.join("manual-heldout.jsonl.gz"))?;
        let out_of_domain = HeldOut::read(corpus.join("rust-heldout.jsonl.gz"))?;
        Ok(Self {
            mode: "demo",
            base: Subject::load(&base)?,
            patched: Subject::load(&adapted)?,
            base_model: base.display().to_string(),
            fused_model: adapted.display().to_string(),
            fused_model_origin: "shipped",
            domain,
            out_of_domain: Some(out_of_domain),
            gpt2: None,
            train: Some(corpus.join("manual-train.jsonl.gz")),
        })
    }

    fn own(model: &Path, tokenizer: &Path, corpus: &Path, fused_model: Option<&Path>) -> Result<Self, BenchError> {
        let domain = HeldOut::read(corpus.to_path_buf())?;
        let params = Params::load(model)?;
        let patched = PatchTokenizer::load(tokenizer)?;
        let Some(map) = patched.patch_map() else {
            return Err(BenchError::Input(format!(
                "the tokenizer in {} is not patched: it has no patch_map.json; make one with build-vocab",
                tokenizer.display()
            )));
        };
        let (fused_params, origin) = match fused_model {
            Some(folder) => (Params::load(folder)?, "given"),
            None => (
                adapt::exponential(&params, map, adapt::PAPER_RATIO, adapt::Head::Untied)?,
                "adapted on the fly, not tuned",
            ),
        };
        Ok(Self {
            mode: "own",
            base: Subject::new(params, PatchTokenizer::load(model)?, model)?,
            patched: Subject::new(fused_params, patched, tokenizer)?,
            base_model: model.display().to_string(),
            fused_model: fused_model.unwrap_or(tokenizer).display().to_string(),
            fused_model_origin: origin,
            domain,
            out_of_domain: None,
            gpt2: None,
            train: None,
        })
    }

    /// Patches GPT-2's full tokenizer, where there is training text of the domain.
    ///
    /// # Errors
    ///
    /// If a file is missing or damaged.
    pub fn patch_gpt2(&mut self) -> Result<(), BenchError> {
        self.gpt2 = self.train.as_deref().map(gpt2).transpose()?;
        Ok(())
    }

    /// Shape of the base model.
    pub fn model_shape(&self) -> ModelShape {
        self.base.shape()
    }

    /// Longest sequence that both models take.
    pub fn context(&self) -> usize {
        self.base.model.context().min(self.patched.model.context())
    }

    /// The tokenizers to compare: base and patched first.
    pub fn tokenizers(&self) -> Vec<tokens::Subject<'_>> {
        let mut all = Vec::new();
        for (name, label, patched_from, subject) in [
            ("base", "base", None, &self.base),
            ("patched", "patched", Some("base"), &self.patched),
        ] {
            let hugging_face = subject.hugging_face.clone();
            all.push(tokens::Subject {
                name,
                label,
                patched_from,
                tokenizer: &subject.tokenizer,
                hugging_face,
            });
        }
        if let Some([gpt2, patched]) = &self.gpt2 {
            for (name, label, patched_from, tokenizer) in [
                ("gpt2", "GPT-2", None, gpt2),
                ("gpt2_patched", "GPT-2, patched", Some("gpt2"), patched),
            ] {
                let hugging_face = tokenizer.to_hf().ok();
                all.push(tokens::Subject {
                    name,
                    label,
                    patched_from,
                    tokenizer,
                    hugging_face,
                });
            }
        }
        all
    }

    /// What the comparison says nothing about.
    pub fn not_measured(&self) -> Vec<NotMeasured> {
        let mut list = vec![
            NotMeasured {
                what: "time under a stream of arriving requests",
                why: "batches are handed over one after the other; `bench serve` measures that".to_owned(),
            },
            NotMeasured {
                what: "graphics processors",
                why: "every figure is of this machine's processor and main memory".to_owned(),
            },
            NotMeasured {
                what: "energy",
                why: "no energy counter is read".to_owned(),
            },
            NotMeasured {
                what: "freely generated text",
                why: "every arm replays the same given reply, so that the work in text is the same; what the \
                      models would say of their own is judged by bits per byte only"
                    .to_owned(),
            },
        ];
        if self.out_of_domain.is_none() {
            list.push(NotMeasured {
                what: "text of another domain",
                why: "only the demonstration has one".to_owned(),
            });
        }
        if self.gpt2.is_none() {
            list.push(NotMeasured {
                what: "GPT-2's full tokenizer with 10,000 swaps",
                why: "patching it needs training text of the domain, which only the demonstration has".to_owned(),
            });
        }
        list
    }
}

/// GPT-2's tokenizer, and the same patched on the training text.
fn gpt2(train: &Path) -> Result<[PatchTokenizer; 2], BenchError> {
    let stage = Stage::new("patching GPT-2's tokenizer", GPT2_SWAPS);
    let base = PatchTokenizer::from_file(GPT2_TOKENIZER)?;
    let builder = VocabBuilder::new(base.clone()).swaps(GPT2_SWAPS);
    let built = builder.build_with_progress(Corpus::open(train)?, |progress| {
        if let Progress::Merging(found, wanted) = progress {
            stage.at(found, wanted);
        }
    })?;
    Ok([base, built.tokenizer])
}
