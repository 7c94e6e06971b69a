//! Every family of pretrained models against the reference library.

mod audio;
mod checkpointing;
mod clap;
mod decoders;
mod export;
mod harness;
mod objectives;
mod text;
mod video;
mod vision;
