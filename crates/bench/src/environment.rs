//! The machine and the build a report was made on.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use schemars::JsonSchema;
use serde::Serialize;

/// The machine and the build. What cannot be read is `unknown` or absent; nothing here fails.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Environment {
    /// Model of the processor.
    pub cpu: String,
    /// Cores this process may use.
    pub cores: usize,
    /// Main memory in bytes.
    pub memory_bytes: Option<u64>,
    /// Operating system.
    pub os: String,
    /// Kernel release.
    pub kernel: String,
    /// Compiler.
    pub rustc: &'static str,
    /// Cargo profile: `release` or `debug`.
    pub profile: &'static str,
    /// Version of this crate.
    pub version: &'static str,
    /// Commit of the working tree, with `-dirty` when it has changes; absent outside a git
    /// checkout.
    pub git_commit: Option<String>,
    /// Command line.
    pub command_line: Vec<String>,
    /// Seed of everything random.
    pub seed: u64,
    /// Load average over one minute when the run began.
    pub load_average_start: Option<f64>,
    /// The same when it ended. A load well above what the run itself causes means that its times
    /// are doubtful.
    pub load_average_end: Option<f64>,
    /// Start, UTC.
    pub started: String,
    /// End, UTC.
    pub ended: String,
    /// Seconds between the two.
    pub duration_seconds: f64,
}

/// The beginning of a run.
#[derive(Debug, Clone)]
pub struct Start {
    clock: std::time::Instant,
    time: SystemTime,
    load: Option<f64>,
}

impl Start {
    /// Now.
    pub fn now() -> Self {
        Self {
            clock: std::time::Instant::now(),
            time: SystemTime::now(),
            load: load_average(),
        }
    }

    /// The environment of the run that began here and ends now.
    pub fn finish(&self, seed: u64) -> Environment {
        Environment {
            cpu: cpu_model(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: memory_bytes(),
            os: os_name(),
            kernel: read_line("/proc/sys/kernel/osrelease").unwrap_or_else(|| "unknown".to_owned()),
            rustc: env!("BENCH_RUSTC"),
            profile: env!("BENCH_PROFILE"),
            version: env!("CARGO_PKG_VERSION"),
            git_commit: git_commit(Path::new(env!("CARGO_MANIFEST_DIR"))),
            command_line: std::env::args_os()
                .map(|arg| arg.to_string_lossy().into_owned())
                .collect(),
            seed,
            load_average_start: self.load,
            load_average_end: load_average(),
            started: utc(self.time),
            ended: utc(SystemTime::now()),
            duration_seconds: self.clock.elapsed().as_secs_f64(),
        }
    }
}

fn read_line(path: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().next().map(|line| line.trim().to_owned())
}

/// The value of the first line `name : value` of a file in `/proc`.
fn proc_field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    })
}

fn cpu_model() -> String {
    proc_field("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

fn memory_bytes() -> Option<u64> {
    let field = proc_field("/proc/meminfo", "MemTotal")?;
    let kib: u64 = field.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

fn os_name() -> String {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or_else(
        || std::env::consts::OS.to_owned(),
        |name| name.trim_matches('"').to_owned(),
    )
}

fn load_average() -> Option<f64> {
    read_line("/proc/loadavg")?.split_whitespace().next()?.parse().ok()
}

fn git_commit(inside: &Path) -> Option<String> {
    let output = Command::new("git")
        .arg("-C")
        .arg(inside)
        .args(["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"])
        .stderr(std::process::Stdio::null())
        .output()
        .ok()?;
    let commit = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !commit.is_empty()).then_some(commit)
}

/// `2026-01-31T23:59:59Z`.
fn utc(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (mut days, of_day) = (seconds / 86_400, seconds % 86_400);
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while days >= lengths[month] {
        days -= lengths[month];
        month += 1;
    }
    format!(
        "{year:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        month + 1,
        days + 1,
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn utc_of_known_seconds() {
        let at = |seconds| utc(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(at(1_767_225_599), "2025-12-31T23:59:59Z");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00Z");
    }

    #[test]
    fn an_environment_is_always_found() {
        let environment = Start::now().finish(7);
        assert!(environment.cores >= 1 && !environment.cpu.is_empty() && !environment.os.is_empty());
        assert!(environment.rustc.starts_with("rustc ") || environment.rustc == "unknown");
        assert_eq!(environment.seed, 7);
    }

    #[test]
    fn no_commit_outside_a_checkout() {
        assert_eq!(git_commit(Path::new("/proc")), None);
    }
}
