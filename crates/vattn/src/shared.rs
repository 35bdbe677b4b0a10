//! What the cache and its mapper thread have in common, and how they take turns.
//!
//! The state stands behind one lock, which is held for bookkeeping and, by the cache, for its own calls of the backend.
//! The mapper thread never calls the backend under the lock: it takes the [`Body`] of one slot out of the state, works on
//! it, and puts it back. A body is therefore owned by exactly one side at any time, and whoever needs one that is away
//! waits until it is back. Lengths and ids belong to the cache alone. How many frames of a slot may be used is published
//! in an atomic number, so that a step that needs nothing takes no lock.

use std::ops::{Deref, DerefMut};

use crate::backend::{Backend, Frame};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::ledger::Ledger;
use crate::space::{Body, Space, Spare};
use crate::sync::{AtomicUsize, Condvar, Mutex, MutexGuard, Ordering, PoisonError};

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
}

/// Counters that only grow.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counters {
    pub(crate) map_calls: u64,
    pub(crate) unmap_calls: u64,
    pub(crate) sync_maps: u64,
    pub(crate) background_maps: u64,
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
}

/// The state, the address space, and the condition that announces changes.
#[derive(Debug)]
pub(crate) struct Shared<B: Backend> {
    state: Mutex<State<B::Fence>>,
    /// A body has come back.
    returned: Condvar,
    /// For each slot the frames that may be used in every region.
    covered: Box<[AtomicUsize]>,
    pub(crate) space: Space<B>,
}

impl<B: Backend> Shared<B> {
    pub(crate) fn new(space: Space<B>, config: Config) -> Self {
        let slots = space.geometry.max_sequences();
        let regions = space.geometry.regions_per_sequence();
        let holding = |_| Holding {
            body: Some(Body::new(regions)),
            fence: None,
            keep: 0,
            closing: false,
            draining: false,
            idle: true,
        };
        let mut ledger = Ledger::new(config.budget_bytes / space.caps.frame_bytes);
        if !space.caps.runs {
            ledger.pool_limit = config.warm_bytes / space.caps.frame_bytes;
        }
        Self {
            state: Mutex::new(State {
                holdings: (0..slots).map(holding).collect(),
                ledger,
                draining: Vec::new(),
                drained: Vec::new(),
                window: None,
                counters: Counters::default(),
                config,
            }),
            returned: Condvar::new(),
            covered: (0..slots).map(|_| AtomicUsize::new(0)).collect(),
            space,
        }
    }

    /// Frames of a slot that may be used in every region. No lock.
    pub(crate) fn covered(&self, slot: usize) -> usize {
        self.covered[slot].load(Ordering::Acquire)
    }

    pub(crate) fn lock(&self) -> Locked<'_, B> {
        Locked {
            shared: self,
            // A panic under the lock can only come from a backend; the state is still the best account there is.
            state: Some(self.state.lock().unwrap_or_else(PoisonError::into_inner)),
        }
    }
}

/// The state while the lock is held.
#[derive(Debug)]
pub(crate) struct Locked<'a, B: Backend> {
    shared: &'a Shared<B>,
    state: Option<MutexGuard<'a, State<B::Fence>>>,
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
    pub(crate) fn take(&mut self, slot: usize) -> Body {
        loop {
            if let Some(body) = self.holdings[slot].body.take() {
                return body;
            }
            let guard = self.state.take().expect("the lock is held");
            let guard = self.shared.returned.wait(guard);
            self.state = Some(guard.unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Takes the body of a slot, unless the mapper thread has it.
    pub(crate) fn try_take(&mut self, slot: usize) -> Option<Body> {
        self.holdings[slot].body.take()
    }

    /// Puts the body of a slot back and publishes what may be used of it.
    pub(crate) fn put(&mut self, slot: usize, body: Body) {
        self.holdings[slot].body = Some(body);
        self.publish(slot);
        self.shared.returned.notify_all();
    }

    /// Publishes how many frames of a slot may be used. What is to be given back may not.
    fn publish(&mut self, slot: usize) {
        let holding = &self.holdings[slot];
        let mut covered = holding.body.as_ref().map_or(0, Body::covered);
        if holding.draining {
            covered = covered.min(holding.keep);
        }
        self.shared.covered[slot].store(covered, Ordering::Release);
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

    /// Sets what a slot must keep, and gives the rest back as far as fences and the backend allow.
    pub(crate) fn set_keep(&mut self, slot: usize, keep: usize) {
        self.holdings[slot].keep = keep;
        self.give_back(slot);
    }

    /// Gives back what a slot has beyond what it must keep. Where that is not possible now, it goes on the draining list.
    pub(crate) fn give_back(&mut self, slot: usize) {
        let mut body = self.take(slot);
        let keep = self.holdings[slot].keep;
        let pending = match &self.holdings[slot].fence {
            Some(fence) => !self.space().backend.done(fence),
            None => false,
        };
        if !pending {
            self.holdings[slot].fence = None;
        }
        let closing = self.holdings[slot].closing;
        let complete = if body.surplus(keep) == 0 {
            true
        } else if pending {
            false
        } else if closing && !body.is_shared() && self.warm_frames() + body.frames() <= self.warm_limit() {
            // It stays for whoever opens the slot next.
            body.wiped = false;
            true
        } else {
            self.shorten(slot, &mut body, keep)
        };
        self.set_draining(slot, !complete);
        self.put(slot, body);
        if complete && closing {
            self.holdings[slot].closing = false;
            self.holdings[slot].idle = true;
            self.drained.push(slot);
        }
    }

    /// Takes what a body has beyond `keep` out of the address space, and gives back what nobody else has. Returns whether
    /// all of it went.
    pub(crate) fn shorten(&mut self, slot: usize, body: &mut Body, keep: usize) -> bool {
        let longer = body.regions.iter().filter(|region| region.frames.len() > keep).count();
        self.counters.unmap_calls += longer as u64;
        let mut out = Vec::new();
        let complete = self.space().shorten(slot, body, keep, &mut out);
        self.ledger.drop_frames(out);
        self.shrink_pool();
        complete
    }

    /// Destroys what the pool has too much.
    pub(crate) fn shrink_pool(&mut self) {
        let space = self.space();
        self.ledger.shrink(space);
    }

    fn set_draining(&mut self, slot: usize, draining: bool) {
        if std::mem::replace(&mut self.holdings[slot].draining, draining) != draining {
            match draining {
                true => self.draining.push(slot),
                false => self.draining.retain(|&other| other != slot),
            }
        }
    }

    /// Offers again what could not be given back.
    pub(crate) fn drain(&mut self) {
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

    /// Frames that may stay mapped in slots without a sequence.
    fn warm_limit(&self) -> usize {
        match self.ledger.created > self.ledger.limit {
            true => 0,
            false => self.config.warm_bytes / self.shared.space.caps.frame_bytes,
        }
    }

    /// Frames mapped in slots without a sequence.
    pub(crate) fn warm_frames(&self) -> usize {
        let idle = self.holdings.iter().filter(|holding| holding.idle);
        idle.filter_map(|holding| holding.body.as_ref()).map(Body::frames).sum()
    }

    /// The slot without a sequence that fits best for `target` frames in each region: the smallest that has them all, or
    /// else the one that has most. `None` when no such slot has any memory.
    pub(crate) fn best_fit(&self, target: usize) -> Option<usize> {
        let warm = self.holdings.iter().enumerate().filter(|(_, holding)| holding.idle);
        let sizes = warm.filter_map(|(slot, holding)| Some((slot, holding.body.as_ref()?.covered())));
        sizes
            .filter(|&(_, covered)| covered > 0)
            .min_by_key(|&(_, covered)| match covered >= target {
                true => (false, covered),
                false => (true, usize::MAX - covered),
            })
            .map(|(slot, _)| slot)
    }

    /// Takes what no sequence needs until no more exists than the limit allows.
    pub(crate) fn obey_limit(&mut self) {
        self.shrink_pool();
        self.reclaim_while(&[], |locked| locked.ledger.created > locked.ledger.limit);
    }

    /// Makes room for `need` frames by taking what no sequence needs: first slots without a sequence, then what slots
    /// have beyond what they must keep, and only as much as is needed.
    pub(crate) fn reclaim(&mut self, need: usize, spared: &[usize]) {
        self.reclaim_while(spared, |locked| locked.ledger.room() < need);
    }

    fn reclaim_while(&mut self, spared: &[usize], lacking: impl Fn(&Self) -> bool) {
        for idle in [true, false] {
            for slot in 0..self.holdings.len() {
                if !lacking(self) {
                    return;
                }
                let holding = &self.holdings[slot];
                if holding.idle != idle || holding.draining || spared.contains(&slot) {
                    continue;
                }
                let keep = if idle { 0 } else { holding.keep };
                let pending = holding
                    .fence
                    .as_ref()
                    .is_some_and(|fence| !self.space().backend.done(fence));
                if pending {
                    continue;
                }
                if let Some(mut body) = self.try_take(slot) {
                    if body.surplus(keep) > 0 {
                        self.shorten(slot, &mut body, keep);
                    }
                    self.put(slot, body);
                }
            }
        }
    }

    /// Frames that sequences could get: those there is room for, and those that nobody needs.
    pub(crate) fn free_frames(&self) -> usize {
        let unneeded = |holding: &Holding<_>| match &holding.body {
            Some(body) if holding.idle => body.frames(),
            Some(body) if !holding.draining && !holding.closing => body.surplus(holding.keep),
            _ => 0,
        };
        let ledger = &self.ledger;
        let reclaimable = ledger.pool().len() + self.holdings.iter().map(unneeded).sum::<usize>();
        let needed = (ledger.created + ledger.promised).saturating_sub(reclaimable);
        ledger.limit.saturating_sub(needed)
    }
}
