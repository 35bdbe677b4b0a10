//! What a test can turn: how the emulated device is built and how it behaves.

use std::str::FromStr;

/// Settings of an emulated device, written as `name=value,name=value`; what is not named has its default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Knobs {
    /// `lazy`: queued work runs only when somebody waits for it, as on a device that is slow.
    pub lazy: bool,
    /// `dirty`: new memory holds garbage instead of zeros.
    pub dirty: bool,
    /// `granularity`: bytes of the smallest physical allocation, a power of two of at least a host page.
    pub granularity: u64,
    /// `capacity`: bytes of memory on the device.
    pub capacity: u64,
    /// `driver`: version that the driver reports, 1000 · major + 10 · minor; it limits the PTX version accepted.
    pub driver: u32,
    /// `compute`: compute capability, 10 · major + minor.
    pub compute: u32,
    /// `device`: whether there is a device; a driver can be there without a card.
    pub device: bool,
    /// `vmm`: whether the device manages virtual memory.
    pub vmm: bool,
    /// `pools`: whether the device has memory pools.
    pub pools: bool,
    /// `read_only`: whether read-only access can be set; some drivers are said to refuse it.
    pub read_only: bool,
}

impl Default for Knobs {
    fn default() -> Self {
        Self {
            lazy: false,
            dirty: false,
            granularity: 2 << 20,
            capacity: 1 << 30,
            driver: 12_000,
            compute: 80,
            device: true,
            vmm: true,
            pools: true,
            read_only: true,
        }
    }
}

/// A setting that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KnobError {
    /// Not of the form `name=value`, or the value is not a number.
    #[error("'{0}' is not of the form name=number")]
    Form(String),
    /// No knob has this name.
    #[error("there is no knob '{0}'")]
    Name(String),
    /// The granularity is not usable.
    #[error("granularity={0} is not a power of two of at least 4096")]
    Granularity(u64),
}

impl FromStr for Knobs {
    type Err = KnobError;

    fn from_str(text: &str) -> Result<Self, KnobError> {
        let mut knobs = Self::default();
        for setting in text.split(',').filter(|setting| !setting.is_empty()) {
            let form = || KnobError::Form(setting.to_owned());
            let (name, value) = setting.split_once('=').ok_or_else(form)?;
            let number: u64 = value.parse().map_err(|_| form())?;
            let small = || u32::try_from(number).map_err(|_| form());
            match name {
                "lazy" => knobs.lazy = number != 0,
                "dirty" => knobs.dirty = number != 0,
                "granularity" => knobs.granularity = number,
                "capacity" => knobs.capacity = number,
                "driver" => knobs.driver = small()?,
                "compute" => knobs.compute = small()?,
                "device" => knobs.device = number != 0,
                "vmm" => knobs.vmm = number != 0,
                "pools" => knobs.pools = number != 0,
                "read_only" => knobs.read_only = number != 0,
                _ => return Err(KnobError::Name(name.to_owned())),
            }
        }
        if !knobs.granularity.is_power_of_two() || knobs.granularity < 4096 {
            return Err(KnobError::Granularity(knobs.granularity));
        }
        Ok(knobs)
    }
}

#[cfg(test)]
mod tests {
    use super::{KnobError, Knobs};

    #[test]
    fn settings_are_read_and_wrong_ones_refused() {
        let knobs: Knobs = "lazy=1,capacity=4096,driver=12020".parse().unwrap();
        assert!(knobs.lazy && !knobs.dirty);
        assert_eq!((knobs.capacity, knobs.driver), (4096, 12_020));
        assert_eq!("".parse(), Ok(Knobs::default()));
        let error = |text: &str| text.parse::<Knobs>().unwrap_err();
        assert_eq!(error("lazy"), KnobError::Form("lazy".into()));
        assert_eq!(error("lazy=yes"), KnobError::Form("lazy=yes".into()));
        assert_eq!(error("driver=5000000000"), KnobError::Form("driver=5000000000".into()));
        assert_eq!(error("hurry=1"), KnobError::Name("hurry".into()));
        assert_eq!(error("granularity=3000"), KnobError::Granularity(3000));
    }
}
