//! One number with its goal, and how it is printed.

use std::io::{self, Write};

/// One number.
#[derive(Debug, Clone)]
pub(crate) struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
    at_least: Option<f64>,
}

impl Figure {
    pub(crate) fn new(name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self {
            name: name.into(),
            value,
            unit,
            at_least: None,
        }
    }

    /// Sets the goal: the value should not be below it.
    pub(crate) fn at_least(self, goal: f64) -> Self {
        Self {
            at_least: Some(goal),
            ..self
        }
    }

    /// Whether the goal is met; `None` without one.
    pub(crate) fn holds(&self) -> Option<bool> {
        self.at_least.map(|goal| self.value >= goal)
    }
}

/// Prints figures: one JSON object a line, or a table.
pub(crate) fn print(out: &mut impl Write, json: bool, figures: &[Figure]) -> io::Result<()> {
    let width = figures.iter().map(|figure| figure.name.len()).max().unwrap_or(0);
    for figure in figures {
        let Figure { name, value, unit, .. } = figure;
        let goal = figure.at_least.map(|goal| format!(">= {goal}"));
        if json {
            let line = serde_json::json!({
                "figure": name, "value": value, "unit": unit, "goal": goal, "holds": figure.holds(),
            });
            writeln!(out, "{line}")?;
            continue;
        }
        let digits = match value.abs() {
            size if size >= 100.0 => 0,
            size if size >= 10.0 => 1,
            _ => 2,
        };
        let verdict = match (goal, figure.holds()) {
            (Some(goal), Some(true)) => format!("goal {goal}: holds"),
            (Some(goal), Some(false)) => format!("goal {goal}: MISSED"),
            _ => String::new(),
        };
        let line = format!("{name:<width$}  {value:>9.digits$} {unit:<9}  {verdict}");
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}
