//! An interpreter for PTX: runs the kernels of a module over [`DeviceMemory`], thread by
//! thread, and holds every access and every meeting of threads to the rules.
//!
//! * [`Module::parse`] reads the text. What is not PTX is an [`Error`]; an instruction that is PTX and not run here makes
//!   the kernel it stands in an error when that kernel is asked for. Nothing is skipped.
//! * [`Module::kernel`] finds a kernel, [`Kernel::launch`] runs it.
//! * A [`Fault`] names the kernel, the instruction, the thread and what happened: an access that is not mapped, out of
//!   bounds or misaligned; two threads at one byte of shared memory without a barrier between; barriers that threads of a
//!   block do not reach together; lanes that a warp operation waits for in vain.
//!
//! Arithmetic is right to the bit where PTX defines it. `.approx` functions are rounded from `f64`, which is within what PTX
//! allows and not what a particular GPU gives. Not looked for: races in global memory. Not run: function calls, textures,
//! matrix and asynchronous instructions, clusters.

mod convert;
mod decode;
mod error;
mod exec;
mod float;
mod instruction;
mod integer;
mod lexer;
mod operand;
mod parse;
mod round;
mod types;

use crate::memory::DeviceMemory;
pub use error::{Error, Fault, FaultKind};
use instruction::Code;
pub use instruction::Parameter;
pub use parse::Global;

/// A module: kernels and variables.
pub struct Module {
    parsed: parse::Parsed,
    addresses: Vec<Option<u64>>,
}

impl std::fmt::Debug for Module {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kernels: Vec<_> = self.kernel_names().collect();
        f.debug_struct("Module")
            .field("kernels", &kernels)
            .finish_non_exhaustive()
    }
}

impl Module {
    /// Reads a module. O(n) in bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Syntax`].
    pub fn parse(text: &str) -> Result<Self, Error> {
        let parsed = parse::parse(text)?;
        let addresses = vec![None; parsed.globals.len()];
        Ok(Self { parsed, addresses })
    }

    /// The PTX version that the text asks for: major, minor. A driver refuses one newer than itself.
    #[must_use]
    pub fn version(&self) -> (u32, u32) {
        self.parsed.version
    }

    /// The compute capability that the text is for, such as 70. A device of a lower one refuses it.
    #[must_use]
    pub fn target(&self) -> u32 {
        self.parsed.target
    }

    /// Names of the kernels, in the order of the text.
    pub fn kernel_names(&self) -> impl Iterator<Item = &str> {
        self.parsed.kernels.iter().map(|(name, _)| name.as_str())
    }

    /// Variables in global and constant memory: who loads the module gives each [an address](Self::place) and puts its
    /// initial value there.
    #[must_use]
    pub fn globals(&self) -> &[Global] {
        &self.parsed.globals
    }

    /// Says where variable `index` of [`globals`](Self::globals) lies.
    pub fn place(&mut self, index: usize, address: u64) {
        self.addresses[index] = Some(address);
    }

    /// Finds a kernel.
    ///
    /// # Errors
    ///
    /// [`Error::NoKernel`], and [`Error::Unsupported`] for a kernel with an instruction that is not run here.
    pub fn kernel(&self, name: &str) -> Result<Kernel<'_>, Error> {
        match self.parsed.kernels.iter().find(|(kernel, _)| kernel == name) {
            Some((_, Ok(code))) => Ok(Kernel {
                code,
                addresses: &self.addresses,
            }),
            Some((_, Err(error))) => Err(error.clone()),
            None => Err(Error::NoKernel {
                name: name.into(),
                kernels: self.kernel_names().map(Into::into).collect(),
            }),
        }
    }
}

/// A kernel of a module.
#[derive(Clone, Copy)]
pub struct Kernel<'a> {
    code: &'a Code,
    addresses: &'a [Option<u64>],
}

impl std::fmt::Debug for Kernel<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernel")
            .field("name", &self.code.name)
            .finish_non_exhaustive()
    }
}

impl Kernel<'_> {
    /// Where each parameter lies among the bytes that [`launch`](Self::launch) takes.
    #[must_use]
    pub fn parameters(&self) -> &[Parameter] {
        &self.code.parameters
    }

    /// Bytes of all parameters.
    #[must_use]
    pub fn parameter_bytes(&self) -> usize {
        self.code.parameter_bytes
    }

    /// Bytes of shared memory that the kernel declares; a launch may add more.
    #[must_use]
    pub fn shared_bytes(&self) -> usize {
        self.code.shared_bytes
    }

    /// Most threads of a block.
    #[must_use]
    pub fn max_threads(&self) -> u32 {
        self.code.max_threads.unwrap_or(1024).min(1024)
    }

    /// Runs the kernel: `grid` blocks of `block` threads with `shared_bytes` of dynamic shared memory. `parameters` are the
    /// bytes of all parameters at the offsets of [`parameters`](Self::parameters).
    ///
    /// # Errors
    ///
    /// The first [`Fault`]. What was written before it stays written.
    pub fn launch(
        &self,
        grid: [u32; 3],
        block: [u32; 3],
        shared_bytes: usize,
        parameters: &[u8],
        memory: &mut dyn DeviceMemory,
    ) -> Result<(), Box<Fault>> {
        let launch = exec::Launch {
            code: self.code,
            globals: self.addresses,
            grid,
            block,
            dynamic_shared: shared_bytes,
            parameters,
        };
        launch.run(memory)
    }
}
