//! An engine through a round, out of its states.

use crate::serve::target::State;

/// An engine through a round.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct EngineRound {
    pub(super) documents_peak: f64,
    pub(super) documents_mean: f64,
    pub(super) waiting_peak: f64,
    pub(super) preemptions: f64,
    pub(super) reserved: f64,
    pub(super) mapped_peak: f64,
    pub(super) mapped_mean: f64,
    pub(super) used_peak: f64,
    pub(super) used_mean: f64,
}

impl EngineRound {
    pub(super) fn of(states: &[(f64, State)]) -> Option<Self> {
        let (_, last) = states.last()?;
        let peak = |of: fn(&State) -> usize| states.iter().map(|(_, state)| of(state)).max().unwrap_or(0) as f64;
        // A state lasts until the next one.
        let average = |of: fn(&State) -> usize| {
            let (mut sum, mut time) = (0.0, 0.0);
            for pair in states.windows(2) {
                let lasts = pair[1].0 - pair[0].0;
                sum += lasts * of(&pair[0].1) as f64;
                time += lasts;
            }
            if time > 0.0 { sum / time } else { of(last) as f64 }
        };
        Some(Self {
            documents_peak: peak(|state| state.running),
            documents_mean: average(|state| state.running),
            waiting_peak: peak(|state| state.waiting),
            preemptions: last.preemptions as f64,
            reserved: peak(|state| state.memory.reserved_bytes),
            mapped_peak: peak(|state| state.memory.physical_bytes),
            mapped_mean: average(|state| state.memory.physical_bytes),
            used_peak: peak(|state| state.memory.used_bytes),
            used_mean: average(|state| state.memory.used_bytes),
        })
    }
}
