//! Traces of requests: when they arrive and how long they get.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, Exp, LogNormal};

/// One request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Request {
    /// Seconds from the start of the trace.
    pub arrival: f64,
    /// Tokens of the prompt, at least 1.
    pub context: usize,
    /// Tokens that are generated, at least 1.
    pub generated: usize,
}

impl Request {
    /// Rows that the sequence has in the end: the last token that is generated is not fed back.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.context + self.generated - 1
    }
}

/// Requests in order of arrival.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    /// What it is, for tables.
    pub name: String,
    /// The requests.
    pub requests: Vec<Request>,
}

/// Why a trace cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TraceError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A line is not what it should be.
    #[error("{}, line {line}: {what}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        what: String,
    },
}

impl Trace {
    /// Reads a trace in the format of the Azure LLM inference traces: CSV with the header
    /// `TIMESTAMP,ContextTokens,GeneratedTokens`, times as `2023-11-16 18:15:46.6805900`, in order.
    ///
    /// # Errors
    ///
    /// [`TraceError`] with the file and the line.
    pub fn read_azure(path: &Path) -> Result<Self, TraceError> {
        let text = fs::read_to_string(path).map_err(|source| TraceError::Read {
            path: path.to_owned(),
            source,
        })?;
        let name = path
            .file_stem()
            .map_or_else(|| "trace".to_owned(), |stem| stem.to_string_lossy().into_owned());
        Self::parse_azure(name, &text).map_err(|(line, what)| TraceError::Line {
            path: path.to_owned(),
            line,
            what,
        })
    }

    fn parse_azure(name: String, text: &str) -> Result<Self, (usize, String)> {
        const HEADER: &str = "TIMESTAMP,ContextTokens,GeneratedTokens";
        let mut lines = text.lines();
        if lines.next().map(str::trim_end) != Some(HEADER) {
            return Err((1, format!("the header is not {HEADER}")));
        }
        let mut requests: Vec<Request> = Vec::new();
        let mut start = None;
        for (index, line) in lines.enumerate() {
            let at = index + 2;
            if line.trim().is_empty() {
                continue;
            }
            let fields: Vec<_> = line.trim_end().split(',').collect();
            let [timestamp, context, generated] = fields[..] else {
                return Err((at, format!("{} fields instead of 3", fields.len())));
            };
            let count = |field: &str| match field.parse::<usize>() {
                Ok(tokens) if (1..=1 << 24).contains(&tokens) => Ok(tokens),
                _ => Err((at, format!("{field:?} is not a number of tokens from 1 to 2^24"))),
            };
            let seconds = seconds(timestamp).ok_or_else(|| (at, format!("{timestamp:?} is not a time")))?;
            let arrival = seconds - *start.get_or_insert(seconds);
            if requests.last().is_some_and(|last| last.arrival > arrival) {
                return Err((at, "the time lies before that of the line above".to_owned()));
            }
            requests.push(Request {
                arrival,
                context: count(context)?,
                generated: count(generated)?,
            });
        }
        if requests.is_empty() {
            return Err((2, "no requests".to_owned()));
        }
        Ok(Self { name, requests })
    }

    /// Makes a trace that resembles a conversation service. The same seed gives the same trace.
    ///
    /// Prompts are log-normal with median 760 and sigma 0.98, answers log-normal with median 151 and sigma 0.86 (the
    /// moments of the logarithms in the Azure conversation trace of 2023), cut to 1..=8,192 and 1..=1,024. Arrivals are a
    /// Poisson process whose rate swings around 5.5 a second by 80 % with a period of five minutes.
    #[must_use]
    pub fn synthetic(seed: u64, requests: usize) -> Self {
        const RATE: f64 = 5.5;
        const SWING: f64 = 0.8;
        const PERIOD: f64 = 300.0;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let context = LogNormal::new(760_f64.ln(), 0.98).expect("sigma is finite");
        let generated = LogNormal::new(151_f64.ln(), 0.86).expect("sigma is finite");
        let gap = Exp::new(1.0).expect("the rate is positive");
        let mut clock = 0.0;
        let requests = (0..requests)
            .map(|_| {
                let rate = RATE * (1.0 + SWING * (std::f64::consts::TAU * clock / PERIOD).sin());
                clock += gap.sample(&mut rng) / rate;
                Request {
                    arrival: clock,
                    context: (context.sample(&mut rng) as usize).clamp(1, 8192),
                    generated: (generated.sample(&mut rng) as usize).clamp(1, 1024),
                }
            })
            .collect();
        Self {
            name: format!("synthetic {seed}"),
            requests,
        }
    }

    /// The part of the trace that arrives in its first `seconds`.
    #[must_use]
    pub fn first(mut self, seconds: f64) -> Self {
        self.requests.retain(|request| request.arrival < seconds);
        self
    }

    /// Most rows that a sequence of the trace has.
    #[must_use]
    pub fn longest(&self) -> usize {
        self.requests.iter().map(Request::rows).max().unwrap_or(0)
    }
}

/// Seconds since 1970 of `2023-11-16 18:15:46.6805900`.
fn seconds(timestamp: &str) -> Option<f64> {
    let (date, time) = timestamp.split_once(' ')?;
    let numbers = |text: &str, separator| -> Option<[u32; 3]> {
        let parts: Option<Vec<u32>> = text.split(separator).map(|part| part.parse().ok()).collect();
        parts?.try_into().ok()
    };
    let [year, month, day] = numbers(date, '-')?;
    let (clock, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let [hour, minute, second] = numbers(clock, ':')?;
    let in_range = (1970..=9999).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    if !in_range || hour > 23 || minute > 59 || second > 60 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // Days since 0000-03-01, in years that begin in March, so that the leap day is the last (Hinnant, "chrono-compatible
    // low-level date algorithms").
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    let days = f64::from(days) - 719_468.0;
    let fraction: f64 = format!("0.{fraction}").parse().ok()?;
    Some(days * 86_400.0 + f64::from(hour * 3600 + minute * 60 + second) + fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: &str) -> Result<Trace, (usize, String)> {
        Trace::parse_azure(
            "t".into(),
            &format!("TIMESTAMP,ContextTokens,GeneratedTokens\r\n{body}"),
        )
    }

    #[test]
    fn the_azure_format_is_read() {
        let trace = parse("2023-12-31 23:59:59.5000000,374,44\r\n2024-01-01 00:00:01.2500000,1,1\r\n").unwrap();
        assert_eq!(trace.requests.len(), 2);
        assert_eq!((trace.requests[0].context, trace.requests[0].generated), (374, 44));
        assert!((trace.requests[1].arrival - 1.75).abs() < 1e-6);
        assert_eq!(trace.longest(), 417);
        assert_eq!(trace.first(1.0).requests.len(), 1);
    }

    #[test]
    fn days_are_counted_as_the_calendar_does() {
        assert_eq!(seconds("1970-01-01 00:00:00"), Some(0.0));
        assert_eq!(seconds("2000-03-01 00:00:00.5"), Some(951_868_800.5));
        assert_eq!(seconds("2024-02-29 12:00:00"), Some(1_709_208_000.0));
    }

    #[test]
    fn bad_lines_are_named() {
        for (body, line) in [
            ("", 2),
            ("2023-11-16 18:15:46.68,374", 2),
            ("2023-11-16 18:15:46.68,374,44\n2023-11-16 18:15:46.60,1,1", 3),
            ("2023-11-16 18:15:46.68,0,44", 2),
            ("2023-11-16 18:15:46.68,-1,44", 2),
            ("2023-11-16 18:15:46.68,99999999999,44", 2),
            ("2023-13-16 18:15:46.68,1,44", 2),
            ("yesterday,1,44", 2),
            ("2023-11-16 18:15:46.6e8,1,44", 2),
        ] {
            let (at, what) = parse(body).unwrap_err();
            assert_eq!(at, line, "{body:?}: {what}");
        }
        assert!(Trace::parse_azure("t".into(), "a,b\n").is_err());
    }

    #[test]
    fn the_synthetic_trace_is_a_function_of_its_seed_and_has_the_moments_it_says() {
        let trace = Trace::synthetic(1, 4000);
        assert_eq!(trace, Trace::synthetic(1, 4000));
        assert_ne!(trace, Trace::synthetic(2, 4000));
        assert!(trace.requests.is_sorted_by_key(|request| request.arrival));
        let median = |mut values: Vec<usize>| {
            values.sort_unstable();
            values[values.len() / 2]
        };
        let context = median(trace.requests.iter().map(|r| r.context).collect());
        let generated = median(trace.requests.iter().map(|r| r.generated).collect());
        assert!((700..820).contains(&context), "{context}");
        assert!((140..163).contains(&generated), "{generated}");
        let seconds = trace.requests.last().unwrap().arrival;
        assert!((4.0..7.0).contains(&(4000.0 / seconds)), "{seconds}");
    }
}
