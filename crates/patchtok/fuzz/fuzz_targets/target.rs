//! One of the fuzz targets of the tests, by the name in `PATCHTOK_TARGET`.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/hostile/targets.rs"]
mod targets;

static TARGET: LazyLock<&targets::Target> = LazyLock::new(|| {
    let name = std::env::var("PATCHTOK_TARGET").unwrap_or_default();
    let names: Vec<_> = targets::TARGETS.iter().map(|target| target.name).collect();
    let target = targets::TARGETS.iter().find(|target| target.name == name);
    target.unwrap_or_else(|| panic!("set PATCHTOK_TARGET to one of {}", names.join(", ")))
});

fuzz_target!(|bytes: &[u8]| {
    (TARGET.run)(bytes);
});
