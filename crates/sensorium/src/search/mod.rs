//! Search: what a model embeds into one space can be found again.
//!
//! A [`Space`] turns texts, pictures, sounds and videos into vectors that can
//! be compared ([`open`] finds the one of a model). [`index()`] embeds a table
//! or a folder into an index; [`Finder`] searches it and recommends from it;
//! [`sheet`] shows hits as a page; [`ZeroShot`] sorts rows into classes that
//! are known by name only.

mod checkpoint;
mod embed;
mod finder;
mod folder;
mod index;
mod plan;
pub mod sheet;
mod space;
mod zero_shot;

pub(crate) use checkpoint::similarity;
pub use finder::{FindOptions, Finder, Found, Query, RecommendOptions};
pub use index::{IndexOptions, IndexStep, Indexed, index};
pub use space::{Similarity, Space, open};
pub use zero_shot::{Language, ZeroShot, ZeroShotOptions, classify_table, classify_values};
