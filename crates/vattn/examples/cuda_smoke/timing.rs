//! What calls take.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use vattn::cuda::driver::{Driver, Rights, StreamHandle};
use vattn_kernels::Element;

use crate::kernel::{Attention, Setup};
use crate::report::Found;

const FRAMES: usize = 200;
const RUN: usize = 16;

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn timed<T>(times: &mut Vec<f64>, call: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = call();
    times.push(micros(start.elapsed()));
    result
}

/// Medians of the calls on single frames, and of giving rights to a run of frames in one call.
pub(crate) fn calls(driver: &Arc<Driver>) -> Found {
    let g = driver.granularity(false)?;
    let (free, _) = driver.memory_info()?;
    // No more than half of what is free; two frames at least.
    let frames = FRAMES.min(free / 2 / g).max(2);
    let run = RUN.min(frames);
    let base = driver.reserve(frames * g, g)?;
    let at = |frame: usize| base + (frame * g) as u64;
    let names = ["create", "map", "access", "unmap", "release", "access_run"];
    let mut times: [Vec<f64>; 6] = Default::default();
    let [create, map, access, unmap, release, access_run] = &mut times;
    let mut handles = Vec::new();
    for frame in 0..frames {
        handles.push(timed(create, || driver.create(g))?);
        timed(map, || driver.map(at(frame), g, handles[frame]))?;
        timed(access, || driver.set_access(at(frame), g, Rights::ReadWrite))?;
    }
    for first in (0..=frames - run).step_by(run) {
        timed(access_run, || driver.set_access(at(first), run * g, Rights::ReadWrite))?;
    }
    for (frame, handle) in handles.into_iter().enumerate() {
        timed(unmap, || driver.unmap(at(frame), g))?;
        timed(release, || driver.release(handle))?;
    }
    driver.release_addresses(base, frames * g)?;
    let medians = times.map(median);
    let said: Vec<_> = names
        .iter()
        .zip(medians)
        .map(|(name, us)| format!("{name} {us:.1}"))
        .collect();
    let value: serde_json::Map<_, _> = names
        .iter()
        .zip(medians)
        .map(|(name, us)| (format!("{name}_us"), json!(us)))
        .collect();
    let said = format!(
        "medians in us over {frames} frames of {g} bytes: {} ({run} frames)",
        said.join(", ")
    );
    Ok((
        said,
        json!({"frames": frames, "run": run, "frame_bytes": g, "medians": value}),
    ))
}

/// Maps and unmaps a frame while kernels run on a stream, and tells whether that waits for them.
pub(crate) fn beside_a_kernel(device: i32) -> Found {
    let setup = Setup::over_a_border(device, Element::F32)?;
    let kernel = Attention::new(&setup)?;
    let driver = Arc::clone(setup.backend.driver());
    let stream = driver.stream()?;
    let one = {
        kernel.launch(stream.handle())?;
        driver.wait_stream(stream.handle())?;
        let start = Instant::now();
        kernel.launch(stream.handle())?;
        driver.wait_stream(stream.handle())?;
        start.elapsed()
    };
    // Kernels for a tenth of a second, so that a call that waits for them stands out.
    let launches = (0.1 / one.as_secs_f64()).clamp(1.0, 20_000.0) as usize;
    let g = driver.granularity(false)?;
    let base = driver.reserve(g, g)?;
    let cycle = |driver: &Arc<Driver>| -> Result<f64, Box<dyn Error>> {
        let start = Instant::now();
        let handle = driver.create(g)?;
        driver.map(base, g, handle)?;
        driver.set_access(base, g, Rights::ReadWrite)?;
        let mapped = micros(start.elapsed());
        driver.unmap(base, g)?;
        driver.release(handle)?;
        Ok(mapped)
    };
    let idle = cycle(&driver)?;
    let mut queued = Vec::new();
    for _ in 0..launches {
        timed(&mut queued, || kernel.launch(stream.handle()))?;
    }
    let event = driver.record(stream.handle())?;
    let running_before = !event.is_done()?;
    let busy = cycle(&driver)?;
    let running_after = !event.is_done()?;
    let start = Instant::now();
    event.wait()?;
    let rest = micros(start.elapsed());
    drop((event, stream));
    kernel.free()?;
    driver.release_addresses(base, g)?;
    driver.wait_stream(StreamHandle::LEGACY)?;
    let verdict = match (running_before, running_after) {
        (true, true) => "mapping did not wait for the kernels",
        (true, false) => "the kernels were done when mapping returned: it may have waited",
        (false, _) => "the kernels were done before: nothing is shown",
    };
    let said =
        format!("{verdict}; {busy:.1} us beside {launches} kernels, {idle:.1} us idle, kernels ran {rest:.0} us on");
    let value = json!({
        "launches": launches,
        "running_before": running_before,
        "running_after": running_after,
        "map_busy_us": busy,
        "map_idle_us": idle,
        "kernels_ran_on_us": rest,
    });
    Ok((said, value))
}
