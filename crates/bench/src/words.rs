//! Numbers for people: the same words in tables, pages and figures.

use crate::report::{Change, Figure};

/// Bytes to MiB.
pub(crate) const PER_MIB: f64 = 1.0 / (1 << 20) as f64;

/// A number with `digits` decimals and thousands separated by commas.
pub(crate) fn number(value: f64, digits: usize) -> String {
    let text = format!("{:.digits$}", value.abs());
    let (whole, rest) = text.find('.').map_or((text.as_str(), ""), |dot| text.split_at(dot));
    let mut grouped = String::new();
    for (i, digit) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    let zero = text.chars().all(|c| matches!(c, '0' | '.'));
    format!("{}{grouped}{rest}", if value < 0.0 && !zero { "-" } else { "" })
}

/// A change in per cent with its sign.
pub(crate) fn signed_percent(value: f64) -> String {
    let text = number(value, 1);
    if value > 0.0 && text != "0.0" {
        format!("+{text}%")
    } else {
        format!("{text}%")
    }
}

/// ` [11.0, 13.6]`, or nothing for a figure without an interval.
pub(crate) fn interval(figure: &Figure, digits: usize) -> String {
    figure.ci95.map_or_else(String::new, |i| {
        format!(" [{}, {}]", number(i.low, digits), number(i.high, digits))
    })
}

/// `12.3 [11.0, 13.6]`.
pub(crate) fn with_interval(figure: &Figure, digits: usize) -> String {
    format!("{}{}", number(figure.value, digits), interval(figure, digits))
}

/// `+12.3% [11.0, 13.6]`.
pub(crate) fn percent(figure: &Figure) -> String {
    format!("{}{}", signed_percent(figure.value), interval(figure, 1))
}

/// `+12.3% [11.0, 13.6]  better`.
pub(crate) fn judged(change: &Change) -> String {
    format!("{}  {}", percent(&change.figure), change.verdict.words())
}

/// `-` where there is nothing to show.
pub(crate) fn or_dash<T>(value: Option<T>, show: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| "-".to_owned(), show)
}

/// What was run: texts with the bytes of all prompts and all replies.
pub(crate) fn workload(texts: usize, [prompt, reply]: [usize; 2], batch: usize, rounds: usize) -> String {
    format!(
        "{texts} texts, {} bytes of prompt and {} of reply, batches of {batch}, {rounds} rounds",
        number(prompt as f64, 0),
        number(reply as f64, 0)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Unit;
    use crate::stats::{Interval, Wanted};

    #[test]
    fn numbers_for_people() {
        assert_eq!(number(1_234_567.0, 0), "1,234,567");
        assert_eq!(number(-1_234.56, 1), "-1,234.6");
        assert_eq!(number(999.0, 0), "999");
        assert_eq!(number(-0.01, 1), "0.0");
        assert_eq!(signed_percent(12.34), "+12.3%");
        assert_eq!(signed_percent(-12.34), "-12.3%");
        assert_eq!(signed_percent(0.01), "0.0%");
    }

    #[test]
    fn changes_in_words() {
        let interval = Some(Interval { low: 11.0, high: 13.64 });
        let change = |interval| Change::percent(12.34, interval, 9, Wanted::Higher);
        assert_eq!(judged(&change(interval)), "+12.3% [11.0, 13.6]  better");
        assert_eq!(judged(&change(None)), "+12.3%  not judged");
        assert_eq!(with_interval(&Figure::measured(1.25, Unit::BitsPerByte), 2), "1.25");
        assert_eq!(or_dash(None::<f64>, |value| number(value, 1)), "-");
    }
}
