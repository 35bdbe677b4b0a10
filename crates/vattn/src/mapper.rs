//! The mapper thread: memory is mapped before a step needs it, and wiped, made huge and given back behind its back.
//!
//! There is one thread for a cache, and it sleeps on a condition variable while there is nothing to do. A step that brings a
//! sequence near the end of its memory leaves an [`Ask`] on the [`Desk`]; a sequence that ends leaves its slot on the
//! draining list. The thread takes one [`Job`] at a time: it takes the body of one slot out of the state, works on it
//! without the lock, and puts it back. Asks come first, then fences, wiping, memory kept ready, large pages, and what has
//! been idle for long.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::{Backend, Frame};
use crate::error::{BackendError, Error, Result};
use crate::shared::{Locked, Shared};
use crate::space::{Body, Space, Spares};
use crate::sync::{self, JoinHandle};
use crate::trace::span;

/// Most steps for which memory is mapped ahead.
const MOST_STEPS: u64 = 64;
/// How long the thread waits before it looks again at what waits for the device.
const POLL: Duration = Duration::from_millis(1);
/// Longest time that it sleeps while there is something to trim: clocks cannot count to the end of time.
const MOST_SLEEP: Duration = Duration::from_secs(3600);
/// Longest time between two tries of what the backend refuses.
const MOST_PATIENCE: Duration = Duration::from_millis(100);

/// A sequence is near the end of its memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ask {
    /// Its length.
    pub(crate) tokens: usize,
    /// When it was asked for.
    pub(crate) at: Duration,
}

/// What the cache and the mapper thread tell each other.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    /// Whether there is a thread.
    pub(crate) running: bool,
    /// Whether it should end.
    stop: bool,
    /// Whether it has panicked.
    pub(crate) dead: bool,
    /// Whether something has changed since it last looked.
    work: bool,
    /// Whether it sleeps.
    asleep: bool,
    /// Whether it has a job in its hands.
    pub(crate) busy: bool,
    /// Whether it may take no other one.
    pub(crate) hold: bool,
    /// Slots with an ask, the first to be served first.
    pub(crate) asked: VecDeque<usize>,
    /// Whether an ask was turned down for want of room.
    starved: bool,
    /// Whether warm slots are being filled up.
    filling: bool,
    /// Frames of each region with which sequences begin, on average.
    pub(crate) typical: Option<usize>,
    /// When the cache last asked for something.
    last_use: Duration,
    /// Whether everything idle was given back since.
    pub(crate) trimmed: bool,
    /// How long to wait after a refusal, and until when.
    patience: Duration,
    patient_until: Duration,
    pub(crate) pacing: Pacing,
    /// The last refusal that nobody was told of.
    pub(crate) refusal: Option<BackendError>,
}

/// How long steps take, and how long mapping does.
#[derive(Debug, Default)]
pub(crate) struct Pacing {
    last: Option<(u64, Duration)>,
    step: Duration,
    /// From an ask to the memory: a maximum that fades, in the place of a high quantile.
    latency: Duration,
}

impl Pacing {
    /// Notes that `steps` steps were planned up to `now`.
    pub(crate) fn saw_step(&mut self, steps: u64, now: Duration) {
        if let Some((before, then)) = self.last
            && steps > before
        {
            let sample = (now - then).div_f64((steps - before) as f64);
            // Careful at once, careless slowly: a pause must not look like slow steps.
            self.step = match sample < self.step || self.step.is_zero() {
                true => (self.step + sample) / 2,
                false => self.step + (sample.min(2 * self.step) - self.step) / 8,
            };
        }
        self.last = Some((steps, now));
    }

    pub(crate) fn saw_latency(&mut self, sample: Duration) {
        self.latency = sample.max(self.latency - self.latency / 64);
    }

    /// Steps for which memory should be there beforehand: those that pass while it is mapped, twice.
    pub(crate) fn steps_ahead(&self) -> usize {
        if self.step.is_zero() {
            return 1;
        }
        let steps = (2 * self.latency).as_nanos().div_ceil(self.step.as_nanos());
        steps.clamp(1, u128::from(MOST_STEPS)) as usize
    }
}

/// What the mapper thread does with a body.
#[derive(Debug)]
enum Task {
    /// Gives all regions `target` frames, because a sequence asked at that time or to have them ready.
    Extend { target: usize, asked: Option<Duration> },
    /// Takes what is beyond `keep`.
    GiveBack { keep: usize },
    /// Sets everything to zero.
    Wipe,
    /// Puts large pages behind the frames from `from` on.
    Collapse { region: usize, from: usize },
}

/// A piece of work, with everything that it needs.
#[derive(Debug)]
struct Job {
    slot: usize,
    body: Body,
    task: Task,
    spares: Spares,
    /// Frames that may be created.
    promised: usize,
    /// Regions that were extended or shortened.
    regions: usize,
    /// Frames that were taken out.
    out: Vec<Frame>,
    /// Whether all of it was done.
    complete: bool,
    refusal: Option<BackendError>,
}

impl Job {
    fn new(slot: usize, body: Body, task: Task) -> Self {
        Self {
            slot,
            body,
            task,
            spares: Spares::default(),
            promised: 0,
            regions: 0,
            out: Vec::new(),
            complete: false,
            refusal: None,
        }
    }

    /// Does the work, without the lock.
    fn run<B: Backend>(&mut self, space: &Space<B>) {
        let (slot, body) = (self.slot, &mut self.body);
        span!("background", slot = slot, task = ?self.task);
        let outcome = match self.task {
            Task::Extend { target, .. } => {
                let huge = space.huge_frames().is_some_and(|frames| target >= frames);
                self.regions = body.regions.iter().filter(|region| region.usable() < target).count();
                space.extend(slot, body, target, &mut self.spares, huge)
            }
            Task::GiveBack { keep } => {
                self.regions = body.regions.iter().filter(|region| region.frames.len() > keep).count();
                space.shorten(slot, body, keep, &mut self.out)
            }
            Task::Wipe => space.wipe(slot, body),
            Task::Collapse { region, from } => {
                let frames = space.huge_frames().unwrap_or_default();
                let address = space.address(slot, region, from);
                // Tried once, whether it worked or not.
                space.backend.collapse(address, frames);
                body.regions[region].huge = from + frames;
                Ok(())
            }
        };
        self.complete = outcome.is_ok();
        self.refusal = outcome.err();
    }
}

/// The thread, for its owner.
#[derive(Debug)]
pub(crate) struct Mapper<B: Backend> {
    shared: Arc<Shared<B>>,
    thread: Option<JoinHandle<()>>,
}

impl<B: Backend> Mapper<B> {
    /// Starts the thread.
    pub(crate) fn start(shared: &Arc<Shared<B>>) -> Result<Self> {
        shared.lock().desk.running = true;
        let theirs = Arc::clone(shared);
        let thread = sync::spawn("vattn-mapper", move || work(&theirs)).map_err(|error| {
            let hint = "raise the limit of threads (ulimit -u), or make the cache without a mapper thread";
            Error::from(BackendError::new("thread", 0, hint, error))
        })?;
        Ok(Self {
            shared: Arc::clone(shared),
            thread: Some(thread),
        })
    }
}

impl<B: Backend> Drop for Mapper<B> {
    /// Waits until the thread has ended. It finishes the job that it has in its hands.
    fn drop(&mut self) {
        let mut locked = self.shared.lock();
        locked.desk.stop = true;
        locked.call_mapper();
        drop(locked);
        let ended = self.thread.take().map_or(Ok(()), JoinHandle::join);
        self.shared.lock().desk.running = false;
        if let Err(panic) = ended
            && !std::thread::panicking()
        {
            // Only a backend panics there, and a defect of it must not go unseen.
            std::panic::resume_unwind(panic);
        }
    }
}

/// What the thread does.
fn work<B: Backend>(shared: &Shared<B>) {
    let _guard = Guard(shared);
    let mut locked = shared.lock();
    while !locked.desk.stop {
        let job = locked.next_job();
        locked.limit_pool();
        if let Some(mut job) = job {
            locked.desk.busy = true;
            drop(locked);
            job.run(&shared.space);
            locked = shared.lock();
            locked.finish(job);
        } else if !locked.desk.hold && !locked.is_patient() && locked.ledger.has_excess() {
            locked.desk.busy = true;
        } else {
            locked.rest();
            continue;
        }
        let mut frames = locked.ledger.excess();
        if !frames.is_empty() {
            drop(locked);
            let count = frames.len();
            let outcome = shared.space.backend.destroy(&mut frames);
            locked = shared.lock();
            locked.ledger.destroyed(count, frames);
            locked.saw(outcome.err());
        }
        locked.desk.busy = false;
        locked.announce();
    }
}

/// Tells those who wait for the thread when it panics.
struct Guard<'a, B: Backend>(&'a Shared<B>);

impl<B: Backend> Drop for Guard<'_, B> {
    fn drop(&mut self) {
        let mut locked = self.0.lock();
        locked.desk.running = false;
        locked.desk.dead |= std::thread::panicking();
        locked.announce();
    }
}

/// The side of the cache.
impl<B: Backend> Locked<'_, B> {
    /// Tells the mapper thread, if there is one, that there may be something to do.
    pub(crate) fn call_mapper(&mut self) {
        if self.desk.running {
            self.desk.work = true;
            if std::mem::take(&mut self.desk.asleep) {
                self.wake_mapper();
            }
        }
    }

    /// As `call_mapper`, by somebody who needs memory: what was given back because nothing happened may be kept again.
    pub(crate) fn call_mapper_in_use(&mut self, now: Duration) {
        self.desk.last_use = now;
        self.desk.trimmed = false;
        self.call_mapper();
    }

    /// Asks for memory for a sequence of `tokens` tokens that has just grown by `growth`.
    pub(crate) fn ask(&mut self, slot: usize, tokens: usize, growth: usize, now: Duration) {
        let geometry = self.space().geometry;
        let holding = &mut self.holdings[slot];
        // A step of more than a frame is a prompt, and says nothing of the steps to come.
        if growth * geometry.stride_bytes() <= geometry.frame_bytes() {
            holding.pace = growth.max(1);
        }
        holding.keep = geometry.region_frames(tokens);
        if holding.ask.replace(Ask { tokens, at: now }).is_none() {
            self.desk.asked.push_back(slot);
        }
        self.mute(slot);
    }

    /// Forgets what was asked for.
    pub(crate) fn forget_asks(&mut self) {
        self.desk.asked.clear();
        self.holdings.iter_mut().for_each(|holding| holding.ask = None);
    }

    /// Tokens that a sequence should have memory for beyond its length.
    pub(crate) fn tokens_ahead(&self, slot: usize) -> usize {
        self.desk.pacing.steps_ahead() * self.holdings[slot].pace
    }

    /// Waits until the mapper thread has nothing in its hands.
    pub(crate) fn quiet(&mut self) {
        while self.desk.busy && !self.desk.dead {
            self.hold();
            self.wait();
        }
    }

    /// Waits until the mapper thread has done all that it can do now.
    pub(crate) fn idle(&mut self) {
        while self.desk.running && (self.desk.busy || self.desk.work || !self.desk.asleep) {
            self.wait();
        }
    }
}

/// The side of the mapper thread.
impl<B: Backend> Locked<'_, B> {
    fn next_job(&mut self) -> Option<Job> {
        if self.desk.hold {
            return None;
        }
        let ask = self.next_ask();
        if ask.is_some() {
            return ask;
        }
        if self.is_patient() {
            return None;
        }
        self.desk.trimmed |= sync::now().saturating_sub(self.desk.last_use) >= self.config.trim_after;
        self.next_give_back()
            .or_else(|| self.next_wipe())
            .or_else(|| self.next_idle())
            .or_else(|| self.next_fill())
            .or_else(|| self.next_collapse())
    }

    /// Whether something was refused a short while ago.
    fn is_patient(&self) -> bool {
        sync::now() < self.desk.patient_until
    }

    /// Memory for the first sequence that asked.
    fn next_ask(&mut self) -> Option<Job> {
        let regions = self.space().geometry.regions_per_sequence();
        if self.desk.starved && self.ledger.room() >= regions && !self.is_patient() {
            // Those who were turned down may ask again.
            self.desk.starved = false;
            (0..self.holdings.len()).for_each(|slot| self.publish(slot));
        }
        while let Some(slot) = self.desk.asked.pop_front() {
            let Some(ask) = self.holdings[slot].ask.take() else {
                continue;
            };
            // A body that is away is the cache's now, which will publish what it has become.
            let Some(body) = self.holdings[slot].body.take() else {
                continue;
            };
            let geometry = self.space().geometry;
            let tokens = geometry.max_tokens().min(ask.tokens + self.tokens_ahead(slot));
            let exact = geometry.region_frames(tokens);
            let generous = self.generous(exact);
            let next = (body.covered() + 1).min(exact);
            let room = self.ledger.room();
            let mut targets = [generous, exact, next].into_iter();
            let target = targets.find(|&target| body.lacking(target) <= room);
            let wanted = !self.holdings[slot].draining && body.covered() < exact;
            match target {
                Some(target) if wanted => return Some(self.extend_job(slot, body, target, Some(ask.at))),
                _ => {
                    self.put(slot, body);
                    if wanted {
                        self.turn_down(slot);
                    }
                }
            }
        }
        None
    }

    /// A sequence that cannot be served waits for room instead of asking in every step.
    fn turn_down(&mut self, slot: usize) {
        self.mute(slot);
        self.desk.starved = true;
    }

    fn extend_job(&mut self, slot: usize, body: Body, target: usize, asked: Option<Duration>) -> Job {
        let lacking = body.lacking(target);
        let spares = self.ledger.take(lacking);
        let promised = lacking - spares.frames.len();
        self.ledger.promised += promised;
        Job {
            spares,
            promised,
            ..Job::new(slot, body, Task::Extend { target, asked })
        }
    }

    /// A slot whose memory waited for the device or for the backend.
    fn next_give_back(&mut self) -> Option<Job> {
        for slot in self.draining.clone() {
            if self.fence_pending(slot) {
                continue;
            }
            let Some(mut body) = self.holdings[slot].body.take() else {
                continue;
            };
            let keep = self.holdings[slot].keep;
            if body.surplus(keep) == 0 || self.stays_warm(slot, &mut body) {
                self.put(slot, body);
                self.gave_back(slot, true);
                continue;
            }
            return Some(Job::new(slot, body, Task::GiveBack { keep }));
        }
        None
    }

    /// A slot without a sequence that has rows of an earlier one.
    fn next_wipe(&mut self) -> Option<Job> {
        let dirty = |body: &Body| !body.wiped && !body.is_shared();
        let slot = self.find_idle(dirty)?;
        let body = self.holdings[slot].body.take()?;
        Some(Job::new(slot, body, Task::Wipe))
    }

    /// Memory of a slot without a sequence, after nothing has happened for long or when there is too much.
    fn next_idle(&mut self) -> Option<Job> {
        if !self.desk.trimmed && self.ledger.created <= self.ledger.limit {
            return None;
        }
        let slot = self.find_idle(|body| body.frames() > 0)?;
        let body = self.holdings[slot].body.take()?;
        Some(Job::new(slot, body, Task::GiveBack { keep: 0 }))
    }

    /// Zeroed memory for a sequence to come: as soon as less than half of what may stay warm is there, until all of it is.
    fn next_fill(&mut self) -> Option<Job> {
        let (warm, limit) = (self.warm_frames(), self.warm_limit());
        self.desk.filling |= warm < limit / 2;
        if !self.desk.filling || self.desk.trimmed {
            return None;
        }
        let target = self.desk.typical?;
        let spare = limit
            .saturating_sub(warm + self.ledger.pool().len())
            .min(self.ledger.room());
        let fits = |body: &Body| body.wiped && (1..=spare).contains(&body.lacking(target));
        let Some(slot) = self.find_idle(fits) else {
            self.desk.filling = false;
            return None;
        };
        let body = self.holdings[slot].body.take()?;
        Some(self.extend_job(slot, body, target, None))
    }

    /// Frames that fill a large page and do not have one.
    fn next_collapse(&mut self) -> Option<Job> {
        let slot = self
            .holdings
            .iter()
            .position(|holding| holding.collapsible && !holding.closing && holding.body.is_some())?;
        let body = self.holdings[slot].body.take()?;
        let space = self.space();
        let found = body
            .regions
            .iter()
            .enumerate()
            .find_map(|(index, region)| Some((index, space.next_huge(region)?)));
        match found {
            Some((region, from)) => Some(Job::new(slot, body, Task::Collapse { region, from })),
            None => {
                self.put(slot, body);
                None
            }
        }
    }

    fn find_idle(&self, wanted: impl Fn(&Body) -> bool) -> Option<usize> {
        let fits = |body: &Option<Body>| body.as_ref().is_some_and(&wanted);
        self.holdings
            .iter()
            .position(|holding| holding.idle && fits(&holding.body))
    }

    /// Notes what a job has done.
    fn finish(&mut self, job: Job) {
        let slot = job.slot;
        self.ledger.promised -= job.promised;
        self.ledger.put_back(job.spares);
        self.ledger.drop_frames(job.out);
        match job.task {
            Task::Extend { asked, .. } => {
                self.counters.map_calls += job.regions as u64;
                self.counters.background_maps += u64::from(job.complete);
                if let Some(at) = asked {
                    self.desk.pacing.saw_latency(sync::now().saturating_sub(at));
                }
                self.put(slot, job.body);
                if !job.complete && asked.is_some() {
                    self.turn_down(slot);
                }
                self.desk.filling &= job.complete;
            }
            Task::GiveBack { .. } => {
                self.counters.unmap_calls += job.regions as u64;
                self.put(slot, job.body);
                if !self.holdings[slot].idle {
                    // It may have been told meanwhile to keep less.
                    let complete = self.holdings[slot].surplus() == 0;
                    self.gave_back(slot, complete);
                }
            }
            Task::Wipe | Task::Collapse { .. } => self.put(slot, job.body),
        }
        self.saw(job.refusal);
    }

    /// Notes whether the backend has refused something. After a refusal the thread waits, each time longer, before it tries
    /// again.
    fn saw(&mut self, refusal: Option<BackendError>) {
        self.desk.patience = match refusal {
            Some(_) => (2 * self.desk.patience).clamp(POLL, MOST_PATIENCE),
            None => Duration::ZERO,
        };
        self.desk.patient_until = sync::now() + self.desk.patience;
        if refusal.is_some() {
            self.counters.background_refusals += 1;
            self.desk.refusal = refusal;
        }
    }

    /// Sleeps until somebody calls, or until it is time to look again at what waits, or to trim.
    fn rest(&mut self) {
        if self.desk.work {
            self.desk.work = false;
            return;
        }
        let now = sync::now();
        if !self.is_patient() {
            // What was refused is done, or nobody wants it any more.
            self.desk.patience = Duration::ZERO;
        }
        let refused = !self.desk.patience.is_zero();
        let waits = refused || !self.draining.is_empty() || self.ledger.has_excess();
        let poll = waits.then(|| self.desk.patience.max(POLL));
        let warm = !self.desk.trimmed && self.warm_frames() + self.ledger.pool().len() > 0;
        let until = self.desk.last_use.saturating_add(self.config.trim_after);
        let trim = warm.then(|| until.saturating_sub(now).clamp(POLL, MOST_SLEEP));
        let timeout = [poll, trim].into_iter().flatten().min();
        self.desk.asleep = true;
        self.announce();
        self.wait_for_call(timeout);
        self.desk.asleep = false;
    }
}
