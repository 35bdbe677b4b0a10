//! The emulated driver, loaded as a program loads the real one: by the dynamic loader, under the driver's name.

use std::collections::BTreeMap;
use std::ffi::{CString, c_char};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use libloading::os::unix::{Library, Symbol};

type Reset = unsafe extern "C" fn(*const c_char) -> u32;
type Plan = unsafe extern "C" fn(*const c_char, u64, u64, u32) -> u32;
type Report = unsafe extern "C" fn(*mut c_char, usize) -> usize;

struct Functions {
    reset: Symbol<Reset>,
    plan: Symbol<Plan>,
    report: Symbol<Report>,
    _library: Library,
}

/// The emulator, if this program was linked with it in the place of the driver.
fn linked() -> Option<Library> {
    let this = Library::this();
    // SAFETY: only whether the function exists is asked.
    let found = unsafe { this.get::<Reset>(b"cudaEmuReset") }.is_ok();
    found.then_some(this)
}

/// Finds the emulator in this program, or loads the shared library that cargo built beside this test. Its name in the loader
/// is the driver's, so that later loading by that name finds it.
fn functions() -> &'static Functions {
    static FUNCTIONS: OnceLock<Functions> = OnceLock::new();
    FUNCTIONS.get_or_init(|| {
        let beside = std::env::current_exe().unwrap().with_file_name("libvattn_cuda_emu.so");
        // SAFETY: the library is ours, and its functions have these types. The other name is the driver's, which may be
        // loaded anywhere; only whether it is ours is asked.
        unsafe {
            let loaded = || Library::new(&beside).unwrap_or_else(|error| panic!("{}: {error}", beside.display()));
            let library = linked().unwrap_or_else(loaded);
            let other = Library::new("libcuda.so").map(|other| other.get::<Reset>(b"cudaEmuReset").is_ok());
            assert!(
                other.unwrap_or(true),
                "libcuda.so of a real driver would be loaded instead: take it out of the path"
            );
            Functions {
                reset: library.get(b"cudaEmuReset").unwrap(),
                plan: library.get(b"cudaEmuPlan").unwrap(),
                report: library.get(b"cudaEmuReport").unwrap(),
                _library: library,
            }
        }
    })
}

/// How the device may behave: at once or late, with clean or with dirty memory. Small granularity keeps the tests quick.
pub(crate) const MODES: [&str; 4] = [
    "granularity=8192,lazy=0,dirty=0",
    "granularity=8192,lazy=0,dirty=1",
    "granularity=8192,lazy=1,dirty=0",
    "granularity=8192,lazy=1,dirty=1",
];

/// The one emulated device of the process, new, and this test's alone while the value lives.
pub(crate) struct Emulator {
    functions: &'static Functions,
    _alone: MutexGuard<'static, ()>,
}

/// What a call does instead of its work.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Action {
    /// It fails with this code.
    Fail(u32),
    /// Nothing, as if the program had not made it.
    Skip,
    /// Its work twice, as if the program had made it twice.
    Repeat,
}

/// What the emulated driver says of itself.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// What lives on the device.
    pub(crate) live: BTreeMap<String, u64>,
    /// How often each function was called.
    pub(crate) calls: BTreeMap<String, u64>,
    /// Bytes used, the most ever used, calls that failed on request.
    pub(crate) counts: BTreeMap<String, u64>,
    /// Calls that were refused, and work that went wrong.
    pub(crate) refusals: Vec<String>,
}

impl Emulator {
    /// A new device with these knobs.
    pub(crate) fn new(knobs: &str) -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let functions = functions();
        let text = CString::new(knobs).unwrap();
        // SAFETY: the text ends with a nul.
        assert_eq!(unsafe { (functions.reset)(text.as_ptr()) }, 0, "knobs {knobs}");
        Self {
            functions,
            _alone: alone,
        }
    }

    /// Plans what calls of `function` ("" is any) do: the first `before` from now on go through, the next `count` do this.
    pub(crate) fn plan(&self, function: &str, before: u64, count: u64, action: Action) {
        let action = match action {
            Action::Fail(code) => code,
            Action::Skip => 0,
            Action::Repeat => u32::MAX,
        };
        let text = CString::new(function).unwrap();
        // SAFETY: the text ends with a nul.
        let planned = unsafe { (self.functions.plan)(text.as_ptr(), before, count, action) };
        assert_eq!(planned, 0);
    }

    /// Lets all calls go through again.
    pub(crate) fn forget(&self) {
        self.plan("", 0, 0, Action::Skip);
    }

    pub(crate) fn findings(&self) -> Findings {
        let mut buffer = vec![0u8; 1 << 16];
        // SAFETY: the buffer has this many bytes.
        let length = unsafe { (self.functions.report)(buffer.as_mut_ptr().cast(), buffer.len()) };
        let text = std::str::from_utf8(&buffer[..length]).expect("the report fits");
        let mut findings = Findings::default();
        for line in text.lines() {
            let (kind, rest) = line.split_once(' ').unwrap();
            if kind == "refusal" {
                findings.refusals.push(rest.to_owned());
                continue;
            }
            let (name, value) = rest.split_once(' ').unwrap();
            let map = match kind {
                "live" => &mut findings.live,
                "call" => &mut findings.calls,
                _ => &mut findings.counts,
            };
            map.insert(name.to_owned(), value.parse().unwrap());
        }
        findings
    }

    /// Checks that nothing lives on the device any more.
    #[track_caller]
    pub(crate) fn assert_no_leaks(&self) {
        let findings = self.findings();
        assert!(
            findings.live.values().all(|&count| count == 0) && findings.counts["used"] == 0,
            "leaked: {:?}, {} bytes; refusals: {:#?}",
            findings.live,
            findings.counts["used"],
            findings.refusals
        );
    }

    /// Checks that no rule of the driver was broken.
    #[track_caller]
    pub(crate) fn assert_no_refusals(&self) {
        let refusals = self.findings().refusals;
        assert!(refusals.is_empty(), "{refusals:#?}");
    }
}
