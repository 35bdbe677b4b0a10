//! The obligations of the seam, on the backends of this crate; those of the device are checked with its emulated driver.

use vattn::host::{self, HostBackend};
use vattn::sim::SimBackend;
use vattn::testing::{Faulty, check_backend};

#[test]
fn the_host_meets_them() {
    check_backend(&HostBackend::new(host::page_bytes()).unwrap());
    check_backend(&HostBackend::new(1 << 16).unwrap());
}

#[test]
fn the_model_meets_them() {
    check_backend(&SimBackend::new(64));
    check_backend(&SimBackend::new(4096).like_files());
    check_backend(&SimBackend::new(4096).without_alias());
    check_backend(&Faulty::new(SimBackend::new(64)).0);
}
