//! Rows: where they lie, what they hold, and what is refused.

use vattn::{Error, Geometry, KvCache, host};

use crate::small;

#[test]
fn addresses_stay_while_a_sequence_grows() {
    let geometry = small(2, 64, 3);
    let page = geometry.frame_bytes();
    let mut cache = KvCache::new(geometry, usize::MAX).unwrap();
    let (a, b) = (cache.open().unwrap(), cache.open().unwrap());
    let first = cache.view(a, 1).unwrap();
    for len in 1..=64 {
        cache.grow_batch(&[(a, len), (b, len)]).unwrap();
        let view = cache.view(a, 1).unwrap();
        assert_eq!((view.k, view.v, view.len), (first.k, first.v, len));
        assert!(view.k.is_multiple_of(page) && view.v.is_multiple_of(page));
        let k = cache.k(a, 1).unwrap();
        assert_eq!((k.as_ptr().addr(), k.len()), (view.k, len * geometry.row_bytes()));
        assert_eq!(view.mapped_bytes, k.len().next_multiple_of(page));
        assert_eq!(cache.v(a, 1).unwrap().as_ptr().addr(), view.v);
    }
}

#[test]
fn a_row_lies_where_the_slices_say() {
    let geometry = small(3, 10, 2);
    let row = geometry.row_bytes();
    let mut cache = KvCache::new(geometry, usize::MAX).unwrap();
    let seq = cache.open().unwrap();
    cache.grow(seq, 10).unwrap();
    let (k, v) = cache.rows_mut(seq, 2, 7..9).unwrap();
    assert_eq!((k.len(), v.len()), (2 * row, 2 * row));
    k.fill(3);
    v.fill(4);
    for layer in 0..3 {
        for (slice, value) in [(cache.k(seq, layer).unwrap(), 3), (cache.v(seq, layer).unwrap(), 4)] {
            for (token, bytes) in slice.chunks(row).enumerate() {
                let expected = if layer == 2 && (7..9).contains(&token) {
                    value
                } else {
                    0
                };
                assert!(
                    bytes.iter().all(|&byte| byte == expected),
                    "layer {layer}, token {token}"
                );
            }
        }
    }
}

#[test]
fn no_sequence_reads_what_another_wrote() {
    let geometry = small(2, 13, 2);
    let mut cache = KvCache::new(geometry, usize::MAX).unwrap();
    for round in 1..=20_u8 {
        let seq = cache.open().unwrap();
        cache.grow(seq, 13).unwrap();
        for layer in 0..2 {
            assert!(cache.k(seq, layer).unwrap().iter().all(|&byte| byte == 0));
            assert!(cache.v(seq, layer).unwrap().iter().all(|&byte| byte == 0));
            let (k, v) = cache.rows_mut(seq, layer, 0..13).unwrap();
            k.fill(round);
            v.fill(round);
        }
        cache.free(seq).unwrap();
        assert_eq!(cache.stats().physical_bytes, 0);
    }
}

#[test]
fn what_truncation_took_is_zero_and_what_it_kept_is_kept() {
    let geometry = small(1, 16, 1);
    let (row, frame) = (geometry.row_bytes(), geometry.frame_bytes());
    let mut cache = KvCache::new(geometry, usize::MAX).unwrap();
    let seq = cache.open().unwrap();
    cache.grow(seq, 16).unwrap();
    let (k, v) = cache.rows_mut(seq, 0, 0..16).unwrap();
    k.fill(8);
    v.fill(9);
    cache.truncate(seq, 3).unwrap(); // 1.875 frames: two frames stay
    assert_eq!(cache.k(seq, 0).unwrap().len(), 3 * row);
    cache.grow(seq, 16).unwrap();
    for (slice, value) in [(cache.k(seq, 0).unwrap(), 8), (cache.v(seq, 0).unwrap(), 9)] {
        assert!(slice[..2 * frame].iter().all(|&byte| byte == value));
        assert!(slice[2 * frame..].iter().all(|&byte| byte == 0));
    }
}

#[test]
fn whatever_is_not_there_is_an_error_with_its_numbers() {
    let mut cache = KvCache::new(small(2, 8, 2), usize::MAX).unwrap();
    let mut other_cache = KvCache::new(small(2, 8, 2), usize::MAX).unwrap();
    let (seq, stranger) = (cache.open().unwrap(), other_cache.open().unwrap());
    cache.grow(seq, 3).unwrap();

    assert!(matches!(cache.grow(seq, 9), Err(Error::TooLong { len: 9, max: 8 })));
    assert!(matches!(cache.grow(seq, usize::MAX), Err(Error::TooLong { .. })));
    assert!(matches!(
        cache.grow(seq, 2),
        Err(Error::GrowsBackward { len: 3, new_len: 2, .. })
    ));
    assert!(matches!(
        cache.truncate(seq, 4),
        Err(Error::TruncatesForward { len: 3, new_len: 4, .. })
    ));
    assert!(matches!(cache.k(seq, 2), Err(Error::Layer { layer: 2, layers: 2 })));
    assert!(matches!(cache.view(seq, usize::MAX), Err(Error::Layer { .. })));
    assert!(matches!(
        cache.rows_mut(seq, 0, 2..4),
        Err(Error::Rows {
            start: 2,
            end: 4,
            len: 3
        })
    ));
    #[expect(clippy::reversed_empty_ranges, reason = "the cache must refuse it")]
    let backward = 3..1;
    assert!(matches!(cache.rows_mut(seq, 0, backward), Err(Error::Rows { .. })));
    let (k, v) = cache.rows_mut(seq, 0, 3..3).unwrap();
    assert!(k.is_empty() && v.is_empty());

    cache.open().unwrap();
    assert!(matches!(cache.open(), Err(Error::NoSlot { limit: 2 })));

    cache.free(seq).unwrap();
    for id in [seq, stranger] {
        assert!(matches!(cache.free(id), Err(Error::NotOpen { seq }) if seq == id));
        assert!(matches!(cache.len(id), Err(Error::NotOpen { .. })));
        assert!(matches!(cache.grow(id, 1), Err(Error::NotOpen { .. })));
        assert!(matches!(cache.truncate(id, 0), Err(Error::NotOpen { .. })));
        assert!(matches!(cache.k(id, 0), Err(Error::NotOpen { .. })));
        assert!(matches!(cache.v(id, 0), Err(Error::NotOpen { .. })));
        assert!(matches!(cache.view(id, 0), Err(Error::NotOpen { .. })));
        assert!(matches!(cache.rows_mut(id, 0, 0..0), Err(Error::NotOpen { .. })));
    }
    cache.audit().unwrap();
}

#[test]
fn shapes_that_the_machine_cannot_have_are_errors() {
    let page = host::page_bytes();
    let builder = Geometry::builder().layers(1).row_bytes(1).max_sequences(1);
    let below_page = builder.max_tokens(1).frame_bytes(page / 2).build().unwrap();
    assert!(matches!(
        KvCache::new(below_page, 0),
        Err(Error::FrameBelowPage { frame_bytes, page_bytes }) if frame_bytes == page / 2 && page_bytes == page
    ));
    let beyond_address_space = builder.max_tokens(1 << 60).build().unwrap();
    assert!(matches!(KvCache::new(beyond_address_space, 0), Err(Error::Backend(_))));
}
