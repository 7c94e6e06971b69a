//! One file per verb.

pub mod config;
pub mod evaluate;
pub mod fit;
pub mod inspect;
pub mod predict;
