//! What instructions compute, each against values worked out by hand or by Rust's own arithmetic.

use crate::support::{Buffers, program};
use half::{bf16, f16};
use vattn_cuda_emu::ptx::Module;

/// Runs a body in 32 threads; it leaves a word in `%r0`. Returns the words of all threads.
fn words(body: &str) -> Vec<u32> {
    let store = "ld.param.u64 %d14, [out]; mov.u32 %r14, %tid.x; mul.wide.u32 %d15, %r14, 4; add.u64 %d14, %d14, %d15;
                 st.global.u32 [%d14], %r0; ret;";
    let module = Module::parse(&program(&format!("{body}\n{store}"))).unwrap();
    let mut memory = Buffers::default();
    let out = memory.map(vec![0; 128]);
    module
        .kernel("k")
        .unwrap()
        .launch([1, 1, 1], [32, 1, 1], 0, &out.to_le_bytes(), &mut memory)
        .unwrap();
    memory
        .bytes(out)
        .chunks_exact(4)
        .map(|word| u32::from_le_bytes(word.try_into().unwrap()))
        .collect()
}

fn word(body: &str) -> u32 {
    words(body)[0]
}

#[test]
fn integers() {
    for (body, expected) in [
        ("mov.u32 %r1, -1; add.u32 %r0, %r1, 2;", 1),
        ("mul.hi.u32 %r0, 0x80000000, 6;", 3),
        ("mul.hi.s32 %r0, 0x80000000, 2;", u32::MAX),
        ("mad.lo.s32 %r0, -3, 5, 20;", 5),
        ("mul.wide.s32 %d0, -2, 3; mov.b64 {%r1, %r0}, %d0;", u32::MAX),
        ("div.s32 %r0, -7, 2;", -3i32 as u32),
        ("rem.s32 %r0, -7, 2;", -1i32 as u32),
        ("div.u32 %r0, 7, 0;", u32::MAX),
        ("min.s32 %r0, -1, 1;", u32::MAX),
        ("max.u32 %r0, -1, 1;", u32::MAX),
        ("shr.s32 %r0, 0x80000000, 40;", u32::MAX),
        ("shr.u32 %r0, 0x80000000, 31;", 1),
        ("shl.b32 %r0, 1, 32;", 0),
        ("popc.b32 %r0, 0xf0f0;", 8),
        ("clz.b32 %r0, 0xffff;", 16),
        ("brev.b32 %r0, 1;", 1 << 31),
        ("bfe.s32 %r0, 0xf0, 4, 4;", u32::MAX),
        ("bfi.b32 %r0, 0xf, 0, 8, 4;", 0xf00),
        ("bfind.u32 %r0, 0x100;", 8),
        ("prmt.b32 %r0, 0x03020100, 0x07060504, 0x7430;", 0x0704_0300),
        ("lop3.b32 %r0, 0xff00, 0xf0f0, 0xcccc, 0xe8;", 0xfcc0),
        ("shf.l.wrap.b32 %r0, 0x80000000, 1, 1;", 3),
        ("dp4a.s32.s32 %r0, 0x01020304, -1, 100;", 90),
        ("sad.s32 %r0, -2, 3, 1;", 6),
        ("cvt.s32.s8 %r0, 0x80;", -128i32 as u32),
        ("cvt.sat.u8.s32 %r0, 300;", 255),
        ("setp.lt.s32 %p0|%p1, -1, 0; selp.u32 %r0, 5, 6, %p1;", 6),
        (
            "setp.lo.u32 %p0, -1, 0; setp.eq.or.u32 %p1, 1, 1, %p0; selp.u32 %r0, 5, 6, %p1;",
            5,
        ),
    ] {
        assert_eq!(word(body), expected, "{body}");
    }
}

#[test]
fn floats() {
    let f = |value: f32| value.to_bits();
    for (body, expected) in [
        ("add.f32 %f0, 0f3F800000, 0f33800000;", f(1.0)),
        ("add.rp.f32 %f0, 0f3F800000, 0f33800000;", f(1.0) + 1),
        ("add.rz.f32 %f0, 0f3F800000, 0fB3800000;", f(1.0) - 1),
        ("add.rm.f32 %f0, 0f3F800000, 0fBF800000;", f(-0.0)),
        ("mul.ftz.f32 %f0, 0f00800000, 0f3F000000;", 0),
        ("mul.f32 %f0, 0f00800000, 0f3F000000;", 0x0040_0000),
        ("div.rn.f32 %f0, 0f3F800000, 0f40400000;", f(1.0 / 3.0)),
        ("div.rz.f32 %f0, 0f40000000, 0f40400000;", f(2.0 / 3.0) - 1),
        ("rcp.rn.f32 %f0, 0f40400000;", f(1.0 / 3.0)),
        ("sqrt.rn.f32 %f0, 0f40000000;", f(2f32.sqrt())),
        ("ex2.approx.ftz.f32 %f0, 0fFF800000;", 0),
        ("ex2.approx.ftz.f32 %f0, 0f40400000;", f(8.0)),
        ("max.f32 %f0, 0f7FC00000, 0fBF800000;", f(-1.0)),
        ("max.NaN.f32 %f0, 0f7FC00000, 0fBF800000;", 0x7fff_ffff),
        ("min.f32 %f0, 0f00000000, 0f80000000;", f(-0.0)),
        ("add.sat.f32 %f0, 0f40000000, 0f3F800000;", f(1.0)),
        ("sub.f32 %f0, 0f7F800000, 0f7F800000;", 0x7fff_ffff),
    ] {
        assert_eq!(word(&format!("{body} mov.b32 %r0, %f0;")), expected, "{body}");
    }
    assert_eq!(word("cvt.rni.s32.f32 %r0, 0f40200000;"), 2);
    assert_eq!(word("cvt.rzi.u32.f32 %r0, 0fC0200000;"), 0);
    assert_eq!(word("cvt.rn.f32.u32 %f0, 16777217; mov.b32 %r0, %f0;"), f(16_777_216.0));
    assert_eq!(word("cvt.rp.f32.u32 %f0, 16777217; mov.b32 %r0, %f0;"), f(16_777_218.0));
    assert_eq!(
        word("setp.ltu.f32 %p0, 0f7FC00000, 0f00000000; selp.u32 %r0, 1, 0, %p0;"),
        1
    );
}

/// Conversions between f32 and the 16-bit floats against the `half` crate: every f16, and f32 values around its borders.
#[test]
fn sixteen_bit_floats() {
    for base in (0..0x1_0000u32).step_by(32).chain([0x7c00, 0x7fff]) {
        let found = words(&format!(
            "mov.u32 %r1, %tid.x; add.u32 %r1, %r1, {base}; cvt.u16.u32 %h0, %r1; cvt.f32.f16 %f0, %h0; mov.b32 %r0, %f0;"
        ));
        for (i, found) in found.iter().enumerate() {
            let half = f16::from_bits((base as usize + i) as u16);
            if half.is_nan() {
                assert!(f32::from_bits(*found).is_nan())
            } else {
                assert_eq!(*found, half.to_f32().to_bits())
            }
        }
    }
    let mut state = 1u32;
    for _ in 0..400 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // Exponents around the range of f16.
        let value = f32::from_bits(state & 0x807f_ffff | (100 + (state >> 8) % 48) << 23);
        let bits = value.to_bits();
        let found = word(&format!("cvt.rn.f16.f32 %h0, 0f{bits:08X}; cvt.u32.u16 %r0, %h0;"));
        assert_eq!(found, u32::from(f16::from_f32(value).to_bits()), "{value:e}");
        let found = word(&format!("cvt.rn.bf16.f32 %h0, 0f{bits:08X}; cvt.u32.u16 %r0, %h0;"));
        assert_eq!(found, u32::from(bf16::from_f32(value).to_bits()), "{value:e}");
        // Two conversions packed into one word, the first in the upper half.
        let found = word(&format!("cvt.rn.f16x2.f32 %r0, 0f{bits:08X}, 0f3F800000;"));
        assert_eq!(found, u32::from(f16::from_f32(value).to_bits()) << 16 | 0x3c00);
    }
}

#[test]
fn lanes_together() {
    let lane = "mov.u32 %r1, %laneid;";
    let expect = |body: &str, f: &dyn Fn(u32) -> u32| {
        assert_eq!(
            words(&format!("{lane} {body}")),
            (0..32).map(f).collect::<Vec<_>>(),
            "{body}"
        );
    };
    expect("shfl.sync.bfly.b32 %r0, %r1, 5, 31, -1;", &|l| l ^ 5);
    expect("shfl.sync.up.b32 %r0, %r1, 3, 0, -1;", &|l| {
        if l < 3 { l } else { l - 3 }
    });
    expect("shfl.sync.down.b32 %r0, %r1, 3, 31, -1;", &|l| {
        if l > 28 { l } else { l + 3 }
    });
    expect("shfl.sync.idx.b32 %r0, %r1, 1, 0x1807, -1;", &|l| l / 8 * 8 + 1);
    expect("setp.gt.u32 %p0, %r1, 29; vote.sync.ballot.b32 %r0, %p0, -1;", &|_| {
        3 << 30
    });
    expect("redux.sync.add.u32 %r0, %r1, -1;", &|_| 496);
    // Each lane loops as often as its number says, and all meet again.
    expect(
        "mov.u32 %r0, 0; L: setp.ge.u32 %p0, %r0, %r1; @%p0 bra M; add.u32 %r0, %r0, 1; bra L; M: bar.warp.sync -1;",
        &|l| l,
    );
}

#[test]
fn memory_of_every_kind() {
    assert_eq!(
        word(
            ".local .align 8 .b8 own[16]; mov.u32 %r1, 7; mov.u64 %d0, own; cvta.local.u64 %d1, %d0; st.u32 [%d1+4], %r1; ld.local.u32 %r0, [own+4];"
        ),
        7
    );
    assert_eq!(
        word(
            ".shared .align 4 .b8 ours[4]; atom.shared.add.u32 %r1, [ours], 1; bar.sync 0; ld.shared.u32 %r0, [ours];"
        ),
        31
    );
    let old = words(".shared .align 4 .b8 ours[4]; atom.shared.inc.u32 %r0, [ours], 99;");
    assert_eq!(old, std::iter::once(u32::MAX).chain(0..31).collect::<Vec<_>>());
}
