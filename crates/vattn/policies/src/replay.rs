//! A serving engine with continuous batching, reduced to what its memory policy sees.

use std::collections::VecDeque;

use crate::{Account, Policy, Request, Shape, Slot, Trace};

/// The engine's clock.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Engine {
    /// Seconds that a step takes: one token for every running sequence, and the prompts of the new ones.
    pub step_seconds: f64,
    /// Seconds between two samples of the series.
    pub sample_seconds: f64,
    /// Seconds that the engine stays up after the last request.
    pub idle_seconds: f64,
}

impl Default for Engine {
    /// 25 ms a step, a sample each second, ten idle seconds at the end.
    fn default() -> Self {
        Self {
            step_seconds: 0.025,
            sample_seconds: 1.0,
            idle_seconds: 10.0,
        }
    }
}

/// The books at one time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// Seconds since the start.
    pub seconds: f64,
    /// Sequences running.
    pub live: usize,
    /// Bytes of their rows.
    pub used_bytes: usize,
    /// Bytes held of the device.
    pub held_bytes: usize,
    /// Bytes that belong to running sequences.
    pub assigned_bytes: usize,
}

/// What a replay found. Means are over time.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The policy.
    pub policy: String,
    /// Tokens whose rows were made, prompts included; rows made again after a preemption count again.
    pub tokens: usize,
    /// Steps.
    pub steps: usize,
    /// Sequences that were stopped for want of memory and begun again.
    pub preemptions: usize,
    /// Requests that no empty cache could have taken.
    pub refused: usize,
    /// Seconds until the last request was done.
    pub makespan: f64,
    /// Mean seconds that a request waited to be admitted.
    pub mean_wait: f64,
    /// Mean of sequences running.
    pub mean_live: f64,
    /// Mean of bytes held.
    pub mean_held: f64,
    /// Most bytes held.
    pub peak_held: usize,
    /// Bytes held at the end, after the idle time.
    pub idle_held: usize,
    /// Mean of bytes of rows.
    pub mean_used: f64,
    /// Mean of what a running sequence has beyond its rows, in bytes.
    pub waste_per_sequence: f64,
    /// The books at the end.
    pub account: Account,
    /// The books over time.
    pub series: Vec<Sample>,
}

impl Outcome {
    /// Share of the memory held that is not rows, over time.
    #[must_use]
    pub fn waste(&self) -> f64 {
        1.0 - self.mean_used / self.mean_held.max(1.0)
    }

    /// `count` for each token.
    #[must_use]
    pub fn per_token(&self, count: u64) -> f64 {
        count as f64 / self.tokens.max(1) as f64
    }
}

/// A policy that broke its promise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// Rows of a step have no memory.
    #[error("{policy}: slot {slot} has memory for {backed} tokens and {len} rows")]
    NotBacked {
        /// The policy.
        policy: String,
        /// The slot.
        slot: Slot,
        /// Tokens that have memory.
        backed: usize,
        /// Rows of the sequence.
        len: usize,
    },
    /// The books do not add up.
    #[error("{policy}: {used} bytes of rows, {assigned} assigned, {held} held of {budget}")]
    Books {
        /// The policy.
        policy: String,
        /// Bytes of rows.
        used: usize,
        /// Bytes that belong to running sequences.
        assigned: usize,
        /// Bytes held.
        held: usize,
        /// Bytes that may be held.
        budget: usize,
    },
    /// A sequence alone in the cache cannot grow.
    #[error("{policy}: one sequence of {len} rows does not fit")]
    Stuck {
        /// The policy.
        policy: String,
        /// Its length.
        len: usize,
    },
}

#[derive(Debug, Clone, Copy)]
struct Running {
    slot: Slot,
    request: Request,
    /// Rows that exist.
    len: usize,
}

/// Serves all requests of `trace`, first come first served, and keeps the time. After every step it checks that the
/// rows of all running sequences have memory and that the books add up. O(steps * live sequences).
///
/// When memory runs out in the middle, the sequence that was admitted last is freed and its request goes back to the
/// head of the queue, to be computed again.
///
/// # Errors
///
/// [`ReplayError`]: the policy is wrong, or has no room for a single sequence.
pub fn replay(policy: &mut dyn Policy, shape: &Shape, trace: &Trace, engine: &Engine) -> Result<Outcome, ReplayError> {
    let mut arrivals = trace.requests.iter().copied().peekable();
    let mut queue: VecDeque<Request> = VecDeque::new();
    let mut running: Vec<Running> = Vec::new();
    let mut clock = 0.0;
    let mut means = Means::default();
    let mut out = Outcome {
        policy: policy.name(),
        tokens: 0,
        steps: 0,
        preemptions: 0,
        refused: 0,
        makespan: 0.0,
        mean_wait: 0.0,
        mean_live: 0.0,
        mean_held: 0.0,
        peak_held: 0,
        idle_held: 0,
        mean_used: 0.0,
        waste_per_sequence: 0.0,
        account: Account::default(),
        series: Vec::new(),
    };
    let mut waited = 0.0;
    let mut idle_until = f64::INFINITY;
    loop {
        while let Some(request) = arrivals.next_if(|request| request.arrival <= clock) {
            queue.push_back(request);
        }
        while let Some(&request) = queue.front() {
            let Some(slot) = policy.admit(request.context) else {
                if !running.is_empty() {
                    break;
                }
                // Nothing runs, so nothing will make room.
                out.refused += 1;
                queue.pop_front();
                continue;
            };
            queue.pop_front();
            waited += clock - request.arrival;
            running.push(Running { slot, request, len: 0 });
        }

        // A new sequence gets the rows of its prompt, the others one more.
        let next_len = |sequence: &Running| (sequence.len + 1).max(sequence.request.context);
        loop {
            let batch: Vec<_> = running.iter().map(|s| (s.slot, next_len(s))).collect();
            if policy.step(&batch).is_ok() {
                break;
            }
            let Some(last) = running.pop().filter(|_| !running.is_empty()) else {
                let len = batch.first().map_or(0, |&(_, len)| len);
                return Err(ReplayError::Stuck {
                    policy: out.policy,
                    len,
                });
            };
            policy.free(last.slot);
            out.preemptions += 1;
            let done = last.len.saturating_sub(last.request.context);
            queue.push_front(Request {
                context: last.request.context + done,
                generated: last.request.generated - done,
                arrival: last.request.arrival,
            });
        }
        for sequence in &mut running {
            let len = next_len(sequence);
            out.tokens += len - sequence.len;
            sequence.len = len;
            let backed = policy.backed_tokens(sequence.slot);
            if backed < len {
                return Err(ReplayError::NotBacked {
                    policy: out.policy,
                    slot: sequence.slot,
                    backed,
                    len,
                });
            }
        }
        out.steps += usize::from(!running.is_empty());
        policy.background();

        let used = running.iter().map(|s| shape.used_bytes(s.len)).sum();
        let account = policy.account();
        let (assigned, held, budget) = (account.assigned_bytes, account.held_bytes, shape.budget_bytes);
        if used > assigned || assigned > held || held > budget + account.table_bytes.max(2 << 20) {
            return Err(ReplayError::Books {
                policy: out.policy,
                used,
                assigned,
                held,
                budget,
            });
        }
        out.peak_held = out.peak_held.max(held);
        let sample = Sample {
            seconds: clock,
            live: running.len(),
            used_bytes: used,
            held_bytes: held,
            assigned_bytes: assigned,
        };
        if out
            .series
            .last()
            .is_none_or(|last| last.seconds + engine.sample_seconds <= clock)
        {
            out.series.push(sample);
        }
        means.add(&sample, engine.step_seconds);
        clock += engine.step_seconds;

        running.retain(|sequence| {
            let done = sequence.len >= sequence.request.rows();
            if done {
                policy.free(sequence.slot);
            }
            !done
        });
        if running.is_empty() && queue.is_empty() && arrivals.peek().is_none() {
            if idle_until.is_infinite() {
                out.makespan = clock;
                idle_until = clock + engine.idle_seconds;
                means.finish(&mut out);
            }
            if clock >= idle_until {
                break;
            }
        }
    }
    out.mean_wait = waited / trace.requests.len().max(1) as f64;
    out.account = policy.account();
    out.idle_held = out.account.held_bytes;
    Ok(out)
}

/// Sums over time.
#[derive(Debug, Default)]
struct Means {
    seconds: f64,
    live: f64,
    held: f64,
    used: f64,
    surplus: f64,
}

impl Means {
    fn add(&mut self, sample: &Sample, seconds: f64) {
        self.seconds += seconds;
        self.live += sample.live as f64 * seconds;
        self.held += sample.held_bytes as f64 * seconds;
        self.used += sample.used_bytes as f64 * seconds;
        self.surplus += (sample.assigned_bytes - sample.used_bytes) as f64 * seconds;
    }

    fn finish(&self, out: &mut Outcome) {
        out.mean_live = self.live / self.seconds;
        out.mean_held = self.held / self.seconds;
        out.mean_used = self.used / self.seconds;
        out.waste_per_sequence = self.surplus / self.live.max(f64::MIN_POSITIVE);
    }
}
