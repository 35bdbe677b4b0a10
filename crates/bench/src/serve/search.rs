//! The highest rate an arm keeps up with, by bisection.

/// Ratio of a rate that failed to one that passed at which the search ends.
const CLOSE: f64 = 1.08;
/// Most probes of a search.
const MOST_PROBES: usize = 12;

/// A search: ask for [`rate`](Self::rate), try it, [`tell`](Self::tell).
#[derive(Debug, Clone)]
pub struct Search {
    next: f64,
    passed: Option<f64>,
    failed: Option<f64>,
    probes: usize,
}

impl Search {
    /// A search that begins at a rate.
    pub fn from(start: f64) -> Self {
        Self {
            next: start,
            passed: None,
            failed: None,
            probes: 0,
        }
    }

    /// The rate to try next; `None` when it has been found, or after 12 probes.
    pub fn rate(&self) -> Option<f64> {
        (!self.is_found() && self.probes < MOST_PROBES).then_some(self.next)
    }

    /// Whether the rate passed. Rates double or halve until one passes and one fails, then the geometric mean is tried.
    pub fn tell(&mut self, passed: bool) {
        self.probes += 1;
        match passed {
            true => self.passed = Some(self.next),
            false => self.failed = Some(self.next),
        }
        self.next = match (self.passed, self.failed) {
            (Some(low), Some(high)) => (low * high).sqrt(),
            (Some(low), None) => 2.0 * low,
            (None, _) => self.next / 2.0,
        };
    }

    /// Whether it ended before it had found the rate.
    pub fn was_given_up(&self) -> bool {
        self.rate().is_none() && !self.is_found()
    }

    fn is_found(&self) -> bool {
        self.passed
            .zip(self.failed)
            .is_some_and(|(low, high)| high <= low * CLOSE)
    }

    /// The highest rate that passed, 0 if none has.
    pub fn passed(&self) -> f64 {
        self.passed.unwrap_or(0.0)
    }

    /// The lowest rate above it that failed, if one has.
    pub fn failed(&self) -> Option<f64> {
        self.failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(start: f64, limit: f64) -> Search {
        let mut search = Search::from(start);
        while let Some(rate) = search.rate() {
            search.tell(rate <= limit);
        }
        search
    }

    #[test]
    fn the_limit_lies_between_what_passed_and_what_failed() {
        for (start, limit) in [(10.0, 37.0), (10.0, 3.3), (10.0, 10.0), (1.0, 100.0)] {
            let found = search(start, limit);
            let high = found.failed().expect("a rate fails");
            assert!(found.passed() <= limit && high > limit, "{found:?}");
            assert!(high / found.passed() <= CLOSE, "{found:?}");
            assert!(found.probes <= MOST_PROBES && !found.was_given_up());
        }
    }

    #[test]
    fn a_search_without_an_end_stops() {
        assert_eq!(search(10.0, 0.0).passed(), 0.0);
        let never = search(10.0, f64::INFINITY);
        assert_eq!((never.failed(), never.probes), (None, MOST_PROBES));
        assert!(never.was_given_up() && !Search::from(10.0).was_given_up());
    }
}
