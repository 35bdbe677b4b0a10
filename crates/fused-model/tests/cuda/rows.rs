//! Rows are never freed as an allocation: nothing of candle owns them.

use fused_model::Logits;
use fused_model::kv::KvStore;

use candle_core::cuda_backend::cudarc::driver::CudaSlice;
use vattn::backend::Backend;

use crate::emulator::{Action, Emulator, MODES};
use crate::{ids, on_device, run, tiny};

#[test]
fn every_free_is_of_an_allocation_and_every_row_goes_back_as_a_mapping() {
    for mode in MODES {
        let emulator = Emulator::new(mode);
        let (mut model, mut rows) = on_device(&tiny(), 4);
        let sequences = [(); 3].map(|()| rows.open().unwrap());
        let pass = |seed: u32| (0..3).map(|seq| ids(7, seed + seq, 300)).collect::<Vec<_>>();
        run(
            &mut model,
            &mut rows,
            &sequences,
            &[pass(1), pass(5), pass(9)],
            Logits::Last,
        );
        let fork = rows.fork(sequences[0], 11).unwrap();
        run(&mut model, &mut rows, &[fork], &[vec![ids(3, 2, 300)]], Logits::Last);
        rows.truncate(sequences[1], 3).unwrap();
        rows.free(sequences[2]).unwrap();
        drop((model, rows));
        let calls = emulator.findings().calls;
        assert_eq!(calls["cuMemAllocAsync"], calls["cuMemFreeAsync"], "{mode}");
        assert!(!calls.contains_key("cuMemFree_v2"), "{mode}");
        assert_eq!(calls["cuMemMap"], calls["cuMemUnmap"], "{mode}");
        assert_eq!(calls["cuMemCreate"], calls["cuMemRelease"], "{mode}");
        emulator.assert_no_leaks();
        emulator.assert_no_refusals();
    }
}

#[test]
fn a_slice_over_rows_that_is_dropped_is_caught() {
    let emulator = Emulator::new(MODES[0]);
    let device = candle_core::Device::new_cuda(0).unwrap();
    let stream = device.as_cuda_device().unwrap().cuda_stream();
    let backend = vattn::cuda::CudaBackend::open(0).unwrap();
    let bytes = backend.caps().frame_bytes;
    let address = backend.reserve(bytes, bytes).unwrap();
    for dropped in [false, true] {
        // SAFETY: not more is done with the memory than to drop the slice, which is the mistake that must be seen.
        let slice: CudaSlice<f32> = unsafe { stream.upgrade_device_ptr(address as u64, 8) };
        match dropped {
            true => drop(slice),
            false => std::mem::forget(slice),
        }
        let findings = emulator.findings();
        let caught = findings
            .refusals
            .iter()
            .find(|text| text.contains("not the start of an allocation"));
        assert_eq!(caught.is_some(), dropped);
        assert_eq!(findings.calls.contains_key("cuMemFreeAsync"), dropped);
        if let Some(caught) = caught {
            println!("mutant 'a slice over rows is dropped' is caught: {caught}");
        }
    }
    backend.release(address, bytes);
}

#[test]
fn a_buffer_that_is_freed_twice_or_not_at_all_is_caught() {
    for (name, action, caught_by) in [
        (
            "a buffer is freed twice",
            Action::Repeat,
            "not the start of an allocation",
        ),
        ("a buffer is not freed", Action::Skip, "allocations 1"),
    ] {
        let emulator = Emulator::new(MODES[0]);
        emulator.plan("cuMemFreeAsync", 3, 1, action);
        drop(on_device(&tiny(), 1));
        let findings = emulator.findings();
        let live = findings.live.iter().map(|(what, count)| format!("{what} {count}"));
        let found: Vec<_> = findings.refusals.iter().cloned().chain(live).collect();
        let caught = found.iter().find(|text| text.contains(caught_by));
        assert!(caught.is_some(), "mutant '{name}' is not caught: {found:#?}");
        println!("mutant '{name}' is caught: {}", caught.unwrap());
    }
}
