//! What the cache and its mapper thread have in common, and how they take turns.
//!
//! The state stands behind one lock, which is held for bookkeeping and, by the cache, for its own calls of the backend.
//! Under the lock the mapper thread only asks whether a fence is done: it takes the [`Body`] of one slot out of the state,
//! works on it, and puts it back. A body is therefore owned by exactly one side at any time, and whoever needs one that is away
//! waits until it is back. Lengths and ids belong to the cache alone. How many frames of a slot may be used is published
//! in an atomic number, so that a step that needs nothing takes no lock; and so is the length at which the mapper thread
//! wants to hear of it, so that it needs no system call either.
//!
//! What the mapper thread may do with a slot does not depend on its length, which steps change without the lock: it takes
//! from a sequence only what is beyond `keep` while the slot drains, and then no more than `keep` is published.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use crate::backend::{Backend, Frame};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::ledger::Ledger;
use crate::mapper::{Ask, Desk};
use crate::space::{Body, Space, Spare};
use crate::sync::{self, AtomicUsize, Condvar, Mutex, MutexGuard, Ordering, PoisonError};

/// What the state knows of a slot.
#[derive(Debug)]
pub(crate) struct Holding<F> {
    /// What is mapped; `None` while the mapper thread works on it.
    pub(crate) body: Option<Body>,
    /// Work on the device that may use the slot.
    pub(crate) fence: Option<F>,
    /// Frames that the slot must keep in each region, as far as it has them.
    pub(crate) keep: usize,
    /// Whether the slot has no sequence and waits for its memory to go.
    pub(crate) closing: bool,
    /// Whether the slot is on the draining list.
    pub(crate) draining: bool,
    /// Whether the slot has no sequence and may be opened.
    pub(crate) idle: bool,
    /// Frames in all regions, also while the mapper thread works on them.
    pub(crate) frames: usize,
    /// What the mapper thread was asked for.
    pub(crate) ask: Option<Ask>,
    /// Tokens by which the sequence grows in a step.
    pub(crate) pace: usize,
    /// Whether large pages can be tried for some of the frames.
    pub(crate) collapsible: bool,
    regions: usize,
}

impl<F> Holding<F> {
    fn new(regions: usize) -> Self {
        Self {
            body: Some(Body::new(regions)),
            fence: None,
            keep: 0,
            closing: false,
            draining: false,
            idle: true,
            frames: 0,
            ask: None,
            pace: 1,
            collapsible: false,
            regions,
        }
    }

    /// Frames beyond those that the slot must keep: exact unless the mapper thread works on it.
    pub(crate) fn surplus(&self) -> usize {
        match &self.body {
            Some(body) => body.surplus(self.keep),
            None => self.frames.saturating_sub(self.keep * self.regions),
        }
    }
}

/// Counters that only grow.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counters {
    pub(crate) map_calls: u64,
    pub(crate) unmap_calls: u64,
    pub(crate) sync_maps: u64,
    pub(crate) background_maps: u64,
    pub(crate) background_refusals: u64,
    pub(crate) copied_bytes: u64,
}

/// The state under the lock.
#[derive(Debug)]
pub(crate) struct State<F> {
    pub(crate) holdings: Vec<Holding<F>>,
    pub(crate) ledger: Ledger,
    /// Slots with more memory than they may keep, because a fence is pending or the backend refused to take it back.
    pub(crate) draining: Vec<usize>,
    /// Slots that have drained and may be opened again.
    pub(crate) drained: Vec<usize>,
    /// The frame that is mapped in the window, between its filling and its going to its place, or because taking it out was
    /// refused.
    pub(crate) window: Option<Frame>,
    pub(crate) counters: Counters,
    pub(crate) config: Config,
    pub(crate) desk: Desk,
}

/// The state, the address space, and the conditions that announce changes.
#[derive(Debug)]
pub(crate) struct Shared<B: Backend> {
    state: Mutex<State<B::Fence>>,
    /// A body has come back, or the mapper thread has nothing to do.
    returned: Condvar,
    /// There is something to do for the mapper thread.
    called: Condvar,
    /// For each slot the frames that may be used in every region.
    covered: Box<[AtomicUsize]>,
    /// For each slot the most tokens of which the mapper thread need not know.
    unasked: Box<[AtomicUsize]>,
    pub(crate) space: Space<B>,
}

impl<B: Backend> Shared<B> {
    pub(crate) fn new(space: Space<B>, config: Config) -> Self {
        let slots = space.geometry.max_sequences();
        let regions = space.geometry.regions_per_sequence();
        Self {
            state: Mutex::new(State {
                holdings: (0..slots).map(|_| Holding::new(regions)).collect(),
                ledger: Ledger::new(config.budget_bytes / space.caps.frame_bytes),
                draining: Vec::new(),
                drained: Vec::new(),
                window: None,
                counters: Counters::default(),
                config,
                desk: Desk::default(),
            }),
            returned: Condvar::new(),
            called: Condvar::new(),
            covered: (0..slots).map(|_| AtomicUsize::new(0)).collect(),
            unasked: (0..slots).map(|_| AtomicUsize::new(usize::MAX)).collect(),
            space,
        }
    }

    /// Frames of a slot that may be used in every region. No lock.
    pub(crate) fn covered(&self, slot: usize) -> usize {
        self.covered[slot].load(Ordering::Acquire)
    }

    /// Whether the mapper thread should know that a sequence has so many tokens. No lock.
    pub(crate) fn wants_to_know(&self, slot: usize, tokens: usize) -> bool {
        tokens > self.unasked[slot].load(Ordering::Relaxed)
    }

    pub(crate) fn lock(&self) -> Locked<'_, B> {
        Locked {
            shared: self,
            // A panic under the lock can only come from a backend; the state is still the best account there is.
            state: Some(self.state.lock().unwrap_or_else(PoisonError::into_inner)),
            holds: false,
        }
    }
}

/// The state while the lock is held.
#[derive(Debug)]
pub(crate) struct Locked<'a, B: Backend> {
    shared: &'a Shared<B>,
    state: Option<MutexGuard<'a, State<B::Fence>>>,
    /// Whether it has waited for the mapper thread, which then takes no other job before this value is dropped: what was
    /// counted before the wait still holds after it.
    holds: bool,
}

impl<B: Backend> Drop for Locked<'_, B> {
    fn drop(&mut self) {
        // Without the lock it is dropped only by a panic within a wait.
        if self.holds && self.state.is_some() {
            self.desk.hold = false;
            self.call_mapper();
        }
    }
}

impl<B: Backend> Deref for Locked<'_, B> {
    type Target = State<B::Fence>;

    fn deref(&self) -> &Self::Target {
        self.state.as_ref().expect("the lock is given up only inside of a wait")
    }
}

impl<B: Backend> DerefMut for Locked<'_, B> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        self.state.as_mut().expect("the lock is given up only inside of a wait")
    }
}

impl<'a, B: Backend> Locked<'a, B> {
    pub(crate) fn space(&self) -> &'a Space<B> {
        &self.shared.space
    }

    /// Takes the body of a slot, waiting while the mapper thread has it.
    ///
    /// # Panics
    ///
    /// When the mapper thread has panicked with the body in its hands, which is a defect of the backend.
    pub(crate) fn take(&mut self, slot: usize) -> Body {
        loop {
            if let Some(body) = self.holdings[slot].body.take() {
                return body;
            }
            assert!(
                !self.desk.dead,
                "the mapper thread has panicked: see the panic of the backend"
            );
            self.hold();
            self.wait();
        }
    }

    /// Takes the body of a slot, unless the mapper thread has it.
    pub(crate) fn try_take(&mut self, slot: usize) -> Option<Body> {
        self.holdings[slot].body.take()
    }

    /// Puts the body of a slot back and publishes what may be used of it.
    pub(crate) fn put(&mut self, slot: usize, body: Body) {
        let space = self.space();
        let holding = &mut self.holdings[slot];
        holding.frames = body.frames();
        holding.collapsible = body.regions.iter().any(|region| space.next_huge(region).is_some());
        holding.body = Some(body);
        self.publish(slot);
        self.announce();
    }

    /// Publishes how many frames of a slot may be used, and from which length on the mapper thread wants to hear of it. What
    /// is to be given back may not be used.
    pub(crate) fn publish(&mut self, slot: usize) {
        let geometry = &self.shared.space.geometry;
        let holding = &self.holdings[slot];
        let mut covered = match &holding.body {
            Some(body) => body.covered(),
            None => self.shared.covered(slot),
        };
        if holding.draining {
            covered = covered.min(holding.keep);
        }
        self.shared.covered[slot].store(covered, Ordering::Release);
        let grows = self.desk.running && !holding.idle && !holding.draining && holding.ask.is_none();
        let unasked = match grows && covered < geometry.max_frames() {
            true => {
                (covered * geometry.frame_bytes() / geometry.stride_bytes()).saturating_sub(self.tokens_ahead(slot))
            }
            false => usize::MAX,
        };
        self.shared.unasked[slot].store(unasked, Ordering::Relaxed);
    }

    /// Lets no length of a slot be told to the mapper thread until it is published again.
    pub(crate) fn mute(&self, slot: usize) {
        self.shared.unasked[slot].store(usize::MAX, Ordering::Relaxed);
    }

    /// Lets the mapper thread take no other job until this value is dropped.
    pub(crate) fn hold(&mut self) {
        (self.desk.hold, self.holds) = (true, true);
    }

    /// Gives the lock up until something is announced.
    pub(crate) fn wait(&mut self) {
        let guard = self.state.take().expect("the lock is held");
        let guard = self.shared.returned.wait(guard);
        self.state = Some(guard.unwrap_or_else(PoisonError::into_inner));
    }

    /// Announces that a body has come back or that the mapper thread sleeps.
    pub(crate) fn announce(&self) {
        self.shared.returned.notify_all();
    }

    /// Gives the lock up until the mapper thread is called, or for `timeout`.
    pub(crate) fn wait_for_call(&mut self, timeout: Option<Duration>) {
        let guard = self.state.take().expect("the lock is held");
        let called = &self.shared.called;
        let guard = match timeout {
            Some(timeout) => sync::wait_timeout(called, &self.shared.state, guard, timeout),
            None => called.wait(guard).unwrap_or_else(PoisonError::into_inner),
        };
        self.state = Some(guard);
    }

    /// Calls the mapper thread, which waits.
    pub(crate) fn wake_mapper(&self) {
        self.shared.called.notify_one();
    }

    /// Frames of a region that are mapped where `exact` are needed: as many more as the configuration asks for.
    pub(crate) fn generous(&self, exact: usize) -> usize {
        let geometry = &self.space().geometry;
        let growth = self.config.growth_bytes.div_ceil(geometry.frame_bytes()).max(1);
        exact.next_multiple_of(growth).min(geometry.max_frames())
    }

    /// Looks at the body of a slot, waiting while the mapper thread has it.
    pub(crate) fn body(&mut self, slot: usize) -> &Body {
        let body = self.take(slot);
        self.holdings[slot].body.insert(body)
    }

    /// Gives every region of a slot `target` frames, for which there must be room, and keeps them from now on.
    pub(crate) fn extend(&mut self, slot: usize, target: usize) -> Result<()> {
        let mut body = self.take(slot);
        let lacking = body.regions.iter().filter(|region| region.usable() < target).count();
        let mut spares = self.ledger.take(body.lacking(target));
        self.counters.map_calls += lacking as u64;
        let grown = self.space().extend(slot, &mut body, target, &mut spares, false);
        self.ledger.put_back(spares);
        self.shrink_pool();
        if grown.is_ok() {
            self.holdings[slot].keep = self.holdings[slot].keep.max(target);
            let complete = body.surplus(self.holdings[slot].keep) == 0;
            self.set_draining(slot, self.holdings[slot].draining && !complete);
        }
        self.put(slot, body);
        grown.map_err(Error::from)
    }

    /// Takes frames that others read too, and that lie past `keep`, out of a slot that is about to grow over them: they hold
    /// rows of others. They are there only if taking them out was refused before.
    pub(crate) fn drop_shared_surplus(&mut self, slot: usize, keep: usize) -> Result<()> {
        let mut body = self.take(slot);
        let (space, mut out) = (self.space(), Vec::new());
        let mut regions = body.regions.iter_mut().enumerate();
        let outcome = regions.try_for_each(|(index, region)| match region.shared > keep {
            true => space.shorten_region(slot, index, region, keep, &mut out),
            false => Ok(()),
        });
        self.ledger.drop_frames(out);
        self.shrink_pool();
        self.put(slot, body);
        outcome.map_err(Error::from)
    }

    /// Notes that a slot gets a sequence, if it does.
    pub(crate) fn begin(&mut self, slot: usize, opened: bool) {
        let holding = &mut self.holdings[slot];
        holding.idle = !opened;
        (holding.keep, holding.pace, holding.ask) = (0, 1, None);
    }

    /// Sets what a slot must keep, and leaves the rest to the mapper thread, or gives it back if there is none.
    pub(crate) fn set_keep_soon(&mut self, slot: usize, keep: usize) {
        self.holdings[slot].keep = keep;
        self.holdings[slot].ask = None;
        let holding = &self.holdings[slot];
        if self.desk.running && (holding.body.is_none() || holding.surplus() > 0) {
            self.set_draining(slot, true);
            self.publish(slot);
            self.call_mapper();
        } else {
            self.give_back(slot);
        }
    }

    /// Sets what a slot must keep, and gives the rest back as far as fences and the backend allow.
    pub(crate) fn set_keep(&mut self, slot: usize, keep: usize) {
        self.holdings[slot].keep = keep;
        self.holdings[slot].ask = None;
        self.give_back(slot);
    }

    /// Gives back what a slot has beyond what it must keep. Where that is not possible now, it goes on the draining list.
    pub(crate) fn give_back(&mut self, slot: usize) {
        let mut body = self.take(slot);
        let keep = self.holdings[slot].keep;
        let pending = self.fence_pending(slot);
        let complete = body.surplus(keep) == 0
            || !pending && (self.stays_warm(slot, &mut body) || self.shorten(slot, &mut body, keep));
        self.put(slot, body);
        self.gave_back(slot, complete);
    }

    /// Whether the device may still use a slot.
    pub(crate) fn fence_pending(&mut self, slot: usize) -> bool {
        let space = self.space();
        let fence = &mut self.holdings[slot].fence;
        if fence.as_ref().is_some_and(|fence| space.backend.done(fence)) {
            *fence = None;
        }
        fence.is_some()
    }

    /// Notes that a slot was offered to be given back, and whether all of it went.
    pub(crate) fn gave_back(&mut self, slot: usize, complete: bool) {
        self.set_draining(slot, !complete);
        if complete && std::mem::take(&mut self.holdings[slot].closing) {
            self.holdings[slot].idle = true;
            self.drained.push(slot);
        }
        self.publish(slot);
    }

    /// Takes what a body has beyond `keep` out of the address space, and gives back what nobody else has. Returns whether
    /// all of it went.
    pub(crate) fn shorten(&mut self, slot: usize, body: &mut Body, keep: usize) -> bool {
        let longer = body.regions.iter().filter(|region| region.frames.len() > keep).count();
        self.counters.unmap_calls += longer as u64;
        let mut out = Vec::new();
        // A refusal is seen in what is left, and offered again.
        let complete = self.space().shorten(slot, body, keep, &mut out).is_ok();
        self.ledger.drop_frames(out);
        self.shrink_pool();
        complete
    }

    /// Destroys what the pool has too much.
    pub(crate) fn shrink_pool(&mut self) {
        self.limit_pool();
        let space = self.space();
        self.ledger.shrink(space);
    }

    /// Destroys all frames of the pool. With a mapper thread it stays empty until somebody needs memory again.
    pub(crate) fn empty_pool(&mut self) {
        self.desk.trimmed = true;
        self.shrink_pool();
        self.desk.trimmed = self.desk.running;
    }

    /// Finds how many frames the pool may keep: what freed sequences may leave, less what they have left in their slots.
    pub(crate) fn limit_pool(&mut self) {
        self.ledger.pool_limit = match self.desk.trimmed || self.space().caps.runs {
            true => 0,
            false => self.warm_limit().saturating_sub(self.warm_frames()),
        };
    }

    fn set_draining(&mut self, slot: usize, draining: bool) {
        if std::mem::replace(&mut self.holdings[slot].draining, draining) != draining {
            match draining {
                true => self.draining.push(slot),
                false => self.draining.retain(|&other| other != slot),
            }
        }
    }

    /// Offers again what could not be given back, where there is no mapper thread to do that.
    pub(crate) fn drain(&mut self) {
        if !self.desk.running {
            self.drain_now();
        }
    }

    /// Offers again what could not be given back, or was left to the mapper thread.
    pub(crate) fn drain_now(&mut self) {
        for slot in self.draining.clone() {
            self.give_back(slot);
        }
        // A refusal leaves it for the next time.
        let _ = self.clear_window();
        self.shrink_pool();
    }

    /// Takes the frame out of the window that an earlier call has left there.
    pub(crate) fn clear_window(&mut self) -> Result<()> {
        if let Some(frame) = self.window {
            self.space().backend.unmap(self.space().window(), 1)?;
            self.window = None;
            self.ledger.add_to_pool(Spare { frame, zero: false });
        }
        Ok(())
    }
}
