//! Runs a kernel: blocks one after another, the warps of a block in turn up to their next barrier.
//!
//! Which thread runs first is open on a GPU. Here the order is fixed, and what could depend on it inside a block is a race
//! that [`shared`] finds. Races in global memory are not looked for.

mod memory;
mod shared;
mod together;
mod warp;

use super::error::{Fault, FaultKind};
use super::instruction::{Code, dynamic_shared};
use crate::memory::DeviceMemory;
use shared::Shared;
use warp::{Stop, Warp};

/// A launch, as far as it is the same for all blocks.
pub(super) struct Launch<'a> {
    pub(super) code: &'a Code,
    /// Where the driver put the variables of the module.
    pub(super) globals: &'a [Option<u64>],
    pub(super) grid: [u32; 3],
    pub(super) block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub(super) dynamic_shared: usize,
    pub(super) parameters: &'a [u8],
}

/// What the warps of a block share.
struct Context<'a> {
    launch: &'a Launch<'a>,
    block: [u32; 3],
    shared: &'a mut Shared,
    memory: &'a mut dyn DeviceMemory,
}

impl Launch<'_> {
    /// Runs all blocks, up to the first fault. What was written before it stays written.
    pub(super) fn run(&self, memory: &mut dyn DeviceMemory) -> Result<(), Box<Fault>> {
        self.check()?;
        let mut shared = Shared::new(self.shared_bytes());
        let threads: u32 = self.block.iter().product();
        let mut warps: Vec<_> = (0..threads.div_ceil(32)).map(|index| Warp::new(self, index)).collect();
        let [x, y, z] = self.grid;
        for z in 0..z {
            for y in 0..y {
                for x in 0..x {
                    shared.start();
                    let mut context = Context {
                        launch: self,
                        block: [x, y, z],
                        shared: &mut shared,
                        memory,
                    };
                    run_block(&mut warps, &mut context).map_err(|stop| Box::new(self.fault([x, y, z], stop)))?;
                }
            }
        }
        Ok(())
    }

    fn shared_bytes(&self) -> usize {
        if self.dynamic_shared == 0 {
            return self.code.shared_bytes;
        }
        dynamic_shared(self.code.shared_bytes) + self.dynamic_shared
    }

    fn check(&self) -> Result<(), Box<Fault>> {
        let threads = self.block.iter().map(|n| u64::from(*n)).product::<u64>();
        let blocks = self.grid.iter().map(|n| u128::from(*n)).product::<u128>();
        let limit = self.code.max_threads.unwrap_or(1024).min(1024);
        let what = if threads == 0 || blocks == 0 {
            format!("an empty launch: grid {:?}, block {:?}", self.grid, self.block)
        } else if threads > u64::from(limit) || self.block[2] > 64 {
            format!("a block of {:?} threads, the kernel takes {limit}", self.block)
        } else if self
            .code
            .required_threads
            .is_some_and(|required| required != self.block)
        {
            format!(
                "a block of {:?} threads, not {:?}",
                self.block, self.code.required_threads
            )
        } else if self.parameters.len() != self.code.parameter_bytes {
            format!(
                "{} bytes of parameters, not {}",
                self.parameters.len(),
                self.code.parameter_bytes
            )
        } else if self.shared_bytes() > 256 << 10 {
            format!("{} bytes of shared memory", self.shared_bytes())
        } else {
            return Ok(());
        };
        Err(Box::new(Fault {
            kernel: self.code.name.clone(),
            block: [0; 3],
            thread: [0; 3],
            line: 0,
            instruction: String::new(),
            kind: FaultKind::Launch(what),
        }))
    }

    /// Coordinates of a thread from its number in the block.
    fn thread(&self, number: u32) -> [u32; 3] {
        let [x, y, _] = self.block;
        [number % x, number / x % y, number / x / y]
    }

    fn fault(&self, block: [u32; 3], stop: Stop) -> Fault {
        let instruction = &self.code.instructions[stop.at];
        Fault {
            kernel: self.code.name.clone(),
            block,
            thread: self.thread(stop.thread),
            line: instruction.line,
            instruction: instruction.text.clone(),
            kind: stop.kind,
        }
    }
}

fn run_block(warps: &mut [Warp], context: &mut Context<'_>) -> Result<(), Stop> {
    for warp in warps.iter_mut() {
        warp.start(context);
    }
    loop {
        for warp in warps.iter_mut() {
            warp.run(context)?;
        }
        // Every thread now waits at a barrier or has left, and those that left are not waited for.
        let waiting: Vec<_> = warps.iter().flat_map(Warp::waiting).collect();
        let Some(first) = waiting.first() else {
            return Ok(());
        };
        if let Some(other) = waiting
            .iter()
            .find(|other| other.id != first.id || (other.at != first.at && first.aligned))
        {
            let instruction = &context.launch.code.instructions[first.at];
            return Err(Stop {
                thread: other.thread,
                at: other.at,
                kind: FaultKind::DivergentBarrier {
                    other: context.launch.thread(first.thread),
                    line: instruction.line,
                    instruction: instruction.text.clone(),
                },
            });
        }
        context.shared.barrier();
        for warp in warps.iter_mut() {
            warp.release();
        }
    }
}
