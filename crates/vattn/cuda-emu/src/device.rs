//! The device: its state, the checks that every call goes through, and the waiting.

use std::collections::HashSet;
use std::thread::{self, ThreadId};

use crate::code::{Code, Outcome, Refusal};
use crate::fault::{Action, CallLog};
use crate::gemm::Libraries;
use crate::knobs::Knobs;
use crate::memory::{Access, Memory};
use crate::modules::Modules;
use crate::stream::{LEGACY, PER_THREAD, StreamId, Streams, Ticket};
use crate::work::Work;

/// What a call needs before it may be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Needs {
    /// Nothing: `cuInit`, the version, texts of errors.
    Nothing,
    /// `cuInit`.
    Init,
    /// A context current on the calling thread, and no error left behind by the device.
    Context,
}

/// Refusals that are kept for whoever asks why.
const REFUSALS_KEPT: usize = 64;

/// An emulated device with its driver.
#[derive(Debug)]
pub struct Device {
    /// How it is built.
    pub knobs: Knobs,
    /// Its memory.
    pub memory: Memory,
    /// Which calls were made and which are to fail.
    pub log: CallLog,
    /// Streams and events of the context.
    pub streams: Streams<Work>,
    /// Modules of the context.
    pub modules: Modules,
    /// Handles of the libraries over the driver.
    pub libraries: Libraries,
    /// Bytes that the memory pool may keep over a synchronisation.
    pub pool_threshold: u64,
    initialized: bool,
    retained: u64,
    current: HashSet<ThreadId>,
    threads: Vec<ThreadId>,
    /// The error that the device left behind; the context is lost.
    sticky: Option<Code>,
    refusals: Vec<String>,
}

impl Device {
    /// A device before `cuInit`.
    #[must_use]
    pub fn new(knobs: Knobs) -> Self {
        Self {
            memory: Memory::new(&knobs),
            knobs,
            log: CallLog::default(),
            streams: Streams::new(),
            modules: Modules::default(),
            libraries: Libraries::default(),
            pool_threshold: 0,
            initialized: false,
            retained: 0,
            current: HashSet::new(),
            threads: Vec::new(),
            sticky: None,
            refusals: Vec::new(),
        }
    }

    /// Makes a driver call: counts it, lets it go wrong if it is to, checks what it needs, and runs it.
    ///
    /// # Errors
    ///
    /// The code that the caller sees.
    pub fn call(
        &mut self,
        function: &'static str,
        needs: Needs,
        mut run: impl FnMut(&mut Self) -> Outcome,
    ) -> Result<(), Code> {
        let action = self.log.count(function);
        match action {
            Some(Action::Fail(code)) => return Err(code),
            Some(Action::Skip) => return Ok(()),
            Some(Action::Repeat) | None => {}
        }
        let mut outcome = || {
            let outcome = self.ready(needs).and_then(|()| run(self));
            outcome.map_err(|refusal| {
                // Of a lost context only what lost it is worth keeping.
                if self.sticky.is_none() && !matches!(refusal.code, Code::NotReady | Code::OutOfMemory) {
                    self.note(format!("{function}: {}", refusal.why));
                }
                refusal.code
            })
        };
        let first = outcome();
        if action == Some(Action::Repeat) {
            let _ = outcome();
        }
        first
    }

    fn ready(&self, needs: Needs) -> Outcome {
        if needs >= Needs::Init && !self.initialized {
            return Err(Refusal::new(Code::NotInitialized, "cuInit was not called"));
        }
        if needs == Needs::Context {
            if let Some(code) = self.sticky {
                return Err(Refusal::new(code, "the device has failed before; the context is lost"));
            }
            if self.retained == 0 || !self.current.contains(&thread::current().id()) {
                return Err(Refusal::new(
                    Code::InvalidContext,
                    "no context is current on this thread",
                ));
            }
        }
        Ok(())
    }

    /// Refusals so far, without those that are no fault of the caller (memory is out, work is not done).
    #[must_use]
    pub fn refusals(&self) -> &[String] {
        &self.refusals
    }

    fn note(&mut self, why: String) {
        if self.refusals.len() == REFUSALS_KEPT {
            self.refusals.remove(0);
        }
        self.refusals.push(why);
    }

    /// `cuInit`.
    ///
    /// # Errors
    ///
    /// Flags are not 0, or there is no device.
    pub fn init(&mut self, flags: u32) -> Outcome {
        if flags != 0 {
            return Err(Refusal::invalid("flags of cuInit must be 0"));
        }
        if !self.knobs.device {
            return Err(Refusal::new(Code::NoDevice, "there is no device"));
        }
        self.initialized = true;
        Ok(())
    }

    /// Checks a device number.
    ///
    /// # Errors
    ///
    /// There is only device 0.
    pub fn ordinal(&self, device: i32) -> Outcome {
        match device {
            0 => Ok(()),
            _ => Err(Refusal::new(
                Code::InvalidDevice,
                format!("there is no device {device}"),
            )),
        }
    }

    /// `cuDevicePrimaryCtxRetain`.
    pub fn retain_context(&mut self) {
        self.retained += 1;
    }

    /// `cuDevicePrimaryCtxRelease`: with the last reference, work is finished and streams, events, modules and the error that the
    /// device left behind are gone.
    ///
    /// # Errors
    ///
    /// There is no reference.
    pub fn release_context(&mut self) -> Outcome {
        if self.retained == 0 {
            return Err(Refusal::new(
                Code::InvalidContext,
                "the primary context is not retained",
            ));
        }
        self.retained -= 1;
        if self.retained == 0 {
            if self.sticky.is_none() {
                // What fails here has nobody left to be told; it stands among the refusals.
                let _ = self.wait_all();
            }
            self.streams = Streams::new();
            self.modules.clear(&mut self.memory);
            self.sticky = None;
            self.current.clear();
        }
        Ok(())
    }

    /// References to the primary context.
    #[must_use]
    pub fn contexts(&self) -> u64 {
        self.retained
    }

    /// `cuCtxSetCurrent` for the calling thread.
    ///
    /// # Errors
    ///
    /// The primary context is not retained.
    pub fn set_current(&mut self, current: bool) -> Outcome {
        if !current {
            self.current.remove(&thread::current().id());
        } else if self.retained == 0 {
            return Err(Refusal::new(
                Code::InvalidContext,
                "the primary context is not retained",
            ));
        } else {
            self.current.insert(thread::current().id());
        }
        Ok(())
    }

    /// Whether a context is current on the calling thread.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.current.contains(&thread::current().id())
    }

    /// The stream that a handle of the caller means: 0 and 1 are the legacy default stream, 2 is the calling thread's own.
    pub fn stream(&mut self, handle: u64) -> StreamId {
        match handle {
            0 | 1 => LEGACY,
            2 => {
                let thread = thread::current().id();
                let known = self.threads.iter().position(|other| *other == thread);
                let index = known.unwrap_or_else(|| {
                    self.threads.push(thread);
                    self.threads.len() - 1
                });
                let id = StreamId(PER_THREAD + index as u64);
                self.streams.ensure(id);
                id
            }
            _ => StreamId(handle),
        }
    }

    /// Queues work, and runs it at once unless the device is lazy.
    ///
    /// # Errors
    ///
    /// The stream does not exist. What goes wrong while it runs is seen by later calls, as on a device.
    pub fn submit(&mut self, stream: StreamId, work: Work) -> Outcome {
        let ticket = self.streams.push(stream, work)?;
        self.unless_lazy(stream, ticket);
        Ok(())
    }

    /// `cuEventRecord`.
    ///
    /// # Errors
    ///
    /// Stream or event do not exist.
    pub fn record(&mut self, event: u64, stream: StreamId) -> Outcome {
        let ticket = self.streams.record(event, stream)?;
        self.unless_lazy(stream, ticket);
        Ok(())
    }

    /// `cuStreamWaitEvent`.
    ///
    /// # Errors
    ///
    /// Stream or event do not exist.
    pub fn wait_event(&mut self, stream: StreamId, event: u64) -> Outcome {
        let ticket = self.streams.wait_event(stream, event)?;
        self.unless_lazy(stream, ticket);
        Ok(())
    }

    fn unless_lazy(&mut self, stream: StreamId, ticket: Ticket) {
        if !self.knobs.lazy {
            let _ = self.run_until(stream, ticket);
        }
    }

    /// `cuStreamSynchronize`.
    ///
    /// # Errors
    ///
    /// The stream does not exist, or the work failed.
    pub fn wait(&mut self, stream: StreamId) -> Outcome {
        if let Some(last) = self.streams.last(stream)? {
            self.run_until(stream, last)?;
        }
        self.memory.trim_pool(self.pool_threshold);
        Ok(())
    }

    /// `cuCtxSynchronize`.
    ///
    /// # Errors
    ///
    /// The work failed.
    pub fn wait_all(&mut self) -> Outcome {
        for stream in self.streams.busy() {
            self.run_until(stream, Ticket::MAX)?;
        }
        self.memory.trim_pool(self.pool_threshold);
        Ok(())
    }

    /// `cuEventSynchronize`.
    ///
    /// # Errors
    ///
    /// The event does not exist, or the work before it failed.
    pub fn wait_for(&mut self, event: u64) -> Outcome {
        if let Some((stream, ticket)) = self.streams.pending(event)? {
            self.run_until(stream, ticket)?;
        }
        self.memory.trim_pool(self.pool_threshold);
        Ok(())
    }

    /// `cuEventQuery`: the answer of now. Time then passes: one more piece of the work before the event is done.
    ///
    /// # Errors
    ///
    /// [`Code::NotReady`]; the event does not exist; the work before it failed.
    pub fn query(&mut self, event: u64) -> Outcome {
        let Some((stream, ticket)) = self.streams.pending(event)? else {
            return Ok(());
        };
        if let Some(work) = self.streams.next(stream, ticket) {
            self.run(work)?;
        }
        Err(Refusal::new(Code::NotReady, format!("event {event:#x} is not done")))
    }

    /// `cuStreamQuery`, as [`Device::query`] for all work of a stream.
    ///
    /// # Errors
    ///
    /// [`Code::NotReady`]; the stream does not exist; its work failed.
    pub fn query_stream(&mut self, stream: StreamId) -> Outcome {
        let Some(last) = self.streams.last(stream)? else {
            return Ok(());
        };
        if let Some(work) = self.streams.next(stream, last) {
            self.run(work)?;
        }
        Err(Refusal::new(
            Code::NotReady,
            format!("stream {:#x} is not done", stream.0),
        ))
    }

    fn run_until(&mut self, stream: StreamId, ticket: Ticket) -> Outcome {
        while let Some(work) = self.streams.next(stream, ticket) {
            self.run(work)?;
        }
        Ok(())
    }

    fn run(&mut self, work: Work) -> Outcome {
        let what = format!("{work:?}");
        work.run(&mut self.memory).inspect_err(|failure| {
            self.sticky = Some(failure.code);
            self.note(format!("{what}, queued earlier: {}", failure.why));
        })
    }

    /// Checks, when work is queued, what the driver checks then: that the memory is there now.
    ///
    /// # Errors
    ///
    /// A part of the range may not be accessed so.
    pub fn check(&self, address: u64, bytes: u64, access: Access) -> Outcome {
        let checked = self.memory.check(address, bytes, access);
        checked.map_err(|fault| Refusal::invalid(fault.to_string()))
    }

    /// What lives on the device; all zeros when nothing leaked.
    #[must_use]
    pub fn live(&self) -> Vec<(&'static str, u64)> {
        let mut live = self.memory.live().to_vec();
        live.extend(self.streams.live_counts());
        live.push(("modules", self.modules.live()));
        live.push(("libraries", self.libraries.live()));
        live.push(("contexts", self.retained));
        live
    }
}

#[cfg(test)]
mod tests;
