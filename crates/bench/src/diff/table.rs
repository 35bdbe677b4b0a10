//! What changed, as a table for a terminal.

use super::Diff;
use crate::words::{number, signed_percent};

impl Diff {
    /// As a table for a terminal, ending with a line break.
    pub fn table(&self) -> String {
        let mut lines = vec![format!("{} -> {}, arm {}", self.before, self.after, self.arm)];
        lines.extend(self.notes.iter().map(|note| format!("note: {note}")));
        let mut load = None;
        for metric in &self.metrics {
            if metric.load != load {
                lines.extend(metric.load.iter().map(|load| format!("under {load}")));
                load.clone_from(&metric.load);
            }
            let interval = metric.ci95.map_or_else(String::new, |i| {
                format!(" [{}, {}]", number(i.low, 1), number(i.high, 1))
            });
            let broken: String = metric
                .broken
                .iter()
                .map(|limit| format!("   REGRESSION: more than {limit:+}%"))
                .collect();
            let digits = if metric.after.abs() < 100.0 { 3 } else { 0 };
            let line = format!(
                "  {:20} {:>14} {:>14} {:10} {:>9}{interval:18} {}{broken}",
                metric.name,
                number(metric.before, digits),
                number(metric.after, digits),
                metric.unit,
                metric.change.map_or_else(|| "from 0".to_owned(), signed_percent),
                if metric.ci95.is_some() {
                    metric.verdict.words()
                } else {
                    "no interval"
                },
            );
            lines.push(line.trim_end().to_owned());
        }
        lines.push(String::new());
        lines.join("\n")
    }
}
