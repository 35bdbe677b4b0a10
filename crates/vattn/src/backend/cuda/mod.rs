//! Memory of a CUDA device, managed with the virtual memory functions of its driver.

pub mod driver;
mod error;

pub use error::{DriverError, NotAvailable, Result};
