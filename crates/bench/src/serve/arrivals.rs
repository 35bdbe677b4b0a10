//! When requests are sent.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, Gamma};

use crate::error::BenchError;

/// When requests are sent.
#[derive(Debug, Clone, PartialEq)]
pub enum Schedule {
    /// Each at its time, in seconds since the run began, whatever became of the others.
    At(Vec<f64>),
    /// So many clients, each with its next request when its last has ended, for so many seconds.
    Closed {
        /// Requests in flight at any time.
        clients: usize,
        /// How long new ones are sent.
        seconds: f64,
    },
}

/// Times of requests that come at `rate` a second on average, for `seconds`. The gaps between them are gamma
/// distributed with the shape `burstiness`: exponential for 1, which makes a Poisson process; below 1 requests come in
/// bursts, with a squared coefficient of variation of 1 / `burstiness`. The first gap stands before the first request. There
/// is at least one request.
///
/// # Errors
///
/// [`BenchError::Input`] where there would be more than ten million requests.
pub fn open(rate: f64, burstiness: f64, seconds: f64, seed: u64) -> Result<Schedule, BenchError> {
    let expected = rate * seconds;
    if expected > 1e7 {
        return Err(BenchError::Input(format!(
            "{rate} requests a second for {seconds} s are {expected:.0} requests; at most 10,000,000 in a run"
        )));
    }
    let gaps = Gamma::new(burstiness, 1.0 / (rate * burstiness))
        .map_err(|error| BenchError::Input(format!("burstiness {burstiness} and rate {rate}: {error}")))?;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut times = Vec::new();
    let mut now = gaps.sample(&mut rng);
    while now < seconds {
        times.push(now);
        now += gaps.sample(&mut rng);
    }
    if times.is_empty() {
        times.push(0.0);
    }
    Ok(Schedule::At(times))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::mean;

    fn gaps(rate: f64, burstiness: f64) -> Vec<f64> {
        let Ok(Schedule::At(times)) = open(rate, burstiness, 2_000.0, 7) else {
            panic!("a schedule")
        };
        assert!(times.windows(2).all(|pair| pair[0] <= pair[1]));
        times.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }

    #[test]
    fn gaps_have_the_mean_and_the_spread_that_were_asked_for() {
        for (rate, burstiness) in [(10.0, 1.0), (10.0, 0.25), (3.0, 4.0)] {
            let gaps = gaps(rate, burstiness);
            let average = mean(&gaps);
            let variance = mean(&gaps.iter().map(|gap| (gap - average).powi(2)).collect::<Vec<_>>());
            assert!((average * rate - 1.0).abs() < 0.05, "{rate} {burstiness}: {average}");
            let spread = variance / average.powi(2) * burstiness;
            assert!((spread - 1.0).abs() < 0.12, "{rate} {burstiness}: {spread}");
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_times() {
        assert_eq!(open(5.0, 1.0, 10.0, 3).ok(), open(5.0, 1.0, 10.0, 3).ok());
        assert_ne!(open(5.0, 1.0, 10.0, 3).ok(), open(5.0, 1.0, 10.0, 4).ok());
        assert_eq!(open(1e-9, 1.0, 1.0, 3).ok(), Some(Schedule::At(vec![0.0])));
        assert!(open(1e6, 1.0, 100.0, 3).is_err());
    }
}
