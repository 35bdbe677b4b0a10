//! The state of a cache as data for others: monitors, dashboards, log files.

use std::fmt::{self, Write};

use crate::backend::Backend;
use crate::cache::KvCache;
use crate::stats::Stats;

/// What a cache holds at one moment, in a form that leaves the process. All sizes are bytes.
///
/// With the feature `serde` it can be written and read in any format; the names of the fields are the format. Fields may
/// be added within a [`Snapshot::VERSION`]; a field that changes its meaning or goes away makes a new one. Without the
/// feature there is [`Snapshot::prometheus`].
///
/// ```
/// # let geometry = vattn::Geometry::builder().layers(2).row_bytes(64).max_tokens(8).max_sequences(2).build()?;
/// let cache = vattn::KvCache::new(geometry, 1 << 20)?;
/// let text = cache.snapshot().prometheus(&[("model", "gpt2")]);
/// assert!(text.contains("vattn_budget_bytes{model=\"gpt2\"} 1048576\n"));
/// # Ok::<(), vattn::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Snapshot {
    /// [`Snapshot::VERSION`] of the program that made it.
    pub version: u32,
    /// Layers of the model.
    pub layers: u64,
    /// Bytes of one K row, and of one V row.
    pub row_bytes: u64,
    /// Longest length of a sequence.
    pub max_tokens: u64,
    /// Most sequences and prefixes.
    pub max_sequences: u64,
    /// Bytes of a frame.
    pub frame_bytes: u64,
    /// Tokens of all live sequences.
    pub tokens: u64,
    /// [`Stats::live_sequences`].
    pub live_sequences: u64,
    /// [`Stats::prefixes`].
    pub prefixes: u64,
    /// [`Stats::budget_bytes`].
    pub budget_bytes: u64,
    /// [`Stats::physical_bytes`].
    pub physical_bytes: u64,
    /// [`Stats::used_bytes`].
    pub used_bytes: u64,
    /// [`Stats::shared_bytes`].
    pub shared_bytes: u64,
    /// [`Stats::ahead_bytes`].
    pub ahead_bytes: u64,
    /// [`Stats::warm_bytes`].
    pub warm_bytes: u64,
    /// [`Stats::draining_bytes`].
    pub draining_bytes: u64,
    /// [`Stats::reserved_bytes`].
    pub reserved_bytes: u64,
    /// [`Stats::map_calls`].
    pub map_calls: u64,
    /// [`Stats::unmap_calls`].
    pub unmap_calls: u64,
    /// [`Stats::sync_maps`].
    pub sync_maps: u64,
    /// [`Stats::background_maps`].
    pub background_maps: u64,
    /// [`Stats::background_refusals`].
    #[cfg_attr(feature = "serde", serde(default))]
    pub background_refusals: u64,
    /// [`Stats::copied_bytes`].
    pub copied_bytes: u64,
}

/// One metric: its name without the prefix, whether it only grows, what it means, and where it stands.
type Metric = (&'static str, bool, &'static str, fn(&Snapshot) -> u64);

const METRICS: &[Metric] = &[
    ("tokens", false, "Tokens of all live sequences.", |s| s.tokens),
    ("sequences", false, "Live sequences.", |s| s.live_sequences),
    ("prefixes", false, "Published prefixes.", |s| s.prefixes),
    (
        "budget_bytes",
        false,
        "Most physical memory that growth may reach.",
        |s| s.budget_bytes,
    ),
    (
        "physical_bytes",
        false,
        "Physical memory held, as its owner counts it.",
        |s| s.physical_bytes,
    ),
    (
        "used_bytes",
        false,
        "Rows of the live sequences; shared rows count once for each.",
        |s| s.used_bytes,
    ),
    (
        "shared_bytes",
        false,
        "Physical memory mapped for more than one sequence or prefix.",
        |s| s.shared_bytes,
    ),
    (
        "ahead_bytes",
        false,
        "Physical memory mapped beyond what lengths need.",
        |s| s.ahead_bytes,
    ),
    (
        "warm_bytes",
        false,
        "Physical memory in slots without a sequence.",
        |s| s.warm_bytes,
    ),
    (
        "draining_bytes",
        false,
        "Physical memory that waits to be given back.",
        |s| s.draining_bytes,
    ),
    ("reserved_bytes", false, "Address space of all regions.", |s| {
        s.reserved_bytes
    }),
    (
        "map_calls_total",
        true,
        "Calls of the backend that mapped frames.",
        |s| s.map_calls,
    ),
    (
        "unmap_calls_total",
        true,
        "Calls of the backend that gave frames back.",
        |s| s.unmap_calls,
    ),
    (
        "sync_maps_total",
        true,
        "Times that a sequence had to wait for memory.",
        |s| s.sync_maps,
    ),
    (
        "background_maps_total",
        true,
        "Times that memory was mapped in the background.",
        |s| s.background_maps,
    ),
    (
        "background_refusals_total",
        true,
        "Calls that the backend has refused to the mapper thread.",
        |s| s.background_refusals,
    ),
    (
        "copied_bytes_total",
        true,
        "Bytes copied because a frame could not be shared.",
        |s| s.copied_bytes,
    ),
];

impl Snapshot {
    /// Version of the format.
    pub const VERSION: u32 = 1;

    fn new<B: Backend>(cache: &KvCache<B>) -> Self {
        let geometry = cache.geometry();
        let stats: Stats = cache.stats();
        let wide = |bytes: usize| bytes as u64;
        Self {
            version: Self::VERSION,
            layers: wide(geometry.layers()),
            row_bytes: wide(geometry.row_bytes()),
            max_tokens: wide(geometry.max_tokens()),
            max_sequences: wide(geometry.max_sequences()),
            frame_bytes: wide(geometry.frame_bytes()),
            tokens: wide(stats.used_bytes / geometry.token_bytes()),
            live_sequences: wide(stats.live_sequences),
            prefixes: wide(stats.prefixes),
            budget_bytes: wide(stats.budget_bytes),
            physical_bytes: wide(stats.physical_bytes),
            used_bytes: wide(stats.used_bytes),
            shared_bytes: wide(stats.shared_bytes),
            ahead_bytes: wide(stats.ahead_bytes),
            warm_bytes: wide(stats.warm_bytes),
            draining_bytes: wide(stats.draining_bytes),
            reserved_bytes: wide(stats.reserved_bytes),
            map_calls: stats.map_calls,
            unmap_calls: stats.unmap_calls,
            sync_maps: stats.sync_maps,
            background_maps: stats.background_maps,
            background_refusals: stats.background_refusals,
            copied_bytes: stats.copied_bytes,
        }
    }

    /// The snapshot in the text format of Prometheus (version 0.0.4), every metric with the given labels. Names of labels
    /// are the caller's to choose well: letters, digits and `_`; values may be anything.
    #[must_use]
    pub fn prometheus(&self, labels: &[(&str, &str)]) -> String {
        let labels = Labels(labels).to_string();
        let mut text = String::new();
        for (name, grows, help, value) in METRICS {
            let kind = if *grows { "counter" } else { "gauge" };
            let value = value(self);
            writeln!(
                text,
                "# HELP vattn_{name} {help}\n# TYPE vattn_{name} {kind}\nvattn_{name}{labels} {value}"
            )
            .expect("a string takes everything");
        }
        text
    }
}

impl<B: Backend> KvCache<B> {
    /// What the cache holds now, for others to read. Costs what [`KvCache::stats`] costs.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::new(self)
    }
}

/// `{name="value",...}`, or nothing.
struct Labels<'a>(&'a [(&'a str, &'a str)]);

impl fmt::Display for Labels<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, value)) in self.0.iter().enumerate() {
            f.write_char(if index == 0 { '{' } else { ',' })?;
            write!(f, "{name}=\"")?;
            for c in value.chars() {
                match c {
                    '\\' => f.write_str("\\\\")?,
                    '"' => f.write_str("\\\"")?,
                    '\n' => f.write_str("\\n")?,
                    c => f.write_char(c)?,
                }
            }
            f.write_char('"')?;
        }
        match self.0 {
            [] => Ok(()),
            _ => f.write_char('}'),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::Geometry;

    fn cache() -> KvCache {
        let geometry = Geometry::builder()
            .layers(2)
            .row_bytes(512)
            .max_tokens(64)
            .max_sequences(3)
            .build()
            .unwrap();
        KvCache::new(geometry, 1 << 20).unwrap()
    }

    #[test]
    fn a_snapshot_says_what_the_stats_say() {
        let mut cache = cache();
        let seq = cache.open().unwrap();
        cache.grow(seq, 10).unwrap();
        let (snapshot, stats) = (cache.snapshot(), cache.stats());
        assert_eq!((snapshot.version, snapshot.tokens, snapshot.live_sequences), (1, 10, 1));
        assert_eq!(snapshot.physical_bytes, stats.physical_bytes as u64);
        assert_eq!(snapshot.physical_bytes, 4 * snapshot.frame_bytes);
        assert_eq!(snapshot.used_bytes, 10 * 2 * 2 * 512);
    }

    #[test]
    fn the_text_has_each_metric_once_with_help_type_and_labels() {
        let snapshot = cache().snapshot();
        let text = snapshot.prometheus(&[("model", "a\"b\\c\nd"), ("rank", "0")]);
        let mut names = HashSet::new();
        for lines in text.lines().collect::<Vec<_>>().chunks(3) {
            let name = lines[0].split(' ').nth(2).unwrap();
            assert!(names.insert(name), "{name} twice");
            assert!(lines[0].starts_with(&format!("# HELP {name} ")));
            let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
            assert_eq!(lines[1], format!("# TYPE {name} {kind}"));
            let value = lines[2].strip_prefix(&format!(r#"{name}{{model="a\"b\\c\nd",rank="0"}} "#));
            assert!(value.is_some_and(|value| value.parse::<u64>().is_ok()), "{}", lines[2]);
        }
        assert_eq!(names.len(), METRICS.len());
        assert!(snapshot.prometheus(&[]).contains("\nvattn_budget_bytes 1048576\n"));
    }

    #[cfg(feature = "serde")]
    #[test]
    fn a_snapshot_survives_being_written_and_read() {
        let snapshot = cache().snapshot();
        let text = serde_json::to_string(&snapshot).unwrap();
        assert!(text.starts_with("{\"version\":1,"));
        assert_eq!(serde_json::from_str::<Snapshot>(&text).unwrap(), snapshot);
    }
}
