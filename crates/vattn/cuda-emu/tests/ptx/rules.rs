//! Each rule with a program that breaks it, and the neighbour that does not.

use crate::support::{Buffers, program};
use vattn_cuda_emu::ptx::{Error, Fault, FaultKind, Module};

/// Runs a body with one block of `threads`, 1 KiB of shared memory, and a buffer of 256 bytes at the parameter.
fn run(threads: u32, body: &str) -> Result<(), Box<Fault>> {
    let module = Module::parse(&program(body)).unwrap();
    let mut memory = Buffers::default();
    let out = memory.map(vec![0; 256]);
    let kernel = module.kernel("k").unwrap();
    kernel.launch([1, 1, 1], [threads, 1, 1], 1024, &out.to_le_bytes(), &mut memory)
}

/// Each thread writes its word of shared memory and reads the word of the thread `by` further on.
fn exchange(barrier: &str, by: u32) -> String {
    format!(
        "mov.u32 %r0, %tid.x; shl.b32 %r1, %r0, 2; mov.u32 %r2, dynamic; add.u32 %r3, %r1, %r2;
         st.shared.u32 [%r3], %r0; {barrier} ld.shared.u32 %r4, [%r3+{}]; ret;",
        4 * by
    )
}

#[test]
fn a_missing_barrier_between_warps_is_a_race() {
    assert_eq!(run(64, &exchange("bar.sync 0;", 32)), Ok(()));
    // A sync of the warp does not order two warps.
    for barrier in ["", "bar.warp.sync -1;"] {
        let body = exchange(barrier, 0).replace("[%r3]", "[dynamic]");
        let fault = run(64, &body).unwrap_err();
        assert!(matches!(fault.kind, FaultKind::Race { .. }), "{fault}");
    }
}

#[test]
fn a_missing_sync_inside_a_warp_is_a_race() {
    let neighbour = |barrier: &str| {
        exchange(barrier, 0).replace(
            "ld.shared.u32 %r4, [%r3+0]",
            "xor.b32 %r5, %r3, 4; ld.shared.u32 %r4, [%r5]",
        )
    };
    assert_eq!(run(32, &neighbour("bar.warp.sync -1;")), Ok(()));
    assert_eq!(run(32, &neighbour("bar.sync 0;")), Ok(()));
    let fault = run(32, &neighbour("")).unwrap_err();
    let FaultKind::Race { other, before, .. } = fault.kind else {
        panic!("{fault}")
    };
    assert_eq!((fault.thread, other, before), ([0, 0, 0], [1, 0, 0], "wrote"));
    assert!(fault.instruction.starts_with("ld.shared.u32"));
}

#[test]
fn a_write_after_a_read_is_a_race_too() {
    let body = |barrier: &str| {
        format!(
            "mov.u32 %r0, %tid.x; ld.shared.u32 %r1, [dynamic]; {barrier} setp.eq.u32 %p0, %r0, 40; @%p0 st.shared.u32 [dynamic], %r0; ret;"
        )
    };
    assert_eq!(run(64, &body("bar.sync 0;")), Ok(()));
    let fault = run(64, &body("")).unwrap_err();
    assert!(matches!(fault.kind, FaultKind::Race { before: "read", .. }), "{fault}");
}

#[test]
fn atomics_do_not_race_with_each_other() {
    let body = |read: &str| format!("atom.shared.add.u32 %r0, [dynamic], 1; {read} ret;");
    assert_eq!(run(64, &body("")), Ok(()));
    let fault = run(64, &body("ld.shared.u32 %r1, [dynamic];")).unwrap_err();
    assert!(matches!(fault.kind, FaultKind::Race { .. }), "{fault}");
}

#[test]
fn accesses_out_of_bounds_are_found() {
    let body = "ld.param.u64 %d0, [out]; mov.u32 %r0, %tid.x; mul.wide.u32 %d1, %r0, 4; add.u64 %d2, %d0, %d1;";
    assert_eq!(run(64, &format!("{body} st.global.u32 [%d2], %r0; ret;")), Ok(()));
    let fault = run(65, &format!("{body} st.global.u32 [%d2], %r0; ret;")).unwrap_err();
    assert_eq!(
        (fault.kernel.as_str(), fault.thread, fault.instruction.as_str()),
        ("k", [64, 0, 0], "st.global.u32 [%d2], %r0")
    );
    assert!(
        matches!(&fault.kind, FaultKind::Global(access) if access.at == access.address),
        "{fault}"
    );
    // A load of many lanes at once names the lane at fault.
    let fault = run(64, &format!("{body} ld.global.u32 %r1, [%d2+4]; ret;")).unwrap_err();
    assert_eq!(fault.thread, [63, 0, 0]);

    for (body, space) in [
        ("ld.shared.u32 %r0, [dynamic+1024]; ret;", "shared"),
        (".local .align 4 .b8 own[8]; st.local.u32 [own+8], %r0; ret;", "local"),
        ("ld.param.u32 %r0, [out+8]; ret;", "parameter"),
    ] {
        let fault = run(1, body).unwrap_err();
        assert!(
            matches!(fault.kind, FaultKind::Bounds { space: found, .. } if found == space),
            "{fault}"
        );
    }
}

#[test]
fn misaligned_accesses_are_found() {
    for body in [
        "ld.param.u64 %d0, [out]; ld.global.u32 %r0, [%d0+2]; ret;",
        "ld.param.u64 %d0, [out]; ld.global.v2.u32 {%r0, %r1}, [%d0+4]; ret;",
        "st.shared.u16 [dynamic+1], %h0; ret;",
    ] {
        let fault = run(1, body).unwrap_err();
        assert!(matches!(fault.kind, FaultKind::Misaligned { .. }), "{fault}");
    }
    assert_eq!(
        run(1, "ld.param.u64 %d0, [out]; ld.global.v2.u32 {%r0, %r1}, [%d0+8]; ret;"),
        Ok(())
    );
}

#[test]
fn barriers_must_be_reached_together() {
    let split = "mov.u32 %r0, %tid.x; setp.lt.u32 %p0, %r0, 16; @%p0 bra A; bar.sync 0; ret; A: bar.sync 0; ret;";
    let fault = run(32, split).unwrap_err();
    assert!(matches!(fault.kind, FaultKind::DivergentBarrier { .. }), "{fault}");
    // Threads that have left are not waited for.
    let leave = "mov.u32 %r0, %tid.x; setp.lt.u32 %p0, %r0, 16; @%p0 ret; bar.sync 0; ret;";
    assert_eq!(run(32, leave), Ok(()));
}

#[test]
fn lanes_that_are_named_must_come() {
    let wait = "mov.u32 %r0, %tid.x; setp.lt.u32 %p0, %r0, 16; @%p0 bra A; bar.warp.sync -1; ret; A: bar.sync 0; ret;";
    let fault = run(32, wait).unwrap_err();
    assert_eq!(
        fault.kind,
        FaultKind::MissingLanes {
            members: u32::MAX,
            missing: 0xffff
        }
    );
    let fault = run(16, "shfl.sync.idx.b32 %r0, %r1, 20, 31, -1; ret;").unwrap_err();
    assert_eq!(fault.kind, FaultKind::AbsentLane { lane: 20 });
    let fault = run(32, "bar.warp.sync 1; ret;").unwrap_err();
    assert_eq!(
        (fault.thread, fault.kind),
        ([1, 0, 0], FaultKind::NotMember { members: 1 })
    );
}

#[test]
fn traps_and_launches_that_do_not_fit_are_named() {
    assert_eq!(run(1, "trap;").unwrap_err().kind, FaultKind::Trap);
    let fault = run(1025, "ret;").unwrap_err();
    assert!(fault.to_string().contains("a block of [1025, 1, 1] threads"), "{fault}");
}

#[test]
fn assertions_are_checked() {
    // What a failed `assert` of the source compiles to.
    let body = |fails: &str| {
        format!(
            "mov.u32 %r0, %tid.x; setp.{fails} %p0, %r0, 3; @!%p0 bra good;
             call.uni __assertfail, (%d0, %d1, %r1, %d2, %d3); good: ret;"
        )
    };
    assert_eq!(run(3, &body("eq.u32")), Ok(()));
    let fault = run(4, &body("eq.u32")).unwrap_err();
    assert_eq!((fault.thread, fault.kind), ([3, 0, 0], FaultKind::Assert));
}

#[test]
fn a_branch_stays_in_its_table() {
    let body = "mov.u32 %r0, %tid.x; table: .branchtargets A, B; brx.idx %r0, table; A: ret; B: ret;";
    assert_eq!(run(2, body), Ok(()));
    let fault = run(3, body).unwrap_err();
    assert_eq!(
        (fault.thread, fault.kind),
        ([2, 0, 0], FaultKind::BranchIndex { index: 2, labels: 2 })
    );
}

#[test]
fn an_endless_loop_ends() {
    let fault = run(32, "A: bra A; ret;").unwrap_err();
    assert!(matches!(fault.kind, FaultKind::Endless(_)), "{fault}");
}

#[test]
fn what_is_not_run_is_refused_with_its_text() {
    for (instruction, part) in [
        ("tex.1d.v4.f32.f32 {%f0, %f1, %f2, %f3}, [%d0, {%f0}];", None),
        ("add.rn.ftz.sat.wide.f32 %f0, %f1, %f2;", Some("the modifier .wide")),
        ("mma.sync.aligned.m8n8k4 %f0, %f1, %f2;", Some("the opcode mma")),
        ("shfl.up.b32 %r0, %r1, 1, 0;", Some("without .sync")),
    ] {
        let module = Module::parse(&program(instruction));
        match part {
            // Not even its operands are read.
            None => assert!(matches!(module, Err(Error::Syntax { .. }))),
            Some(part) => {
                let message = module.unwrap().kernel("k").unwrap_err().to_string();
                assert!(
                    message.contains(part) && message.contains(instruction.trim_end_matches(';')),
                    "{message}"
                );
            }
        }
    }
    for body in [
        "add.u32 %r0, %r1;",
        "add.u32 %r0, %r1, %x;",
        "bra nowhere;",
        "add.u32 %r0, %r1, %r2",
        "L: L: ret;",
    ] {
        assert!(
            matches!(Module::parse(&program(body)), Err(Error::Syntax { .. })),
            "{body}"
        );
    }
}
