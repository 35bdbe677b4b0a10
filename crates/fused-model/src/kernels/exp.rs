//! Exponential and hyperbolic tangent as branch-free polynomials that vectorise.

/// `e^x` with a relative error below 3e-7 on [-87, 88]; clamped outside.
///
/// Cody-Waite reduction by ln 2 in two parts, then the degree-6 Taylor polynomial on
/// [-ln2/2, ln2/2]; the power of two is put into the exponent bits.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN2_HIGH) - n * LN2_LOW;
    let p = 1.0 / 720.0;
    let p = p * r + 1.0 / 120.0;
    let p = p * r + 1.0 / 24.0;
    let p = p * r + 1.0 / 6.0;
    let p = p * r + 0.5;
    let p = p * r + 1.0;
    let p = p * r + 1.0;
    let power = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    p * f32::from_bits(power)
}

/// Hyperbolic tangent through [`exp`], absolute error below 3e-7.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    1.0 - 2.0 / (exp(2.0 * x) + 1.0)
}

/// The error function by Abramowitz and Stegun 7.1.26, absolute error below 5e-7.
#[inline(always)]
pub(crate) fn erf(x: f32) -> f32 {
    let a = x.abs();
    let t = 1.0 / (1.0 + 0.327_591_1 * a);
    let p = 1.061_405_4;
    let p = p * t - 1.453_152_1;
    let p = p * t + 1.421_413_8;
    let p = p * t - 0.284_496_74;
    let p = p * t + 0.254_829_6;
    let y = 1.0 - p * t * exp(-a * a);
    if x < 0.0 { -y } else { y }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_over_its_range() {
        for i in -86_900..88_000 {
            let x = i as f32 * 1e-3;
            let want = f64::from(x).exp();
            let error = (f64::from(exp(x)) - want).abs() / want;
            assert!(
                error < 3e-7,
                "exp({x}) = {} wants {want}, relative error {error}",
                exp(x)
            );
        }
        assert!(exp(-1e30) < 2e-38 && exp(1e30).is_finite());
    }

    #[test]
    fn tanh_and_erf_are_close() {
        for i in -9_000..9_000 {
            let x = i as f32 * 1e-3;
            assert!((f64::from(tanh(x)) - f64::from(x).tanh()).abs() < 3e-7, "tanh({x})");
        }
        // Values of erf to nine digits.
        for (x, want) in [
            (0.0, 0.0),
            (0.25, 0.276_326_390),
            (0.5, 0.520_499_878),
            (1.0, 0.842_700_793),
        ] {
            assert!((f64::from(erf(x)) - want).abs() < 5e-7, "erf({x})");
            assert!((f64::from(erf(-x)) + want).abs() < 5e-7, "erf(-{x})");
        }
        assert!((erf(2.0) - 0.995_322_3).abs() < 5e-7 && (erf(4.0) - 1.0).abs() < 5e-7);
    }
}
