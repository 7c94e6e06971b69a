//! Every family of pretrained models against the reference library.

mod audio;
mod decoders;
mod harness;
mod text;
mod vision;
