//! Sharing: sequences that begin with the same rows have them in the same frames.
//!
//! Rows are only appended, so the frames that are full of them never change: they can be mapped read-only wherever the
//! rows are wanted. The bytes of the last, partly filled frame are copied. No alignment of tokens to frames is needed: a row that
//! straddles the border has its first part in a shared frame and its end in the copy.

use std::ops::Range;

use crate::backend::{Access, Backend};
use crate::cache::KvCache;
use crate::error::{Error, Result};
use crate::sequence::{Kind, PrefixId, SeqId, Slot};
use crate::shared::Locked;
use crate::space::{Body, Region, Spare};
use crate::sync;
use crate::trace::span;

impl<B: Backend> KvCache<B> {
    /// Opens a sequence that begins with all rows of another one. Both grow on their own from there. Only the last, partly
    /// filled frame of each region is copied; waits for the steps of the sequence that were committed.
    ///
    /// # Errors
    ///
    /// [`Error::NotOpen`], [`Error::SwappedOut`], [`Error::NoSlot`], [`Error::NoSharing`]; [`Error::NeedFrames`] for the
    /// frames that are copied; [`Error::Mappings`], [`Error::Backend`]. Nothing has changed then.
    pub fn fork(&mut self, seq: SeqId) -> Result<SeqId> {
        let len = self.len(seq)?;
        self.share(seq, len, Kind::Sequence)
    }

    /// Keeps the first `tokens` rows of a sequence for sequences to come, also when it is freed. A prefix takes a slot.
    ///
    /// # Errors
    ///
    /// As [`KvCache::fork`], and [`Error::PrefixLength`].
    pub fn publish_prefix(&mut self, seq: SeqId, tokens: usize) -> Result<PrefixId> {
        let len = self.len(seq)?;
        if tokens == 0 || tokens > len {
            return Err(Error::PrefixLength { tokens, len });
        }
        self.share(seq, tokens, Kind::Prefix).map(PrefixId)
    }

    /// Opens a sequence that begins with the rows of a prefix and grows it to `tokens`, or does nothing: what
    /// [`KvCache::admit`] is for a prompt of which a part is there already.
    ///
    /// # Errors
    ///
    /// As [`KvCache::attach_prefix`] and [`KvCache::grow`]; so [`Error::GrowsBackward`] when the prefix is longer.
    pub fn admit_with_prefix(&mut self, prefix: PrefixId, tokens: usize) -> Result<SeqId> {
        let (len, max) = (self.prefix_len(prefix)?, self.geometry.max_tokens());
        if tokens > max {
            return Err(Error::TooLong { len: tokens, max });
        }
        if tokens < len {
            let (seq, new_len) = (prefix.0, tokens);
            return Err(Error::GrowsBackward { seq, len, new_len });
        }
        let seq = self.attach_prefix(prefix)?;
        self.grow_or_close(seq, tokens)
    }

    /// Opens a sequence that begins with the rows of a prefix.
    ///
    /// # Errors
    ///
    /// [`Error::NotPublished`]; otherwise as [`KvCache::fork`].
    pub fn attach_prefix(&mut self, prefix: PrefixId) -> Result<SeqId> {
        let len = self.prefix_len(prefix)?;
        self.share(prefix.0, len, Kind::Sequence)
    }

    /// Forgets a prefix. Sequences that began with it keep its rows; memory that nobody has any more goes back.
    ///
    /// # Errors
    ///
    /// [`Error::NotPublished`], no others.
    pub fn evict_prefix(&mut self, prefix: PrefixId) -> Result<()> {
        self.prefix_len(prefix)?;
        self.close(prefix.0);
        Ok(())
    }

    /// Tokens of a prefix. O(1).
    ///
    /// # Errors
    ///
    /// [`Error::NotPublished`].
    pub fn prefix_len(&self, prefix: PrefixId) -> Result<usize> {
        let kind = self.slots.slots().get(prefix.0.slot());
        match (kind, self.slots.len(prefix.0)) {
            (Some(Slot::Live { kind: Kind::Prefix, .. }), Some(len)) => Ok(len),
            _ => Err(Error::NotPublished { prefix }),
        }
    }

    /// Opens a slot that begins with `tokens` rows of another, all of them there.
    fn share(&mut self, source: SeqId, tokens: usize, kind: Kind) -> Result<SeqId> {
        span!("share", tokens = tokens);
        self.in_memory(source)?;
        if !self.shared.space.caps.alias {
            return Err(Error::NoSharing);
        }
        let target = self.open_cold(kind)?;
        let shared = self.shared.clone();
        let mut locked = shared.lock();
        let tail = self.geometry.region_frames(tokens) - self.geometry.whole_frames(tokens);
        let need = tail * self.geometry.regions_per_sequence();
        let mut outcome = self
            .make_room(&mut locked, |_| need, &[source.slot()])
            .and_then(|_| self.share_frames(&mut locked, (source, target), tokens));
        if self.may_retry(&mut locked, &outcome, &[source.slot()]) {
            outcome = self.share_frames(&mut locked, (source, target), tokens);
        }
        drop(locked);
        match outcome {
            Ok(()) => {
                self.slots.set_len(target, tokens);
                Ok(target)
            }
            Err(error) => {
                self.close(target);
                Err(error)
            }
        }
    }

    /// Maps the whole frames of the first `tokens` rows in both slots, and copies the rest.
    fn share_frames(
        &mut self,
        locked: &mut Locked<'_, B>,
        (source, target): (SeqId, SeqId),
        tokens: usize,
    ) -> Result<()> {
        let space = locked.space();
        if let Some(fence) = &locked.holdings[source.slot()].fence {
            // Rows that a step still writes are neither read-only nor there to be copied.
            space.backend.wait(fence);
        }
        let whole = self.geometry.whole_frames(tokens);
        let (mut from, mut to) = (locked.take(source.slot()), locked.take(target.slot()));
        let before: Vec<_> = from.regions.iter().map(|region| region.shared).collect();
        let shared = (0..before.len()).try_for_each(|index| {
            let source_region = (source.slot(), index, &mut from.regions[index]);
            share_region(locked, source_region, (target.slot(), &mut to.regions[index]), whole)
        });
        let outcome = shared.and_then(|()| self.copy_tail(locked, (source, &from), (target, &mut to), tokens));
        locked.put(target.slot(), to);
        if outcome.is_ok() {
            self.slots.set_shared(target.slot(), whole);
            let old = self.slots.shared(source.slot());
            self.slots.set_shared(source.slot(), old.max(whole));
            locked.holdings[target.slot()].keep = self.geometry.region_frames(tokens);
        } else {
            // What was shared goes first, so that the source may write again what it could write before.
            locked.set_keep(target.slot(), 0);
            for (index, &shared) in before.iter().enumerate() {
                let region = &mut from.regions[index];
                let alone = region.frames[shared..region.shared.max(shared)]
                    .iter()
                    .all(|&frame| locked.ledger.count(frame) == 1);
                if region.shared > shared && alone {
                    let address = space.address(source.slot(), index, shared);
                    let frames = region.shared - shared;
                    if space.backend.protect(address, frames, Access::ReadWrite).is_ok() {
                        region.shared = shared;
                    }
                }
            }
            let most = from.regions.iter().map(|region| region.shared).max().unwrap_or(0);
            self.slots.set_shared(source.slot(), most);
        }
        locked.put(source.slot(), from);
        outcome
    }

    /// Copies the bytes of the first `tokens` rows that are not in shared frames.
    fn copy_tail(
        &self,
        locked: &mut Locked<'_, B>,
        (source, _from): (SeqId, &Body),
        (target, to): (SeqId, &mut Body),
        tokens: usize,
    ) -> Result<()> {
        let whole = self.geometry.whole_frames(tokens);
        let bytes = tokens * self.geometry.stride_bytes() - whole * self.geometry.frame_bytes();
        if bytes == 0 {
            return Ok(());
        }
        let space = locked.space();
        let mut spares = locked.ledger.take(to.lacking(whole + 1));
        locked.counters.map_calls += to.regions.len() as u64;
        let grown = space.extend(target.slot(), to, whole + 1, &mut spares, false);
        locked.ledger.put_back(spares);
        grown?;
        for index in 0..to.regions.len() {
            let from = space.address(source.slot(), index, whole);
            space
                .backend
                .copy(space.address(target.slot(), index, whole), from, bytes)?;
            locked.counters.copied_bytes += bytes as u64;
        }
        space.backend.settle()?;
        Ok(())
    }

    /// Gives the sequence a frame of its own in place of frame `tail`, which it shares and has cut off at `bytes`. Where nobody
    /// else has the frame any more, it only becomes writable again.
    pub(crate) fn unshare_tail(locked: &mut Locked<'_, B>, slot: usize, tail: usize, bytes: usize) -> Result<()> {
        let mut body = locked.take(slot);
        let outcome = body.regions.iter_mut().enumerate().try_for_each(|(index, region)| {
            if region.shared <= tail {
                return Ok(());
            }
            let address = locked.space().address(slot, index, tail);
            if locked.ledger.count(region.frames[tail]) == 1 {
                locked.space().backend.protect(address, 1, Access::ReadWrite)?;
                region.shared = tail;
                return Ok(());
            }
            replace_by_copy(locked, address, region, tail, bytes)
        });
        locked.shrink_pool();
        locked.put(slot, body);
        outcome
    }

    /// Frames that [`KvCache::unshare_tail`] needs.
    pub(crate) fn tail_copies(locked: &mut Locked<'_, B>, slot: usize, tail: usize) -> usize {
        let frames: Vec<_> = {
            let shared = locked.body(slot).regions.iter().filter(|region| region.shared > tail);
            shared.map(|region| region.frames[tail]).collect()
        };
        frames.iter().filter(|&&frame| locked.ledger.count(frame) > 1).count()
    }

    /// Makes room for the frames that `count` counts, by taking what no sequence needs but from the `spared` slots. Returns
    /// how many are needed and how many more there is room for.
    pub(crate) fn make_room(
        &self,
        locked: &mut Locked<'_, B>,
        count: impl Fn(&mut Locked<'_, B>) -> usize,
        spared: &[usize],
    ) -> Result<(usize, usize)> {
        let mut need = count(locked);
        if need > 0 && locked.warm_yields() {
            Self::refresh_keep(&self.slots, &self.geometry, locked);
            locked.yield_warm(need, spared);
            need = count(locked);
        }
        if need > locked.ledger.room() {
            self.take_unneeded(locked, 0, spared);
            need = count(locked);
            locked.reclaim(need, spared);
        }
        let free = locked.ledger.room();
        let spare = free.checked_sub(need).ok_or(Error::NeedFrames { need, free })?;
        Ok((need, spare))
    }

    /// Takes what no sequence needs, but from the `spared` slots, until there is room for `need` frames; and also what was left
    /// to the mapper thread.
    pub(crate) fn take_unneeded(&self, locked: &mut Locked<'_, B>, need: usize, spared: &[usize]) {
        // What the mapper thread has in its hands may be had when it is done.
        locked.quiet();
        Self::refresh_keep(&self.slots, &self.geometry, locked);
        if locked.desk.running {
            locked.drain_now();
        }
        locked.reclaim(need, spared);
    }

    /// Whether to try again what was refused because the machine has less memory than the budget: it has got back what no
    /// sequence needs, but from the `spared` slots, and the second try decides.
    pub(crate) fn may_retry<T>(&self, locked: &mut Locked<'_, B>, outcome: &Result<T>, spared: &[usize]) -> bool {
        let exhausted = matches!(outcome, Err(Error::NeedFrames { .. }));
        if exhausted {
            self.take_unneeded(locked, usize::MAX, spared);
        }
        exhausted
    }

    /// Opens a slot in which nothing is mapped.
    fn open_cold(&mut self, kind: Kind) -> Result<SeqId> {
        self.awake()?;
        let shared = self.shared.clone();
        let mut locked = shared.lock();
        locked.drain();
        let last = self.free_slot(&mut locked)?;
        let free = self.slots.free_list();
        let cold = free.iter().rev().find(|&&slot| locked.holdings[slot].frames == 0);
        let slot = *cold.unwrap_or(&last);
        let mut body = locked.take(slot);
        locked.shorten(slot, &mut body, 0);
        let empty = body.frames() == 0;
        locked.begin(slot, empty);
        locked.put(slot, body);
        if !empty {
            let limit = self.geometry.max_sequences();
            return Err(Error::NoSlot { limit });
        }
        locked.call_mapper_in_use(sync::now());
        Ok(self.slots.open(slot, kind))
    }
}

/// Maps the first `whole` frames of a region read-only in both slots.
fn share_region<B: Backend>(
    locked: &mut Locked<'_, B>,
    (source_slot, index, from): (usize, usize, &mut Region),
    (target_slot, to): (usize, &mut Region),
    whole: usize,
) -> Result<()> {
    let space = locked.space();
    if whole == 0 {
        return Ok(());
    }
    if from.shared < whole {
        let Range { start, end } = from.shared..whole;
        let address = space.address(source_slot, index, start);
        space.backend.protect(address, end - start, Access::Read)?;
        from.shared = whole;
    }
    let frames = &from.frames[..whole];
    locked.counters.map_calls += 1;
    space
        .backend
        .map(space.region(target_slot, index), frames, Access::Read)?;
    locked.ledger.share(frames);
    to.frames.extend_from_slice(frames);
    to.shared = whole;
    Ok(())
}

/// Puts a copy of the first `bytes` bytes of a frame in its place.
fn replace_by_copy<B: Backend>(
    locked: &mut Locked<'_, B>,
    address: usize,
    region: &mut Region,
    tail: usize,
    bytes: usize,
) -> Result<()> {
    locked.clear_window()?;
    let space = locked.space();
    let mut spares = locked.ledger.take(1);
    let frame = match space.new_frame(address, &mut spares) {
        Ok(frame) => frame,
        Err(error) => {
            locked.ledger.put_back(spares);
            return Err(error.into());
        }
    };
    locked.ledger.put_back(spares);
    let window = space.window();
    if let Err(error) = space.backend.map(window, &[frame], Access::ReadWrite) {
        locked.ledger.add_to_pool(Spare { frame, zero: false });
        return Err(error.into());
    }
    locked.window = Some(frame);
    space.backend.zero(window, space.caps.frame_bytes)?;
    space.backend.copy(window, address, bytes)?;
    space.backend.settle()?;
    space.backend.unmap(window, 1)?;
    locked.window = None;
    if let Err(error) = space.backend.replace(address, frame, Access::ReadWrite) {
        locked.ledger.add_to_pool(Spare { frame, zero: false });
        return Err(error.into());
    }
    let old = std::mem::replace(&mut region.frames[tail], frame);
    region.shared = tail;
    region.break_huge(tail);
    locked.ledger.drop_frames(vec![old]);
    locked.counters.copied_bytes += bytes as u64;
    Ok(())
}
