//! Every family of pretrained models against the reference library.

mod harness;
mod text;
mod vision;
