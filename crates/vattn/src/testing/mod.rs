//! What tests of a backend share: the obligations of the seam, calls that fail on request, and a long run of a cache over it.
//!
//! Feature `testing`; nothing here is needed to use a cache.

mod faulty;
mod obligations;
mod soak;

pub use self::faulty::{Faults, Faulty};
pub use self::obligations::check_backend;
pub use self::soak::{Soak, SoakReport, soak};
