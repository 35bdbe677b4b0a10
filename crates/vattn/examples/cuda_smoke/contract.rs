//! What the driver answers to calls that its documentation forbids, or leaves open.
//!
//! They are made in a process of their own, because some may lose the context. The answers are numbers of `CUresult`, 0 for a
//! call that was accepted.

use std::process::Command;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use vattn::cuda::DriverError;
use vattn::cuda::driver::{Driver, Rights};

use crate::report::Found;

/// The calls, whether they must be refused for `vattn` to be right, and the name they have in the report.
const CALLS: [(&str, Expected); 19] = [
    ("create less than the granularity", Expected::Refused),
    ("map over a mapping", Expected::Refused),
    ("map unaligned", Expected::Refused),
    ("map more than the handle has", Expected::Refused),
    ("map outside of any reservation", Expected::Refused),
    ("access to what is not mapped", Expected::Refused),
    ("access to two mappings in one call", Expected::Accepted),
    ("access to half a mapping", Expected::Open),
    ("unmap half a mapping", Expected::Refused),
    ("unmap two mappings in one call", Expected::Open),
    ("map again after that", Expected::Open),
    ("free a reservation in use", Expected::Refused),
    ("free half a reservation", Expected::Open),
    ("one handle at two addresses", Expected::Accepted),
    ("read-only access", Expected::Open),
    ("release while mapped, then use", Expected::Accepted),
    (
        "reserve a size that is not a multiple of the granularity",
        Expected::Open,
    ),
    ("copy to memory without rights", Expected::Refused),
    ("copy to read-only memory", Expected::Refused),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Expected {
    Accepted,
    Refused,
    /// The documentation leaves it open.
    Open,
}

fn code<T>(outcome: Result<T, DriverError>) -> u32 {
    outcome.map_or_else(|error| error.code, |_| 0)
}

/// Makes the calls and prints `name<TAB>code` for each.
pub(crate) fn probe(driver: &Arc<Driver>) {
    let mut at = 0;
    let outcome = calls(driver, &mut |code| {
        println!("{}\t{code}", CALLS[at].0);
        at += 1;
    });
    if let Err(error) = outcome {
        eprintln!("{error}");
    }
}

fn calls(driver: &Arc<Driver>, say: &mut impl FnMut(u32)) -> Result<(), DriverError> {
    let g = driver.granularity(false)?;
    let base = driver.reserve(8 * g, g)?;
    let at = |page: usize| base + (page * g) as u64;
    let stream = driver.stream()?;
    let handles = (0..4).map(|_| driver.create(g)).collect::<Result<Vec<_>, _>>()?;
    for (page, &handle) in handles.iter().enumerate() {
        driver.map(at(page), g, handle)?;
    }

    say(code(driver.create(g / 2)));
    say(code(driver.map(at(0), g, handles[0])));
    say(code(driver.map(at(5) + 4096, g, handles[0])));
    say(code(driver.map(at(5), 2 * g, handles[0])));
    say(code(driver.map(at(8), g, handles[0])));
    say(code(driver.set_access(at(5), g, Rights::ReadWrite)));
    say(code(driver.set_access(at(0), 2 * g, Rights::ReadWrite)));
    say(code(driver.set_access(at(0), g / 2, Rights::ReadWrite)));
    say(code(driver.unmap(at(0), g / 2)));
    let spanning = code(driver.unmap(at(0), 2 * g));
    say(spanning);
    if spanning != 0 {
        driver.unmap(at(0), g)?;
        driver.unmap(at(1), g)?;
    }
    say(code(
        driver
            .map(at(0), g, handles[0])
            .and_then(|()| driver.map(at(1), g, handles[1])),
    ));
    say(code(driver.release_addresses(base, 8 * g)));
    say(code(driver.release_addresses(base, 4 * g)));
    say(code(driver.map(at(6), g, handles[2])));
    say(code(driver.set_access(at(6), g, Rights::Read)));
    driver.set_access(at(0), 2 * g, Rights::ReadWrite)?;
    driver.release(handles[0])?;
    say(code(driver.write(stream.handle(), at(0), &[1, 2, 3])));
    let odd = driver.reserve(g + 4096, g);
    if let Ok(address) = odd {
        driver.release_addresses(address, g + 4096)?;
    }
    say(code(odd));
    // These two may lose the context, so they come last.
    say(code(driver.write(stream.handle(), at(3), &[1])));
    say(code(driver.write(stream.handle(), at(6), &[1])));
    Ok(())
}

/// Runs the calls in another process and compares their answers with what `vattn` builds on.
pub(crate) fn observe(device: i32) -> Found {
    let program = std::env::current_exe()?;
    let output = Command::new(program)
        .args(["--contract", "--device", &device.to_string()])
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    let mut observed = Map::new();
    for line in text.lines() {
        let (name, code) = line.split_once('\t').ok_or_else(|| format!("'{line}' is no answer"))?;
        observed.insert(name.to_owned(), json!(code.parse::<u32>()?));
    }
    let mut surprises = Vec::new();
    for (name, expected) in CALLS {
        let code = observed.get(name).and_then(Value::as_u64);
        let as_expected = match (expected, code) {
            (_, None) => false,
            (Expected::Accepted, Some(code)) => code == 0,
            (Expected::Refused, Some(code)) => code != 0,
            (Expected::Open, Some(_)) => true,
        };
        if !as_expected {
            surprises.push(format!(
                "{name}: {}",
                code.map_or("not reached".to_owned(), |code| code.to_string())
            ));
        }
    }
    if surprises.is_empty() {
        let open: Vec<_> = CALLS
            .iter()
            .filter(|(_, expected)| *expected == Expected::Open)
            .map(|(name, _)| format!("{name}: {}", observed[*name]))
            .collect();
        return Ok((
            format!("{} calls as expected; open ones: {}", CALLS.len(), open.join(", ")),
            observed.into(),
        ));
    }
    let diagnostics = String::from_utf8_lossy(&output.stderr);
    Err(format!("{} {diagnostics}", surprises.join(", ")).into())
}
