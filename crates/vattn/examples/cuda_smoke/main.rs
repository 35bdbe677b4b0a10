//! Tries everything that `vattn` asks of a CUDA device, on the device that is there, and says what it saw.
//!
//! ```text
//! cargo run --release -p vattn --features cuda --example cuda_smoke -- --json cuda_smoke.json
//! ```
//!
//! One line for each check on stdout, and a JSON report. It needs the NVIDIA driver and no CUDA toolkit. Exit code 0 when
//! all checks hold, 1 when one does not, 2 when there is no device or the arguments are wrong.

#![allow(clippy::print_stdout, reason = "the lines are what it is for")]

mod contract;
mod kernel;
mod report;
mod steps;
mod timing;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::json;
use vattn::backend::Backend;
use vattn::cuda::CudaBackend;
use vattn::cuda::driver::Driver;

use crate::report::Report;

const USAGE: &str = "usage: cuda_smoke [--device N] [--steps N] [--json FILE]";

struct Arguments {
    device: i32,
    steps: usize,
    json: PathBuf,
    /// Makes the calls that the documentation forbids, in a process that may lose its context.
    contract: bool,
}

fn arguments() -> Result<Arguments, String> {
    let mut parsed = Arguments {
        device: 0,
        steps: 10_000,
        json: "cuda_smoke.json".into(),
        contract: false,
    };
    let mut rest = std::env::args().skip(1);
    while let Some(name) = rest.next() {
        if name == "--contract" {
            parsed.contract = true;
            continue;
        }
        let value = rest.next().ok_or_else(|| format!("{name} has no value\n{USAGE}"))?;
        let wrong = |error: std::num::ParseIntError| format!("{name} {value}: {error}\n{USAGE}");
        match name.as_str() {
            "--device" => parsed.device = value.parse().map_err(wrong)?,
            "--steps" => parsed.steps = value.parse().map_err(wrong)?,
            "--json" => parsed.json = value.into(),
            _ => return Err(format!("unknown argument {name}\n{USAGE}")),
        }
    }
    Ok(parsed)
}

fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::from(2);
        }
    };
    let driver = match Driver::open(arguments.device) {
        Ok(driver) => driver,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    if arguments.contract {
        contract::probe(&driver);
        return ExitCode::SUCCESS;
    }
    let mut report = Report::default();
    run(&arguments, &driver, &mut report);
    let saved = report.save(&arguments.json);
    if let Err(error) = &saved {
        eprintln!("{}: {error}", arguments.json.display());
    }
    println!("{} passed, {} failed", report.passed(), report.failed());
    match report.failed() == 0 && saved.is_ok() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

fn run(arguments: &Arguments, driver: &Arc<Driver>, report: &mut Report) {
    let started = driver.memory_info();
    report.check("device", || {
        let info = driver.info()?;
        let said = format!(
            "{}, driver API {}, compute {}.{}, {} MiB, {} multiprocessors",
            info.name,
            info.driver,
            info.compute.0,
            info.compute.1,
            info.memory_bytes >> 20,
            info.multiprocessors
        );
        let value = json!({
            "name": info.name,
            "driver": info.driver,
            "compute": format!("{}.{}", info.compute.0, info.compute.1),
            "memory_bytes": info.memory_bytes,
            "multiprocessors": info.multiprocessors,
            "pools": info.pools,
            "granularity_minimum": info.granularity.0,
            "granularity_recommended": info.granularity.1,
        });
        Ok((said, value))
    });
    report.check("granularity", || {
        let (least, recommended) = (driver.granularity(false)?, driver.granularity(true)?);
        let usable = least.is_power_of_two() && recommended.is_multiple_of(least);
        usable
            .then(|| {
                (
                    format!("{least} bytes at least, {recommended} recommended"),
                    json!([least, recommended]),
                )
            })
            .ok_or_else(|| format!("{least} bytes at least, {recommended} recommended: not powers of two").into())
    });
    report.check("reserve 64 GiB of addresses", || {
        let align = driver.granularity(false)?;
        let address = driver.reserve(64 << 30, align)?;
        let aligned = address.is_multiple_of(align as u64);
        driver.release_addresses(address, 64 << 30)?;
        aligned
            .then(|| (format!("at {address:#x}"), json!(address)))
            .ok_or_else(|| format!("{address:#x} is not aligned to {align}").into())
    });
    report.check("contract", || contract::observe(arguments.device));
    report.check("sharing", || {
        let alias = CudaBackend::open(arguments.device)?.caps().alias;
        let said = if alias {
            "read-only mappings work"
        } else {
            "no read-only mappings: nothing will be shared"
        };
        Ok((said.to_owned(), json!(alias)))
    });
    for element in vattn_kernels::Element::ALL {
        report.check(&format!("attention kernel, {element:?}"), || {
            kernel::attention(arguments.device, element)
        });
    }
    report.check("calls", || timing::calls(driver));
    report.check("mapping beside a running kernel", || {
        timing::beside_a_kernel(arguments.device)
    });
    report.check("pool under memory pressure", || steps::pool(arguments.device));
    report.check("random steps", || steps::random(arguments.device, arguments.steps));
    report.check("memory given back", || {
        driver.synchronize()?;
        let ((before, _), (after, total)) = (started?, driver.memory_info()?);
        let value = json!({"free_before": before, "free_after": after, "total": total});
        // Modules and launches make the driver keep some memory of its own.
        let lost = before.saturating_sub(after);
        match lost <= 256 << 20 {
            true => Ok((format!("{} MiB less free than at the start", lost >> 20), value)),
            false => Err(format!("{} MiB less free than at the start", lost >> 20).into()),
        }
    });
}
