//! Calls that fail in the middle of a pass.

use fused_model::kv::KvStore;
use fused_model::{CausalLm, Chunk, Logits};

use crate::emulator::{Action, Emulator, MODES};
use crate::{assert_close, ids, on_cpu, on_device, run, tiny};

/// What a pass calls of the driver and of cuBLAS, and the code that each fails with.
const CALLS: [(&str, u32); 11] = [
    ("cuMemCreate", 2),
    ("cuMemMap", 999),
    ("cuMemSetAccess", 999),
    ("cuMemsetD8Async", 999),
    ("cuMemcpyHtoDAsync_v2", 999),
    ("cuLaunchKernel", 999),
    ("cublasSgemm_v2", 999),
    ("cuEventRecord", 999),
    ("cuStreamWaitEvent", 999),
    ("cuStreamSynchronize", 999),
    ("cuMemcpyDtoHAsync_v2", 999),
];

#[test]
fn a_pass_that_fails_can_be_made_again() {
    let params = tiny();
    let passes = [vec![ids(9, 1, 300)], vec![ids(1, 2, 300)]];
    let (mut cpu, mut kv) = on_cpu(&params, 1);
    let sequence = kv.open().unwrap();
    let want = run(&mut cpu, &mut kv, &[sequence], &passes[..1], Logits::All);
    let mut refused = 0;
    for mode in [MODES[0], MODES[3]] {
        let emulator = Emulator::new(mode);
        let (mut model, mut rows) = on_device(&params, 4);
        // Buffers are there from now on.
        let warm = rows.open().unwrap();
        run(&mut model, &mut rows, &[warm], &passes, Logits::All);
        for (function, code) in CALLS {
            for nth in [0, 1, 5] {
                let sequence = rows.open().unwrap();
                let chunk = [Chunk {
                    sequence,
                    ids: &passes[0][0],
                }];
                emulator.plan(function, nth, 1, Action::Fail(code));
                let outcome = model.forward(&mut rows, &chunk, Logits::All).map(<[f32]>::to_vec);
                emulator.forget();
                if let Ok(got) = outcome {
                    assert_close(&got, &want, &format!("{mode} call {nth} of {function}"));
                } else {
                    refused += 1;
                }
                // Whatever it had started is over; its sequence ends, and another takes its place.
                rows.free(sequence).unwrap();
                rows.cache().audit().unwrap();
                let sequence = rows.open().unwrap();
                let chunk = [Chunk { sequence, ..chunk[0] }];
                let again = model.forward(&mut rows, &chunk, Logits::All).unwrap();
                assert_close(again, &want, &format!("{mode} after call {nth} of {function}"));
                rows.free(sequence).unwrap();
            }
        }
        drop((model, rows));
        emulator.assert_no_leaks();
        emulator.assert_no_refusals();
    }
    assert!(refused > 30, "{refused} passes were refused");
}
