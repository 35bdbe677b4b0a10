//! One body, several instruction sets.
#![allow(unsafe_code)] // calling a function compiled for a wider instruction set, after detecting it

/// Declares functions whose body is compiled three times on x86-64 (AVX-512, AVX2, baseline) and dispatched at run time; other
/// targets have their vectors, NEON among them, in the baseline. The body must be a loop over slices that vectorises by
/// itself: no intrinsics.
macro_rules! simd_fn {
    ($($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block)*) => {$(
        $(#[$meta])*
        #[allow(unsafe_code, clippy::too_many_arguments)]
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn avx512($($arg: $ty),*) $(-> $ret)? {
                    body($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $ty),*) $(-> $ret)? {
                    body($($arg),*)
                }
                use $crate::kernels::simd::Level;
                match Level::get() {
                    // SAFETY: `Level::get` returns a level only after detecting every feature of it.
                    Level::Avx512 | Level::Avx512Vnni => return unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    Level::Avx2 => return unsafe { avx2($($arg),*) },
                    Level::Baseline => {}
                }
            }
            body($($arg),*)
        }
    )*};
}
pub(crate) use simd_fn;

/// `$body` for every `$index` below `$count`, at most 16, written out: an index that is known only at run time, as in a loop
/// that the compiler leaves one, would keep an array of vectors out of the registers.
macro_rules! each {
    ($index:ident < $count:expr, $body:expr) => {
        each!(@ $index, $count, $body, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    ($row:ident < $rows:expr, $panel:ident < $panels:expr, $body:expr) => {
        each!($row < $rows, each!(@ $panel, $panels, $body, 0 1 2 3))
    };
    (@ $index:ident, $count:expr, $body:expr, $($value:literal)+) => {{
        $(if $value < $count {
            let $index = $value;
            $body;
        })+
    }};
}
pub(crate) use each;

/// An instruction set that kernels are written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// What every processor of the target has.
    Baseline,
    /// AVX2 with fused products and conversions of half precision.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 F, BW, DQ and VL, and what [`Avx2`](Self::Avx2) has.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// The same with VNNI's products of bytes.
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    /// NEON.
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// The same with dot products of bytes.
    #[cfg(target_arch = "aarch64")]
    NeonDot,
}

impl Level {
    /// The widest level of this processor; the standard library caches what it detects, so this is a few loads.
    #[inline]
    pub(crate) fn get() -> Self {
        #[cfg(test)]
        if let Some(level) = chosen::LEVEL.get() {
            return level;
        }
        Self::detect()
    }

    #[cfg(target_arch = "x86_64")]
    fn detect() -> Self {
        if !(is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")) {
            Self::Baseline
        } else if !(is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl"))
        {
            Self::Avx2
        } else if is_x86_feature_detected!("avx512vnni") {
            Self::Avx512Vnni
        } else {
            Self::Avx512
        }
    }

    #[cfg(target_arch = "aarch64")]
    fn detect() -> Self {
        use std::arch::is_aarch64_feature_detected;
        if !is_aarch64_feature_detected!("neon") {
            Self::Baseline
        } else if is_aarch64_feature_detected!("dotprod") {
            Self::NeonDot
        } else {
            Self::Neon
        }
    }

    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    fn detect() -> Self {
        Self::Baseline
    }
}

/// Tests of a processor run what narrower ones would.
#[cfg(test)]
pub(crate) mod chosen {
    use std::cell::Cell;

    use super::Level;

    thread_local! {
        pub(super) static LEVEL: Cell<Option<Level>> = const { Cell::new(None) };
    }

    /// Runs `test` for each level that this processor has, narrowest first. Only this thread is at the level.
    pub(crate) fn at_each_level(mut test: impl FnMut(Level)) {
        #[cfg(target_arch = "x86_64")]
        let levels = [Level::Baseline, Level::Avx2, Level::Avx512, Level::Avx512Vnni];
        #[cfg(target_arch = "aarch64")]
        let levels = [Level::Baseline, Level::Neon, Level::NeonDot];
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let levels = [Level::Baseline];
        let widest = levels.iter().position(|&level| level == Level::detect()).unwrap();
        for level in &levels[..=widest] {
            LEVEL.set(Some(*level));
            test(*level);
        }
        LEVEL.set(None);
    }
}

/// Independent partial sums of a reduction: wide enough for one AVX-512 register.
pub(crate) const LANES: usize = 16;

/// Sum of `f(a[i], b[i])` in [`LANES`] interleaved partial sums, so that the order of additions, and
/// with it the result, is the same on every machine.
#[inline(always)]
pub(crate) fn reduce2<A: Copy, B: Copy>(a: &[A], b: &[B], f: impl Fn(A, B) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (a_body, a_tail) = a.as_chunks::<LANES>();
    let (b_body, b_tail) = b.as_chunks::<LANES>();
    for (x, y) in a_body.iter().zip(b_body) {
        for lane in 0..LANES {
            lanes[lane] += f(x[lane], y[lane]);
        }
    }
    for (lane, (&x, &y)) in lanes.iter_mut().zip(a_tail.iter().zip(b_tail)) {
        *lane += f(x, y);
    }
    sum_lanes(lanes)
}

/// Sum of the lanes, by halves.
#[inline(always)]
pub(crate) fn sum_lanes(mut lanes: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// Largest element, or negative infinity of an empty slice.
#[inline(always)]
pub(crate) fn max(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (body, tail) = values.as_chunks::<LANES>();
    for chunk in body {
        for lane in 0..LANES {
            lanes[lane] = if chunk[lane] > lanes[lane] {
                chunk[lane]
            } else {
                lanes[lane]
            };
        }
    }
    lanes
        .iter()
        .chain(tail)
        .fold(f32::NEG_INFINITY, |best, &x| if x > best { x } else { best })
}

simd_fn! {
    /// Largest absolute value, or 0 of an empty slice.
    pub(crate) fn max_abs(values: &[f32]) -> f32 {
        let mut lanes = [0.0f32; LANES];
        let (body, tail) = values.as_chunks::<LANES>();
        for chunk in body {
            for lane in 0..LANES {
                let x = chunk[lane].abs();
                lanes[lane] = if x > lanes[lane] { x } else { lanes[lane] };
            }
        }
        lanes.iter().chain(tail).fold(0.0, |best, &x| if x.abs() > best { x.abs() } else { best })
    }
}
