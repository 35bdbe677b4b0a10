//! Each rule of the calls for memory, kept and broken.

use super::{Access, Denied, DeviceMemory, Memory, Rights};
use crate::code::{Code, Outcome};
use crate::knobs::Knobs;

/// Granularity of the tests, small so that they are quick.
const G: u64 = 8192;

fn memory(settings: &str) -> Memory {
    Memory::new(&format!("granularity={G},{settings}").parse::<Knobs>().unwrap())
}

#[track_caller]
fn refused<T: std::fmt::Debug>(outcome: Outcome<T>, code: Code, why: &str) {
    let refusal = outcome.unwrap_err();
    assert_eq!(refusal.code, code, "{refusal:?}");
    assert!(refusal.why.contains(why), "{refusal:?}");
}

/// A reservation of `pages` pages, the first `mapped` of them mapped with access.
fn mapped(memory: &mut Memory, pages: u64, mapped: u64) -> (u64, Vec<u64>) {
    let base = memory.reserve(pages * G, G, 0, 0).unwrap();
    let handles: Vec<_> = (0..mapped).map(|_| memory.create(G, 0).unwrap()).collect();
    for (address, &handle) in (base..).step_by(G as usize).zip(&handles) {
        memory.map(address, G, 0, handle, 0).unwrap();
    }
    if mapped > 0 {
        memory.set_access(base, mapped * G, Rights::ReadWrite).unwrap();
    }
    (base, handles)
}

fn live(memory: &Memory) -> [u64; 4] {
    memory.live().map(|(_, count)| count)
}

#[test]
fn sizes_alignments_and_flags() {
    let mut memory = memory("");
    refused(memory.reserve(G + 4096, G, 0, 0), Code::InvalidValue, "granularity");
    refused(memory.reserve(0, G, 0, 0), Code::InvalidValue, "granularity");
    refused(memory.reserve(G, 3 * G, 0, 0), Code::InvalidValue, "alignment");
    refused(memory.reserve(G, 0, 17, 0), Code::InvalidValue, "hint");
    refused(memory.reserve(G, 0, 0, 1), Code::InvalidValue, "flags");
    refused(memory.reserve(1 << 60, 0, 0, 0), Code::OutOfMemory, "addresses");
    refused(memory.create(G - 1, 0), Code::InvalidValue, "granularity");
    refused(memory.create(G, 1), Code::InvalidValue, "flags");
    refused(memory.allocate(0, false), Code::InvalidValue, "0 bytes");
    assert_eq!(live(&memory), [0; 4]);
}

#[test]
fn a_reservation_is_aligned_to_what_was_asked_and_no_more() {
    let mut memory = memory("");
    for align in [0, 4096, G, 4 * G, 1 << 21] {
        let address = memory.reserve(G, align, 0, 0).unwrap();
        let align = align.max(4096);
        assert!(
            address.is_multiple_of(align) && !address.is_multiple_of(2 * align),
            "{align}"
        );
    }
    // So memory cannot be mapped where the alignment was left to chance.
    let address = memory.reserve(G, 0, 0, 0).unwrap();
    let handle = memory.create(G, 0).unwrap();
    refused(memory.map(address, G, 0, handle, 0), Code::InvalidValue, "granularity");
}

#[test]
fn addresses_do_not_come_back() {
    let mut memory = memory("");
    let first = memory.reserve(G, G, 0, 0).unwrap();
    memory.free_reservation(first, G).unwrap();
    assert!(memory.reserve(G, G, 0, 0).unwrap() > first);
}

#[test]
fn mapping_wants_one_reservation_a_live_handle_and_nothing_there() {
    let mut memory = memory("");
    let (base, handles) = mapped(&mut memory, 4, 1);
    let spare = memory.create(G, 0).unwrap();
    refused(memory.map(base, G, 0, spare, 0), Code::InvalidValue, "mapped already");
    refused(
        memory.map(base + 4096, G, 0, spare, 0),
        Code::InvalidValue,
        "granularity",
    );
    refused(memory.map(base + G, G, G, spare, 0), Code::InvalidValue, "offset");
    refused(memory.map(base + G, G, 0, spare, 1), Code::InvalidValue, "flags");
    refused(
        memory.map(base + G, 2 * G, 0, spare, 0),
        Code::InvalidValue,
        "of a handle of",
    );
    refused(
        memory.map(base + 4 * G, G, 0, spare, 0),
        Code::InvalidValue,
        "inside one reservation",
    );
    let wide = memory.create(2 * G, 0).unwrap();
    refused(
        memory.map(base + 3 * G, 2 * G, 0, wide, 0),
        Code::InvalidValue,
        "inside one reservation",
    );
    refused(
        memory.map(base - G, 2 * G, 0, wide, 0),
        Code::InvalidValue,
        "inside one reservation",
    );
    memory.map(base + G, 2 * G, 0, wide, 0).unwrap();
    refused(
        memory.map(base + 2 * G, G, 0, spare, 0),
        Code::InvalidValue,
        "mapped already",
    );
    memory.release(spare).unwrap();
    refused(
        memory.map(base + 3 * G, G, 0, spare, 0),
        Code::InvalidValue,
        "no reference",
    );
    refused(
        memory.map(base + 3 * G, G, 0, 12345, 0),
        Code::InvalidValue,
        "no reference",
    );
    // Released, but alive where it is mapped: it can be used there and not be mapped again.
    memory.release(handles[0]).unwrap();
    refused(
        memory.map(base + 3 * G, G, 0, handles[0], 0),
        Code::InvalidValue,
        "no reference",
    );
    memory.write(base, &[1]).unwrap();
}

#[test]
fn access_is_given_to_whole_mappings_only() {
    let mut memory = memory("");
    let (base, _) = mapped(&mut memory, 4, 2);
    let denied = |address, bytes, why| {
        let fault = memory.check(address, bytes, Access::Write).unwrap_err();
        (fault.at, fault.why) == why
    };
    assert!(denied(base + G - 1, 2 * G, (base + 2 * G, Denied::Unmapped)));
    assert!(denied(base + 2 * G, 1, (base + 2 * G, Denied::Unmapped)));
    let handle = memory.create(2 * G, 0).unwrap();
    memory.map(base + 2 * G, 2 * G, 0, handle, 0).unwrap();
    let fault = memory.check(base, 3 * G, Access::Read).unwrap_err();
    assert_eq!(
        (fault.at, fault.why),
        (base + 2 * G, Denied::Rights),
        "mapping alone gives no access"
    );
    refused(
        memory.set_access(base + 2 * G, G, Rights::ReadWrite),
        Code::InvalidValue,
        "ends inside",
    );
    refused(
        memory.set_access(base + 3 * G, G, Rights::ReadWrite),
        Code::InvalidValue,
        "no mapping begins",
    );
    refused(
        memory.set_access(base, 0, Rights::ReadWrite),
        Code::InvalidValue,
        "no range",
    );
    memory.set_access(base, 4 * G, Rights::ReadWrite).unwrap();
    memory.check(base, 4 * G, Access::Write).unwrap();

    memory.unmap(base + G, G).unwrap();
    refused(
        memory.set_access(base, 4 * G, Rights::Read),
        Code::InvalidValue,
        "no mapping begins",
    );
    assert_eq!(
        memory.access_at(base),
        Ok(Rights::ReadWrite),
        "a refused call changes nothing"
    );
    refused(memory.access_at(base + G), Code::InvalidValue, "nothing is mapped");
    refused(memory.retain(base + G), Code::InvalidValue, "no mapping");
}

#[test]
fn rights_end_with_the_mapping() {
    let mut memory = memory("");
    let (base, handles) = mapped(&mut memory, 1, 1);
    memory.unmap(base, G).unwrap();
    memory.map(base, G, 0, handles[0], 0).unwrap();
    assert_eq!(memory.access_at(base), Ok(Rights::None));
    assert_eq!(memory.read(base, &mut [0]).unwrap_err().why, Denied::Rights);
}

#[test]
fn read_only_memory_is_read_and_not_written() {
    let mut memory = memory("");
    let (base, handles) = mapped(&mut memory, 2, 1);
    memory.map(base + G, G, 0, handles[0], 0).unwrap();
    memory.set_access(base + G, G, Rights::Read).unwrap();
    memory.write(base + 5, &[42]).unwrap();
    let mut byte = [0];
    memory.read(base + G + 5, &mut byte).unwrap();
    assert_eq!(byte, [42], "both addresses are the same memory");
    assert_eq!(memory.write(base + G, &[1]).unwrap_err().why, Denied::Rights);
    // A write over the border changes nothing, not even where it may write.
    assert_eq!(memory.write(base + G - 1, &[7, 7]).unwrap_err().at, base + G);
    memory.read(base + G - 1, &mut byte).unwrap();
    assert_eq!(byte, [0]);
}

#[test]
fn read_only_access_can_be_unsupported() {
    let mut memory = memory("read_only=0");
    let (base, _) = mapped(&mut memory, 1, 1);
    refused(
        memory.set_access(base, G, Rights::Read),
        Code::NotSupported,
        "read-only",
    );
}

#[test]
fn unmapping_takes_exactly_one_mapping() {
    let mut memory = memory("");
    let (base, _) = mapped(&mut memory, 3, 2);
    refused(memory.unmap(base, 2 * G), Code::InvalidValue, "exactly one mapping");
    refused(memory.unmap(base, G / 2), Code::InvalidValue, "exactly one mapping");
    refused(memory.unmap(base + 2 * G, G), Code::InvalidValue, "exactly one mapping");
    memory.unmap(base, G).unwrap();
    refused(memory.unmap(base, G), Code::InvalidValue, "exactly one mapping");
    assert_eq!(memory.read(base, &mut [0]).unwrap_err().why, Denied::Unmapped);
}

#[test]
fn memory_lives_until_neither_handle_nor_mapping_holds_it() {
    let mut memory = memory("");
    let (base, handles) = mapped(&mut memory, 2, 2);
    assert_eq!(memory.used_and_peak(), (2 * G, 2 * G));
    memory.release(handles[0]).unwrap();
    refused(memory.release(handles[0]), Code::InvalidValue, "no reference left");
    assert_eq!(memory.used_and_peak().0, 2 * G, "still mapped");
    memory.unmap(base, G).unwrap();
    assert_eq!(memory.used_and_peak().0, G);
    memory.unmap(base + G, G).unwrap();
    assert_eq!(memory.used_and_peak().0, G, "still referenced");
    memory.map(base, G, 0, handles[1], 0).unwrap();
    assert_eq!(memory.retain(base + 17), Ok(handles[1]));
    memory.unmap(base, G).unwrap();
    memory.release(handles[1]).unwrap();
    assert_eq!(live(&memory), [1, 1, 0, 0], "the retained reference holds it");
    memory.release(handles[1]).unwrap();
    assert_eq!(memory.used_and_peak(), (0, 2 * G));
    memory.free_reservation(base, 2 * G).unwrap();
    assert_eq!(live(&memory), [0; 4]);
}

#[test]
fn a_reservation_is_given_back_whole_and_empty() {
    let mut memory = memory("");
    let (base, _) = mapped(&mut memory, 2, 1);
    refused(
        memory.free_reservation(base, 2 * G),
        Code::InvalidValue,
        "still has a mapping",
    );
    memory.unmap(base, G).unwrap();
    refused(
        memory.free_reservation(base, G),
        Code::InvalidValue,
        "exactly one reservation",
    );
    refused(
        memory.free_reservation(base + G, G),
        Code::InvalidValue,
        "exactly one reservation",
    );
    memory.free_reservation(base, 2 * G).unwrap();
    refused(
        memory.free_reservation(base, 2 * G),
        Code::InvalidValue,
        "exactly one reservation",
    );
}

#[test]
fn memory_runs_out_and_comes_back() {
    let mut memory = memory(&format!("capacity={}", 2 * G));
    let handle = memory.create(G, 0).unwrap();
    let allocation = memory.allocate(G, false).unwrap();
    refused(memory.create(G, 0), Code::OutOfMemory, "0 free");
    refused(memory.allocate(1, true), Code::OutOfMemory, "0 free");
    memory.free(allocation).unwrap();
    memory.create(G, 0).unwrap();
    memory.release(handle).unwrap();
    memory.create(G, 0).unwrap();
}

#[test]
fn new_memory_holds_garbage_on_a_dirty_device() {
    for (settings, expected) in [("dirty=1", [0xA5; 4]), ("dirty=0", [0; 4])] {
        let mut memory = memory(settings);
        let (base, _) = mapped(&mut memory, 1, 1);
        let allocation = memory.allocate(4, false).unwrap();
        for address in [base, base + G - 4, allocation] {
            let mut bytes = [1; 4];
            memory.read(address, &mut bytes).unwrap();
            assert_eq!(bytes, expected, "{settings}");
        }
    }
}

#[test]
fn allocations_are_not_for_the_calls_of_virtual_memory() {
    let mut memory = memory("");
    let (base, _) = mapped(&mut memory, 1, 1);
    let allocation = memory.allocate(G, false).unwrap();
    refused(memory.free(base), Code::InvalidValue, "not the start of an allocation");
    refused(
        memory.free(allocation + 1),
        Code::InvalidValue,
        "not the start of an allocation",
    );
    refused(memory.unmap(allocation, G), Code::InvalidValue, "exactly one mapping");
    refused(
        memory.set_access(allocation, G, Rights::Read),
        Code::InvalidValue,
        "no mapping begins",
    );
    refused(memory.retain(allocation), Code::InvalidValue, "no mapping of a handle");
    refused(
        memory.free_reservation(allocation, G),
        Code::InvalidValue,
        "exactly one reservation",
    );
    memory.write(allocation + G - 1, &[1]).unwrap();
    assert_eq!(
        memory.write(allocation + G, &[1]).unwrap_err().why,
        Denied::Unmapped,
        "nothing lies behind it"
    );
    memory.free(allocation).unwrap();
    refused(
        memory.free(allocation),
        Code::InvalidValue,
        "not the start of an allocation",
    );
}

#[test]
fn the_pool_holds_what_was_freed_until_it_is_trimmed() {
    let mut memory = memory(&format!("capacity={}", 4 * G));
    let allocation = memory.allocate(3 * G, true).unwrap();
    memory.free(allocation).unwrap();
    assert_eq!((memory.pool(), memory.used_and_peak().0), ((3 * G, 0), 3 * G));
    refused(memory.create(2 * G, 0), Code::OutOfMemory, "free");
    refused(memory.allocate(5 * G, true), Code::OutOfMemory, "free");
    assert_eq!(
        (memory.pool(), memory.used_and_peak().0),
        ((3 * G, 0), 3 * G),
        "a refused call changes nothing"
    );
    let again = memory.allocate(2 * G, true).unwrap();
    assert_eq!(
        (memory.pool(), memory.used_and_peak().0),
        ((3 * G, 2 * G), 3 * G),
        "the pool gave it"
    );
    memory.trim_pool(0);
    assert_eq!((memory.pool(), memory.used_and_peak().0), ((2 * G, 2 * G), 2 * G));
    memory.create(2 * G, 0).unwrap();
    memory.free(again).unwrap();
}

#[test]
fn reads_and_writes_cross_mappings() {
    let mut memory = memory("");
    let (base, _) = mapped(&mut memory, 3, 3);
    let bytes: Vec<u8> = (0..G as usize + 2).map(|i| i as u8 | 1).collect();
    memory.write(base + G - 1, &bytes).unwrap();
    let mut back = vec![0; bytes.len() + 2];
    memory.read(base + G - 2, &mut back).unwrap();
    assert_eq!(
        (back[0], &back[1..back.len() - 1], back[back.len() - 1]),
        (0, &bytes[..], 0)
    );
    memory.read(base + 9 * G, &mut []).unwrap();
    assert_eq!(memory.read(u64::MAX, &mut [0, 0]).unwrap_err().why, Denied::Unmapped);
}
