//! Memory of large pages for weights.
//!
//! A decode step reads every weight once. In pages of 4 KiB it looks up an address every 64 vectors, which costs up to a
//! quarter of the speed of memory; so weights live in chunks for which the system is asked for pages of 2 MiB. Matrices smaller
//! than such a page share one, and start at a cache line.
#![allow(unsafe_code)] // memory of a chosen alignment, cut into typed buffers

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Bytes of a large page.
const PAGE: usize = 2 << 20;
/// Addresses taken from the system at a time; what nobody writes costs no memory.
const CHUNK: usize = 16 * PAGE;
/// Where buffers begin.
const LINE: usize = 64;
const TOO_LARGE: &str = "more memory than addresses can hold";

/// The chunk that is being filled, and the bytes of it that are taken.
static OPEN: Mutex<(Weak<Chunk>, usize)> = Mutex::new((Weak::new(), 0));

/// A run of memory; it goes back when the last buffer in it does.
#[derive(Debug)]
struct Chunk {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: a chunk only owns the memory; each byte is written by the one buffer it belongs to, before anybody else has it.
unsafe impl Send for Chunk {}
// SAFETY: as above.
unsafe impl Sync for Chunk {}

impl Chunk {
    fn new(bytes: usize) -> Self {
        let layout = Layout::from_size_align(bytes.max(CHUNK), PAGE)
            .expect(TOO_LARGE)
            .pad_to_align();
        let size = layout.size();
        // SAFETY: the layout is not empty.
        let Some(start) = NonNull::new(unsafe { alloc(layout) }) else {
            handle_alloc_error(layout)
        };
        #[cfg(target_os = "linux")]
        {
            // SAFETY: the range is this chunk's alone, and the advice does not change what it holds. A kernel that cannot follow
            // it gives small pages.
            let _ = unsafe { rustix::mm::madvise(start.as_ptr().cast(), size, rustix::mm::Advice::LinuxHugepage) };
        }
        Self { start, layout }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, and no buffer is left.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

/// Takes `bytes` at the start of a cache line.
fn take(bytes: usize) -> (Arc<Chunk>, NonNull<u8>) {
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    let (chunk, used) = match open.0.upgrade() {
        Some(chunk) if bytes <= chunk.layout.size() - open.1 => (chunk, open.1),
        _ => (Arc::new(Chunk::new(bytes)), 0),
    };
    let end = (used + bytes).next_multiple_of(LINE).min(chunk.layout.size());
    *open = (Arc::downgrade(&chunk), end);
    // SAFETY: `used + bytes` is at most the chunk's size by the match above.
    let start = unsafe { chunk.start.add(used) };
    (chunk, start)
}

/// Numbers that are written once and read often.
#[derive(Debug)]
pub(crate) struct Buffer<T> {
    start: NonNull<T>,
    len: usize,
    /// Keeps the memory.
    _chunk: Arc<Chunk>,
}

// SAFETY: a buffer owns its elements as a `Vec` does.
unsafe impl<T: Send> Send for Buffer<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Buffer<T> {}

impl<T: Copy> Buffer<T> {
    /// The first `len` values.
    ///
    /// # Panics
    /// When there are fewer, or when addresses cannot hold as many.
    pub(crate) fn new(len: usize, values: impl Iterator<Item = T>) -> Self {
        const { assert!(align_of::<T>() <= LINE) };
        let (chunk, start) = take(Layout::array::<T>(len).expect(TOO_LARGE).size());
        let start = start.cast::<T>();
        let mut written = 0;
        for value in values.take(len) {
            // SAFETY: `take` gave room for `len` elements at a cache line, and fewer are written so far.
            unsafe { start.add(written).write(value) };
            written += 1;
        }
        assert_eq!(written, len, "values of a buffer");
        Self {
            start,
            len,
            _chunk: chunk,
        }
    }
}

impl<T> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `new` wrote all elements, the chunk is kept, and nobody writes them again.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_hold_their_values_whatever_lies_beside_them() {
        let mut buffers = Vec::new();
        // Empty ones, some of odd sizes, and one larger than a chunk.
        for (number, len) in [0, 1, 7, 100_003, 0, 16, CHUNK / 8 + 5, 3, CHUNK / 16]
            .into_iter()
            .enumerate()
        {
            let buffer = Buffer::new(len, (0..).map(|i: u64| i * 31 + number as u64));
            assert_eq!(buffer.as_ptr() as usize % LINE, 0);
            buffers.push((buffer, len));
        }
        buffers.swap_remove(3);
        for (number, (buffer, len)) in buffers.iter().enumerate() {
            let number = if number == 3 { 8 } else { number } as u64;
            assert_eq!(buffer.len(), *len);
            assert!(buffer.iter().zip(0..).all(|(&value, i)| value == i * 31 + number));
        }
    }

    #[test]
    #[should_panic(expected = "more memory than addresses can hold")]
    fn a_size_that_wraps_around_is_refused() {
        Buffer::new(usize::MAX / 8 + 2, 0u64..);
    }

    #[test]
    #[should_panic(expected = "values of a buffer")]
    fn a_buffer_is_full() {
        Buffer::new(3, [1u8, 2].into_iter());
    }
}
