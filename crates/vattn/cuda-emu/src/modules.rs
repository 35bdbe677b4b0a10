//! Loaded modules, their variables, and the checks of a launch.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::code::{Code, Outcome, Refusal};
use crate::knobs::Knobs;
use crate::memory::{DeviceMemory, Memory};
use crate::ptx::{self, Parameter};

/// Shared memory of a block, in bytes, that a launch may use without asking for more.
const SHARED_BYTES: usize = 48 << 10;

/// A launch that was checked: everything it needs, also when its module is gone by the time it runs.
#[derive(Debug)]
pub struct Launch {
    module: Arc<ptx::Module>,
    kernel: String,
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: usize,
    parameters: Vec<u8>,
}

impl Launch {
    /// Name of the kernel.
    #[must_use]
    pub fn kernel(&self) -> &str {
        &self.kernel
    }

    /// Runs the kernel.
    ///
    /// # Errors
    ///
    /// It broke a rule: illegal memory is [`Code::IllegalAddress`], everything else [`Code::LaunchFailed`].
    pub fn run(self, memory: &mut Memory) -> Outcome {
        let kernel = self.module.kernel(&self.kernel).expect("checked when it was launched");
        let ran = kernel.launch(self.grid, self.block, self.shared_bytes, &self.parameters, memory);
        ran.map_err(|fault| {
            let code = match fault.kind {
                ptx::FaultKind::Global(_) => Code::IllegalAddress,
                _ => Code::LaunchFailed,
            };
            Refusal::new(code, fault.to_string())
        })
    }
}

#[derive(Debug)]
struct Loaded {
    module: Arc<ptx::Module>,
    variables: Vec<u64>,
}

#[derive(Debug)]
struct Function {
    module: u64,
    kernel: String,
}

/// Modules and functions of the context, by handle.
#[derive(Debug, Default)]
pub struct Modules {
    modules: BTreeMap<u64, Loaded>,
    functions: BTreeMap<u64, Function>,
    made: u64,
}

impl Modules {
    /// `cuModuleLoadData` of a PTX text.
    ///
    /// # Errors
    ///
    /// The text is not PTX, is for a newer device or driver, or there is no memory for its variables.
    pub fn load(&mut self, text: &str, knobs: &Knobs, memory: &mut Memory) -> Outcome<u64> {
        let parsed = ptx::Module::parse(text).map_err(|error| Refusal::new(Code::InvalidPtx, error.to_string()))?;
        let mut module = parsed;
        if module.version() > newest_ptx(knobs.driver) {
            let why = format!("PTX {:?} is newer than driver {}", module.version(), knobs.driver);
            return Err(Refusal::new(Code::UnsupportedPtxVersion, why));
        }
        if module.target() > knobs.compute {
            let why = format!("PTX for {} on a device of {}", module.target(), knobs.compute);
            return Err(Refusal::new(Code::NoBinaryForGpu, why));
        }
        let mut variables = Vec::new();
        for index in 0..module.globals().len() {
            let initial = module.globals()[index].initial.clone();
            let placed = memory.allocate(initial.len().max(1) as u64, false).and_then(|address| {
                let written = memory.write(address, &initial);
                written.map_err(|fault| Refusal::invalid(fault.to_string()))?;
                Ok(address)
            });
            match placed {
                Ok(address) => {
                    module.place(index, address);
                    variables.push(address);
                }
                Err(refusal) => {
                    free_all(&variables, memory);
                    return Err(refusal);
                }
            }
        }
        let module = Arc::new(module);
        let handle = self.handle();
        self.modules.insert(handle, Loaded { module, variables });
        Ok(handle)
    }

    /// `cuModuleUnload`.
    ///
    /// # Errors
    ///
    /// The module does not exist.
    pub fn unload(&mut self, module: u64, memory: &mut Memory) -> Outcome {
        let loaded = self.modules.remove(&module).ok_or_else(|| unknown("module", module))?;
        free_all(&loaded.variables, memory);
        self.functions.retain(|_, function| function.module != module);
        Ok(())
    }

    /// Unloads everything: the context is gone.
    pub fn clear(&mut self, memory: &mut Memory) {
        for loaded in self.modules.values() {
            free_all(&loaded.variables, memory);
        }
        *self = Self::default();
    }

    /// `cuModuleGetFunction`.
    ///
    /// # Errors
    ///
    /// The module or the kernel does not exist, or the kernel has an instruction that is not run here.
    pub fn function(&mut self, module: u64, kernel: &str) -> Outcome<u64> {
        let loaded = self.modules.get(&module).ok_or_else(|| unknown("module", module))?;
        loaded.module.kernel(kernel).map_err(|error| {
            let code = match error {
                ptx::Error::Unsupported { .. } => Code::NotSupported,
                _ => Code::NotFound,
            };
            Refusal::new(code, error.to_string())
        })?;
        let known = self
            .functions
            .iter()
            .find(|(_, function)| function.module == module && function.kernel == kernel);
        if let Some((handle, _)) = known {
            return Ok(*handle);
        }
        let handle = self.handle();
        let kernel = kernel.to_owned();
        self.functions.insert(handle, Function { module, kernel });
        Ok(handle)
    }

    /// Where the parameters of a function lie, and how many bytes all of them take.
    ///
    /// # Errors
    ///
    /// The function does not exist.
    pub fn parameters(&self, function: u64) -> Outcome<(Vec<Parameter>, usize)> {
        self.with_kernel(function, |kernel| {
            Ok((kernel.parameters().to_vec(), kernel.parameter_bytes()))
        })
    }

    /// Checks a launch, `cuLaunchKernel`.
    ///
    /// # Errors
    ///
    /// The function does not exist, or grid, block or shared memory are not what the device allows.
    pub fn launch(
        &self,
        function: u64,
        grid: [u32; 3],
        block: [u32; 3],
        shared_bytes: usize,
        parameters: Vec<u8>,
    ) -> Outcome<Launch> {
        let threads = block.iter().map(|&threads| u64::from(threads)).product::<u64>();
        self.with_kernel(function, |kernel| {
            if grid.contains(&0)
                || block.contains(&0)
                || grid[1].max(grid[2]) > 65_535
                || block[2] > 64
                || threads > 1024
            {
                return Err(Refusal::invalid(format!("grid {grid:?} of blocks {block:?}")));
            }
            if threads > u64::from(kernel.max_threads()) {
                let why = format!("{threads} threads where the kernel allows {}", kernel.max_threads());
                return Err(Refusal::new(Code::LaunchOutOfResources, why));
            }
            if shared_bytes + kernel.shared_bytes() > SHARED_BYTES {
                return Err(Refusal::invalid(format!(
                    "{shared_bytes} bytes of dynamic shared memory"
                )));
            }
            Ok(())
        })?;
        let function = &self.functions[&function];
        Ok(Launch {
            module: Arc::clone(&self.modules[&function.module].module),
            kernel: function.kernel.clone(),
            grid,
            block,
            shared_bytes,
            parameters,
        })
    }

    /// How many modules are loaded.
    #[must_use]
    pub fn live(&self) -> u64 {
        self.modules.len() as u64
    }

    fn with_kernel<T>(&self, function: u64, run: impl FnOnce(ptx::Kernel<'_>) -> Outcome<T>) -> Outcome<T> {
        let found = self
            .functions
            .get(&function)
            .ok_or_else(|| unknown("function", function))?;
        let kernel = self.modules[&found.module].module.kernel(&found.kernel);
        run(kernel.expect("checked when the function was found"))
    }

    fn handle(&mut self) -> u64 {
        self.made += 0x10;
        0x2000_0000 + self.made
    }
}

fn free_all(variables: &[u64], memory: &mut Memory) {
    for &address in variables {
        // A caller may have freed a variable as if it were an allocation, which is refused nowhere.
        let _ = memory.free(address);
    }
}

fn unknown(what: &str, handle: u64) -> Refusal {
    Refusal::new(Code::InvalidHandle, format!("{what} {handle:#x} does not exist"))
}

/// The newest PTX that a driver of this version takes, by the release notes of PTX.
fn newest_ptx(driver: u32) -> (u32, u32) {
    match driver {
        13_000.. => (9, (driver - 13_000) / 10),
        12_090.. => (8, 8),
        12_080.. => (8, 7),
        12_060.. => (8, 5),
        12_000.. => (8, (driver - 12_000) / 10),
        11_080.. => (7, 8),
        _ => (7, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::Modules;
    use crate::code::{Code, Outcome};
    use crate::knobs::Knobs;
    use crate::memory::{DeviceMemory, Memory};

    /// `fill(to, value)`: thread i of the grid writes the value to the ith word at `to`.
    const FILL: &str = r"
.version 8.0
.target sm_70
.address_size 64
.global .align 4 .u32 step = 3;
.visible .entry fill(.param .u64 to, .param .u32 value)
.maxntid 64, 1, 1
{
    .reg .b32 %r<5>;
    .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [to];
    ld.param.u32 %r1, [value];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.u32 %r4, %r2, %r3, %r4;
    mul.wide.u32 %rd2, %r4, 4;
    add.u64 %rd3, %rd1, %rd2;
    st.global.u32 [%rd3], %r1;
    ret;
}
";

    #[track_caller]
    fn code<T: std::fmt::Debug>(outcome: Outcome<T>) -> Code {
        outcome.unwrap_err().code
    }

    fn parameters(to: u64, value: u32) -> Vec<u8> {
        [&to.to_le_bytes()[..], &value.to_le_bytes()].concat()
    }

    #[test]
    fn a_kernel_is_loaded_and_run() {
        let knobs = Knobs::default();
        let (mut modules, mut memory) = (Modules::default(), Memory::new(&knobs));
        let module = modules.load(FILL, &knobs, &mut memory).unwrap();
        let function = modules.function(module, "fill").unwrap();
        assert_eq!(modules.function(module, "fill"), Ok(function));
        assert_eq!(modules.parameters(function).unwrap().0.len(), 2);
        let to = memory.allocate(4 * 96, false).unwrap();
        let launch = |blocks, threads| modules.launch(function, [blocks, 1, 1], [threads, 1, 1], 0, parameters(to, 7));
        launch(3, 32).unwrap().run(&mut memory).unwrap();
        let mut last = [0; 4];
        memory.read(to + 4 * 95, &mut last).unwrap();
        assert_eq!(last, [7, 0, 0, 0]);
        assert_eq!(code(launch(4, 32).unwrap().run(&mut memory)), Code::IllegalAddress);
        assert_eq!(code(launch(0, 32)), Code::InvalidValue);
        assert_eq!(code(launch(1, 2048)), Code::InvalidValue);
        assert_eq!(code(launch(1, 96)), Code::LaunchOutOfResources);
        assert_eq!(
            code(modules.launch(function, [1; 3], [1; 3], 50_000, vec![])),
            Code::InvalidValue
        );
        let queued = launch(1, 1).unwrap();
        modules.unload(module, &mut memory).unwrap();
        queued.run(&mut memory).unwrap();
        assert_eq!(code(modules.parameters(function)), Code::InvalidHandle);
        assert_eq!(code(modules.unload(module, &mut memory)), Code::InvalidHandle);
        assert_eq!(code(modules.function(module, "fill")), Code::InvalidHandle);
        memory.free(to).unwrap();
        assert_eq!(
            (modules.live(), memory.used_and_peak().0),
            (0, 0),
            "its variable is gone too"
        );
    }

    #[test]
    fn modules_must_suit_driver_and_device() {
        let load = |text: &str, settings: &str| {
            let knobs: Knobs = settings.parse().unwrap();
            let mut memory = Memory::new(&knobs);
            let mut modules = Modules::default();
            let loaded = modules.load(text, &knobs, &mut memory);
            modules.clear(&mut memory);
            assert_eq!(memory.used_and_peak().0, 0);
            loaded.map(|_| ()).map_err(|refusal| refusal.code)
        };
        let newer = FILL.replace("8.0", "8.4");
        assert_eq!(load(FILL, "driver=12000"), Ok(()));
        assert_eq!(load(FILL, "driver=11080"), Err(Code::UnsupportedPtxVersion));
        assert_eq!(load(&newer, "driver=12030"), Err(Code::UnsupportedPtxVersion));
        assert_eq!(load(&newer, "driver=12040"), Ok(()));
        assert_eq!(load(&newer, "driver=13000"), Ok(()));
        assert_eq!(load(FILL, "compute=61"), Err(Code::NoBinaryForGpu));
        assert_eq!(load("not PTX", ""), Err(Code::InvalidPtx));
        assert_eq!(load(FILL, "capacity=0"), Err(Code::OutOfMemory));
    }
}
