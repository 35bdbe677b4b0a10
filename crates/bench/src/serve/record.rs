//! What is known of one request, and what is asked of it.

use std::io::Write;

use schemars::JsonSchema;
use serde::Serialize;

use crate::error::BenchError;

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Its whole reply came.
    Complete,
    /// The server took no more requests.
    Refused,
    /// The server could not go on, or the connection broke.
    Failed,
    /// The client went away on purpose.
    Abandoned,
    /// The run ended first.
    Unfinished,
}

/// A part of a reply.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Piece {
    /// Seconds since the run began.
    pub at: f64,
    /// Bytes of text that came; 0 while a token has no whole character.
    pub bytes: usize,
}

/// One request. Times are seconds since the run began.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// When it was to be sent; latencies count from here.
    pub scheduled: f64,
    /// When it was sent. Later than scheduled when the load generator was late.
    pub sent: f64,
    /// When it ended, or when the run ended without it.
    pub ended: f64,
    /// How it ended.
    pub outcome: Outcome,
    /// Bytes of its prompt.
    pub prompt_bytes: usize,
    /// Characters of the reply that came.
    pub reply_chars: usize,
    /// Tokens of its prompt, where the server says.
    pub prompt_tokens: Option<usize>,
    /// Tokens of its reply: counted by the engine, or the events of a stream.
    pub reply_tokens: usize,
    /// What came, in order.
    pub pieces: Vec<Piece>,
}

/// A quantity that each request has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// Time to the first token, in ms.
    Ttft,
    /// Time to the first byte of text, in ms.
    Ttfb,
    /// Time to the last byte, in ms.
    E2e,
    /// Longest silence between two pieces of text, in ms.
    Gap,
    /// Time to the last byte divided by the characters of the reply; of whole replies only.
    MsPerChar,
    /// Time between tokens after the first, averaged over the reply, in ms; of whole replies only. Not comparable between
    /// tokenizers.
    Tpot,
}

impl Measure {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Ttft,
        Self::Ttfb,
        Self::E2e,
        Self::Gap,
        Self::MsPerChar,
        Self::Tpot,
    ];

    /// Its name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ttft => "ttft",
            Self::Ttfb => "ttfb",
            Self::E2e => "e2e",
            Self::Gap => "gap",
            Self::MsPerChar => "ms_per_char",
            Self::Tpot => "tpot",
        }
    }
}

/// An upper limit that a good request keeps to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, JsonSchema)]
pub struct Objective {
    /// Of what.
    pub on: Measure,
    /// In milliseconds.
    pub limit_ms: f64,
}

impl Record {
    /// Bytes of the reply that came.
    pub fn reply_bytes(&self) -> usize {
        self.pieces.iter().map(|piece| piece.bytes).sum()
    }

    /// When its first text came.
    pub fn first_byte(&self) -> Option<f64> {
        self.pieces.iter().find(|piece| piece.bytes > 0).map(|piece| piece.at)
    }

    /// Milliseconds between pieces, text or not.
    pub fn token_gaps(&self) -> impl Iterator<Item = f64> + '_ {
        self.pieces.windows(2).map(|pair| 1e3 * (pair[1].at - pair[0].at))
    }

    /// Times of pieces with text, and the milliseconds of silence before each but the first.
    pub fn text_gaps(&self) -> impl Iterator<Item = (f64, f64)> + '_ {
        let mut last = None;
        self.pieces
            .iter()
            .filter(|piece| piece.bytes > 0)
            .filter_map(move |piece| {
                let before = last.replace(piece.at)?;
                Some((piece.at, 1e3 * (piece.at - before)))
            })
    }

    /// The quantity, for a request that was served or cut off by the end of the run. For the latter it is at least what is
    /// returned: the request had waited that long. `None` for other outcomes, for averages over a reply that is not whole, and
    /// where there is nothing to measure.
    pub fn measure(&self, on: Measure) -> Option<f64> {
        if !matches!(self.outcome, Outcome::Complete | Outcome::Unfinished) {
            return None;
        }
        if matches!(on, Measure::MsPerChar | Measure::Tpot) && self.outcome != Outcome::Complete {
            return None;
        }
        let since = |at: f64| 1e3 * (at - self.scheduled);
        match on {
            Measure::Ttft => Some(since(self.pieces.first().map_or(self.ended, |piece| piece.at))),
            Measure::Ttfb => Some(since(self.first_byte().unwrap_or(self.ended))),
            Measure::E2e => Some(since(self.ended)),
            Measure::Gap => self.text_gaps().map(|(_, gap)| gap).reduce(f64::max),
            Measure::MsPerChar => (self.reply_chars > 0).then(|| since(self.ended) / self.reply_chars as f64),
            Measure::Tpot => {
                let (first, last) = (self.pieces.first()?, self.pieces.last()?);
                let after = self.reply_tokens.checked_sub(1).filter(|&n| n > 0)?;
                Some(1e3 * (last.at - first.at) / after as f64)
            }
        }
    }

    /// Whether the request was served whole and within every objective.
    pub fn is_good(&self, objectives: &[Objective]) -> bool {
        let keeps = |objective: &Objective| {
            self.measure(objective.on)
                .is_none_or(|value| value <= objective.limit_ms)
        };
        self.outcome == Outcome::Complete && objectives.iter().all(keeps)
    }

    /// Silences longer than `limit_ms` within the reply.
    pub fn stalls(&self, limit_ms: f64) -> usize {
        self.text_gaps().filter(|&(_, gap)| gap > limit_ms).count()
    }
}

/// A line of the file of requests.
#[derive(Debug, Serialize, JsonSchema)]
pub struct RequestLine<'a> {
    /// Which arm or server.
    pub arm: &'a str,
    /// Which load, as in the report.
    pub load: &'a str,
    /// Which repetition, from 0.
    pub round: usize,
    /// Which request of the run, from 0; the same number is the same text in every arm, at the same time unless clients wait.
    pub request: usize,
    /// How it ended.
    pub outcome: Outcome,
    /// When it was to be sent, in seconds since the run began.
    pub scheduled_s: f64,
    /// When it was sent.
    pub sent_s: f64,
    /// When it ended.
    pub ended_s: f64,
    /// Bytes of the prompt.
    pub prompt_bytes: usize,
    /// Bytes of the reply that came.
    pub reply_bytes: usize,
    /// Characters of the reply that came.
    pub reply_chars: usize,
    /// Tokens of the prompt, where known.
    pub prompt_tokens: Option<usize>,
    /// Tokens of the reply; of a server, events.
    pub reply_tokens: usize,
    /// Whether it kept to all objectives.
    pub good: bool,
    /// Milliseconds from `scheduled_s` at which something came.
    pub piece_ms: Vec<f64>,
    /// Bytes of text that came at each of them.
    pub piece_bytes: Vec<usize>,
}

impl RequestLine<'_> {
    /// Writes a record as a line.
    ///
    /// # Errors
    ///
    /// Of `out`.
    pub fn write(
        out: &mut impl Write,
        [arm, load]: [&str; 2],
        [round, request]: [usize; 2],
        record: &Record,
        objectives: &[Objective],
    ) -> Result<(), BenchError> {
        let micro = |seconds: f64| (1e6 * seconds).round() / 1e6;
        let line = RequestLine {
            arm,
            load,
            round,
            request,
            outcome: record.outcome,
            scheduled_s: micro(record.scheduled),
            sent_s: micro(record.sent),
            ended_s: micro(record.ended),
            prompt_bytes: record.prompt_bytes,
            reply_bytes: record.reply_bytes(),
            reply_chars: record.reply_chars,
            prompt_tokens: record.prompt_tokens,
            reply_tokens: record.reply_tokens,
            good: record.is_good(objectives),
            piece_ms: record
                .pieces
                .iter()
                .map(|piece| 1e3 * micro(piece.at - record.scheduled))
                .collect(),
            piece_bytes: record.pieces.iter().map(|piece| piece.bytes).collect(),
        };
        serde_json::to_writer(&mut *out, &line)?;
        out.write_all(b"\n").map_err(serde_json::Error::io)?;
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Scheduled at 1 s, sent late, four pieces of which the second has no text yet.
    pub(crate) fn record() -> Record {
        let pieces = [(1.25, 3), (1.27, 0), (1.30, 4), (1.50, 3)];
        Record {
            scheduled: 1.0,
            sent: 1.1,
            ended: 1.5,
            outcome: Outcome::Complete,
            prompt_bytes: 100,
            reply_chars: 10,
            prompt_tokens: Some(30),
            reply_tokens: 4,
            pieces: pieces.map(|(at, bytes)| Piece { at, bytes }).to_vec(),
        }
    }

    fn close(value: Option<f64>, wanted: f64) {
        assert!(
            value.is_some_and(|value| (value - wanted).abs() < 1e-6),
            "{value:?} is not {wanted}"
        );
    }

    #[test]
    fn times_count_from_the_schedule() {
        let record = record();
        close(record.measure(Measure::Ttft), 250.0);
        close(record.measure(Measure::Ttfb), 250.0);
        close(record.measure(Measure::E2e), 500.0);
        close(record.measure(Measure::Gap), 200.0);
        close(record.measure(Measure::MsPerChar), 50.0);
        close(record.measure(Measure::Tpot), 250.0 / 3.0);
        assert_eq!(
            (record.stalls(100.0), record.stalls(40.0), record.reply_bytes()),
            (1, 2, 10)
        );
        assert_eq!(record.token_gaps().count(), 3);
    }

    #[test]
    fn a_token_without_text_is_no_first_byte() {
        let mut record = record();
        record.pieces[0].bytes = 0;
        close(record.measure(Measure::Ttft), 250.0);
        close(record.measure(Measure::Ttfb), 300.0);
    }

    #[test]
    fn a_request_cut_off_has_waited_at_least_until_the_end() {
        let mut record = record();
        record.outcome = Outcome::Unfinished;
        let averages = [Measure::MsPerChar, Measure::Tpot].map(|on| record.measure(on));
        assert_eq!(averages, [None; 2], "half a reply has no average");
        record.pieces.clear();
        record.reply_chars = 0;
        record.ended = 9.0;
        close(record.measure(Measure::Ttfb), 8_000.0);
        close(record.measure(Measure::E2e), 8_000.0);
        assert_eq!(record.measure(Measure::MsPerChar), None);
        record.outcome = Outcome::Refused;
        assert_eq!(record.measure(Measure::E2e), None);
    }

    #[test]
    fn good_is_whole_and_within_every_objective() {
        let objective = |on, limit_ms| Objective { on, limit_ms };
        let record = record();
        let (ttfb, e2e) = (objective(Measure::Ttfb, 260.0), objective(Measure::E2e, 499.0));
        assert!(record.is_good(&[]) && record.is_good(&[ttfb]));
        assert!(!record.is_good(&[ttfb, e2e]));
        let cut = Record {
            outcome: Outcome::Unfinished,
            ..record
        };
        assert!(!cut.is_good(&[]));
    }

    #[test]
    fn a_line_is_json_with_the_times_of_each_piece() {
        let mut line = Vec::new();
        RequestLine::write(&mut line, ["fused", "8 requests/s"], [1, 7], &record(), &[]).expect("writes");
        assert_eq!(line.last(), Some(&b'\n'));
        let value: serde_json::Value = serde_json::from_slice(&line).expect("JSON");
        assert_eq!((value["round"].as_u64(), value["request"].as_u64()), (Some(1), Some(7)));
        assert_eq!(value["piece_ms"], serde_json::json!([250.0, 270.0, 300.0, 500.0]));
        assert_eq!(value["outcome"], "complete");
    }
}
