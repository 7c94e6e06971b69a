//! What a vector stands for.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a vector stands for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The name of its row. Several vectors may stand for parts of one row.
    pub id: String,
    /// The part of the row: its column.
    #[serde(default)]
    pub column: String,
    /// A hash of what was embedded, by which changes are noticed.
    #[serde(default)]
    pub content: String,
    /// What was embedded: a text, or the path of a file.
    #[serde(default)]
    pub source: String,
    /// Further columns of the row, to filter by and to show.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fields: BTreeMap<String, String>,
}
