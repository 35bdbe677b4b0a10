//! Each rule of contexts, streams and the error that stays, kept and broken.

use std::sync::mpsc;
use std::thread;

use super::{Device, Needs};
use crate::code::{Code, Outcome, Refusal};
use crate::fault::Action;
use crate::memory::{Access, Rights};
use crate::stream::{LEGACY, StreamId};
use crate::work::Work;

const G: u64 = 4096;

/// A device with a current context, and one mapped page.
fn ready(settings: &str) -> (Device, u64) {
    let mut device = Device::new(format!("granularity={G},{settings}").parse().unwrap());
    device.init(0).unwrap();
    device.retain_context();
    device.set_current(true).unwrap();
    let page = device.memory.reserve(G, G, 0, 0).unwrap();
    let handle = device.memory.create(G, 0).unwrap();
    device.memory.map(page, G, 0, handle, 0).unwrap();
    device.memory.release(handle).unwrap();
    device.memory.set_access(page, G, Rights::ReadWrite).unwrap();
    (device, page)
}

fn fill(to: u64, value: u8) -> Work {
    Work::Fill {
        to,
        bytes: G,
        pattern: vec![value],
    }
}

fn byte(device: &Device, at: u64) -> u8 {
    let mut byte = [0];
    crate::memory::DeviceMemory::read(&device.memory, at, &mut byte).unwrap();
    byte[0]
}

#[track_caller]
fn code<T: std::fmt::Debug>(outcome: Outcome<T>) -> Code {
    outcome.unwrap_err().code
}

#[test]
fn calls_need_an_initialised_driver_and_a_current_context() {
    let mut device = Device::new("".parse().unwrap());
    let any = |device: &mut Device, needs| device.call("cuMemCreate", needs, |_| Ok(()));
    assert_eq!(any(&mut device, Needs::Init), Err(Code::NotInitialized));
    assert_eq!(code(device.init(1)), Code::InvalidValue);
    device.init(0).unwrap();
    assert_eq!(any(&mut device, Needs::Init), Ok(()));
    assert_eq!(any(&mut device, Needs::Context), Err(Code::InvalidContext));
    assert_eq!(code(device.set_current(true)), Code::InvalidContext);
    assert_eq!(code(device.release_context()), Code::InvalidContext);
    device.retain_context();
    assert_eq!(
        any(&mut device, Needs::Context),
        Err(Code::InvalidContext),
        "retained, and current nowhere"
    );
    device.set_current(true).unwrap();
    assert_eq!(any(&mut device, Needs::Context), Ok(()));
    thread::scope(|scope| {
        let other = scope.spawn(|| any(&mut device, Needs::Context)).join().unwrap();
        assert_eq!(
            other,
            Err(Code::InvalidContext),
            "current on one thread is not current on another"
        );
    });
    device.release_context().unwrap();
    assert!(!device.is_current());
    assert_eq!(any(&mut device, Needs::Context), Err(Code::InvalidContext));
    assert_eq!(code(device.ordinal(1)), Code::InvalidDevice);
    assert_eq!(device.refusals().len(), 5);
}

#[test]
fn a_driver_can_be_there_without_a_device() {
    let mut device = Device::new("device=0".parse().unwrap());
    assert_eq!(code(device.init(0)), Code::NoDevice);
}

#[test]
fn planned_calls_fail_or_are_left_out_or_done_twice() {
    let (mut device, _) = ready("");
    let call = |device: &mut Device, runs: &mut u32| {
        device.call("cuMemRelease", Needs::Context, |_| {
            *runs += 1;
            match *runs % 2 {
                1 => Ok(()),
                _ => Err(Refusal::invalid("released twice")),
            }
        })
    };
    let mut runs = 0;
    device.log.plan("cuMemRelease", 1, 1, Action::Fail(Code::OutOfMemory));
    device.log.plan("cuMemRelease", 2, 1, Action::Skip);
    device.log.plan("cuMemRelease", 3, 1, Action::Repeat);
    assert_eq!((call(&mut device, &mut runs), runs), (Ok(()), 1));
    assert_eq!((call(&mut device, &mut runs), runs), (Err(Code::OutOfMemory), 1));
    assert_eq!((call(&mut device, &mut runs), runs), (Ok(()), 1));
    runs = 0;
    assert_eq!((call(&mut device, &mut runs), runs), (Ok(()), 2));
    assert_eq!(device.refusals(), ["cuMemRelease: released twice"]);
    assert_eq!(device.log.injected(), 3);
}

#[test]
fn an_eager_device_works_at_once_and_a_lazy_one_when_somebody_waits() {
    for (settings, after_submit) in [("lazy=0", 7), ("lazy=1", 0)] {
        let (mut device, page) = ready(settings);
        let stream = device.streams.create(false);
        device.submit(stream, fill(page, 7)).unwrap();
        assert_eq!(byte(&device, page), after_submit);
        device.wait(stream).unwrap();
        assert_eq!(byte(&device, page + G - 1), 7);
    }
}

#[test]
fn waiting_for_one_stream_does_not_wait_for_another() {
    let (mut device, page) = ready("lazy=1");
    let (a, b) = (device.streams.create(false), device.streams.create(false));
    device.submit(a, fill(page, 7)).unwrap();
    device.wait(b).unwrap();
    assert_eq!(byte(&device, page), 0);
    device.wait_all().unwrap();
    assert_eq!(byte(&device, page), 7);
}

#[test]
fn an_event_orders_two_streams() {
    let (mut device, page) = ready("lazy=1");
    let (a, b) = (device.streams.create(false), device.streams.create(false));
    let event = device.streams.create_event();
    device.submit(a, fill(page, 1)).unwrap();
    device.record(event, a).unwrap();
    device.wait_event(b, event).unwrap();
    device.submit(b, fill(page, 2)).unwrap();
    device.wait(b).unwrap();
    device.wait(a).unwrap();
    assert_eq!(byte(&device, page), 2, "without the order, a comes last");
    assert_eq!(device.query(event), Ok(()));
    assert_eq!(code(device.record(99, a)), Code::InvalidHandle);
    assert_eq!(code(device.wait_event(StreamId(99), event)), Code::InvalidHandle);
    assert_eq!(code(device.wait(StreamId(99))), Code::InvalidHandle);
}

#[test]
fn time_passes_while_an_event_is_queried() {
    let (mut device, page) = ready("lazy=1");
    let stream = device.streams.create(false);
    let event = device.streams.create_event();
    assert_eq!(device.query(event), Ok(()), "never recorded");
    device.submit(stream, fill(page, 1)).unwrap();
    device.submit(stream, fill(page, 2)).unwrap();
    device.record(event, stream).unwrap();
    let mut queries = 0;
    while let Err(refusal) = device.query(event) {
        assert_eq!(refusal.code, Code::NotReady);
        queries += 1;
    }
    assert_eq!(queries, 3, "one for each piece and one that finds the event");
    assert_eq!(device.query_stream(stream), Ok(()));
    device.submit(stream, fill(page, 3)).unwrap();
    assert_eq!(code(device.query_stream(stream)), Code::NotReady);
    device.wait_for(event).unwrap();
    assert_eq!(byte(&device, page), 3);
}

#[test]
fn each_thread_has_a_default_stream_of_its_own() {
    let (mut device, page) = ready("lazy=1");
    let own = device.stream(2);
    device.submit(own, fill(page, 7)).unwrap();
    let (to_main, from_thread) = mpsc::channel();
    thread::scope(|scope| {
        let device = &mut device;
        scope.spawn(move || {
            let other = device.stream(2);
            device.wait(other).unwrap();
            to_main.send(byte(device, page)).unwrap();
        });
    });
    assert_eq!(
        from_thread.recv(),
        Ok(0),
        "the other thread waited for its own stream only"
    );
    assert_eq!(
        (device.stream(2), device.stream(0), device.stream(1)),
        (own, LEGACY, LEGACY)
    );
    device.wait(own).unwrap();
    assert_eq!(byte(&device, page), 7);
}

#[test]
fn memory_unmapped_under_work_loses_the_context() {
    let (mut device, page) = ready("lazy=1");
    let stream = device.streams.create(false);
    device.submit(stream, fill(page, 7)).unwrap();
    // Unmapping does not wait: the work finds nothing there.
    device.memory.unmap(page, G).unwrap();
    assert_eq!(code(device.wait(stream)), Code::IllegalAddress);
    let after = |device: &mut Device| device.call("cuMemCreate", Needs::Context, |_| Ok(()));
    assert_eq!(
        after(&mut device),
        Err(Code::IllegalAddress),
        "and every later call fails too"
    );
    assert!(
        device.refusals().iter().any(|why| why.contains("is not mapped")),
        "{:?}",
        device.refusals()
    );
    device.release_context().unwrap();
    device.retain_context();
    device.set_current(true).unwrap();
    assert_eq!(after(&mut device), Ok(()), "a new context is whole again");
}

#[test]
fn queued_copies_are_checked_when_queued_too() {
    let (mut device, page) = ready("");
    device.check(page, G, Access::Write).unwrap();
    assert_eq!(code(device.check(page, G + 1, Access::Write)), Code::InvalidValue);
    device.memory.set_access(page, G, Rights::Read).unwrap();
    assert_eq!(code(device.check(page, 1, Access::Write)), Code::InvalidValue);
}

#[test]
fn copies_move_bytes_both_ways() {
    let (mut device, page) = ready("lazy=1");
    let stream = device.streams.create(true);
    let (to, taken) = mpsc::channel();
    let write = Work::Write {
        to: page + 8,
        bytes: vec![1, 2, 3, 4],
    };
    device.submit(stream, write).unwrap();
    let copy = Work::Copy {
        to: page + 100,
        from: page + 9,
        bytes: 2,
    };
    device.submit(stream, copy).unwrap();
    let pattern = Work::Fill {
        to: page + 102,
        bytes: 4,
        pattern: vec![8, 9],
    };
    device.submit(stream, pattern).unwrap();
    let read = Work::Read {
        from: page + 99,
        bytes: 8,
        sink: Box::new(move |bytes| to.send(bytes.to_vec()).unwrap()),
    };
    device.submit(stream, read).unwrap();
    device.wait(LEGACY).unwrap();
    assert!(taken.try_recv().is_err(), "the default stream had nothing to wait for");
    device.wait(stream).unwrap();
    assert_eq!(taken.recv().unwrap(), [0, 2, 3, 8, 9, 8, 9, 0]);
}

#[test]
fn the_pool_keeps_its_threshold_over_a_synchronisation() {
    let (mut device, _) = ready("lazy=1");
    let stream = device.streams.create(false);
    let first = device.memory.allocate(3 * G, true).unwrap();
    device.submit(stream, Work::Free { address: first }).unwrap();
    assert_eq!(device.memory.pool(), (3 * G, 3 * G), "freed in stream order");
    device.pool_threshold = u64::MAX;
    device.wait(stream).unwrap();
    assert_eq!(device.memory.pool(), (3 * G, 0));
    device.pool_threshold = 0;
    device.wait(stream).unwrap();
    assert_eq!(device.memory.pool(), (0, 0));
}

#[test]
fn what_lives_is_counted() {
    let (mut device, page) = ready("");
    let stream = device.streams.create(true);
    let event = device.streams.create_event();
    let live: Vec<u64> = device.live().into_iter().map(|(_, count)| count).collect();
    assert_eq!(live, [1, 0, 1, 0, 1, 1, 0, 0, 1]);
    device.streams.destroy(stream).unwrap();
    device.streams.destroy_event(event).unwrap();
    device.memory.unmap(page, G).unwrap();
    device.memory.free_reservation(page, G).unwrap();
    device.release_context().unwrap();
    assert!(
        device.live().into_iter().all(|(_, count)| count == 0),
        "{:?}",
        device.live()
    );
}
