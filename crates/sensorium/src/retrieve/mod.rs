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

pub(crate) use batch::Cells;
pub use batch::PairBatch;
pub use evaluate::{Direction, RetrievalEvaluation, evaluate_retrieval};
pub(crate) use evaluate::{Galleries, evaluate_rows};
pub use fit::{FittedRetrieval, fit_retrieval};
pub(crate) use fit::{describe_space, joint_config};
pub use learner::RetrievalLearner;
pub(crate) use learner::{loss_of, sample_contents};
pub(crate) use report::write_card;
pub use saved::Retriever;
