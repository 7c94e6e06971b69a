//! `[retrieve]`: which columns meet in one space, and by which loss.

use sensorium_model::Contrastive;
use serde::{Deserialize, Serialize};

/// Declares a section of which columns meet in one space, with those of its keys
/// that stand before these and behind them.
///
/// One definition for a fit and for pretraining. It is no section within
/// another, whose keys serde could only flatten, and then an error would not say
/// which key is wrong.
macro_rules! meeting_section {
    (
        $(#[$about:meta])*
        pub struct $name:ident {
            $($(#[$first_about:meta])* pub $first:ident: $first_kind:ty = $first_default:expr,)*
            ..meeting,
            $($(#[$last_about:meta])* pub $last:ident: $last_kind:ty = $last_default:expr,)*
        }
    ) => {
        $(#[$about])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name {
            $($(#[$first_about])* pub $first: $first_kind,)*
            /// Pairs of columns that are compared, as `[["photo", "caption"]]` (automatic: every two of
            /// text, image, audio, video and features).
            #[serde(skip_serializing_if = "Option::is_none")]
            pub pairs: Option<Vec<[String; 2]>>,
            /// Numbers per vector (automatic: the widest tower's; a pretrained pair's own).
            #[serde(skip_serializing_if = "Option::is_none")]
            pub dim: Option<usize>,
            /// `info_nce` (as CLIP), `sigmoid` (as SigLIP), or `hardest_negative`: a margin to the most
            /// similar wrong one of the batch (as VSE++).
            pub loss: Contrastive,
            /// The margin of `hardest_negative`, in cosine.
            pub margin: f64,
            /// Samples that go through a tower at a time, the loss still being that of the whole batch
            /// (gradient caching): memory for a small batch, a third more time; 0: all at once.
            pub sub_batch: usize,
            $($(#[$last_about])* pub $last: $last_kind,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    $($first: $first_default,)*
                    pairs: None,
                    dim: None,
                    loss: Contrastive::InfoNce,
                    margin: 0.2,
                    sub_batch: 0,
                    $($last: $last_default,)*
                }
            }
        }
    };
}
pub(crate) use meeting_section;

meeting_section! {
/// `[retrieve]`: which columns meet in one space, for `task = "retrieve"`.
pub struct RetrieveSection {
    ..meeting,
}
}
