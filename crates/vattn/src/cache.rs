//! The front type: sequences, their lengths, and the frames behind them.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use crate::backend::Backend;
use crate::backend::host::HostBackend;
use crate::config::Config;
use crate::error::{BackendError, Error, Result};
use crate::geometry::Geometry;
use crate::mapper::Mapper;
use crate::sequence::{Kind, SeqId, SlotTable};
use crate::shared::{Locked, Shared};
use crate::space::Space;
use crate::swap::{Sleep, Swapped};
use crate::sync;
use crate::trace::span;

/// A key/value cache: sequences of rows at fixed, contiguous addresses, with physical memory only behind the rows that
/// exist.
///
/// A sequence of `len` tokens has, in each of its regions, at least `ceil(len * stride_bytes / frame_bytes)` frames mapped,
/// and nothing else unless the [`Config`] lets it map ahead. Rows are zero when a frame is new; rows that come back by
/// growing again after a truncation may hold what this sequence, and only this sequence, had written there.
///
/// An operation that returns an error has changed nothing. All operations that change something take `&mut self`; share
/// the cache between threads behind a lock. An operation that needs no frame makes no system call.
#[derive(Debug)]
pub struct KvCache<B: Backend = HostBackend> {
    pub(crate) geometry: Geometry,
    pub(crate) slots: SlotTable,
    pub(crate) shared: Arc<Shared<B>>,
    /// What sequences have in the swap, by slot.
    pub(crate) swap: HashMap<usize, Swapped>,
    /// What is to be made again on waking.
    pub(crate) sleep: Option<Sleep>,
    /// Lengths before the batch at hand.
    undo: Vec<(SeqId, usize)>,
    /// Batches so far, by which the mapper thread knows how long a step takes.
    steps: u64,
    mapper: Option<Mapper<B>>,
}

/// What a step asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Need {
    Nothing,
    /// Memory for the steps that follow.
    Ahead,
    /// Memory now.
    Memory,
}

/// A step that was planned: whose rows it writes, for [`KvCache::commit`] or [`KvCache::cancel`].
#[derive(Debug)]
#[must_use = "commit or cancel the step"]
pub struct Ticket {
    /// The sequences of the step and their lengths before it.
    old_lengths: Box<[(SeqId, usize)]>,
}

impl KvCache {
    /// Makes an empty cache in the memory of the machine. It may hold up to `budget_bytes` of physical memory, rounded
    /// down to whole frames, and gives back at once what it does not need. Only address space is taken here.
    ///
    /// # Errors
    ///
    /// [`Error::FrameBelowPage`], or [`Error::Backend`] when the address space cannot be had.
    pub fn new(geometry: Geometry, budget_bytes: usize) -> Result<Self> {
        Self::with_config(geometry, Config::new(budget_bytes))
    }

    /// Makes an empty cache in the memory of the machine; otherwise as [`KvCache::with_backend`].
    ///
    /// # Errors
    ///
    /// As [`KvCache::new`].
    pub fn with_config(geometry: Geometry, config: Config) -> Result<Self> {
        let (frame_bytes, page_bytes) = (geometry.frame_bytes(), crate::host::page_bytes());
        if frame_bytes < page_bytes {
            return Err(Error::FrameBelowPage {
                frame_bytes,
                page_bytes,
            });
        }
        Self::with_backend(HostBackend::new(frame_bytes)?, geometry, config)
    }
}

impl<B: Backend> KvCache<B> {
    /// Makes an empty cache over the memory of `backend`.
    ///
    /// # Errors
    ///
    /// [`Error::FrameBelowPage`] and [`Error::FrameBytes`] when the backend and the geometry do not fit, and
    /// [`Error::Backend`] when the address space, or the mapper thread, cannot be had.
    pub fn with_backend(backend: B, geometry: Geometry, config: Config) -> Result<Self> {
        let space = Space::new(backend, geometry)?;
        let shared = Arc::new(Shared::new(space, config));
        let mapper = config.mapper.then(|| Mapper::start(&shared)).transpose()?;
        Ok(Self {
            geometry,
            slots: SlotTable::new(geometry.max_sequences()),
            shared,
            swap: HashMap::new(),
            sleep: None,
            undo: Vec::new(),
            steps: 0,
            mapper,
        })
    }

    /// The shape of the cache.
    #[must_use]
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Where its memory comes from.
    #[must_use]
    pub fn backend(&self) -> &B {
        &self.shared.space.backend
    }

    /// Opens a sequence of length 0. It holds no memory, or that of a freed sequence, wiped. O(slots).
    ///
    /// # Errors
    ///
    /// [`Error::NoSlot`] when all slots are taken; [`Error::Backend`] when wiping is refused.
    pub fn open(&mut self) -> Result<SeqId> {
        self.open_for(0, Kind::Sequence)
    }

    /// Opens a sequence and grows it to `tokens`, or does nothing.
    ///
    /// # Errors
    ///
    /// As [`KvCache::open`] and [`KvCache::grow`].
    pub fn admit(&mut self, tokens: usize) -> Result<SeqId> {
        let max = self.geometry.max_tokens();
        if tokens > max {
            return Err(Error::TooLong { len: tokens, max });
        }
        let seq = self.open_for(tokens, Kind::Sequence)?;
        self.grow_or_close(seq, tokens)
    }

    /// Grows a sequence that was just opened, and ends it again if that is refused.
    pub(crate) fn grow_or_close(&mut self, seq: SeqId, tokens: usize) -> Result<SeqId> {
        match self.grow(seq, tokens) {
            Ok(()) => Ok(seq),
            Err(error) => {
                self.close(seq);
                Err(error)
            }
        }
    }

    /// Length of a sequence in tokens. O(1).
    ///
    /// # Errors
    ///
    /// [`Error::NotOpen`].
    pub fn len(&self, seq: SeqId) -> Result<usize> {
        self.slots.len(seq).ok_or(Error::NotOpen { seq })
    }

    /// Grows a sequence to `new_len` tokens, so that all rows below it exist in all regions. A few calls of the backend for
    /// each region, none when the mapped part has room.
    ///
    /// # Errors
    ///
    /// [`Error::NotOpen`], [`Error::TooLong`], [`Error::GrowsBackward`]; [`Error::NeedFrames`] when the budget lacks the
    /// frames, or the device does; [`Error::Backend`] when a call is refused for another reason. Nothing has changed
    /// then.
    pub fn grow(&mut self, seq: SeqId, new_len: usize) -> Result<()> {
        self.grow_batch(&[(seq, new_len)])
    }

    /// Grows several sequences, or none of them: a step of a batch. A sequence that stands in the batch twice must not
    /// shrink on the way. O(batch), without a lock, when nothing is to be mapped.
    ///
    /// # Errors
    ///
    /// As [`KvCache::grow`]; the `need` of [`Error::NeedFrames`] is that of the whole batch.
    pub fn grow_batch(&mut self, batch: &[(SeqId, usize)]) -> Result<()> {
        self.undo.clear();
        self.steps += 1;
        let grown = self.extend_lengths(batch).and_then(|need| {
            if need == Need::Memory {
                self.map_lacking(batch)?;
            }
            if need >= Need::Ahead && self.mapper.is_some() {
                self.ask_ahead();
            }
            Ok(())
        });
        if grown.is_err() {
            for &(seq, len) in self.undo.iter().rev() {
                self.slots.set_len(seq, len);
            }
            // Room was made for lengths that are not to be.
            Self::refresh_keep(&self.slots, &self.geometry, &mut self.shared.lock());
        }
        grown
    }

    /// Plans a step that runs on a device: grows the sequences as [`KvCache::grow_batch`] does. The step may be started
    /// when this returns. Then [`KvCache::commit`] says what to wait for before memory of these sequences is used again.
    ///
    /// # Errors
    ///
    /// As [`KvCache::grow_batch`].
    pub fn plan_step(&mut self, batch: &[(SeqId, usize)]) -> Result<Ticket> {
        self.grow_batch(batch)?;
        Ok(Ticket {
            old_lengths: self.undo.as_slice().into(),
        })
    }

    /// Notes that the step of a ticket was started, and that `fence` stands for its end. Sequences that were freed
    /// meanwhile are passed over: whoever frees a sequence in the middle of a step waits for the step himself.
    pub fn commit(&mut self, ticket: Ticket, fence: B::Fence) {
        let mut locked = self.shared.lock();
        for &(seq, _) in &ticket.old_lengths {
            if self.slots.len(seq).is_some() {
                locked.holdings[seq.slot()].fence = Some(fence.clone());
            }
        }
    }

    /// Undoes the growth of a step that was not started. Sequences that were changed since then are left as they are only
    /// if they are shorter now.
    pub fn cancel(&mut self, ticket: Ticket) {
        for &(seq, old_len) in ticket.old_lengths.iter().rev() {
            if self.slots.len(seq).is_some_and(|len| len > old_len) {
                self.shorten(seq, old_len);
            }
        }
    }

    /// Shortens a sequence to `new_len` tokens and gives back the frames that no row is left in, when the device is done
    /// with them. Rows of the last frame past `new_len` keep their bytes until they are written again.
    ///
    /// # Errors
    ///
    /// [`Error::NotOpen`] and [`Error::TruncatesForward`], and [`Error::SwappedOut`], no others: memory that cannot be given
    /// back stays charged as [`Stats::draining_bytes`](crate::Stats::draining_bytes) and is offered again by later calls.
    pub fn truncate(&mut self, seq: SeqId, new_len: usize) -> Result<()> {
        let len = self.len(seq)?;
        if new_len > len {
            return Err(Error::TruncatesForward { seq, len, new_len });
        }
        self.in_memory(seq)?;
        self.shared.lock().drain();
        self.shorten(seq, new_len);
        Ok(())
    }

    /// Ends a sequence. Its memory goes back to the operating system, or stays in the slot as far as
    /// [`Config::warm_bytes`] allows, when the device is done with it.
    ///
    /// # Errors
    ///
    /// [`Error::NotOpen`], so also on a second free, and no others: as for [`KvCache::truncate`]. The slot is not used
    /// again before its memory is gone or wiped.
    pub fn free(&mut self, seq: SeqId) -> Result<()> {
        self.len(seq)?;
        self.close(seq);
        Ok(())
    }

    /// Sets the most physical memory that growth may reach. What no sequence needs is given back as far as it is above
    /// it; what sequences hold is not taken from them, but goes back as they are freed, and growth is refused until then.
    pub fn set_limit(&mut self, bytes: usize) {
        let frames = bytes / self.geometry.frame_bytes();
        let mut locked = self.shared.lock();
        locked.quiet();
        locked.config.budget_bytes = bytes;
        locked.ledger.limit = frames;
        Self::refresh_keep(&self.slots, &self.geometry, &mut locked);
        locked.obey_limit();
        locked.call_mapper();
    }

    /// Gives back everything that no sequence needs now: what was mapped ahead, what freed sequences left, and what has
    /// been waiting for the device and need not wait any more.
    pub fn trim(&mut self) {
        let shared = Arc::clone(&self.shared);
        let mut locked = shared.lock();
        locked.quiet();
        locked.desk.trimmed = true;
        locked.drain_now();
        Self::refresh_keep(&self.slots, &self.geometry, &mut locked);
        locked.reclaim(usize::MAX, &[]);
        locked.empty_pool();
        self.recycle(&mut locked);
    }

    /// Waits until the mapper thread has done everything that can be done now: what is asked for is mapped, what was freed has
    /// gone unless the device uses it. Returns at once where there is no such thread.
    pub fn settle(&self) {
        self.shared.lock().idle();
    }

    /// The last refusal that the mapper thread has met and that nobody has taken yet. It needs no action: what could not be
    /// mapped in the background is mapped by the step that needs it, which has an error of its own if that fails too, and what
    /// could not be taken back is offered again.
    #[must_use]
    pub fn take_background_error(&mut self) -> Option<BackendError> {
        self.shared.lock().desk.refusal.take()
    }

    /// Frames that the budget has left, counting those that are held and that no sequence needs, unless the device uses them
    /// or the mapper thread has them in its hands: with [`Geometry::sequence_frames`] it answers whether a sequence can be
    /// admitted. O(slots), and the frames of sequences that were just freed; without a system call.
    #[must_use]
    pub fn free_frames(&self) -> usize {
        let mut locked = self.shared.lock();
        Self::refresh_keep(&self.slots, &self.geometry, &mut locked);
        locked.free_frames()
    }

    /// Tells the state what the sequences need now: steps that mapped nothing have not.
    pub(crate) fn refresh_keep(slots: &SlotTable, geometry: &Geometry, locked: &mut Locked<'_, B>) {
        for (slot, holding) in locked.holdings.iter_mut().enumerate() {
            if !holding.idle && !holding.closing && !slots.is_swapped(slot) {
                holding.keep = geometry.region_frames(slots.tokens_in(slot));
            }
        }
    }

    /// Opens a slot, the one whose memory fits best for `tokens`.
    pub(crate) fn open_for(&mut self, tokens: usize, kind: Kind) -> Result<SeqId> {
        self.awake()?;
        let shared = Arc::clone(&self.shared);
        let mut locked = shared.lock();
        locked.drain();
        let cold = self.free_slot(&mut locked)?;
        let warm = match kind {
            Kind::Sequence => locked.best_fit(self.geometry.region_frames(tokens)),
            Kind::Prefix => None,
        };
        let slot = warm.unwrap_or(cold);
        let mut body = locked.take(slot);
        let wiped = self.shared.space.wipe(slot, &mut body);
        locked.begin(slot, wiped.is_ok());
        locked.put(slot, body);
        wiped?;
        locked.call_mapper_in_use(sync::now());
        Ok(self.slots.open(slot, kind))
    }

    /// A slot that may be opened. Those that the mapper thread was to empty are emptied now if there is no other.
    pub(crate) fn free_slot(&mut self, locked: &mut Locked<'_, B>) -> Result<usize> {
        self.recycle(locked);
        if self.slots.next_free().is_none() && locked.desk.running {
            locked.drain_now();
            self.recycle(locked);
        }
        let limit = self.geometry.max_sequences();
        self.slots.next_free().ok_or(Error::NoSlot { limit })
    }

    /// Ends a sequence or prefix that is known to be open.
    pub(crate) fn close(&mut self, seq: SeqId) {
        self.forget_swapped(seq.slot());
        let shared = Arc::clone(&self.shared);
        let mut locked = shared.lock();
        locked.drain();
        self.slots.close(seq);
        locked.holdings[seq.slot()].closing = true;
        locked.set_keep_soon(seq.slot(), 0);
        self.recycle(&mut locked);
    }

    /// Slots that have drained may be opened again.
    pub(crate) fn recycle(&mut self, locked: &mut Locked<'_, B>) {
        for slot in std::mem::take(&mut locked.drained) {
            self.slots.recycle(slot);
        }
    }

    /// Refuses everything while the cache sleeps.
    pub(crate) fn awake(&self) -> Result<()> {
        match self.sleep {
            Some(_) => Err(Error::Asleep),
            None => Ok(()),
        }
    }

    /// Refuses a sequence whose rows are not in memory.
    pub(crate) fn in_memory(&self, seq: SeqId) -> Result<()> {
        self.awake()?;
        match self.slots.is_swapped(seq.slot()) {
            true => Err(Error::SwappedOut { seq }),
            false => Ok(()),
        }
    }

    /// Shortens a sequence that is known to be at least that long.
    fn shorten(&mut self, seq: SeqId, new_len: usize) {
        self.slots.set_len(seq, new_len);
        let (slot, frames) = (seq.slot(), self.geometry.region_frames(new_len));
        self.slots.set_shared(slot, self.slots.shared(slot).min(frames));
        self.shared.lock().set_keep_soon(slot, frames);
    }

    /// Sets the new lengths, notes the old ones, and returns what the sequences need.
    fn extend_lengths(&mut self, batch: &[(SeqId, usize)]) -> Result<Need> {
        let max = self.geometry.max_tokens();
        let mut need = Need::Nothing;
        for &(seq, new_len) in batch {
            let len = self.len(seq)?;
            if new_len < len {
                return Err(Error::GrowsBackward { seq, len, new_len });
            }
            if new_len > max {
                return Err(Error::TooLong { len: new_len, max });
            }
            self.in_memory(seq)?;
            let slot = seq.slot();
            let lacking = self.geometry.region_frames(new_len) > self.shared.covered(slot)
                || (new_len > len && self.slots.shared(slot) > self.geometry.whole_frames(len));
            if lacking {
                need = Need::Memory;
            } else if self.shared.wants_to_know(slot, new_len) {
                need = need.max(Need::Ahead);
            }
            self.undo.push((seq, len));
            self.slots.set_len(seq, new_len);
        }
        Ok(need)
    }

    /// Asks the mapper thread for memory for those sequences of the batch that come near their end.
    fn ask_ahead(&self) {
        let mut locked = self.shared.lock();
        let now = sync::now();
        locked.desk.pacing.saw_step(self.steps, now);
        for &(seq, old_len) in &self.undo {
            let (slot, tokens) = (seq.slot(), self.slots.tokens_in(seq.slot()));
            if self.shared.wants_to_know(slot, tokens) {
                locked.ask(slot, tokens, tokens - old_len, now);
            }
        }
        locked.call_mapper_in_use(now);
    }

    /// Maps what the sequences of a batch lack for the lengths that were set.
    fn map_lacking(&mut self, batch: &[(SeqId, usize)]) -> Result<()> {
        span!("map", sequences = batch.len());
        let shared = Arc::clone(&self.shared);
        let mut locked = shared.lock();
        locked.drain();
        let mut slots: Vec<_> = batch.iter().map(|(seq, _)| seq.slot()).collect();
        slots.sort_unstable();
        slots.dedup();
        // Sequences that were cut off in a shared frame, and were their rows end in it.
        let mut tails = Vec::new();
        for &(seq, old_len) in &self.undo {
            let slot = seq.slot();
            if old_len == 0 {
                let frames = self.geometry.region_frames(self.slots.tokens_in(slot));
                locked.desk.typical = Some(locked.desk.typical.map_or(frames, |old| (3 * old + frames).div_ceil(4)));
            }
            if locked.holdings[slot].draining {
                locked.drop_shared_surplus(slot, self.geometry.region_frames(old_len))?;
            }
            let tail = self.geometry.whole_frames(old_len);
            if self.slots.tokens_in(slot) > old_len && self.slots.shared(slot) > tail {
                let bytes = old_len * self.geometry.stride_bytes() - tail * self.geometry.frame_bytes();
                tails.push((slot, tail, bytes));
            }
        }
        tails.dedup_by_key(|&mut (slot, ..)| slot);
        let count = |locked: &mut Locked<'_, B>| {
            let lacking = slots.iter().map(|&slot| {
                let target = self.geometry.region_frames(self.slots.tokens_in(slot));
                locked.body(slot).lacking(target)
            });
            let lacking: usize = lacking.sum();
            let copies = tails
                .iter()
                .map(|&(slot, tail, _)| Self::tail_copies(locked, slot, tail));
            lacking + copies.sum::<usize>()
        };
        // The sequences of the batch may lose what is beyond their new lengths, as all others.
        let (need, spare) = self.make_room(&mut locked, count, &[])?;
        let mut grown = self.map_into_room(&mut locked, &slots, &tails, spare);
        if self.may_retry(&mut locked, &grown, &[]) {
            grown = self.map_into_room(&mut locked, &slots, &tails, 0);
        }
        grown.map_err(|error| match error {
            Error::NeedFrames { free, .. } => Error::NeedFrames { need, free },
            other => other,
        })
    }

    /// Gives sequences frames of their own where they are cut off in shared ones, `(slot, frame, bytes)` each, and extends
    /// the slots.
    fn map_into_room(
        &mut self,
        locked: &mut Locked<'_, B>,
        slots: &[usize],
        tails: &[(usize, usize, usize)],
        ahead: usize,
    ) -> Result<()> {
        for &(slot, tail, bytes) in tails {
            Self::unshare_tail(locked, slot, tail, bytes)?;
            self.slots.set_shared(slot, tail);
        }
        self.extend_slots(locked, slots, ahead)
    }

    /// Extends slots to the lengths of their sequences, for which there is room; `ahead` frames more may be used.
    pub(crate) fn extend_slots(&self, locked: &mut Locked<'_, B>, slots: &[usize], mut ahead: usize) -> Result<()> {
        let mut before = Vec::with_capacity(slots.len());
        for &slot in slots {
            let exact = self.geometry.region_frames(self.slots.tokens_in(slot));
            if self.shared.covered(slot) >= exact {
                continue;
            }
            // Counted also when the mapper thread is at it and there is only to wait for it.
            locked.counters.sync_maps += 1;
            let generous = locked.generous(exact);
            let body = locked.body(slot);
            let covered = body.covered();
            if self.shared.covered(slot) >= exact {
                continue;
            }
            let extra = body.lacking(generous) - body.lacking(exact);
            let target = if extra <= ahead { generous } else { exact };
            ahead -= if extra <= ahead { extra } else { 0 };
            let holding = &locked.holdings[slot];
            before.push((slot, if holding.draining { holding.keep } else { covered }));
            if let Err(error) = locked.extend(slot, target) {
                for (slot, covered) in before {
                    locked.set_keep(slot, covered);
                }
                return Err(error);
            }
            // Where the slot drains, what is beyond `exact` goes too, whenever the backend takes it: no row may begin there.
            locked.holdings[slot].keep = exact;
            locked.publish(slot);
        }
        Ok(())
    }

    /// Checks that rows exist and may be written.
    pub(crate) fn writable(&self, seq: SeqId, tokens: &Range<usize>) -> Result<()> {
        let len = self.len(seq)?;
        self.in_memory(seq)?;
        let &Range { start, end } = tokens;
        if start > end || end > len {
            return Err(Error::Rows { start, end, len });
        }
        let shared_bytes = self.slots.shared(seq.slot()) * self.geometry.frame_bytes();
        let shared = shared_bytes.div_ceil(self.geometry.stride_bytes());
        if start < shared && start < end {
            return Err(Error::Shared { start, end, shared });
        }
        Ok(())
    }
}

impl<B: Backend> Drop for KvCache<B> {
    fn drop(&mut self) {
        self.mapper = None;
        let mut locked = self.shared.lock();
        let _ = locked.clear_window();
        for slot in 0..self.geometry.max_sequences() {
            if let Some(fence) = locked.holdings[slot].fence.take() {
                self.shared.space.backend.wait(&fence);
            }
            // A body is away only if its holder has panicked.
            if let Some(mut body) = locked.try_take(slot) {
                locked.shorten(slot, &mut body, 0);
                locked.put(slot, body);
            }
        }
        locked.ledger.limit = 0;
        locked.shrink_pool();
    }
}
