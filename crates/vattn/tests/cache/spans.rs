//! What may take time is in a span of the crate `tracing`.

use std::sync::{Arc, Mutex};

use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};
use vattn::sim::SimBackend;
use vattn::{Config, Geometry, KvCache};

/// Names of the spans, as they begin.
#[derive(Default)]
struct Names(Mutex<Vec<&'static str>>);

impl Subscriber for Names {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "vattn"
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut names = self.0.lock().unwrap();
        names.push(span.metadata().name());
        Id::from_u64(names.len() as u64)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[test]
fn mapping_sharing_and_swapping_are_in_spans_and_other_steps_are_not() {
    let names = Arc::new(Names::default());
    tracing::subscriber::with_default(Arc::clone(&names), || {
        let geometry = Geometry::builder()
            .layers(1)
            .row_bytes(16)
            .max_tokens(8)
            .max_sequences(2)
            .frame_bytes(64)
            .build()
            .unwrap();
        let mut cache = KvCache::with_backend(SimBackend::new(64), geometry, Config::new(usize::MAX)).unwrap();
        let seq = cache.admit(1).unwrap();
        cache.grow(seq, 4).unwrap(); // within its frame
        cache.fork(seq).unwrap();
        cache.swap_out(seq).unwrap();
        cache.swap_in(seq).unwrap();
        cache.sleep().unwrap();
        cache.wake().unwrap();
    });
    let names = names.0.lock().unwrap().clone();
    assert_eq!(names, ["map", "share", "swap_out", "swap_in", "sleep", "wake"]);
}
