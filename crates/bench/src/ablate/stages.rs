//! The stages of one model: before and after adaptation, before and after the same tuning.

use std::path::Path;

use fused_model::{CausalLm, Params, adapt};
use patchtok::{PatchMap, PatchTokenizer};
use schemars::JsonSchema;
use serde::Serialize;

use crate::cli::AblateArgs;
use crate::error::BenchError;
use crate::inputs::Subject;

/// A stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The base model with its own tokenizer.
    Base,
    /// The same after the tuning that the adapted model got, which is taken from the command line: what the tuning alone does.
    BaseTuned,
    /// The patched tokenizer, with rows for its new tokens and nothing trained.
    AdaptedUntuned,
    /// The same after tuning.
    Adapted,
}

impl Stage {
    /// All of them, in the order of tables and plots.
    pub const ALL: [Self; 4] = [Self::Base, Self::BaseTuned, Self::AdaptedUntuned, Self::Adapted];

    /// Its name in prose.
    pub fn words(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::BaseTuned => "base, tuned alike",
            Self::AdaptedUntuned => "adapted, not tuned",
            Self::Adapted => "adapted, tuned",
        }
    }

    fn option(self) -> &'static str {
        match self {
            Self::Base => "--base",
            Self::BaseTuned => "--base-tuned",
            Self::AdaptedUntuned => "--adapted-untuned",
            Self::Adapted => "--adapted",
        }
    }
}

/// A model at a stage.
#[derive(Debug)]
pub struct Model {
    /// Which stage.
    pub stage: Stage,
    /// Its directory, or how it was made.
    pub origin: String,
    /// The model and its tokenizer.
    pub subject: Subject,
}

impl Model {
    fn load(stage: Stage, folder: &Path) -> Result<Self, BenchError> {
        let subject = Subject::load(folder)?;
        if matches!(stage, Stage::AdaptedUntuned | Stage::Adapted) {
            patch_map(&subject.tokenizer, folder)?;
        }
        Ok(Self {
            stage,
            origin: folder.display().to_string(),
            subject,
        })
    }
}

/// The models that there are; the first is the base.
#[derive(Debug)]
pub struct Models(pub Vec<Model>);

impl Models {
    /// Loads what the command line names. Without `--base`, what is not named is the demonstration's, where it has it. The
    /// adapted model before tuning is made here where no directory is named: from the base and the patched tokenizer.
    ///
    /// # Errors
    ///
    /// If a file is missing or damaged, if a tokenizer and a model do not belong together, if the control has another tokenizer than the
    /// base, or if an adapted model has one that is not patched.
    pub fn load(args: &AblateArgs) -> Result<Self, BenchError> {
        let base = args.base.clone().unwrap_or_else(|| args.demo.join("base"));
        let mut models = vec![Model::load(Stage::Base, &base)?];
        if let Some(folder) = &args.base_tuned {
            let control = Model::load(Stage::BaseTuned, folder)?;
            check_same_tokens(&models[0].subject.tokenizer, &control.subject.tokenizer, folder)?;
            models.push(control);
        }
        if let Some(folder) = &args.adapted_untuned {
            models.push(Model::load(Stage::AdaptedUntuned, folder)?);
        }
        if let Some(folder) = &args.named(&args.adapted, "adapted") {
            if args.adapted_untuned.is_none() {
                models.push(untuned(&models[0].subject, folder)?);
            }
            models.push(Model::load(Stage::Adapted, folder)?);
        }
        Ok(Self(models))
    }

    /// The model at a stage, where there is one.
    pub fn at(&self, stage: Stage) -> Option<&Model> {
        self.0.iter().find(|model| model.stage == stage)
    }

    /// The base model.
    pub fn base(&self) -> &Subject {
        &self.0[0].subject
    }

    /// The adapted model, tuned if there is one that is.
    pub fn patched(&self) -> Option<&Subject> {
        let model = self.at(Stage::Adapted).or_else(|| self.at(Stage::AdaptedUntuned));
        model.map(|model| &model.subject)
    }

    /// Longest sequence that all of them take.
    pub fn context(&self) -> usize {
        let contexts = self.0.iter().map(|model| model.subject.model.context());
        contexts.min().unwrap_or(0)
    }

    /// Why there is no model at a stage.
    pub fn why_missing(stage: Stage) -> String {
        format!("no directory of it was named; {} does", stage.option())
    }
}

/// The control is to differ from the base by its tuning alone.
fn check_same_tokens(base: &PatchTokenizer, control: &PatchTokenizer, folder: &Path) -> Result<(), BenchError> {
    let ids = 0..base.vocab_size().max(control.vocab_size()) as u32;
    let differs = ids
        .into_iter()
        .find(|&id| base.token_bytes(id) != control.token_bytes(id));
    match differs {
        None => Ok(()),
        Some(id) => Err(BenchError::Input(format!(
            "the tokenizer in {} is not the base's: token {id} is another. --base-tuned is the base model, tuned, with its own tokenizer",
            folder.display()
        ))),
    }
}

fn patch_map<'t>(tokenizer: &'t PatchTokenizer, folder: &Path) -> Result<&'t PatchMap, BenchError> {
    tokenizer.patch_map().ok_or_else(|| {
        BenchError::Input(format!(
            "the tokenizer in {} is not patched: it has no patch_map.json; make one with build-vocab",
            folder.display()
        ))
    })
}

/// The base model with rows for the new tokens of the tokenizer in a directory.
fn untuned(base: &Subject, folder: &Path) -> Result<Model, BenchError> {
    let tokenizer = PatchTokenizer::load(folder)?;
    let map = patch_map(&tokenizer, folder)?;
    let params: Params = adapt::exponential(base.params(), map, adapt::PAPER_RATIO, adapt::Head::Untied)?;
    Ok(Model {
        stage: Stage::AdaptedUntuned,
        origin: "made here: the base model with exponential rows (ratio e^2) for the new tokens".to_owned(),
        subject: base.with(params, tokenizer)?,
    })
}
