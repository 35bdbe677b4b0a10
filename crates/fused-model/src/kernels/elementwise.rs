//! Row and element loops between the matrix products.

use super::simd::simd_fn;

simd_fn! {
    /// Every row of `out` becomes `row`.
    pub(crate) fn fill_rows(out: &mut [f32], row: &[f32]) {
        for out in out.chunks_exact_mut(row.len()) {
            out.copy_from_slice(row);
        }
    }

    /// `sums (C)` gets the column sums of `rows (N,C)` added.
    pub(crate) fn add_column_sums(sums: &mut [f32], rows: &[f32]) {
        for row in rows.chunks_exact(sums.len()) {
            sums.iter_mut().zip(row).for_each(|(sum, &x)| *sum += x);
        }
    }

    /// `out[i] = a[i] + b[i]`.
    pub(crate) fn add(out: &mut [f32], a: &[f32], b: &[f32]) {
        for ((out, &a), &b) in out.iter_mut().zip(a).zip(b) {
            *out = a + b;
        }
    }

    /// `out[i] += a[i]`.
    pub(crate) fn accumulate(out: &mut [f32], a: &[f32]) {
        out.iter_mut().zip(a).for_each(|(out, &a)| *out += a);
    }

    /// Inverted dropout in place: element `i` survives where a hash of `seed` and `first + i` says so, scaled by
    /// `1 / (1 - rate)`. The same call on a gradient is the backward pass, so no mask is stored.
    pub(crate) fn dropout(values: &mut [f32], seed: u32, first: u32, rate: f32) {
        if rate == 0.0 {
            return;
        }
        let threshold = (f64::from(rate) * f64::from(u32::MAX)) as u32;
        let scale = 1.0 / (1.0 - rate);
        for (i, value) in values.iter_mut().enumerate() {
            // The finaliser of MurmurHash3 over a Weyl sequence.
            let mut h = first.wrapping_add(i as u32).wrapping_mul(0x9e37_79b1) ^ seed;
            h = (h ^ (h >> 16)).wrapping_mul(0x85eb_ca6b);
            h = (h ^ (h >> 13)).wrapping_mul(0xc2b2_ae35);
            h ^= h >> 16;
            *value *= if h >= threshold { scale } else { 0.0 };
        }
    }

    /// Sum of squares in double precision, 16 lanes at a time.
    pub(crate) fn sum_of_squares(values: &[f32]) -> f64 {
        let mut total = 0.0f64;
        for block in values.chunks(4096) {
            total += f64::from(super::simd::reduce2(block, block, |a, b| a * b));
        }
        total
    }
}
