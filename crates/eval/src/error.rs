//! What can be wrong with the truths and predictions given to a metric.

/// An input that no metric can be computed from: says what, where and what was expected.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum EvalError {
    /// There is nothing to evaluate.
    #[error("there are no rows to evaluate: give at least one row with a known {what}")]
    Empty {
        /// What is missing, such as "label".
        what: &'static str,
    },
    /// Two inputs that belong together row by row differ in length.
    #[error("{what} has {got} entries but there are {expected} {per}: give one for each")]
    LengthMismatch {
        /// The input of the wrong length.
        what: &'static str,
        /// What each entry belongs to: "rows" or "classes".
        per: &'static str,
        /// The length it should have.
        expected: usize,
        /// The length it has.
        got: usize,
    },
    /// A class index names no class.
    #[error("{what}, row {row}: class index {index} is out of range, there are {classes} classes")]
    ClassOutOfRange {
        /// The input it stands in: "truths" or "predictions".
        what: &'static str,
        /// Row, counted from 0.
        row: usize,
        /// The index found.
        index: usize,
        /// How many classes there are.
        classes: usize,
    },
    /// A relevant item is none of those that were scored.
    #[error("relevant items, query {row}: item {index} is out of range, there are {items} items")]
    ItemOutOfRange {
        /// Query, counted from 0.
        row: usize,
        /// The item found.
        index: usize,
        /// How many items there are.
        items: usize,
    },
    /// A value is NaN or infinite.
    #[error("{what}, row {row}, column {column}: {value} is not a finite number")]
    NotFinite {
        /// The input it stands in.
        what: &'static str,
        /// Row, counted from 0.
        row: usize,
        /// Column, counted from 0.
        column: usize,
        /// The value found.
        value: f64,
    },
    /// A probability lies outside of 0 to 1.
    #[error("probabilities, row {row}, column {column}: {value} is not between 0 and 1")]
    NotAProbability {
        /// Row, counted from 0.
        row: usize,
        /// Column, counted from 0.
        column: usize,
        /// The value found.
        value: f64,
    },
    /// The probabilities of a row do not sum to one.
    #[error("probabilities, row {row}: they sum to {sum}, expected 1 (were logits given?)")]
    NotNormalised {
        /// Row, counted from 0.
        row: usize,
        /// Their sum.
        sum: f64,
    },
    /// Two classes share a name, so a report by name cannot tell them apart.
    #[error("the class name {name:?} is given twice: class names must differ")]
    DuplicateClass {
        /// The name.
        name: String,
    },
    /// A setting has a value that makes no sense.
    #[error("{name} is {value}, expected {expected}")]
    BadSetting {
        /// The setting, as it is called in the configuration.
        name: &'static str,
        /// The value found.
        value: String,
        /// What values it takes.
        expected: &'static str,
    },
    /// Two evaluations that are to be compared describe different tables or classes.
    #[error("cannot compare: {reason}")]
    NotComparable {
        /// What differs.
        reason: String,
    },
}

/// Checks that there are `expected` entries in `what`, one per row.
pub(crate) fn same_length(what: &'static str, expected: usize, got: usize) -> Result<(), EvalError> {
    if expected == got {
        return Ok(());
    }
    Err(EvalError::LengthMismatch { what, per: "rows", expected, got })
}

/// Checks that each class index is below `classes`.
pub(crate) fn classes_in_range(what: &'static str, indices: &[usize], classes: usize) -> Result<(), EvalError> {
    match indices.iter().position(|&index| index >= classes) {
        None => Ok(()),
        Some(row) => Err(EvalError::ClassOutOfRange { what, row, index: indices[row], classes }),
    }
}

/// Checks that no value of `[rows, columns]` is NaN or infinite.
pub(crate) fn all_finite(what: &'static str, values: &[f64], columns: usize) -> Result<(), EvalError> {
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        Some(at) => {
            Err(EvalError::NotFinite { what, row: at / columns.max(1), column: at % columns.max(1), value: values[at] })
        }
    }
}
