//! Text to tokens.

use serde::{Deserialize, Serialize};

/// How a text column becomes tokens. The tokenizer itself is the plan's, shared by all text columns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TextProcessor {
    /// Longer texts lose their end, special tokens included in the count (default 256).
    pub max_tokens: usize,
}

impl Default for TextProcessor {
    fn default() -> Self {
        TextProcessor { max_tokens: 256 }
    }
}

impl TextProcessor {
    pub(crate) fn validate(&self) -> Result<(), String> {
        if self.max_tokens < 3 {
            return Err(format!("max_tokens is {}; expected at least 3", self.max_tokens));
        }
        Ok(())
    }
}
