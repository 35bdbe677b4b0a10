//! A limit on a change, as the command line has it.

/// A limit on a change.
#[derive(Debug, Clone, PartialEq)]
pub struct Gate {
    /// Of which quantity.
    pub metric: String,
    /// In per cent: from 0 on, the most it may rise; below, the most it may fall.
    pub percent: f64,
}

impl Gate {
    /// Reads `NAME=+2%` or `NAME=-5%`.
    ///
    /// # Errors
    ///
    /// What is wrong with it, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no gate like kv_peak_bytes=+2% or bytes_per_second=-5%");
        let (metric, limit) = text.split_once('=').ok_or_else(wrong)?;
        let percent = limit
            .strip_suffix('%')
            .filter(|limit| limit.starts_with(['+', '-']))
            .ok_or_else(wrong)?;
        let percent: f64 = percent.parse().map_err(|_| wrong())?;
        if metric.is_empty() || !percent.is_finite() {
            return Err(wrong());
        }
        // The sign of -0% counts: nothing may fall.
        Ok(Self {
            metric: metric.to_owned(),
            percent,
        })
    }

    /// `None` is a rise from 0, which is more than any limit.
    pub(super) fn is_broken_by(&self, change: Option<f64>) -> bool {
        if self.percent.is_sign_negative() {
            change.is_some_and(|change| change < self.percent)
        } else {
            change.is_none_or(|change| change > self.percent)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_have_a_sign_and_a_percent_sign() {
        assert_eq!(Gate::parse("a=+2%").map(|gate| gate.percent), Ok(2.0));
        assert_eq!(Gate::parse("a=-0.5%").map(|gate| gate.percent), Ok(-0.5));
        for text in ["a", "a=2%", "a=+2", "=+2%", "a=+x%", "a=+inf%"] {
            assert!(Gate::parse(text).is_err(), "{text}");
        }
    }
}
