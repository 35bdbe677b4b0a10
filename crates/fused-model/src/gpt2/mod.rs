//! GPT-2.

pub(crate) mod reference;
