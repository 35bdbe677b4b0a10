//! Tests of the public interface and of the program, one file a subject.

mod bases;
mod cli;
mod common;
mod corpus;
mod counts;
mod files;
mod hugging_face;
mod modes;
mod round_trip;
mod stream;
