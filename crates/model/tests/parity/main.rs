//! Every family of pretrained models against the reference library.

mod audio;
mod checkpointing;
mod clap;
mod decoders;
mod harness;
mod text;
mod video;
mod vision;
