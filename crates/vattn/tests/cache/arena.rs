//! The memory file mapped whole.

use vattn::host::{self, Arena};

#[test]
fn memory_follows_the_touch() {
    let page = host::page_bytes();
    let mut arena = Arena::new(64 * page).unwrap();
    assert_eq!((arena.len(), arena.physical_bytes()), (64 * page, 0));
    assert!(arena.as_slice().as_ptr().addr().is_multiple_of(page));

    arena.as_mut_slice()[5 * page] = 7;
    assert_eq!(arena.physical_bytes(), page);
    assert_eq!(arena.as_slice()[5 * page], 7);

    // Reading a hole allocates it.
    assert_eq!(arena.as_slice()[9 * page], 0);
    assert_eq!(arena.physical_bytes(), 2 * page);
}

#[test]
fn populate_backs_what_it_is_told_and_keeps_contents() {
    let page = host::page_bytes();
    let mut arena = Arena::new(8 * page - 100).unwrap();
    arena.as_mut_slice()[page] = 9;
    arena.populate_range(page - 1..page + 1).unwrap();
    assert_eq!(arena.physical_bytes(), 2 * page);
    arena.populate_range(3 * page..3 * page).unwrap();
    assert_eq!(arena.physical_bytes(), 2 * page);
    arena.populate_range(arena.len() - 1..arena.len()).unwrap();
    assert_eq!(arena.physical_bytes(), 3 * page);
    arena.populate().unwrap();
    assert_eq!(arena.physical_bytes(), 8 * page);
    assert_eq!(arena.as_slice()[page], 9);
    assert_eq!(arena.as_slice().iter().filter(|&&byte| byte != 0).count(), 1);
    assert_eq!(arena.as_slice().len(), 8 * page - 100);
}

#[test]
fn impossible_arenas_and_ranges_are_errors() {
    for len in [0, usize::MAX, isize::MAX as usize] {
        let error = Arena::new(len).unwrap_err().to_string();
        assert!(error.contains(&len.to_string()) || len > 1 << 62, "{error}");
    }
    let mut arena = Arena::new(10).unwrap();
    #[expect(clippy::reversed_empty_ranges, reason = "the arena must refuse it")]
    let ranges = [0..11, 11..11, 7..3, usize::MAX - 1..usize::MAX];
    for range in ranges {
        assert!(arena.populate_range(range).is_err());
    }
    assert_eq!(arena.physical_bytes(), 0);
}
