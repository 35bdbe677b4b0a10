//! What a cache may hold, and what it may keep for later.

use std::time::Duration;

/// How a cache uses memory. Everything but the budget is about speed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// Most bytes of physical memory, rounded down to whole frames. It can be changed later.
    pub budget_bytes: usize,
    /// Bytes of each region that are mapped at once when a sequence grows past its last frame, rounded up to frames. More means
    /// fewer calls and more memory that is not used yet: at most this much for each region. It is not taken where the
    /// budget lacks it.
    pub growth_bytes: usize,
    /// Bytes that freed sequences may leave mapped for those that follow. They are wiped before anybody can read them. What is
    /// left makes place for sequences that grow, so that never more exists than was needed at one time, growth by
    /// [`Config::growth_bytes`] counted in. With [`Config::mapper`] it does not, and is also made beforehand: it is filled up when less than half of it is there.
    pub warm_bytes: usize,
    /// Whether a thread of the cache works in the background: it maps what growing sequences will need next, gives back what
    /// freed sequences had, wipes what they leave, and puts large pages behind long sequences. Memory is then given
    /// back soon after a call instead of within it.
    pub mapper: bool,
    /// How long nothing must have happened until the mapper thread gives back what is warm. It comes again with the next use.
    pub trim_after: Duration,
}

impl Config {
    /// The exact configuration: no frame is mapped before it is needed or kept after it was, and there is no thread.
    #[must_use]
    pub fn new(budget_bytes: usize) -> Self {
        Self {
            budget_bytes,
            growth_bytes: 0,
            warm_bytes: 0,
            mapper: false,
            trim_after: Duration::from_secs(2),
        }
    }

    /// Sets [`Config::growth_bytes`].
    #[must_use]
    pub fn growth_bytes(mut self, bytes: usize) -> Self {
        self.growth_bytes = bytes;
        self
    }

    /// Sets [`Config::warm_bytes`].
    #[must_use]
    pub fn warm_bytes(mut self, bytes: usize) -> Self {
        self.warm_bytes = bytes;
        self
    }

    /// Sets [`Config::mapper`].
    #[must_use]
    pub fn mapper(mut self, mapper: bool) -> Self {
        self.mapper = mapper;
        self
    }

    /// Sets [`Config::trim_after`].
    #[must_use]
    pub fn trim_after(mut self, time: Duration) -> Self {
        self.trim_after = time;
        self
    }

    /// Whether sequences may have more than their lengths need.
    pub(crate) fn maps_ahead(&self) -> bool {
        self.growth_bytes > 0 || self.warm_bytes > 0 || self.mapper
    }
}
