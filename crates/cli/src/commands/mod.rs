//! One file per verb.

pub mod config;
pub mod convert;
pub mod evaluate;
pub mod extract;
pub mod fit;
pub mod index;
pub mod inspect;
pub mod model;
pub mod predict;
pub mod pretrain;
pub mod quantize;
pub mod recommend;
pub mod search;
