//! The PTX interpreter: what instructions compute, the rules that it enforces, and the attention kernels that ship.

mod attention;
mod instructions;
mod rules;
mod support;
