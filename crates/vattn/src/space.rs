//! The address space of a cache, and frames going into it and out of it.

use crate::backend::{Access, Backend, Caps, Frame, Request};
use crate::error::{BackendError, Error, Result};
use crate::geometry::Geometry;

/// What one region of a slot has mapped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Region {
    /// The frames, from the start of the region on.
    pub(crate) frames: Vec<Frame>,
    /// The first so many are mapped read-only: others may have them too. All later ones are this region's alone.
    pub(crate) shared: usize,
    /// The last so many may hold anything, because wiping them and taking them out were both refused.
    pub(crate) stale: usize,
    /// For the first so many large pages were tried.
    pub(crate) huge: usize,
}

impl Region {
    /// Frames that a sequence may use.
    pub(crate) fn usable(&self) -> usize {
        self.frames.len() - self.stale
    }

    /// Forgets the frames beyond the first `keep`.
    pub(crate) fn cut(&mut self, keep: usize) {
        let surplus = self.frames.len().saturating_sub(keep);
        self.frames.truncate(keep);
        self.shared = self.shared.min(keep);
        self.stale = self.stale.saturating_sub(surplus);
        self.break_huge(keep);
    }

    /// Notes that frame `at`, and those after it, may not be part of a large page any more.
    pub(crate) fn break_huge(&mut self, at: usize) {
        self.huge = self.huge.min(at);
    }
}

/// What all regions of a slot have mapped. Only the holder of this value maps and unmaps in the slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Body {
    pub(crate) regions: Vec<Region>,
    /// Whether every mapped byte is zero.
    pub(crate) wiped: bool,
}

impl Body {
    pub(crate) fn new(regions: usize) -> Self {
        Self {
            regions: vec![Region::default(); regions],
            wiped: true,
        }
    }

    /// Frames that a sequence may use in every region.
    pub(crate) fn covered(&self) -> usize {
        self.regions.iter().map(Region::usable).min().unwrap_or(0)
    }

    /// Frames in all regions.
    pub(crate) fn frames(&self) -> usize {
        self.regions.iter().map(|region| region.frames.len()).sum()
    }

    /// Frames that the regions have beyond their first `keep`.
    pub(crate) fn surplus(&self, keep: usize) -> usize {
        let beyond = |region: &Region| region.frames.len().saturating_sub(keep);
        self.regions.iter().map(beyond).sum()
    }

    /// Frames that the regions lack for `target` each.
    pub(crate) fn lacking(&self, target: usize) -> usize {
        let lacking = |region: &Region| target.saturating_sub(region.frames.len());
        self.regions.iter().map(lacking).sum()
    }

    /// Whether any frame may be somebody else's too.
    pub(crate) fn is_shared(&self) -> bool {
        self.regions.iter().any(|region| region.shared > 0)
    }
}

/// A frame that is mapped nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spare {
    pub(crate) frame: Frame,
    pub(crate) zero: bool,
}

/// Frames on the way into the address space: what there is, and how many were created.
#[derive(Debug, Default)]
pub(crate) struct Spares {
    pub(crate) frames: Vec<Spare>,
    pub(crate) created: usize,
}

/// Reserved address space for all slots: regions of a slot lie one behind the other, slots likewise. Behind each region
/// is a page that is never mapped, so that running off a full region faults too.
#[derive(Debug)]
pub(crate) struct Space<B: Backend> {
    pub(crate) backend: B,
    pub(crate) geometry: Geometry,
    pub(crate) caps: Caps,
    base: usize,
    bytes: usize,
    region_stride: usize,
    /// One frame of address space in which a frame is filled before it goes to its place.
    window: usize,
}

impl<B: Backend> Space<B> {
    pub(crate) fn new(backend: B, geometry: Geometry) -> Result<Self> {
        let caps = backend.caps();
        let frame_bytes = geometry.frame_bytes();
        if !frame_bytes.is_multiple_of(caps.page_bytes) {
            return Err(Error::FrameBelowPage {
                frame_bytes,
                page_bytes: caps.page_bytes,
            });
        }
        if frame_bytes != caps.frame_bytes {
            return Err(Error::FrameBytes {
                geometry: frame_bytes,
                backend: caps.frame_bytes,
            });
        }
        let align = match caps.huge_bytes {
            huge if huge > 0 && geometry.region_bytes() >= huge => huge.max(frame_bytes),
            _ => frame_bytes,
        };
        let layout = geometry
            .region_bytes()
            .checked_add(caps.page_bytes)
            .and_then(|bytes| bytes.checked_next_multiple_of(align))
            .and_then(|stride| Some((stride, stride.checked_mul(geometry.regions())?)))
            .and_then(|(stride, bytes)| Some((stride, bytes, bytes.checked_add(frame_bytes)?)));
        let Some((region_stride, window, bytes)) = layout else {
            let hint = "reduce the shape: it does not fit into the address space";
            let error = BackendError::new(
                "reservation",
                geometry.reserved_bytes(),
                hint,
                std::io::ErrorKind::OutOfMemory.into(),
            );
            return Err(error.into());
        };
        let base = backend.reserve(bytes, align)?;
        Ok(Self {
            backend,
            geometry,
            caps,
            base,
            bytes,
            region_stride,
            window: base + window,
        })
    }

    /// Address of a region of a slot.
    pub(crate) fn region(&self, slot: usize, region: usize) -> usize {
        self.base + (slot * self.geometry.regions_per_sequence() + region) * self.region_stride
    }

    /// Address of a frame of a region.
    pub(crate) fn address(&self, slot: usize, region: usize, frame: usize) -> usize {
        self.region(slot, region) + frame * self.caps.frame_bytes
    }

    /// Gives every region of a slot at least `target` frames, new ones from `spares` as long as there are any. The new
    /// bytes are zero. On an error the regions have what they had, or more where that is refused too; frames taken out
    /// again are in `spares`.
    pub(crate) fn extend(
        &self,
        slot: usize,
        body: &mut Body,
        target: usize,
        spares: &mut Spares,
        huge: bool,
    ) -> Result<(), BackendError> {
        let before: Vec<_> = body.regions.iter().map(|region| region.frames.len()).collect();
        let grown = (0..before.len())
            .try_for_each(|index| self.extend_region(slot, index, &mut body.regions[index], target, spares, huge))
            .and_then(|()| self.backend.settle());
        if grown.is_err() {
            for (index, &len) in before.iter().enumerate() {
                let (mut out, region) = (Vec::new(), &mut body.regions[index]);
                if self.shorten_region(slot, index, region, len, &mut out).is_err() {
                    // More is mapped than there was. The next growth wipes it again and uses it.
                    region.stale = region.frames.len() - len.min(region.usable());
                }
                spares
                    .frames
                    .extend(out.into_iter().map(|frame| Spare { frame, zero: false }));
            }
        }
        grown
    }

    fn extend_region(
        &self,
        slot: usize,
        index: usize,
        region: &mut Region,
        target: usize,
        spares: &mut Spares,
        huge: bool,
    ) -> Result<(), BackendError> {
        if region.stale > 0 {
            let address = self.address(slot, index, region.usable());
            self.backend.zero(address, region.stale * self.caps.frame_bytes)?;
            region.stale = 0;
        }
        let from = region.frames.len();
        if from >= target {
            return Ok(());
        }
        let address = self.address(slot, index, from);
        let taken = spares
            .frames
            .split_off(spares.frames.len().saturating_sub(target - from));
        let mut zero = taken.iter().all(|spare| spare.zero);
        let mut frames: Vec<_> = taken.iter().map(|spare| spare.frame).collect();
        let mapped = self
            .create(
                &mut frames,
                target - from,
                index_of(self, slot, index, from),
                region,
                spares,
                huge,
            )
            .inspect(|&new| zero &= self.caps.zeroed || !new)
            .and_then(|_| self.backend.map(address, &frames, Access::ReadWrite));
        if let Err(error) = mapped {
            let unused = frames.into_iter().map(|frame| Spare { frame, zero: false });
            spares.frames.extend(unused);
            return Err(error);
        }
        region.frames.extend(frames);
        if !zero {
            region.stale = target - from;
            self.backend.zero(address, region.stale * self.caps.frame_bytes)?;
            region.stale = 0;
        }
        Ok(())
    }

    /// Adds new frames to `frames` until there are `count`. Returns whether there were any.
    fn create(
        &self,
        frames: &mut Vec<Frame>,
        count: usize,
        (address, room): (usize, usize),
        region: &Region,
        spares: &mut Spares,
        huge: bool,
    ) -> Result<bool, BackendError> {
        let have = frames.len();
        if have == count {
            return Ok(false);
        }
        let request = Request {
            count: count - have,
            address: address + have * self.caps.frame_bytes,
            room: room - have,
            after: frames.last().or(region.frames.last()).copied(),
            huge,
        };
        self.backend.create(&request, frames)?;
        debug_assert_eq!(frames.len(), count);
        spares.created += count - have;
        Ok(true)
    }

    /// One frame that is mapped nowhere, from `spares` or new, for the place of `address`.
    pub(crate) fn new_frame(&self, address: usize, spares: &mut Spares) -> Result<Frame, BackendError> {
        if let Some(spare) = spares.frames.pop() {
            return Ok(spare.frame);
        }
        let request = Request {
            count: 1,
            address,
            room: 1,
            after: None,
            huge: false,
        };
        let mut frames = Vec::with_capacity(1);
        self.backend.create(&request, &mut frames)?;
        spares.created += 1;
        Ok(frames[0])
    }

    /// Takes the frames from `keep` on out of a region and adds them to `out`.
    pub(crate) fn shorten_region(
        &self,
        slot: usize,
        index: usize,
        region: &mut Region,
        keep: usize,
        out: &mut Vec<Frame>,
    ) -> Result<(), BackendError> {
        let surplus = region.frames.len().saturating_sub(keep);
        if surplus == 0 {
            return Ok(());
        }
        self.backend.unmap(self.address(slot, index, keep), surplus)?;
        out.extend_from_slice(&region.frames[keep..]);
        region.cut(keep);
        Ok(())
    }

    /// Takes the frames from `keep` on out of all regions and adds them to `out`. A region whose turn is refused keeps
    /// them, and the others are still shortened; returns the last refusal.
    pub(crate) fn shorten(
        &self,
        slot: usize,
        body: &mut Body,
        keep: usize,
        out: &mut Vec<Frame>,
    ) -> Result<(), BackendError> {
        let mut outcome = Ok(());
        for (index, region) in body.regions.iter_mut().enumerate() {
            outcome = self.shorten_region(slot, index, region, keep, out).and(outcome);
        }
        body.wiped |= body.frames() == 0;
        outcome
    }

    /// Sets every mapped byte of a slot that holds no sequence to zero. Calls nothing when that is so already.
    pub(crate) fn wipe(&self, slot: usize, body: &mut Body) -> Result<(), BackendError> {
        if body.wiped {
            return Ok(());
        }
        debug_assert!(!body.is_shared(), "shared frames are never wiped");
        for (index, region) in body.regions.iter().enumerate() {
            if !region.frames.is_empty() {
                self.backend
                    .zero(self.region(slot, index), region.frames.len() * self.caps.frame_bytes)?;
            }
        }
        self.backend.settle()?;
        body.wiped = true;
        Ok(())
    }

    /// Frames that fill a large page; `None` where frames are as large, or there are no large pages.
    pub(crate) fn huge_frames(&self) -> Option<usize> {
        let frames = self.caps.huge_bytes / self.caps.frame_bytes;
        (frames > 1 && self.geometry.region_bytes() >= self.caps.huge_bytes).then_some(frames)
    }

    /// The first frame of a region that begins a large page for which none was tried, all of it mapped.
    pub(crate) fn next_huge(&self, region: &Region) -> Option<usize> {
        let frames = self.huge_frames()?;
        let from = region.huge / frames * frames;
        (from + frames <= region.usable()).then_some(from)
    }

    /// Address at which one frame can be mapped and filled before it goes to its place.
    pub(crate) fn window(&self) -> usize {
        self.window
    }
}

/// Address of a frame of a region, and the frames from there to the end of the region.
fn index_of<B: Backend>(space: &Space<B>, slot: usize, region: usize, frame: usize) -> (usize, usize) {
    (space.address(slot, region, frame), space.geometry.max_frames() - frame)
}

impl<B: Backend> Drop for Space<B> {
    fn drop(&mut self) {
        self.backend.release(self.base, self.bytes);
    }
}
