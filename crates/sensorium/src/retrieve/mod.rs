//! Retrieve: columns of a table meet in one space, so that a text finds its
//! picture, a picture its sound, and the other way round.
//!
//! [`fit_retrieval`] trains a [`Retriever`] on rows whose columns belong
//! together, [`evaluate_retrieval`] measures how far up the right one stands;
//! [`mod@crate::search`] indexes and searches with it.

mod batch;
mod evaluate;
mod fit;
mod learner;
mod report;
mod saved;
mod space;

pub use batch::PairBatch;
pub use evaluate::{Direction, RetrievalEvaluation, evaluate_retrieval};
pub use fit::{FittedRetrieval, fit_retrieval};
pub use learner::RetrievalLearner;
pub use saved::Retriever;
