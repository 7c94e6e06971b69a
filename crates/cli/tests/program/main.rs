//! The program as a person runs it: one module per verb.

mod config;
mod convert;
mod evaluate;
mod extract;
mod finetune;
mod fit;
mod inspect;
mod model;
mod predict;
mod pretrain;
mod pretrain_columns;
mod pretrain_encoders;
mod pretrained;
mod quantize;
mod resume;
mod retrieve;
mod run_folder;
mod scene;
mod search;
