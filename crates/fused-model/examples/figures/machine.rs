//! What the machine can do: the two limits that no engine passes.
#![allow(unsafe_code)] // functions compiled for a wider instruction set, called after detecting it

use std::hint::black_box;
use std::time::Instant;

use crate::figure::Figure;

/// The numbers of threads that figures are given for: one, and two where there are two processors.
pub(crate) fn thread_counts() -> &'static [usize] {
    match std::thread::available_parallelism() {
        Ok(threads) if threads.get() >= 2 => &[1, 2],
        _ => &[1],
    }
}

/// What so many threads reach together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// GB/s of reads from memory.
    pub(crate) read: f64,
    /// GFLOP/s of fused products of `f32`, an addition and a product each.
    pub(crate) arithmetic: f64,
}

/// Memory that is read again and again, larger than the caches.
#[derive(Debug)]
pub(crate) struct Machine {
    data: Vec<u64>,
}

impl Machine {
    pub(crate) fn new() -> Self {
        let mut data = Vec::with_capacity(64_000_000);
        #[cfg(target_os = "linux")]
        {
            // As for the weights of a model: pages of 2 MiB, where the kernel gives them.
            let start = data.as_mut_ptr() as usize;
            let (first, end) = (
                start.next_multiple_of(4096),
                (start + size_of::<u64>() * data.capacity()) & !4095,
            );
            // SAFETY: whole pages inside memory that this vector owns; the advice does not change what they hold.
            let _ = unsafe { rustix::mm::madvise(first as *mut _, end - first, rustix::mm::Advice::LinuxHugepage) };
        }
        data.extend(0..64_000_000);
        Self { data }
    }

    /// One pass of each measurement: about a tenth of a second.
    pub(crate) fn measure(&self, threads: usize) -> Limits {
        let share = self.data.len().div_ceil(threads);
        let read = together(self.data.chunks(share).map(|part| move || read(part)));
        let arithmetic = together((0..threads).map(|_| || multiply(PRODUCTS)));
        Limits {
            read: size_of_val(self.data.as_slice()) as f64 / read / 1e9,
            arithmetic: (threads * PRODUCTS * CHAINS * LANES * 2) as f64 / arithmetic / 1e9,
        }
    }
}

/// The median of each limit over some passes, for each number of threads.
pub(crate) fn figures() -> Vec<Figure> {
    let machine = Machine::new();
    let mut figures = Vec::new();
    for &threads in thread_counts() {
        let passes: Vec<_> = (0..9).map(|_| machine.measure(threads)).collect();
        let middle = |of: fn(&Limits) -> f64| crate::workload::median(passes.iter().map(of).collect());
        figures.push(Figure::new(
            format!("machine/read/{threads} threads"),
            middle(|limits| limits.read),
            "GB/s",
        ));
        figures.push(Figure::new(
            format!("machine/arithmetic/{threads} threads"),
            middle(|limits| limits.arithmetic),
            "GFLOP/s",
        ));
    }
    figures
}

/// Seconds until all tasks, a thread each, have ended.
fn together<R: Send>(tasks: impl Iterator<Item = impl FnOnce() -> R + Send>) -> f64 {
    let start = Instant::now();
    std::thread::scope(|scope| {
        let handles: Vec<_> = tasks.map(|task| scope.spawn(|| black_box(task()))).collect();
        for handle in handles {
            let _ = handle.join();
        }
    });
    start.elapsed().as_secs_f64()
}

/// Reads by four streams at once: one does not fill the memory bus.
fn read(data: &[u64]) -> [[u64; 8]; 4] {
    let (first, second) = data.split_at(data.len() / 2);
    let ((a, b), (c, d)) = (first.split_at(first.len() / 2), second.split_at(second.len() / 2));
    let [a, b, c, d] = [a, b, c, d].map(|part| part.as_chunks::<8>().0);
    let mut sums = [[0u64; 8]; 4];
    for (((a, b), c), d) in a.iter().zip(b).zip(c).zip(d) {
        for (sums, values) in sums.iter_mut().zip([a, b, c, d]) {
            sums.iter_mut().zip(values).for_each(|(sum, value)| *sum ^= value);
        }
    }
    sums
}

/// Steps of a measurement of arithmetic.
const PRODUCTS: usize = 8_000_000;
/// Sums that do not wait for one another: enough to fill the pipelines.
const CHAINS: usize = 12;
/// `f32` of a sum.
const LANES: usize = 16;

/// `steps` times [`CHAINS`] times [`LANES`] fused products, by the widest instructions there are.
fn multiply(steps: usize) -> f32 {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has the instructions.
            return unsafe { x86::multiply_avx512(steps) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: as above.
            return unsafe { x86::multiply_avx2(steps) };
        }
    }
    let mut sums = [[1.0f32; LANES]; CHAINS];
    let (a, b) = black_box((0.5f32, 1.0f32));
    for _ in 0..steps {
        // A fused product is one instruction on aarch64, and elsewhere maybe a call into a library.
        let product = |sum: f32| match cfg!(target_arch = "aarch64") {
            true => sum.mul_add(a, b),
            false => sum * a + b,
        };
        sums.iter_mut().flatten().for_each(|sum| *sum = product(*sum));
    }
    sums.iter().flatten().sum()
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    use super::CHAINS;

    #[target_feature(enable = "avx512f")]
    pub(super) fn multiply_avx512(steps: usize) -> f32 {
        let (a, b) = (_mm512_set1_ps(black_box(0.5)), _mm512_set1_ps(black_box(1.0)));
        let mut sums = [b; CHAINS];
        for _ in 0..steps {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, a, b);
            }
        }
        sums.into_iter().map(|sum| _mm512_reduce_add_ps(sum)).sum()
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn multiply_avx2(steps: usize) -> f32 {
        let (a, b) = (_mm256_set1_ps(black_box(0.5)), _mm256_set1_ps(black_box(1.0)));
        let mut sums = [b; CHAINS];
        // Two registers make sixteen lanes.
        for _ in 0..2 * steps {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, a, b);
            }
        }
        sums.into_iter().map(|sum| _mm256_cvtss_f32(sum)).sum()
    }
}
