//! The output folder: all files of a finished run appear, or none.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use tempfile::TempDir;

use crate::error::BenchError;

/// The output folder, found to be writable, and a place beside it where files are made.
#[derive(Debug)]
pub struct Output {
    folder: PathBuf,
    staging: TempDir,
}

impl Output {
    /// Checks before anything is measured that `folder` can receive the files: it is a folder or
    /// does not exist yet, none of the files called `names` would replace a folder, and the place is writable.
    /// Nothing is left behind when the value is dropped without [`write`](Self::write).
    ///
    /// # Errors
    ///
    /// [`BenchError::Output`] with the path that is in the way.
    pub fn prepare(folder: &Path, names: &[String]) -> Result<Self, BenchError> {
        let fail = |path: &Path| {
            let path = path.to_path_buf();
            move |source| BenchError::Output { path, source }
        };
        let exists = match fs::metadata(folder) {
            Ok(metadata) if metadata.is_dir() => true,
            Ok(_) => {
                let why = "is not a folder; name another with --out or move it away";
                return Err(fail(folder)(io::Error::new(io::ErrorKind::NotADirectory, why)));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(fail(folder)(error)),
        };
        for name in names {
            let path = folder.join(name);
            if path.is_dir() {
                let why = "is a folder, and the report needs this name; name another folder with --out";
                return Err(fail(&path)(io::Error::new(io::ErrorKind::IsADirectory, why)));
            }
        }
        // Inside the folder, or inside the nearest one above that exists: the same file system, so
        // renaming works.
        let place = if exists {
            folder
        } else {
            let above = folder
                .ancestors()
                .skip(1)
                .map(|above| if above == Path::new("") { Path::new(".") } else { above });
            above.into_iter().find(|above| above.exists()).unwrap_or(Path::new("."))
        };
        let staging = tempfile::Builder::new()
            .prefix(".bench-")
            .tempdir_in(place)
            .map_err(fail(place))?;
        Ok(Self {
            folder: folder.to_path_buf(),
            staging,
        })
    }

    /// Writes all files beside their place, then moves each to its name. Other files of the folder are not touched.
    /// Returns the paths.
    ///
    /// # Errors
    ///
    /// If a file cannot be written; a file that was not moved yet keeps its old content.
    pub fn write(self, files: &[(String, Vec<u8>)]) -> Result<Vec<PathBuf>, BenchError> {
        for (name, bytes) in files {
            let path = self.staging.path().join(name);
            fs::write(&path, bytes).map_err(|source| BenchError::Output { path, source })?;
        }
        fs::create_dir_all(&self.folder).map_err(|source| BenchError::Output {
            path: self.folder.clone(),
            source,
        })?;
        let mut paths = Vec::new();
        for (name, _) in files {
            let path = self.folder.join(name);
            fs::rename(self.staging.path().join(name), &path).map_err(|source| BenchError::Output {
                path: path.clone(),
                source,
            })?;
            paths.push(path);
        }
        Ok(paths)
    }
}

/// A report as the bytes of its file.
///
/// # Errors
///
/// If it cannot be written as JSON.
pub fn json(report: &impl Serialize) -> Result<Vec<u8>, BenchError> {
    let mut json = serde_json::to_vec_pretty(report)?;
    json.push(b'\n');
    Ok(json)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> [String; 2] {
        ["report.json", "figure.png"].map(str::to_owned)
    }

    fn files() -> [(String, Vec<u8>); 2] {
        let [report, figure] = names();
        [(report, json(&[1]).expect("JSON")), (figure, vec![0; 9])]
    }

    #[test]
    fn all_files_appear_and_others_stay() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let folder = root.path().join("made/on/the/way");
        let write = || Output::prepare(&folder, &names()).and_then(|output| output.write(&files()));
        assert_eq!(write().expect("writes"), names().map(|name| folder.join(name)));
        fs::write(folder.join("notes.txt"), "mine").expect("writes");
        fs::write(folder.join(&names()[0]), "old").expect("writes");
        write().expect("replaces");
        assert_eq!(fs::read_dir(&folder).expect("a folder").count(), 3);
        assert_eq!(fs::read_to_string(folder.join("notes.txt")).expect("reads"), "mine");
        assert_eq!(
            fs::read_to_string(folder.join(&names()[0])).expect("reads"),
            "[\n  1\n]\n"
        );
    }

    #[test]
    fn nothing_stays_behind_without_a_report() {
        let root = tempfile::tempdir().expect("a temporary folder");
        drop(Output::prepare(&root.path().join("new/folder"), &names()).expect("prepares"));
        drop(Output::prepare(root.path(), &names()).expect("prepares"));
        assert_eq!(fs::read_dir(root.path()).expect("a folder").count(), 0);
    }

    #[test]
    fn what_is_in_the_way_is_named_and_kept() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let file = root.path().join("file");
        fs::write(&file, "mine").expect("writes");
        let error = Output::prepare(&file, &names())
            .expect_err("a file is no folder")
            .to_string();
        assert!(error.contains("file: is not a folder"), "{error}");
        assert!(Output::prepare(&file.join("below"), &names()).is_err());
        assert_eq!(fs::read_to_string(&file).expect("reads"), "mine");
        fs::create_dir_all(root.path().join("out").join(&names()[1])).expect("makes");
        let error = Output::prepare(&root.path().join("out"), &names())
            .expect_err("a folder has the name")
            .to_string();
        assert!(error.contains("is a folder"), "{error}");
    }
}
