//! One number with its goal and its baseline, and how it is printed.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde_json::json;

/// How figures are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// One JSON object a line.
    Json,
}

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Measured on this machine.
    Measured,
    /// Counted in a simulation.
    Simulated,
}

/// What a value should be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Goal {
    /// No goal: it stands there to be compared with.
    None,
    /// Not above.
    AtMost(f64),
    /// Not below.
    AtLeast(f64),
}

/// One number.
#[derive(Debug, Clone)]
pub(crate) struct Figure {
    group: String,
    /// Whose number it is, where several are compared in one table.
    subject: Option<String>,
    name: String,
    value: f64,
    unit: &'static str,
    kind: Kind,
    goal: Goal,
    baseline: Option<(String, f64)>,
}

impl Figure {
    /// A figure of this machine, without a goal so far.
    pub(crate) fn measured(group: &str, name: &str, value: f64, unit: &'static str) -> Self {
        Self {
            group: group.to_owned(),
            subject: None,
            name: name.to_owned(),
            value,
            unit,
            kind: Kind::Measured,
            goal: Goal::None,
            baseline: None,
        }
    }

    /// A figure of a simulation.
    pub(crate) fn simulated(group: &str, name: &str, value: f64, unit: &'static str) -> Self {
        Self {
            kind: Kind::Simulated,
            ..Self::measured(group, name, value, unit)
        }
    }

    /// Sets whose number it is.
    pub(crate) fn of(mut self, subject: &str) -> Self {
        self.subject = Some(subject.to_owned());
        self
    }

    /// Sets the goal.
    pub(crate) fn goal(mut self, goal: Goal) -> Self {
        self.goal = goal;
        self
    }

    /// Sets what the value is compared to, in the same unit.
    pub(crate) fn baseline(mut self, what: &str, value: f64) -> Self {
        self.baseline = Some((what.to_owned(), value));
        self
    }

    /// Whether the goal is met; `None` without one.
    pub(crate) fn holds(&self) -> Option<bool> {
        match self.goal {
            Goal::None => None,
            Goal::AtMost(limit) => Some(self.value <= limit),
            Goal::AtLeast(limit) => Some(self.value >= limit),
        }
    }

    fn goal_text(&self) -> Option<String> {
        match self.goal {
            Goal::None => None,
            Goal::AtMost(limit) => Some(format!("<= {limit}")),
            Goal::AtLeast(limit) => Some(format!(">= {limit}")),
        }
    }

    fn path(&self) -> String {
        match &self.subject {
            Some(subject) => format!("{}/{subject}/{}", self.group, self.name),
            None => format!("{}/{}", self.group, self.name),
        }
    }
}

/// Prints figures. In a table, those that have a subject become a matrix of subjects and names for each group.
pub(crate) fn print(out: &mut dyn Write, format: Format, figures: &[Figure]) -> io::Result<()> {
    match format {
        Format::Json => figures.iter().try_for_each(|figure| print_json(out, figure)),
        Format::Table => print_tables(out, figures),
    }
}

fn print_json(out: &mut dyn Write, figure: &Figure) -> io::Result<()> {
    let kind = match figure.kind {
        Kind::Measured => "measured",
        Kind::Simulated => "simulated",
    };
    let mut line = json!({
        "figure": figure.path(),
        "value": figure.value,
        "unit": figure.unit,
        "goal": figure.goal_text(),
        "holds": figure.holds(),
        "kind": kind,
    });
    if let Some((what, value)) = &figure.baseline {
        line["baseline"] = json!({ "what": what, "value": value });
    }
    writeln!(out, "{line}")
}

fn print_tables(out: &mut dyn Write, figures: &[Figure]) -> io::Result<()> {
    for group in figures.chunk_by(|a, b| a.group == b.group && a.subject.is_some() == b.subject.is_some()) {
        writeln!(out, "\n{}", group[0].group)?;
        let rows = match group[0].subject {
            Some(_) => matrix(group),
            None => list(group),
        };
        print_rows(out, &rows)?;
    }
    Ok(())
}

fn list(figures: &[Figure]) -> Vec<Vec<String>> {
    let mut rows = vec![
        ["", "value", "unit", "goal", "holds", "baseline"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for figure in figures {
        rows.push(vec![
            figure.name.clone(),
            number(figure.value),
            figure.unit.to_owned(),
            figure.goal_text().unwrap_or_default(),
            match figure.holds() {
                Some(true) => "yes".to_owned(),
                Some(false) => "NO".to_owned(),
                None => String::new(),
            },
            match &figure.baseline {
                Some((what, value)) => format!("{what}: {}", number(*value)),
                None => String::new(),
            },
        ]);
    }
    rows
}

fn matrix(figures: &[Figure]) -> Vec<Vec<String>> {
    let mut names: Vec<(&str, &str)> = Vec::new();
    let mut subjects: Vec<&str> = Vec::new();
    let mut cells = BTreeMap::new();
    for figure in figures {
        let subject = figure.subject.as_deref().unwrap_or_default();
        if !names.iter().any(|&(name, _)| name == figure.name) {
            names.push((&figure.name, figure.unit));
        }
        if !subjects.contains(&subject) {
            subjects.push(subject);
        }
        cells.insert((subject, figure.name.as_str()), number(figure.value));
    }
    let mut rows = vec![vec![String::new()], vec![String::new()]];
    for &(name, unit) in &names {
        rows[0].push(name.to_owned());
        rows[1].push(unit.to_owned());
    }
    for subject in subjects {
        let cell = |&(name, _): &(&str, &str)| cells.get(&(subject, name)).cloned().unwrap_or_default();
        let mut row = vec![subject.to_owned()];
        row.extend(names.iter().map(cell));
        rows.push(row);
    }
    rows
}

/// Prints columns, the first aligned to the left and the others to the right, except where they are words.
fn print_rows(out: &mut dyn Write, rows: &[Vec<String>]) -> io::Result<()> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(String::len).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    for row in rows {
        let mut line = String::new();
        for (cell, &width) in row.iter().zip(&widths) {
            let numeric = cell.starts_with(|c: char| c.is_ascii_digit() || c == '-');
            match numeric {
                true => line.push_str(&format!("  {cell:>width$}")),
                false => line.push_str(&format!("  {cell:<width$}")),
            }
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// Four digits that count.
fn number(value: f64) -> String {
    match value.abs() {
        v if v == 0.0 || v >= 1000.0 => format!("{value:.0}"),
        v if v >= 100.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}
