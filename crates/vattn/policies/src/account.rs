//! One accounting for all policies.

/// When a call was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Before the first request.
    Setup,
    /// While the model waits.
    Critical,
    /// While the model computes.
    Background,
}

/// Calls to the device. A call that does the same to `n` tensors is `n` calls, unless one call really covers them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Calls {
    /// Physical memory taken from the device.
    pub create: u64,
    /// Physical memory given an address.
    pub map: u64,
    /// Access to mapped addresses set.
    pub access: u64,
    /// Address taken away.
    pub unmap: u64,
    /// Physical memory given back to the device.
    pub release: u64,
    /// Memory wiped or copied.
    pub fill: u64,
}

impl Calls {
    /// All calls.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.create + self.map + self.access + self.unmap + self.release + self.fill
    }
}

/// What a policy holds and what it has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Account {
    /// Memory taken from the device, tables included: nobody else can have it.
    pub held_bytes: usize,
    /// The part of it that belongs to live sequences, whole pages or blocks.
    pub assigned_bytes: usize,
    /// The part of it that block tables take.
    pub table_bytes: usize,
    /// Calls while the model waited.
    pub critical: Calls,
    /// Calls while the model computed.
    pub background: Calls,
    /// Entries written into block tables and slot mappings.
    pub table_writes: u64,
    /// Entries of block tables that one layer's kernel follows.
    pub table_reads: u64,
}

/// The device as the policies of this crate see it: a counter of bytes and of calls.
#[derive(Debug, Clone)]
pub struct Device {
    held_bytes: usize,
    phase: Phase,
    critical: Calls,
    background: Calls,
}

impl Device {
    /// A device of which nothing is held yet, in [`Phase::Setup`]. Calls of that phase are not counted.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "a device in the setup phase is no default")]
    pub fn new() -> Self {
        Self {
            held_bytes: 0,
            phase: Phase::Setup,
            critical: Calls::default(),
            background: Calls::default(),
        }
    }

    /// Charges the calls that follow to `phase`.
    pub fn enter(&mut self, phase: Phase) {
        self.phase = phase;
    }

    /// Takes `bytes` in `calls` calls.
    pub fn create(&mut self, bytes: usize, calls: usize) {
        self.held_bytes += bytes;
        self.count(|c| &mut c.create, calls);
    }

    /// Gives `bytes` back in `calls` calls.
    pub fn release(&mut self, bytes: usize, calls: usize) {
        self.held_bytes -= bytes;
        self.count(|c| &mut c.release, calls);
    }

    /// Maps and sets access, `calls` calls each.
    pub fn map(&mut self, calls: usize) {
        self.count(|c| &mut c.map, calls);
        self.count(|c| &mut c.access, calls);
    }

    /// Unmaps in `calls` calls.
    pub fn unmap(&mut self, calls: usize) {
        self.count(|c| &mut c.unmap, calls);
    }

    /// Books of a policy that has nothing but this device: no tables, and `assigned_bytes` of live sequences.
    #[must_use]
    pub fn account(&self, assigned_bytes: usize) -> Account {
        Account {
            held_bytes: self.held_bytes,
            assigned_bytes,
            critical: self.critical,
            background: self.background,
            ..Account::default()
        }
    }

    fn count(&mut self, field: fn(&mut Calls) -> &mut u64, calls: usize) {
        let of_phase = match self.phase {
            Phase::Setup => return,
            Phase::Critical => &mut self.critical,
            Phase::Background => &mut self.background,
        };
        *field(of_phase) += calls as u64;
    }
}
