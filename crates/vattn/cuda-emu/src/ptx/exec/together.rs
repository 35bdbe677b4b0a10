//! What lanes of a warp do together (PTX ISA 8.0, sections 9.7.8.6, 9.7.12.2, 9.7.12.8, 9.7.12.11).

use super::super::error::FaultKind;
use super::super::instruction::{Shuffle, Together, Vote};
use super::Context;
use super::warp::{Warp, lanes};

impl Warp {
    /// Runs one operation of the lanes that came, which are all the living members.
    pub(super) fn together(
        &mut self,
        context: &mut Context<'_>,
        arrived: u32,
        members: u32,
        what: &Together,
    ) -> Result<(), (u32, FaultKind)> {
        let code = context.launch.code;
        match what {
            Together::Barrier => context.shared.warp_barrier(self.index, members),
            Together::Shuffle {
                mode,
                source,
                lane,
                clamp,
                destination,
                valid,
            } => {
                let [values, by, clamp] = [*source, *lane, *clamp].map(|register| self.registers[register as usize]);
                let (mut results, mut in_range) = ([0; 32], [0; 32]);
                for lane in lanes(arrived) {
                    let (from, inside) =
                        source_lane(*mode, lane, by[lane as usize] as u32, clamp[lane as usize] as u32);
                    if arrived >> from & 1 == 0 {
                        return Err((lane, FaultKind::AbsentLane { lane: from }));
                    }
                    results[lane as usize] = values[from as usize];
                    in_range[lane as usize] = u64::from(inside);
                }
                for (register, values) in [(destination, results), (valid, in_range)] {
                    if let Some(register) = register {
                        self.write(code, *register, arrived, &values);
                    }
                }
            }
            Together::Vote {
                mode,
                source,
                destination,
            } => {
                let yes = self.predicate(*source) & arrived;
                let answer = match mode {
                    Vote::All => u32::from(yes == arrived),
                    Vote::Any => u32::from(yes != 0),
                    Vote::Uniform => u32::from(yes == 0 || yes == arrived),
                    Vote::Ballot => yes,
                };
                self.write(code, *destination, arrived, &[u64::from(answer); 32]);
            }
            Together::Reduce {
                update,
                source,
                destination,
            } => {
                let values = self.registers[*source as usize];
                let total = lanes(arrived)
                    .map(|lane| values[lane as usize])
                    .reduce(|a, b| update(a, b, 0));
                self.write(code, *destination, arrived, &[total.unwrap_or(0); 32]);
            }
        }
        Ok(())
    }
}

/// The lane that a lane of a shuffle reads, and whether that is the lane it asked for (section 9.7.8.6).
fn source_lane(mode: Shuffle, lane: u32, by: u32, clamp: u32) -> (u32, bool) {
    let by = by & 31;
    let (segment, clamp) = (clamp >> 8 & 31, clamp & 31);
    let most = (lane & segment) | (clamp & !segment);
    let least = lane & segment;
    let (from, inside) = match mode {
        Shuffle::Up => (lane.wrapping_sub(by), lane as i32 - by as i32 >= most as i32),
        Shuffle::Down => (lane + by, lane + by <= most),
        Shuffle::Butterfly => (lane ^ by, lane ^ by <= most),
        Shuffle::Index => {
            let from = least | (by & !segment);
            (from, from <= most)
        }
    };
    if inside { (from, true) } else { (lane, false) }
}
