//! The program as a person runs it: one module per verb.

mod config;
mod evaluate;
mod fit;
mod inspect;
mod predict;
mod resume;
mod scene;
