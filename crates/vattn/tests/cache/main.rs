//! The cache from outside, over the host backend and over the model of memory.

mod ahead;
mod arena;
mod atomicity;
mod budget;
mod mapper;
mod model;
mod obligations;
mod process;
mod rows;
mod soak;
mod spans;

use vattn::{Geometry, host};

/// A small geometry whose rows divide no frame: `layers` layers, rows of five eighths of a page, frames of one page.
fn small(layers: usize, max_tokens: usize, max_sequences: usize) -> Geometry {
    let page = host::page_bytes();
    Geometry::builder()
        .layers(layers)
        .row_bytes(page * 5 / 8)
        .max_tokens(max_tokens)
        .max_sequences(max_sequences)
        .frame_bytes(page)
        .build()
        .unwrap()
}

#[test]
fn public_types_are_send_and_sync() {
    fn check<T: Send + Sync + 'static>() {}
    check::<vattn::KvCache>();
    check::<vattn::KvCache<vattn::sim::SimBackend>>();
    check::<vattn::KvView>();
    check::<vattn::Config>();
    check::<vattn::Ticket>();
    check::<vattn::Geometry>();
    check::<vattn::GeometryBuilder>();
    check::<vattn::SeqId>();
    check::<vattn::PrefixId>();
    check::<vattn::Stats>();
    check::<vattn::Error>();
    check::<vattn::GeometryError>();
    check::<vattn::BackendError>();
    check::<vattn::AuditError>();
    check::<vattn::host::Arena>();
    check::<vattn::host::HostBackend>();
}
