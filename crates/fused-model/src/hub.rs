//! Models by the name they have on the Hugging Face Hub: where they are in its local cache.
//!
//! The layout is that of `huggingface_hub`: `models--ORG--NAME/refs/REVISION` holds a commit, and
//! `snapshots/COMMIT/` its files. With the feature `hf-hub` what is missing is downloaded into it, unless `HF_HUB_OFFLINE` is
//! set; without it, the cache is only read.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::error::ModelError;

/// The local cache of the Hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hub {
    cache: PathBuf,
    offline: bool,
}

impl Hub {
    /// A cache that is only read.
    pub fn offline(cache: impl Into<PathBuf>) -> Self {
        Self {
            cache: cache.into(),
            offline: true,
        }
    }

    /// The cache of this user: `HF_HUB_CACHE`, else `HF_HOME/hub`, else `huggingface/hub` in `XDG_CACHE_HOME` or `~/.cache`.
    /// It is only read when `HF_HUB_OFFLINE` is 1, ON, YES or TRUE.
    pub fn from_env() -> Self {
        Self::from_variables(|name| std::env::var_os(name))
    }

    fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let path = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = || {
            let caches = path("XDG_CACHE_HOME").or_else(|| Some(path("HOME")?.join(".cache")));
            path("HF_HOME").or_else(|| Some(caches?.join("huggingface")))
        };
        let cache = path("HF_HUB_CACHE").or_else(|| Some(home()?.join("hub")));
        let offline = variable("HF_HUB_OFFLINE").is_some_and(|value| {
            let value = value.to_string_lossy().to_uppercase();
            ["1", "ON", "YES", "TRUE"].contains(&value.as_str())
        });
        Self {
            cache: cache.unwrap_or_else(|| PathBuf::from(".huggingface/hub")),
            offline,
        }
    }

    /// The folder of a model: `model` itself where that is one, else the snapshot of `ORG/NAME`, or of `ORG/NAME@REVISION`.
    ///
    /// # Errors
    /// [`ModelError::Hub`] when it is neither a folder nor such a name, or when files of it are missing and cannot be had.
    pub fn directory(&self, model: &str) -> Result<PathBuf, ModelError> {
        if Path::new(model).is_dir() {
            return Ok(model.into());
        }
        let fault = |why: String| ModelError::Hub {
            model: model.into(),
            why,
        };
        let (name, revision) = model.split_once('@').unwrap_or((model, "main"));
        let [organisation, short] = name.split('/').collect::<Vec<_>>()[..] else {
            return Err(fault("neither a folder nor a name of the form org/name".into()));
        };
        if ![organisation, short, revision].into_iter().all(is_plain) {
            return Err(fault("neither a folder nor a name of the form org/name".into()));
        }
        let repository = self.cache.join(format!("models--{organisation}--{short}"));
        let missing = match snapshot(&repository, revision) {
            Some(folder) => match missing_files(&folder) {
                missing if missing.is_empty() => return Ok(folder),
                missing => missing.into_iter().collect::<Vec<_>>().join(", "),
            },
            None => format!("revision {revision:?}"),
        };
        if self.offline {
            let place = repository.display();
            return Err(fault(format!(
                "{place} lacks {missing}, and nothing is downloaded offline"
            )));
        }
        self.download(name, revision).map_err(fault)?;
        let folder = snapshot(&repository, revision).ok_or_else(|| fault("the download left no snapshot".into()))?;
        match missing_files(&folder).first() {
            None => Ok(folder),
            Some(missing) => Err(fault(format!("the repository has no {missing}"))),
        }
    }

    #[cfg(not(feature = "hf-hub"))]
    fn download(&self, _name: &str, _revision: &str) -> Result<(), String> {
        let cache = self.cache.display();
        Err(format!(
            "it is not in {cache}, and this program was built without the feature hf-hub that downloads"
        ))
    }

    /// Downloads what [`missing_files`] wants, and the files that may be there.
    #[cfg(feature = "hf-hub")]
    fn download(&self, name: &str, revision: &str) -> Result<(), String> {
        use hf_hub::api::sync::ApiBuilder;
        use hf_hub::{Cache, Repo, RepoType};

        let mut api = ApiBuilder::from_cache(Cache::new(self.cache.clone()));
        if let Ok(endpoint) = std::env::var("HF_ENDPOINT") {
            api = api.with_endpoint(endpoint);
        }
        let api = api.with_progress(true).build().map_err(|error| error.to_string())?;
        let api = api.repo(Repo::with_revision(name.into(), RepoType::Model, revision.into()));
        let there: BTreeSet<String> = match api.info() {
            Ok(info) => info.siblings.into_iter().map(|file| file.rfilename).collect(),
            Err(error) => return Err(error.to_string()),
        };
        let wanted = |file: &&String| {
            let weights = file.starts_with("model") && file.ends_with(".safetensors");
            weights || OTHER_FILES.contains(&file.as_str())
        };
        for file in there.iter().filter(wanted) {
            api.get(file).map_err(|error| format!("{file}: {error}"))?;
        }
        Ok(())
    }
}

/// What is downloaded beside the weights, where it is there.
#[cfg(feature = "hf-hub")]
const OTHER_FILES: [&str; 5] = [
    "config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
];

/// Whether a part of a name stays in its folder.
fn is_plain(part: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !part.is_empty() && part.chars().all(plain) && !part.starts_with('.')
}

/// The snapshot that a revision, or a commit, stands for.
fn snapshot(repository: &Path, revision: &str) -> Option<PathBuf> {
    let named = std::fs::read_to_string(repository.join("refs").join(revision));
    let commit = named.as_deref().map_or(revision, str::trim);
    let folder = repository.join("snapshots").join(commit);
    (is_plain(commit) && folder.is_dir()).then_some(folder)
}

/// Files of a model that a folder lacks.
fn missing_files(folder: &Path) -> BTreeSet<String> {
    let mut wanted: BTreeSet<String> = ["config.json".into()].into();
    let index = folder.join("model.safetensors.index.json");
    match std::fs::read_to_string(index)
        .ok()
        .and_then(|text| serde_json::from_str(&text).ok())
    {
        Some(serde_json::Value::Object(index)) if !folder.join("model.safetensors").exists() => {
            let map = index.get("weight_map").and_then(serde_json::Value::as_object);
            let shards = map.into_iter().flatten().filter_map(|(_, file)| file.as_str());
            wanted.extend(shards.map(String::from));
        }
        _ => {
            wanted.insert("model.safetensors".into());
        }
    }
    wanted.retain(|file| !folder.join(file).exists());
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_say_where_the_cache_is() {
        let hub = |pairs: &[(&str, &str)]| {
            let find = |name: &str| pairs.iter().find(|(key, _)| *key == name);
            Hub::from_variables(|name| find(name).map(|(_, value)| value.into()))
        };
        let home = ("HOME", "/home/a");
        assert_eq!(hub(&[home]).cache, Path::new("/home/a/.cache/huggingface/hub"));
        assert_eq!(
            hub(&[home, ("XDG_CACHE_HOME", "/x")]).cache,
            Path::new("/x/huggingface/hub")
        );
        assert_eq!(hub(&[home, ("HF_HOME", "/h")]).cache, Path::new("/h/hub"));
        assert_eq!(hub(&[("HF_HUB_CACHE", "/c"), ("HF_HOME", "/h")]).cache, Path::new("/c"));
        for (value, offline) in [("1", true), ("true", true), ("Yes", true), ("0", false), ("", false)] {
            assert_eq!(hub(&[home, ("HF_HUB_OFFLINE", value)]).offline, offline, "{value:?}");
        }
        assert!(!hub(&[]).offline);
    }
}
