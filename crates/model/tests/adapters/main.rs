//! Adapters on a whole model: what they train, what they leave alone, merging,
//! switching, saving.

mod golden;
mod methods;
mod net;
mod switching;
