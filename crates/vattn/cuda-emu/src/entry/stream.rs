//! Streams and events.

use std::ffi::c_void;
use std::ptr;

use super::{driver, put};
use crate::code::Refusal;
use crate::stream::StreamId;

fn handle(name: u64) -> *mut c_void {
    ptr::without_provenance_mut(name as usize)
}

driver! {
    fn cuStreamCreate(stream: *mut *mut c_void, flags: u32) needs Context |device| {
        if flags > 1 {
            return Err(Refusal::invalid(format!("flags {flags} of a stream")));
        }
        let StreamId(name) = device.streams.create(flags == 0);
        // SAFETY: the caller's promise.
        unsafe { put(stream, handle(name)) }
    }

    fn cuStreamDestroy_v2(stream: *mut c_void) needs Context |device| {
        let stream = device.stream(stream.addr() as u64);
        device.streams.destroy(stream)
    }

    fn cuStreamSynchronize(stream: *mut c_void) needs Context |device| {
        let stream = device.stream(stream.addr() as u64);
        device.wait(stream)
    }

    fn cuStreamQuery(stream: *mut c_void) needs Context |device| {
        let stream = device.stream(stream.addr() as u64);
        device.query_stream(stream)
    }

    fn cuStreamWaitEvent(stream: *mut c_void, event: *mut c_void, flags: u32) needs Context |device| {
        if flags != 0 {
            return Err(Refusal::invalid(format!("flags {flags} of a wait")));
        }
        let stream = device.stream(stream.addr() as u64);
        device.wait_event(stream, event.addr() as u64)
    }

    fn cuEventCreate(event: *mut *mut c_void, flags: u32) needs Context |device| {
        if flags > 3 {
            return Err(Refusal::invalid(format!("flags {flags} of an event")));
        }
        let name = device.streams.create_event();
        // SAFETY: the caller's promise.
        unsafe { put(event, handle(name)) }
    }

    fn cuEventRecord(event: *mut c_void, stream: *mut c_void) needs Context |device| {
        let stream = device.stream(stream.addr() as u64);
        device.record(event.addr() as u64, stream)
    }

    fn cuEventQuery(event: *mut c_void) needs Context |device| { device.query(event.addr() as u64) }

    fn cuEventSynchronize(event: *mut c_void) needs Context |device| { device.wait_for(event.addr() as u64) }

    fn cuEventDestroy_v2(event: *mut c_void) needs Context |device| {
        device.streams.destroy_event(event.addr() as u64)
    }
}
