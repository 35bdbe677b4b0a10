//! candle's device works on the per-thread default stream: a model that goes from thread to thread takes its order along.

use std::panic::{self, AssertUnwindSafe};
use std::thread;

use fused_model::kv::KvStore;
use fused_model::{CudaGpt2, Logits};

use crate::emulator::{Action, Emulator, MODES};
use crate::{assert_close, ids, on_cpu, on_device, run, tiny};

/// Makes a model on one thread, runs a pass on each of two others, and drops it on a fourth.
fn wander() {
    let params = tiny();
    let passes = [vec![ids(9, 1, 300)], vec![ids(1, 2, 300)]];
    let (mut cpu, mut kv) = on_cpu(&params, 1);
    let sequence = kv.open().unwrap();
    let want = run(&mut cpu, &mut kv, &[sequence], &passes, Logits::All);

    let (mut model, mut rows) = thread::spawn(move || on_device(&params, 1)).join().unwrap();
    let sequence = rows.open().unwrap();
    let mut got = Vec::new();
    for pass in passes {
        let step = move || {
            let logits = run(&mut model, &mut rows, &[sequence], &[pass], Logits::All);
            (model, rows, logits)
        };
        let logits;
        (model, rows, logits) = thread::spawn(step).join().unwrap();
        got.extend(logits);
    }
    thread::spawn(move || drop((model, rows))).join().unwrap();
    assert_close(&got, &want, "logits");
}

#[test]
fn a_model_goes_from_thread_to_thread() {
    for mode in MODES {
        let emulator = Emulator::new(mode);
        wander();
        emulator.assert_no_leaks();
        emulator.assert_no_refusals();
    }
}

#[test]
fn without_the_events_it_runs_before_its_weights_are_there() {
    for (name, function) in [
        ("no stream waits for an event", "cuStreamWaitEvent"),
        ("events are recorded nowhere", "cuEventRecord"),
    ] {
        let emulator = Emulator::new(MODES[3]);
        emulator.plan(function, 0, u64::MAX, Action::Skip);
        let ended = panic::catch_unwind(AssertUnwindSafe(wander));
        emulator.forget();
        let said = ended.expect_err(&format!("mutant '{name}' is not caught"));
        let said = said.downcast_ref::<String>().cloned().unwrap_or_default();
        assert!(said.contains("logits"), "mutant '{name}' ends otherwise: {said}");
        println!("mutant '{name}' is caught: {said}");
    }
}

#[test]
fn a_stream_of_its_own_does_as_well() {
    let emulator = Emulator::new(MODES[3]);
    let params = tiny();
    let device = candle_core::Device::new_cuda_with_stream(0).unwrap();
    let mut model = CudaGpt2::new(&params, &device).unwrap();
    let mut rows = model.store(1, 1 << 20).unwrap();
    let (mut cpu, mut kv) = on_cpu(&params, 1);
    let (ours, theirs) = (rows.open().unwrap(), kv.open().unwrap());
    let passes = [vec![ids(9, 1, 300)], vec![ids(1, 2, 300)]];
    let got = run(&mut model, &mut rows, &[ours], &passes, Logits::All);
    assert_close(&got, &run(&mut cpu, &mut kv, &[theirs], &passes, Logits::All), "logits");
    drop((model, rows, device));
    emulator.assert_no_leaks();
    emulator.assert_no_refusals();
}
