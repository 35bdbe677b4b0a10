//! Recorded traces: when requests came and how long they were, never what they said.
//!
//! Two formats are read. Azure's CSV (Patel et al., "Splitwise", 2024) has `TIMESTAMP,ContextTokens,GeneratedTokens`.
//! Mooncake's JSONL (Qin et al., 2024) has `timestamp` in milliseconds, `input_length`, `output_length` and `hash_ids`, one
//! for each 512 tokens of the prompt: prompts with the same first ids begin alike.
//!
//! Tokens of a trace are those of another model. They become bytes of text by one factor, and every arm then serves the
//! same bytes.

use std::path::Path;

use serde::Deserialize;

use crate::error::BenchError;
use crate::stats::{Rng, quantile};
use crate::workload::{Pages, Text, boundary};

/// Tokens that one of Mooncake's hash ids stands for.
const BLOCK_TOKENS: f64 = 512.0;
/// No prompt and no reply is shorter than this.
const MIN_BYTES: usize = 8;
/// Longest trace, in seconds.
const MOST_SECONDS: f64 = 1e7;
/// Most text of all requests of a trace, in bytes.
const MOST_BYTES: f64 = (1_u64 << 30) as f64;
/// A request with more text than this multiple of what fits the model is brought down to it before it is tried.
const HOPELESS: f64 = 8.0;

/// A request of a trace.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Seconds since the first one.
    pub at: f64,
    /// Tokens of the prompt, in the tokens of the trace.
    pub prompt_tokens: f64,
    /// Tokens of the reply.
    pub reply_tokens: f64,
    /// Names of the prompt's blocks; empty where the trace has none.
    pub blocks: Vec<u64>,
}

/// Reads a trace; entries are in the order of their times.
///
/// # Errors
///
/// [`BenchError::Input`] with the line that is not of either format, and for a trace that is empty or longer than 10,000,000
/// seconds.
pub fn read(path: &Path) -> Result<Vec<Entry>, BenchError> {
    let fail = |why: String| BenchError::Input(format!("{}: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| fail(error.to_string()))?;
    let mut entries = parse(&text).map_err(fail)?;
    entries.sort_by(|a, b| a.at.total_cmp(&b.at));
    let first = entries.first().map(|entry| entry.at);
    let first = first.ok_or_else(|| fail("the trace has no requests".to_owned()))?;
    entries.iter_mut().for_each(|entry| entry.at -= first);
    let lasts = entries.last().map_or(0.0, |entry| entry.at);
    if lasts > MOST_SECONDS {
        return Err(fail(format!(
            "the trace lasts {lasts:.0} s; at most {MOST_SECONDS:.0} can be replayed"
        )));
    }
    Ok(entries)
}

fn parse(text: &str) -> Result<Vec<Entry>, String> {
    let mut entries = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim().trim_start_matches('\u{feff}');
        if line.is_empty() || line.to_ascii_uppercase().starts_with("TIMESTAMP") {
            continue;
        }
        let entry = if line.starts_with('{') {
            mooncake(line)
        } else {
            azure(line)
        };
        entries.push(entry.map_err(|why| format!("line {}: {why}", number + 1))?);
    }
    Ok(entries)
}

fn mooncake(line: &str) -> Result<Entry, String> {
    #[derive(Deserialize)]
    struct Line {
        timestamp: f64,
        input_length: u32,
        output_length: u32,
        #[serde(default)]
        hash_ids: Vec<u64>,
    }
    let line: Line = serde_json::from_str(line).map_err(|error| error.to_string())?;
    // Of larger numbers the difference between two times is lost.
    if line.timestamp.abs() > 1e15 {
        return Err(format!("timestamp {} is no time in milliseconds", line.timestamp));
    }
    Ok(Entry {
        at: line.timestamp / 1e3,
        prompt_tokens: f64::from(line.input_length),
        reply_tokens: f64::from(line.output_length),
        blocks: line.hash_ids,
    })
}

fn azure(line: &str) -> Result<Entry, String> {
    let mut fields = line.split(',');
    let mut next = |name: &str| fields.next().map(str::trim).ok_or(format!("{name} is missing"));
    let at = seconds(next("TIMESTAMP")?)?;
    let mut tokens = |name: &str| -> Result<f64, String> {
        let field = next(name)?;
        let count = field
            .parse::<u32>()
            .map_err(|_| format!("{name} is {field:?}, not a number of tokens"))?;
        Ok(f64::from(count))
    };
    Ok(Entry {
        at,
        prompt_tokens: tokens("ContextTokens")?,
        reply_tokens: tokens("GeneratedTokens")?,
        blocks: Vec::new(),
    })
}

/// Seconds of `2023-11-16 18:15:46.6805900`, with or without an offset from UTC after it, since some fixed day.
fn seconds(stamp: &str) -> Result<f64, String> {
    let wrong = || format!("{stamp:?} is no time like 2023-11-16 18:15:46.68");
    let (date, time) = stamp.split_once([' ', 'T']).ok_or_else(wrong)?;
    let time = time.trim_end_matches('Z');
    let time = time.find(['+', '-']).map_or(time, |offset| &time[..offset]);
    let numbers = |text: &str, separator: char| -> Option<[f64; 3]> {
        let numbers: Result<Vec<f64>, _> = text.split(separator).map(str::parse).collect();
        numbers.ok()?.try_into().ok()
    };
    let ([year, month, day], [hour, minute, second]) = numbers(date, '-').zip(numbers(time, ':')).ok_or_else(wrong)?;
    let limits = [
        (year, 1.0..10_000.0),
        (month, 1.0..13.0),
        (day, 1.0..32.0),
        (hour, 0.0..24.0),
        (minute, 0.0..60.0),
        (second, 0.0..61.0),
    ];
    if limits.iter().any(|(value, range)| !range.contains(value)) {
        return Err(wrong());
    }
    // Days of the proleptic Gregorian calendar, with years that begin in March.
    let (y, m) = if month > 2.0 {
        (year, month - 3.0)
    } else {
        (year - 1.0, month + 9.0)
    };
    let days = 365.0 * y + (y / 4.0).floor() - (y / 100.0).floor() + (y / 400.0).floor();
    let days = days + ((153.0 * m + 2.0) / 5.0).floor() + day;
    Ok(86_400.0 * days + 3_600.0 * hour + 60.0 * minute + second)
}

/// A trace as requests with text.
#[derive(Debug, Clone)]
pub struct Replay {
    /// When each is sent.
    pub at: Vec<f64>,
    /// Their texts.
    pub texts: Vec<Text>,
    /// Bytes of text for a token of the trace.
    pub bytes_per_token: f64,
    /// Requests that were shortened until they fitted the model.
    pub shortened: usize,
}

/// How lengths and times of a trace become text and a schedule.
#[derive(Debug, Clone, Copy)]
pub struct Scaling {
    /// Bytes of text for a token of the trace.
    pub bytes_per_token: f64,
    /// Factor of the lengths; without one, 1 or the factor with which 99% of the entries have at most `most_bytes`.
    pub scale: Option<f64>,
    /// About how many bytes of prompt and reply the model takes.
    pub most_bytes: f64,
    /// How many times faster than recorded.
    pub speed: f64,
}

/// Gives the entries text from the pages, as `scaling` says. A request that `fits` refuses is shortened, prompt and reply
/// alike.
///
/// # Errors
///
/// [`BenchError::Input`] when there are no entries, the pages have too little text, or times or texts come out longer than
/// what can be replayed.
pub fn replay(
    entries: &[Entry],
    pages: &Pages,
    scaling: Scaling,
    seed: u64,
    fits: impl Fn(&Text) -> bool,
) -> Result<Replay, BenchError> {
    let at: Vec<f64> = entries.iter().map(|entry| entry.at / scaling.speed).collect();
    let last = at.last().copied();
    let last = last.ok_or_else(|| BenchError::Input("the trace has no requests".to_owned()))?;
    if !(0.0..=MOST_SECONDS).contains(&last) {
        return Err(BenchError::Input(format!(
            "with --trace-speed {} the trace lasts {last:.0} s; at most {MOST_SECONDS:.0} can be replayed",
            scaling.speed
        )));
    }
    let source = pages.texts.join("\n");
    if source.len() < 64 * MIN_BYTES {
        return Err(BenchError::Input(format!(
            "the corpus has {} bytes; a trace needs at least {}",
            source.len(),
            64 * MIN_BYTES
        )));
    }
    let whole: Vec<f64> = entries
        .iter()
        .map(|entry| entry.prompt_tokens + entry.reply_tokens)
        .collect();
    let longest = quantile(&whole, 0.99) * scaling.bytes_per_token;
    let scale = scaling.scale.unwrap_or_else(|| (scaling.most_bytes / longest).min(1.0));
    let bytes_per_token = scaling.bytes_per_token * scale;
    // What is longer is cut down before any text is made of it.
    let share_at_most = |whole: f64| (HOPELESS * scaling.most_bytes / (whole * bytes_per_token)).min(1.0);
    let bytes: f64 = whole
        .iter()
        .map(|&tokens| tokens * bytes_per_token * share_at_most(tokens))
        .sum();
    if !bytes_per_token.is_finite() || bytes.is_nan() || bytes > MOST_BYTES {
        return Err(BenchError::Input(format!(
            "the texts of {} requests would have {bytes:.0} bytes; at most {MOST_BYTES:.0}: take less of the trace with --seconds, \
             or shorter texts with --trace-scale",
            entries.len()
        )));
    }
    let mut rng = Rng::new(seed);
    let mut shortened = 0;
    let mut texts = Vec::with_capacity(entries.len());
    for entry in entries {
        let place = rng.below(source.len());
        let most = share_at_most(entry.prompt_tokens + entry.reply_tokens);
        let mut share = most;
        let text = loop {
            let bytes = |tokens: f64| ((tokens * bytes_per_token * share) as usize).max(MIN_BYTES);
            let prompt = prompt(
                &source,
                place,
                &entry.blocks,
                bytes(entry.prompt_tokens),
                BLOCK_TOKENS * bytes_per_token,
            );
            // What the page says after the prompt's last block would do as well; any text does.
            let reply = cut(&source, place + bytes(entry.prompt_tokens), bytes(entry.reply_tokens));
            let text = Text { prompt, reply };
            if fits(&text) {
                break text;
            }
            if share < 1e-3 * most {
                return Err(BenchError::Input("no text of a few bytes fits the model".to_owned()));
            }
            share *= 0.9;
        };
        shortened += usize::from(share < 1.0);
        texts.push(text);
    }
    Ok(Replay {
        at,
        texts,
        bytes_per_token,
        shortened,
    })
}

/// `bytes` of prompt: a text of its own for each named block, the rest from `place` on.
fn prompt(source: &str, place: usize, blocks: &[u64], bytes: usize, block_bytes: f64) -> String {
    let mut prompt = String::with_capacity(bytes);
    for &block in blocks {
        // A first character may be longer than what was left.
        let left = bytes.saturating_sub(prompt.len());
        if left == 0 {
            break;
        }
        let place = Rng::new(block).below(source.len());
        prompt.push_str(&cut(source, place, left.min((block_bytes as usize).max(1))));
    }
    if prompt.len() < bytes {
        prompt.push_str(&cut(source, place, bytes - prompt.len()));
    }
    prompt
}

/// At most `bytes` of `source` from `place` on, which may lie past the end and then counts from the start again; at least
/// one character.
fn cut(source: &str, place: usize, bytes: usize) -> String {
    let mut left = bytes;
    let mut text = String::with_capacity(bytes);
    let mut place = boundary(source, place % source.len());
    while left > 0 {
        let part = &source[place..];
        let part = &part[..boundary(part, left)];
        if part.is_empty() {
            break;
        }
        text.push_str(part);
        left -= part.len();
        place = 0;
    }
    if text.is_empty() {
        text.extend(source[place..].chars().next());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const AZURE: &str = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.5,374,44\n2023-11-16 18:15:50.25,396,109\n\
        2023-11-17 00:00:00.0,10,1\n";
    const MOONCAKE: &str = "{\"timestamp\": 3000, \"input_length\": 1000, \"output_length\": 52, \"hash_ids\": [46, 47]}\n\
        {\"timestamp\": 1500, \"input_length\": 600, \"output_length\": 26, \"hash_ids\": [46, 48]}\n";

    fn scaling(scale: Option<f64>, most_bytes: f64) -> Scaling {
        Scaling {
            bytes_per_token: 3.0,
            scale,
            most_bytes,
            speed: 1.0,
        }
    }

    fn pages() -> Pages {
        let page = |p: usize| (0..400).map(|i| format!("é{p}w{i} ")).collect();
        Pages {
            texts: (0..3).map(page).collect(),
            truncated: false,
        }
    }

    fn file(content: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("trace");
        std::fs::write(&path, content).expect("writes");
        (folder, path)
    }

    #[test]
    fn both_formats_are_read_in_the_order_of_their_times() {
        let (_folder, path) = file(AZURE);
        let azure = read(&path).expect("reads");
        assert_eq!(
            azure.iter().map(|entry| entry.at).collect::<Vec<_>>(),
            [0.0, 3.75, 20_653.5]
        );
        assert_eq!((azure[1].prompt_tokens, azure[1].reply_tokens), (396.0, 109.0));
        let (_folder, path) = file(MOONCAKE);
        let mooncake = read(&path).expect("reads");
        assert_eq!((mooncake[0].at, mooncake[1].at), (0.0, 1.5));
        assert_eq!(mooncake[0].blocks, [46, 48]);
    }

    #[test]
    fn days_are_counted_by_the_calendar() {
        let at = |stamp| seconds(stamp).expect("a time");
        assert_eq!(at("2024-03-01 00:00:00") - at("2024-02-28 00:00:00"), 2.0 * 86_400.0);
        assert_eq!(at("2023-03-01 00:00:00") - at("2023-02-28 00:00:00"), 86_400.0);
        assert_eq!(at("2024-01-01T00:00:01Z") - at("2023-12-31 23:59:59.000+00:00"), 2.0);
    }

    #[test]
    fn what_is_no_trace_is_refused_with_its_line() {
        for (content, message) in [
            ("", "no requests"),
            ("TIMESTAMP,ContextTokens,GeneratedTokens\n", "no requests"),
            ("2023-11-16 18:15:46.5,374", "GeneratedTokens is missing"),
            ("2023-11-16 18:15:46.5,374,many", "many"),
            ("yesterday,1,2", "no time like"),
            ("\n{\"timestamp\": 1}", "line 2"),
            ("2023-13-16 18:15:46.5,3,4", "no time like"),
            ("2023-11-16 inf:15:46.5,3,4", "no time like"),
            ("2023-11-1e300 18:15:46.5,3,4", "no time like"),
            ("2023-11-16 18:15:NaN,3,4", "no time like"),
            ("2023-11-16 18:15:46.5,-3,4", "-3"),
            ("2023-11-16 18:15:46.5,99999999999,4", "99999999999"),
            ("0001-01-01 00:00:00,3,4\n9999-12-31 00:00:00,3,4", "at most 10000000"),
            (
                "{\"timestamp\": 1e300, \"input_length\": 1, \"output_length\": 1}",
                "no time in milliseconds",
            ),
            (
                "{\"timestamp\": 1, \"input_length\": -1, \"output_length\": 1}",
                "line 1",
            ),
        ] {
            let (_folder, path) = file(content);
            let error = read(&path).expect_err(content).to_string();
            assert!(error.contains(message), "{content}: {error}");
        }
        assert!(read(Path::new("/nowhere/at all")).is_err());
    }

    #[test]
    fn lengths_become_bytes_and_equal_blocks_equal_text() {
        let (_folder, path) = file(MOONCAKE);
        let entries = read(&path).expect("reads");
        let replay = replay(&entries, &pages(), scaling(Some(0.5), 1e9), 1, |_| true).expect("replays");
        assert_eq!((replay.bytes_per_token, replay.shortened), (1.5, 0));
        let [first, second] = &replay.texts[..] else {
            panic!("two requests")
        };
        // A cut never splits a character, so it may be a byte short.
        assert!(
            (1_495..=1_500).contains(&second.prompt.len()),
            "{}",
            second.prompt.len()
        );
        assert!((75..=78).contains(&second.reply.len()));
        // The first block is 768 bytes of both, or one less.
        let [first, second] = [first, second].map(|text| text.prompt.as_bytes());
        assert_eq!(first[..767], second[..767]);
        assert_ne!(first[768..], second[768..first.len()]);
    }

    #[test]
    fn what_does_not_fit_is_shortened_and_counted() {
        let (_folder, path) = file(AZURE);
        let entries = read(&path).expect("reads");
        let fits = |text: &Text| text.prompt.len() + text.reply.len() <= 600;
        let by_scale = replay(&entries, &pages(), scaling(None, 600.0), 1, fits).expect("replays");
        assert!(by_scale.bytes_per_token < 1.5 && by_scale.texts.iter().all(fits));
        let by_force = replay(&entries, &pages(), scaling(Some(1.0), 600.0), 1, fits).expect("replays");
        assert!(by_force.texts.iter().all(fits) && by_force.shortened == 2);
        assert!(replay(&entries, &pages(), scaling(None, 600.0), 1, |_| false).is_err());
    }

    #[test]
    fn lengths_and_speeds_beyond_all_measure_are_cut_down_or_refused() {
        let entry = |at, tokens| Entry {
            at,
            prompt_tokens: tokens,
            reply_tokens: tokens,
            blocks: vec![7; 3],
        };
        let fits = |text: &Text| text.prompt.len() + text.reply.len() <= 600;
        let most = f64::from(u32::MAX);
        let with = |entries: &[Entry], scaling| replay(entries, &pages(), scaling, 1, fits);
        // Twelve gigabytes of prompt and as many of reply, if they were made.
        let cut = with(&[entry(0.0, most)], scaling(Some(1.0), 600.0)).expect("is cut down");
        assert!(cut.shortened == 1 && fits(&cut.texts[0]));
        assert!(with(&[entry(0.0, 0.0)], scaling(None, 600.0)).is_ok_and(|replay| fits(&replay.texts[0])));
        let error = |entries: &[Entry], scaling| with(entries, scaling).expect_err("beyond all measure").to_string();
        assert!(error(&[], scaling(None, 600.0)).contains("no requests"));
        let slow = Scaling {
            speed: 1e-300,
            ..scaling(None, 600.0)
        };
        assert!(error(&[entry(0.0, 9.0), entry(1.0, 9.0)], slow).contains("--trace-speed"));
        let many = vec![entry(0.0, most); 300_000];
        assert!(error(&many, scaling(Some(1.0), 600.0)).contains("--trace-scale"));
        assert!(error(&[entry(0.0, 9.0)], scaling(Some(f64::MAX), f64::MAX)).contains("--trace-scale"));
    }

    #[test]
    fn a_character_longer_than_what_is_left_is_no_underflow() {
        let source = "\u{10348}".repeat(50);
        for bytes in 1..40 {
            assert!(!prompt(&source, 5, &[1, 2, 3], bytes, 9.0).is_empty());
        }
    }
}
