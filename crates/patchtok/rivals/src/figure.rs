//! A measured number with its goal, and how it is printed.

use std::io::{self, Write};

use serde::{Serialize, Serializer};

/// What a figure should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

impl Goal {
    fn holds(self, value: f64) -> bool {
        match self {
            Goal::AtLeast(goal) => value >= goal,
            Goal::AtMost(goal) => value <= goal,
        }
    }
}

impl std::fmt::Display for Goal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Goal::AtLeast(goal) => write!(f, ">= {goal}"),
            Goal::AtMost(goal) => write!(f, "<= {goal}"),
        }
    }
}

impl Serialize for Goal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One line of the output. A figure that could not be measured has no value.
#[derive(Debug, Serialize)]
pub(crate) struct Figure {
    figure: String,
    value: Option<f64>,
    unit: &'static str,
    goal: Option<Goal>,
    /// Whether the goal is met; none without a goal or a value.
    holds: Option<bool>,
}

impl Figure {
    /// A figure without a goal.
    pub(crate) fn new(figure: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Figure {
            figure: figure.into(),
            value: Some(round(value)),
            unit,
            goal: None,
            holds: None,
        }
    }

    /// The same figure with a goal, judged on the value before it is rounded.
    pub(crate) fn goal(figure: impl Into<String>, value: f64, unit: &'static str, goal: Goal) -> Self {
        Figure {
            goal: Some(goal),
            holds: Some(goal.holds(value)),
            ..Figure::new(figure, value, unit)
        }
    }

    /// A figure that was not measured; `figure` says why.
    pub(crate) fn left_out(figure: impl Into<String>, unit: &'static str) -> Self {
        Figure {
            value: None,
            ..Figure::new(figure, 0.0, unit)
        }
    }
}

/// Four significant digits: more than any figure here repeats.
fn round(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let scale = 10f64.powi(3 - value.abs().log10().floor() as i32);
    (value * scale).round() / scale
}

/// Prints figures as they come, as a table or as JSON lines.
pub(crate) struct Printer {
    json: bool,
    header: bool,
}

impl Printer {
    pub(crate) fn new(json: bool) -> Self {
        Printer { json, header: !json }
    }

    /// Prints one figure.
    pub(crate) fn print(&mut self, figure: Figure) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if self.json {
            serde_json::to_writer(&mut out, &figure)?;
            return writeln!(out);
        }
        if self.header {
            writeln!(
                out,
                "{:<76} {:>9} {:<12} {:<9} holds",
                "figure", "value", "unit", "goal"
            )?;
            self.header = false;
        }
        let value = figure.value.map_or("-".into(), |value| value.to_string());
        let goal = figure.goal.map_or("-".into(), |goal| goal.to_string());
        let holds = match figure.holds {
            Some(true) => "yes",
            Some(false) => "no",
            None => "-",
        };
        let Figure { figure, unit, .. } = figure;
        writeln!(out, "{figure:<76} {value:>9} {unit:<12} {goal:<9} {holds}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_a_line_of_five_fields() {
        let line = |figure: &Figure| serde_json::to_string(figure).unwrap();
        assert_eq!(
            line(&Figure::goal("speed", 0.59999, "ratio", Goal::AtLeast(0.6))),
            r#"{"figure":"speed","value":0.6,"unit":"ratio","goal":">= 0.6","holds":false}"#
        );
        assert_eq!(
            line(&Figure::new("size", 1234.56, "MB")),
            r#"{"figure":"size","value":1235.0,"unit":"MB","goal":null,"holds":null}"#
        );
        assert_eq!(
            line(&Figure::left_out("other: not on crates.io", "MB/s")),
            r#"{"figure":"other: not on crates.io","value":null,"unit":"MB/s","goal":null,"holds":null}"#
        );
        assert!(Goal::AtMost(30.0).holds(30.0));
    }
}
