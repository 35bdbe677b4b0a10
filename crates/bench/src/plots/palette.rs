//! Colours: Normal orange, Fused blue, distinguishable in the common kinds of colour blindness; the
//! arms between take paler tones of the side their tokenizer belongs to.

use plotters::style::RGBColor;

use crate::arms::{Arm, KvChoice, TokenizerChoice};
use crate::stats::Verdict;

pub(super) const PAPER: RGBColor = RGBColor(255, 255, 255);
pub(super) const INK: RGBColor = RGBColor(26, 26, 26);
pub(super) const MUTED: RGBColor = RGBColor(95, 95, 95);
pub(super) const AXIS: RGBColor = RGBColor(110, 110, 110);
pub(super) const STRIP: RGBColor = RGBColor(245, 245, 245);
pub(super) const GRID: RGBColor = RGBColor(224, 224, 224);
pub(super) const NORMAL: RGBColor = RGBColor(0xD5, 0x5E, 0x00);
pub(super) const FUSED: RGBColor = RGBColor(0x0B, 0x6E, 0xB5);
const NORMAL_SIDE: RGBColor = RGBColor(0xE9, 0xA5, 0x6C);
const FUSED_SIDE: RGBColor = RGBColor(0x76, 0xB2, 0xDB);

/// The colour of an arm.
pub(super) fn arm(arm: Arm) -> RGBColor {
    match (arm.tokenizer, arm.kv_store) {
        (TokenizerChoice::Base, KvChoice::Static) => NORMAL,
        (TokenizerChoice::Patched, KvChoice::Virtual) => FUSED,
        (TokenizerChoice::Base, _) => NORMAL_SIDE,
        (TokenizerChoice::Patched, _) => FUSED_SIDE,
    }
}

/// The colour of a tokenizer.
pub(super) fn tokenizer(patched: bool) -> RGBColor {
    if patched { FUSED } else { NORMAL }
}

/// The colour of a change.
pub(super) fn verdict(verdict: Verdict) -> RGBColor {
    match verdict {
        Verdict::Better => FUSED,
        Verdict::Worse => NORMAL,
        Verdict::NoDifferenceShown | Verdict::NotJudged => MUTED,
    }
}

/// The colour of the `i`th server.
pub(super) fn server(i: usize) -> RGBColor {
    [NORMAL, FUSED, RGBColor(0x00, 0x9E, 0x73), RGBColor(0xCC, 0x79, 0xA7)][i % 4]
}

/// A paler tone of a colour.
pub(super) fn paler(color: RGBColor) -> RGBColor {
    let mix = |c: u8| (f64::from(c) * 0.55 + 255.0 * 0.45).round() as u8;
    RGBColor(mix(color.0), mix(color.1), mix(color.2))
}
