//! Memory that no sequence needs: what freed sequences left warm, and what is mapped ahead. Who gets it, and when it is taken.

use crate::backend::Backend;
use crate::shared::{Holding, Locked};
use crate::space::Body;

impl<B: Backend> Locked<'_, B> {
    /// Whether a slot whose sequence has ended keeps its memory for whoever opens it next.
    pub(crate) fn stays_warm(&mut self, slot: usize, body: &mut Body) -> bool {
        let stays = self.holdings[slot].closing
            && !body.is_shared()
            && self.warm_frames() + self.ledger.pool().len() + body.frames() <= self.warm_limit();
        body.wiped &= !stays;
        stays
    }

    /// Frames that may stay mapped in slots without a sequence.
    pub(crate) fn warm_limit(&self) -> usize {
        match self.ledger.created > self.ledger.limit {
            true => 0,
            false => self.config.warm_bytes / self.space().caps.frame_bytes,
        }
    }

    /// Frames mapped in slots without a sequence.
    pub(crate) fn warm_frames(&self) -> usize {
        let idle = self.holdings.iter().filter(|holding| holding.idle);
        idle.map(|holding| holding.frames).sum()
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
        let excess = |locked: &Self| locked.ledger.created.saturating_sub(locked.ledger.limit);
        self.reclaim_while(&[], |_, keep| keep, excess);
    }

    /// Makes room for `need` frames by taking what no sequence needs: first from slots without a sequence, then what slots
    /// have beyond what they must keep, and only as much as is needed.
    pub(crate) fn reclaim(&mut self, need: usize, spared: &[usize]) {
        self.reclaim_while(
            spared,
            |_, keep| keep,
            |locked| need.saturating_sub(locked.ledger.room()),
        );
    }

    /// Whether warm memory makes place for growth: there may be some, and no mapper thread that makes it beforehand.
    pub(crate) fn warm_yields(&self) -> bool {
        self.config.warm_bytes > 0 && !self.desk.running
    }

    /// Lets what freed sequences have left make place for `need` frames: what is warm saves work, and never adds to the most
    /// memory that sequences have needed at one time.
    pub(crate) fn yield_warm(&mut self, need: usize, spared: &[usize]) {
        let left = |holding: &Holding<B::Fence>| match &holding.body {
            _ if holding.idle => holding.frames,
            Some(body) if !holding.draining && !holding.closing => body.surplus(self.generous(holding.keep)),
            _ => 0,
        };
        let left = self.ledger.pool().len() + self.holdings.iter().map(left).sum::<usize>();
        let needed = self.ledger.created.saturating_sub(left) + need;
        self.ledger.most_needed = self.ledger.most_needed.max(needed);
        let excess = |locked: &Self| {
            let after = locked.ledger.created + need.saturating_sub(locked.ledger.pool().len());
            after.saturating_sub(locked.ledger.most_needed)
        };
        self.reclaim_while(spared, Self::generous, excess);
    }

    /// Takes from slots without a sequence, and then from the others what is beyond `floor` of what they must keep in each
    /// region, as long as there are frames in `excess`.
    fn reclaim_while(
        &mut self,
        spared: &[usize],
        floor: impl Fn(&Self, usize) -> usize,
        excess: impl Fn(&Self) -> usize,
    ) {
        let regions = self.space().geometry.regions_per_sequence();
        for idle in [true, false] {
            for slot in 0..self.holdings.len() {
                let excess = excess(self);
                if excess == 0 {
                    return;
                }
                let holding = &self.holdings[slot];
                if holding.idle != idle || holding.draining || spared.contains(&slot) {
                    continue;
                }
                let floor = if idle { 0 } else { floor(self, holding.keep) };
                if self.fence_pending(slot) {
                    continue;
                }
                if let Some(mut body) = self.try_take(slot) {
                    let longest = body.regions.iter().map(|region| region.frames.len()).max();
                    let keep = longest.unwrap_or(0).saturating_sub(excess.div_ceil(regions)).max(floor);
                    if body.surplus(keep) > 0 {
                        self.shorten(slot, &mut body, keep);
                    }
                    self.put(slot, body);
                }
            }
        }
    }

    /// Frames that sequences could get: those there is room for, and those that nobody needs.
    pub(crate) fn free_frames(&mut self) -> usize {
        let unneeded = (0..self.holdings.len()).map(|slot| self.unneeded(slot)).sum::<usize>();
        let ledger = &self.ledger;
        // What the mapper thread was promised is for nobody's rows.
        let reclaimable = ledger.pool().len() + unneeded;
        let needed = ledger.created.saturating_sub(reclaimable);
        ledger.limit.saturating_sub(needed)
    }

    /// Frames that could be taken from a slot now.
    fn unneeded(&mut self, slot: usize) -> usize {
        let holding = &self.holdings[slot];
        if holding.idle {
            return holding.frames;
        }
        if !holding.draining && !holding.closing {
            return holding.surplus();
        }
        if self.fence_pending(slot) {
            return 0;
        }
        let holding = &self.holdings[slot];
        let Some(body) = &holding.body else { return 0 };
        // Others may have what it shares.
        let frames = body
            .regions
            .iter()
            .flat_map(|region| region.frames.iter().skip(holding.keep));
        frames.filter(|&&frame| self.ledger.count(frame) == 1).count()
    }
}
