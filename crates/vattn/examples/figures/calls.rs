//! What each call of the host backend costs: one frame a call, CPU time, medians.

use anyhow::Result;
use vattn::backend::{Access, Backend, Frame, Request};
use vattn::host::HostBackend;

use crate::clock::{median, nanos};
use crate::figure::{Figure, Goal};
use crate::ours::FRAME;

/// Bytes of a huge page.
const HUGE: usize = 2 << 20;

/// The calls in the order in which a frame lives through them, with the system calls that they make.
const CALLS: &[&str] = &[
    "create (fallocate)",
    "map (mmap, populate)",
    "zero (memset)",
    "copy (memcpy)",
    "protect (mprotect)",
    "alias (mmap read-only)",
    "unmap (mmap none)",
    "destroy (punch hole)",
];

/// Times every call for frames of 4 KiB, 64 KiB and 2 MiB, and what huge pages change.
pub(crate) fn figures() -> Result<Vec<Figure>> {
    const GROUP: &str = "calls of the host backend, microseconds of CPU";
    let mut figures = Vec::new();
    for (bytes, reps, name) in [
        (4 << 10, 400, "4 KiB"),
        (64 << 10, 200, "64 KiB"),
        (2 << 20, 24, "2 MiB"),
    ] {
        for (call, micros) in CALLS.iter().zip(lives(bytes, reps)?) {
            figures.push(Figure::measured(GROUP, name, micros, "us").of(call));
        }
    }
    for (call, micros) in huge(24)? {
        figures.push(Figure::measured(GROUP, "2 MiB", micros, "us").of(call));
    }
    let backend = HostBackend::new(FRAME)?;
    let count = median((0..1000).map(|_| nanos(|| backend.physical_bytes()).0 / 1e3).collect());
    figures.push(Figure::measured(GROUP, "64 KiB", count, "us").of("count memory (fstat)"));
    Ok(figures)
}

/// Median microseconds of each of [`CALLS`] over `reps` frames that live next to each other, as those of a growing
/// sequence do.
fn lives(bytes: usize, reps: usize) -> Result<Vec<f64>> {
    let backend = HostBackend::new(bytes)?;
    // A frame of distance between the two halves, and one for the alias.
    let room = reps * bytes;
    let base = backend.reserve(2 * room + bytes, bytes)?;
    let alias = base + room + bytes;
    let mut times = vec![Vec::new(); CALLS.len()];
    let mut frames: Vec<Frame> = Vec::new();
    for rep in 0..reps {
        let address = base + rep * bytes;
        let request = Request {
            count: 1,
            address,
            room: reps - rep,
            after: frames.last().copied(),
            huge: false,
        };
        let mut new = Vec::new();
        let mut time = |call: usize, nanos: f64| times[call].push(nanos / 1e3);
        let (t, result) = nanos(|| backend.create(&request, &mut new));
        result?;
        time(0, t);
        let (t, result) = nanos(|| backend.map(address, &new, Access::ReadWrite));
        result?;
        time(1, t);
        // Twice, so that the second is not slowed by caches that the kernel's own zeroing has or has not filled.
        backend.zero(address, bytes)?;
        let (t, result) = nanos(|| backend.zero(address, bytes));
        result?;
        time(2, t);
        if rep > 0 {
            let (t, result) = nanos(|| backend.copy(address, address - bytes, bytes));
            result?;
            time(3, t);
        }
        frames.extend(new);
    }
    for (rep, frame) in frames.iter().enumerate() {
        let (t, result) = nanos(|| backend.protect(base + rep * bytes, 1, Access::Read));
        result?;
        times[4].push(t / 1e3);
        let (t, result) = nanos(|| backend.map(alias + rep * bytes, &[*frame], Access::Read));
        result?;
        times[5].push(t / 1e3);
    }
    backend.unmap(alias, reps)?;
    for rep in (0..reps).rev() {
        let (t, result) = nanos(|| backend.unmap(base + rep * bytes, 1));
        result?;
        times[6].push(t / 1e3);
    }
    for frame in frames.into_iter().rev() {
        let mut one = vec![frame];
        let (t, result) = nanos(|| backend.destroy(&mut one));
        result?;
        times[7].push(t / 1e3);
    }
    backend.release(base, 2 * room + bytes);
    Ok(times.into_iter().map(median).collect())
}

/// Huge pages: created so, and made so later out of base pages.
fn huge(reps: usize) -> Result<Vec<(&'static str, f64)>> {
    let backend = HostBackend::new(FRAME)?;
    let frames = HUGE / FRAME;
    let base = backend.reserve(reps * HUGE, HUGE)?;
    let (mut created, mut collapsed, mut punched) = (Vec::new(), Vec::new(), Vec::new());
    for rep in 0..reps {
        let address = base + rep * HUGE;
        let request = |huge| Request {
            count: frames,
            address,
            room: (reps - rep) * frames,
            after: None,
            huge,
        };
        let mut new = Vec::new();
        let (t, result) = nanos(|| backend.create(&request(true), &mut new));
        result?;
        created.push(t / 1e3);
        let (t, result) = nanos(|| backend.destroy(&mut new));
        result?;
        punched.push(t / 1e3);

        backend.create(&request(false), &mut new)?;
        backend.map(address, &new, Access::ReadWrite)?;
        let (t, done) = nanos(|| backend.collapse(address, frames));
        if done {
            collapsed.push(t / 1e3);
        }
        backend.unmap(address, frames)?;
        backend.destroy(&mut new)?;
    }
    backend.release(base, reps * HUGE);
    let mut rows = vec![
        ("create huge (fallocate, collapse)", median(created)),
        ("destroy huge (punch hole)", median(punched)),
    ];
    if !collapsed.is_empty() {
        rows.push(("collapse (MADV_COLLAPSE)", median(collapsed)));
    }
    Ok(rows)
}

/// How fast zeroed memory with huge pages can be had: 128 MiB at once, so that no cache of the processor holds it.
///
/// Under a hypervisor the first use of free memory may cost much more than the kernel's work, because the host has to put
/// memory behind it. So all of it is taken once before, and that first time stands beside it.
pub(crate) fn supply() -> Result<Vec<Figure>> {
    const CHUNKS: usize = 64;
    let (first_huge, huge) = (fill_up(CHUNKS, true)?, fill_up(CHUNKS, true)?);
    let (_, base) = (fill_up(CHUNKS, false)?, fill_up(CHUNKS, false)?);
    Ok(vec![
        Figure::measured("memory", "supply of zeroed memory, huge pages", huge, "GB/s")
            .goal(Goal::AtLeast(8.0))
            .baseline("4 KiB pages", base),
        Figure::measured("memory", "the same, first use of free memory", first_huge, "GB/s"),
    ])
}

/// GB/s at which zeroed memory of 4 KiB pages can be had.
pub(crate) fn base_pages() -> Result<f64> {
    fill_up(64, false)
}

/// GB/s at which chunks of 2 MiB are created, none of them given back meanwhile.
fn fill_up(chunks: usize, huge: bool) -> Result<f64> {
    let backend = HostBackend::new(FRAME)?;
    let frames = HUGE / FRAME;
    let base = backend.reserve(chunks * HUGE, HUGE)?;
    let (mut times, mut created) = (Vec::new(), Vec::new());
    for chunk in 0..chunks {
        let request = Request {
            count: frames,
            address: base + chunk * HUGE,
            room: (chunks - chunk) * frames,
            after: created.last().copied(),
            huge,
        };
        let (time, result) = nanos(|| backend.create(&request, &mut created));
        result?;
        times.push(time);
    }
    backend.destroy(&mut created)?;
    backend.release(base, chunks * HUGE);
    Ok(HUGE as f64 / median(times))
}
