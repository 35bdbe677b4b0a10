//! The calls of the driver, one by one.

use std::thread;

use vattn::cuda::driver::{Driver, Rights, StreamHandle};

use crate::emulator::{Action, Emulator};

const G: usize = 8192;
const KNOBS: &str = "granularity=8192,capacity=1048576";

#[test]
fn a_device_says_what_it_is() {
    let emulator = Emulator::new(KNOBS);
    let driver = Driver::open(0).unwrap();
    let info = driver.info().unwrap();
    assert!(
        info.name.starts_with("cuda-emu"),
        "another driver was loaded: {}",
        info.name
    );
    assert_eq!(
        (info.driver, info.compute, info.memory_bytes),
        (12_000, (8, 0), 1 << 20)
    );
    assert_eq!((info.granularity, info.pools), ((G, G), true));
    assert_eq!(driver.memory_info().unwrap(), (1 << 20, 1 << 20));
    drop(driver);
    emulator.assert_no_leaks();
    emulator.assert_no_refusals();
}

#[test]
fn what_cannot_be_opened_says_why() {
    let why = |knobs: &str, ordinal| {
        let _emulator = Emulator::new(knobs);
        Driver::open(ordinal).unwrap_err().to_string()
    };
    let start = "no CUDA device can be used: ";
    assert_eq!(
        why("device=0", 0),
        format!("{start}cuInit returned 100 (CUDA_ERROR_NO_DEVICE)")
    );
    assert_eq!(
        why("", 7),
        format!("{start}cuDeviceGet returned 101 (CUDA_ERROR_INVALID_DEVICE)")
    );
    assert_eq!(
        why("vmm=0", 0),
        format!("{start}device 0 does not support virtual memory management")
    );
}

#[test]
fn memory_is_mapped_used_from_any_thread_and_given_back() {
    for mode in ["lazy=0,dirty=0", "lazy=1,dirty=1"] {
        let emulator = Emulator::new(&format!("{KNOBS},{mode}"));
        let driver = Driver::open(0).unwrap();
        let stream = driver.stream().unwrap();
        let base = driver.reserve(4 * G, G).unwrap();
        let handles = [driver.create(G).unwrap(), driver.create(G).unwrap()];
        for (index, &handle) in handles.iter().enumerate() {
            driver.map(base + (index * G) as u64, G, handle).unwrap();
        }
        assert_eq!(
            driver.fill(stream.handle(), base, 7, G).unwrap_err().code,
            1,
            "no right yet"
        );
        driver.set_access(base, 2 * G, Rights::ReadWrite).unwrap();
        driver.fill(stream.handle(), base, 7, 2 * G).unwrap();
        driver.write(stream.handle(), base + G as u64 - 1, &[1, 2]).unwrap();
        driver.copy(stream.handle(), base, base + G as u64 - 1, 3).unwrap();
        let event = driver.record(stream.handle()).unwrap();
        let mut bytes = [0; 4];
        thread::scope(|scope| {
            let read = || {
                event.wait().unwrap();
                driver.read(StreamHandle::LEGACY, base, &mut bytes).unwrap();
            };
            scope.spawn(read).join().unwrap();
        });
        assert_eq!((bytes, event.is_done()), ([1, 2, 7, 7], Ok(true)));
        driver.set_access(base, G, Rights::Read).unwrap();
        assert_eq!(
            driver.fill(stream.handle(), base, 7, 1).unwrap_err().code,
            1,
            "read only"
        );
        for (index, &handle) in handles.iter().enumerate() {
            driver.unmap(base + (index * G) as u64, G).unwrap();
            driver.release(handle).unwrap();
        }
        assert_eq!(driver.release(handles[0]).unwrap_err().code, 1);
        driver.release_addresses(base, 4 * G).unwrap();
        drop((event, stream, driver));
        emulator.assert_no_leaks();
        assert_eq!(
            emulator.findings().refusals.len(),
            3,
            "the three refused calls above and no others"
        );
    }
}

#[test]
fn an_event_is_not_done_before_its_work() {
    let emulator = Emulator::new(&format!("{KNOBS},lazy=1"));
    let driver = Driver::open(0).unwrap();
    let (first, second) = (driver.stream().unwrap(), driver.stream().unwrap());
    let memory = driver.allocate(first.handle(), 64).unwrap();
    driver.fill(first.handle(), memory, 1, 64).unwrap();
    let event = driver.record(first.handle()).unwrap();
    driver.wait_event(second.handle(), &event).unwrap();
    driver.fill(second.handle(), memory, 2, 32).unwrap();
    assert_eq!(event.is_done(), Ok(false));
    let mut bytes = [0; 64];
    driver.read(second.handle(), memory, &mut bytes).unwrap();
    assert_eq!((bytes[31], bytes[32]), (2, 1));
    assert_eq!(event.is_done(), Ok(true));
    driver.free(second.handle(), memory).unwrap();
    driver.synchronize().unwrap();
    drop((event, first, second, driver));
    emulator.assert_no_leaks();
    emulator.assert_no_refusals();
}

#[test]
fn a_pool_that_keeps_memory_gives_it_back_when_trimmed() {
    let emulator = Emulator::new(KNOBS);
    let driver = Driver::open(0).unwrap();
    driver.set_pool_threshold(u64::MAX).unwrap();
    let memory = driver.allocate(StreamHandle::LEGACY, 1 << 20).unwrap();
    driver.free(StreamHandle::LEGACY, memory).unwrap();
    driver.synchronize().unwrap();
    assert!(driver.create(G).unwrap_err().is_out_of_memory());
    driver.trim_pool().unwrap();
    let handle = driver.create(G).unwrap();
    driver.release(handle).unwrap();
    drop(driver);
    emulator.assert_no_leaks();
}

#[test]
fn freeing_mapped_memory_as_an_allocation_is_refused() {
    let emulator = Emulator::new(KNOBS);
    let driver = Driver::open(0).unwrap();
    let base = driver.reserve(G, G).unwrap();
    let handle = driver.create(G).unwrap();
    driver.map(base, G, handle).unwrap();
    driver.set_access(base, G, Rights::ReadWrite).unwrap();
    assert_eq!(driver.free(StreamHandle::LEGACY, base).unwrap_err().code, 1);
    driver.unmap(base, G).unwrap();
    driver.release(handle).unwrap();
    driver.release_addresses(base, G).unwrap();
    drop(driver);
    emulator.assert_no_leaks();
}

#[test]
fn a_call_that_is_to_fail_fails_and_names_itself() {
    let emulator = Emulator::new(KNOBS);
    let driver = Driver::open(0).unwrap();
    emulator.plan("cuMemCreate", 0, 1, Action::Fail(999));
    emulator.plan("cuMemRelease", 0, 9, Action::Fail(1));
    assert_eq!(
        driver.create(G).unwrap_err().to_string(),
        "cuMemCreate returned 999 (CUDA_ERROR_UNKNOWN)"
    );
    let handle = driver.create(G).unwrap();
    assert!(driver.release(handle).is_err());
    emulator.forget();
    driver.release(handle).unwrap();
    assert_eq!(emulator.findings().calls["cuMemRelease"], 2);
    assert_eq!(emulator.findings().counts["injected"], 2);
    drop(driver);
    emulator.assert_no_leaks();
}
