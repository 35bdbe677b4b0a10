//! Rows that leave the device's memory and come back: one sequence at a time, or everything at once.

use std::collections::{HashMap, HashSet};

use crate::backend::{Access, Backend, Frame, Request};
use crate::cache::KvCache;
use crate::error::{Error, Result};
use crate::sequence::{SeqId, Slot};
use crate::shared::Locked;
use crate::space::Region;
use crate::trace::span;

/// Rows of one sequence in ordinary memory of the program.
#[derive(Debug)]
pub(crate) struct Swapped {
    /// Frames of each region that stayed mapped, because others have them too.
    keep: usize,
    /// For each region the bytes of its rows from there on.
    regions: Vec<Vec<u8>>,
}

/// Everything that was mapped when the cache went to sleep.
#[derive(Debug)]
pub(crate) struct Sleep {
    /// For each slot and region what is to be mapped again; `None` where it is mapped.
    regions: Vec<Vec<Option<Region>>>,
    /// Contents of the frames that do not exist any more.
    images: HashMap<Frame, Vec<u8>>,
    /// Frames that exist again, by their old names.
    renamed: HashMap<Frame, Frame>,
}

impl<B: Backend> KvCache<B> {
    /// Moves the rows of a sequence to ordinary memory of the program and gives its frames back. Frames that it shares
    /// stay: they cost nothing. Id, length and addresses stay too. Waits for the steps that were committed.
    ///
    /// # Errors
    ///
    /// [`Error::NotOpen`], [`Error::SwappedOut`], [`Error::Asleep`]; [`Error::Backend`] when the rows cannot be read.
    pub fn swap_out(&mut self, seq: SeqId) -> Result<()> {
        span!("swap_out", slot = seq.slot());
        let len = self.len(seq)?;
        self.in_memory(seq)?;
        let (slot, frame_bytes) = (seq.slot(), self.geometry.frame_bytes());
        let mut locked = self.shared.lock();
        if let Some(fence) = locked.holdings[slot].fence.take() {
            self.shared.space.backend.wait(&fence);
        }
        let keep = locked.body(slot).regions.iter().map(|region| region.shared).min();
        let keep = keep.unwrap_or(0).min(self.geometry.region_frames(len));
        let bytes = (len * self.geometry.stride_bytes()).saturating_sub(keep * frame_bytes);
        let mut regions = vec![vec![0; bytes]; self.geometry.regions_per_sequence()];
        for (index, region) in regions.iter_mut().enumerate() {
            let from = self.shared.space.address(slot, index, keep);
            self.shared.space.backend.read(from, region)?;
        }
        self.slots.set_swapped(slot, true);
        self.slots.set_shared(slot, keep);
        locked.set_keep(slot, keep);
        drop(locked);
        self.swap.insert(slot, Swapped { keep, regions });
        Ok(())
    }

    /// Brings the rows of a sequence back to where they were.
    ///
    /// # Errors
    ///
    /// [`Error::NotOpen`], [`Error::NotSwappedOut`], [`Error::Asleep`]; [`Error::NeedFrames`] or [`Error::Backend`] when
    /// there is no memory for them. The sequence stays swapped out then.
    pub fn swap_in(&mut self, seq: SeqId) -> Result<()> {
        span!("swap_in", slot = seq.slot());
        let len = self.len(seq)?;
        self.awake()?;
        let slot = seq.slot();
        let swapped = self.swap.get(&slot).ok_or(Error::NotSwappedOut { seq })?;
        let space = &self.shared.space;
        let mut locked = self.shared.lock();
        locked.drain();
        locked.drop_shared_surplus(slot, swapped.keep)?;
        let frames = self.geometry.region_frames(len);
        self.make_room(&mut locked, |locked| locked.body(slot).lacking(frames), &[slot])?;
        let mut extended = self.extend_slots(&mut locked, &[slot], 0);
        if self.may_retry(&mut locked, &extended, &[slot]) {
            extended = self.extend_slots(&mut locked, &[slot], 0);
        }
        let written = extended.and_then(|()| {
            for (index, region) in swapped.regions.iter().enumerate() {
                space.backend.write(space.address(slot, index, swapped.keep), region)?;
            }
            Ok(())
        });
        if written.is_err() {
            locked.set_keep(slot, swapped.keep);
            return written;
        }
        drop(locked);
        self.slots.set_swapped(slot, false);
        self.swap.remove(&slot);
        Ok(())
    }

    /// Bytes of rows in ordinary memory of the program, of sequences that were swapped out.
    #[must_use]
    pub fn swapped_bytes(&self) -> usize {
        let regions = self.swap.values().flat_map(|swapped| &swapped.regions);
        regions.map(Vec::len).sum()
    }

    /// Moves everything to ordinary memory of the program and gives all frames back; addresses stay reserved. Until
    /// [`KvCache::wake`] sequences and prefixes can only be freed. Shared frames are kept once and will be shared again.
    /// Waits for the device. What the backend refuses to take back stays where it is.
    ///
    /// # Errors
    ///
    /// [`Error::Asleep`]; [`Error::Backend`] when rows cannot be read. Nothing has changed then.
    pub fn sleep(&mut self) -> Result<()> {
        span!("sleep");
        self.awake()?;
        let mut locked = self.shared.lock();
        locked.forget_asks();
        for slot in 0..self.geometry.max_sequences() {
            if let Some(fence) = locked.holdings[slot].fence.take() {
                self.shared.space.backend.wait(&fence);
            }
        }
        drop(locked);
        self.trim();
        let images = self.read_frames()?;
        let mut locked = self.shared.lock();
        Self::refresh_keep(&self.slots, &self.geometry, &mut locked);
        let mut sleep = Sleep {
            regions: Vec::new(),
            images,
            renamed: HashMap::new(),
        };
        for slot in 0..self.geometry.max_sequences() {
            let mut body = locked.take(slot);
            let live = matches!(self.slots.slots()[slot], Slot::Live { .. });
            // What is beyond the rows waits to be given back and is not made again.
            let mut before = body.regions.clone();
            let keep = locked.holdings[slot].keep;
            before.iter_mut().for_each(|region| region.cut(keep));
            locked.shorten(slot, &mut body, 0);
            let gone = before.into_iter().zip(&body.regions).map(|(before, now)| {
                for &frame in &now.frames {
                    sleep.renamed.insert(frame, frame);
                }
                (live && now.frames.is_empty() && !before.frames.is_empty()).then_some(before)
            });
            sleep.regions.push(gone.collect());
            locked.put(slot, body);
        }
        locked.empty_pool();
        drop(locked);
        self.sleep = Some(sleep);
        Ok(())
    }

    /// Makes everything again that [`KvCache::sleep`] took: same rows, same addresses, same sharing.
    ///
    /// # Errors
    ///
    /// [`Error::NeedFrames`] or [`Error::Backend`] when there is no memory; the cache sleeps on then, and may be woken
    /// again. Part of the memory may be there already.
    pub fn wake(&mut self) -> Result<()> {
        span!("wake");
        let Some(mut sleep) = self.sleep.take() else {
            return Ok(());
        };
        let woken = self.wake_regions(&mut sleep);
        if woken.is_err() {
            self.sleep = Some(sleep);
        }
        woken
    }

    /// Whether the cache sleeps.
    #[must_use]
    pub fn is_asleep(&self) -> bool {
        self.sleep.is_some()
    }

    /// Forgets what a slot has in the swap or would get on waking.
    pub(crate) fn forget_swapped(&mut self, slot: usize) {
        self.swap.remove(&slot);
        if let Some(sleep) = &mut self.sleep {
            sleep.regions[slot].fill(None);
        }
    }

    /// The contents of every frame that holds rows of a sequence or prefix.
    fn read_frames(&self) -> Result<HashMap<Frame, Vec<u8>>> {
        let mut images = HashMap::new();
        let mut locked = self.shared.lock();
        Self::refresh_keep(&self.slots, &self.geometry, &mut locked);
        let space = locked.space();
        for slot in 0..self.geometry.max_sequences() {
            let keep = locked.holdings[slot].keep;
            for (index, region) in locked.body(slot).regions.iter().enumerate() {
                for (position, frame) in region.frames.iter().take(keep).enumerate() {
                    if !images.contains_key(frame) {
                        let mut bytes = vec![0; space.caps.frame_bytes];
                        space.backend.read(space.address(slot, index, position), &mut bytes)?;
                        images.insert(*frame, bytes);
                    }
                }
            }
        }
        Ok(images)
    }

    fn wake_regions(&self, sleep: &mut Sleep) -> Result<()> {
        let mut locked = self.shared.lock();
        locked.drain();
        // What the backend refused to take when the cache fell asleep may have gone since.
        let mut mapped = HashSet::new();
        for slot in 0..self.geometry.max_sequences() {
            mapped.extend(
                locked
                    .body(slot)
                    .regions
                    .iter()
                    .flat_map(|region| region.frames.iter().copied()),
            );
        }
        sleep.renamed.retain(|_, now| mapped.contains(now));
        let asleep = sleep.regions.iter().flatten().flatten();
        let mut missing: Vec<_> = asleep.flat_map(|region| &region.frames).copied().collect();
        missing.sort_unstable();
        missing.dedup();
        missing.retain(|frame| !sleep.renamed.contains_key(frame));
        let (need, room) = (missing.len(), locked.ledger.room());
        if need > room {
            return Err(Error::NeedFrames { need, free: room });
        }
        for (slot, regions) in sleep.regions.iter_mut().enumerate() {
            for (index, asleep) in regions.iter_mut().enumerate() {
                let Some(region) = asleep else { continue };
                let mut body = locked.take(slot);
                let woken = wake_region(
                    &mut locked,
                    (slot, index, &mut body.regions[index]),
                    region,
                    &sleep.images,
                    &mut sleep.renamed,
                );
                locked.holdings[slot].keep = body.covered();
                locked.put(slot, body);
                woken?;
                *asleep = None;
            }
        }
        self.shared.space.backend.settle()?;
        Ok(())
    }
}

/// Maps the frames of one region again, from where an earlier try has stopped, and makes those that nobody has made yet.
fn wake_region<B: Backend>(
    locked: &mut Locked<'_, B>,
    (slot, index, now): (usize, usize, &mut Region),
    asleep: &Region,
    images: &HashMap<Frame, Vec<u8>>,
    renamed: &mut HashMap<Frame, Frame>,
) -> Result<()> {
    let space = locked.space();
    if now.stale > 0 {
        let mut out = Vec::new();
        space.shorten_region(slot, index, now, now.usable(), &mut out)?;
        locked.ledger.drop_frames(out);
    }
    while now.frames.len() < asleep.frames.len() {
        let from = now.frames.len();
        let exists = |frame: &Frame| renamed.contains_key(frame);
        let known = exists(&asleep.frames[from]);
        let run = asleep.frames[from..].iter().take_while(|&frame| exists(frame) == known);
        // A run is all shared or all its own.
        let border = if from < asleep.shared {
            asleep.shared
        } else {
            asleep.frames.len()
        };
        let count = run.count().min(border - from);
        let address = space.address(slot, index, from);
        let old = &asleep.frames[from..from + count];
        let access = if from < asleep.shared {
            Access::Read
        } else {
            Access::ReadWrite
        };
        if known {
            let frames: Vec<_> = old.iter().map(|frame| renamed[frame]).collect();
            space.backend.map(address, &frames, access)?;
            // A frame that waking has made is counted by the region for which it was made, one that stayed by its own.
            locked.ledger.share(&frames);
            now.frames.extend(frames);
        } else {
            let mut frames = Vec::with_capacity(count);
            let request = Request {
                count,
                address,
                room: space.geometry.max_frames() - from,
                after: now.frames.last().copied(),
                huge: false,
            };
            space.backend.create(&request, &mut frames)?;
            locked.ledger.created += count;
            let filled = space
                .backend
                .map(address, &frames, Access::ReadWrite)
                .inspect_err(|_| locked.ledger.drop_frames(frames.clone()));
            filled?;
            let steps = (address..).step_by(space.caps.frame_bytes);
            let written = old
                .iter()
                .zip(steps)
                .try_for_each(|(frame, at)| space.backend.write(at, &images[frame]))
                .and_then(|()| match access {
                    Access::Read => space.backend.protect(address, count, access),
                    Access::ReadWrite => Ok(()),
                });
            if let Err(error) = written {
                match space.backend.unmap(address, count) {
                    Ok(()) => locked.ledger.drop_frames(frames),
                    // They stay, are not usable, and the next try starts by taking them out.
                    Err(_) => {
                        now.frames.extend(frames);
                        now.stale = count;
                    }
                }
                return Err(error.into());
            }
            renamed.extend(old.iter().copied().zip(frames.iter().copied()));
            now.frames.extend(frames);
        }
        now.shared = now.frames.len().min(asleep.shared);
    }
    Ok(())
}
