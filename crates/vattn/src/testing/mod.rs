//! What tests of a backend share: calls that fail on request.
//!
//! Feature `testing`; nothing here is needed to use a cache.

mod faulty;

pub use self::faulty::{Faults, Faulty};
