//! Lines for a person, and JSON for a program.

use std::error::Error;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};

/// What a check found: a line for a person, and the same for a program; or why it does not hold.
pub(crate) type Found = Result<(String, Value), Box<dyn Error>>;

#[derive(Debug, Default)]
pub(crate) struct Report {
    checks: Vec<Value>,
    failed: usize,
}

impl Report {
    /// Makes a check and prints its line.
    pub(crate) fn check(&mut self, name: &str, check: impl FnOnce() -> Found) {
        let start = Instant::now();
        let found = check();
        let seconds = start.elapsed().as_secs_f64();
        let (holds, said, value) = match found {
            Ok((said, value)) => (true, said, value),
            Err(error) => (false, error.to_string(), Value::Null),
        };
        println!("{} {name}: {said}", if holds { "ok  " } else { "FAIL" });
        self.failed += usize::from(!holds);
        self.checks.push(json!({
            "check": name,
            "holds": holds,
            "said": said,
            "value": value,
            "seconds": seconds,
        }));
    }

    pub(crate) fn passed(&self) -> usize {
        self.checks.len() - self.failed
    }

    pub(crate) fn failed(&self) -> usize {
        self.failed
    }

    /// Writes the report, whole or not at all.
    pub(crate) fn save(&self, path: &Path) -> io::Result<()> {
        let report = json!({
            "schema": "vattn.cuda_smoke.v1",
            "version": env!("CARGO_PKG_VERSION"),
            "passed": self.passed(),
            "failed": self.failed,
            "checks": self.checks,
        });
        let unfinished = path.with_extension("json.tmp");
        fs::write(&unfinished, format!("{report:#}\n"))?;
        fs::rename(&unfinished, path)
    }
}
