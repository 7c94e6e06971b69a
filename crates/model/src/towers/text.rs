//! Text: token and position embeddings, then a Transformer.

use super::projection::Projection;
use super::{Encoded, Pooling, Positions, wrong_kind};
use crate::layers::ActivationName;
use crate::{ColumnInput, Context, LayerNorm, Linear, Result, Transformer, TransformerConfig, Values};
use sensorium_engine::{Builder, Init, Offsets, ParamId, Var, ops};
use serde::{Deserialize, Serialize};

/// Settings of a text tower.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TextTowerConfig {
    /// Number of tokens in the vocabulary.
    pub vocab_size: usize,
    /// The longest text in tokens.
    pub max_positions: usize,
    /// Rows of the position table before that of the first token (RoBERTa: 2);
    /// not counted in `max_positions`.
    #[serde(skip_serializing_if = "is_zero")]
    pub position_offset: usize,
    /// Whether tokens have a learned position.
    #[serde(skip_serializing_if = "is_true")]
    pub learned_positions: bool,
    /// Kinds of tokens (segments A and B of BERT); 0 for none. All tokens of a
    /// column are of the first kind.
    #[serde(skip_serializing_if = "is_zero")]
    pub token_types: usize,
    /// Width of the embeddings where it is not that of the Transformer, to
    /// which they are then projected (ALBERT, ELECTRA).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embedding_size: Option<usize>,
    /// Whether the embeddings are normalised.
    #[serde(skip_serializing_if = "is_true")]
    pub embedding_norm: bool,
    /// How the tokens become one vector.
    pub pooling: Pooling,
    /// A dense layer with this activation on that vector (BERT's pooler).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pooler: Option<ActivationName>,
    /// Width of a last projection of that vector (CLIP); none without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub projection: Option<usize>,
    /// Whether the last projection has a bias (SigLIP).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub projection_bias: bool,
    /// With this activation the last projection has two layers, and it stands
    /// between them (CLAP).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub projection_activation: Option<ActivationName>,
    /// Whether that vector gets unit length.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub normalize: bool,
    /// A token with which every text is filled up to `max_positions`, and
    /// which is attended to like any other: SigLIP was trained so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pad_token: Option<u32>,
    /// The Transformer.
    pub transformer: TransformerConfig,
}

fn is_true(x: &bool) -> bool {
    *x
}

fn is_zero(x: &usize) -> bool {
    *x == 0
}

impl Default for TextTowerConfig {
    fn default() -> Self {
        Self {
            vocab_size: 1000,
            max_positions: 128,
            position_offset: 0,
            learned_positions: true,
            token_types: 0,
            embedding_size: None,
            embedding_norm: true,
            pooling: Pooling::Mean,
            pooler: None,
            projection: None,
            projection_bias: false,
            projection_activation: None,
            normalize: false,
            pad_token: None,
            transformer: TransformerConfig::default(),
        }
    }
}

/// A text encoder.
#[derive(Debug, Clone)]
pub struct TextTower {
    word: ParamId,
    positions: Option<Positions>,
    token_types: Option<ParamId>,
    norm: Option<LayerNorm>,
    widen: Option<Linear>,
    encoder: Transformer,
    pooling: Pooling,
    pooler: Option<(Linear, ActivationName)>,
    projection: Option<Projection>,
    normalize: bool,
    /// The token that fills texts up, and to how many.
    filling: Option<(u32, usize)>,
    dropout: f64,
}

impl TextTower {
    /// Creates `embeddings.{word,positions,token_types,norm,projection}`,
    /// `encoder`, `pooler` and `projection`, each where it is wanted.
    ///
    /// # Errors
    /// When the configuration makes no sense.
    pub fn new(b: &mut Builder<'_>, c: &TextTowerConfig) -> Result<Self> {
        let block = &c.transformer.block;
        let width = c.embedding_size.unwrap_or(block.hidden);
        let mut e = b.scope("embeddings");
        let table = |e: &mut Builder<'_>, name, rows| e.param(name, &[rows, width], Init::Normal(0.02));
        let word = table(&mut e, "word", c.vocab_size)?;
        let positions = if c.learned_positions {
            Some(Positions::with_offset(&mut e, "text tower", c.max_positions, c.position_offset, width)?)
        } else {
            None
        };
        let token_types = if c.token_types > 0 { Some(table(&mut e, "token_types", c.token_types)?) } else { None };
        let norm = if c.embedding_norm {
            Some(LayerNorm::with_bias(&mut e.scope("norm"), width, block.norm, block.norm_eps, block.norm_bias)?)
        } else {
            None
        };
        let widen = match c.embedding_size {
            Some(size) => Some(Linear::new(&mut e.scope("projection"), size, block.hidden, true)?),
            None => None,
        };
        let encoder = Transformer::new(&mut b.scope("encoder"), &c.transformer)?;
        let pooler = match c.pooler {
            Some(f) => Some((Linear::new(&mut b.scope("pooler"), block.hidden, block.hidden, true)?, f)),
            None => None,
        };
        let projection = match c.projection {
            Some(dim) => Some(Projection::new(
                &mut b.scope("projection"),
                block.hidden,
                dim,
                c.projection_bias,
                c.projection_activation,
            )?),
            None => None,
        };
        Ok(Self {
            word,
            positions,
            token_types,
            norm,
            widen,
            encoder,
            pooling: c.pooling,
            pooler,
            projection,
            normalize: c.normalize,
            filling: c.pad_token.map(|token| (token, c.max_positions)),
            dropout: block.dropout,
        })
    }

    /// The table of token embeddings `[vocab_size, width]`.
    pub fn word_embeddings(&self) -> ParamId {
        self.word
    }

    /// Tokens to `[tokens, hidden]`.
    ///
    /// # Errors
    /// When the values are not tokens, or a text is too long.
    pub fn forward(&self, cx: &Context<'_>, column: &ColumnInput) -> Result<Encoded> {
        let (x, offsets) = self.embed(cx, column)?;
        let x = self.encoder.forward(cx, x, &offsets)?;
        self.finish(cx, x, offsets)
    }

    /// The Transformer.
    pub(super) fn encoder(&self) -> &Transformer {
        &self.encoder
    }

    /// Tokens to what the Transformer takes.
    pub(super) fn embed(&self, cx: &Context<'_>, column: &ColumnInput) -> Result<(Var, Offsets)> {
        let Values::Tokens(ids) = column.values() else { return Err(wrong_kind("tokens", column)) };
        let filled = self.filling.map(|(token, length)| fill_up(ids, column.offsets(), token, length));
        let (ids, offsets) = filled.as_ref().map_or((ids, column.offsets()), |(ids, offsets)| (ids, offsets));
        let mut x = cx.embedding(self.word, ids)?;
        if let Some(positions) = &self.positions {
            x = positions.add(cx, &x, offsets)?;
        }
        if let Some(types) = self.token_types {
            x = ops::add_rows_broadcast(cx.tape, &x, &cx.param(types), &vec![0; ids.len()])?;
        }
        if let Some(norm) = &self.norm {
            x = norm.forward(cx, &x)?;
        }
        x = cx.dropout(x, self.dropout)?;
        if let Some(widen) = &self.widen {
            x = widen.forward(cx, &x)?;
        }
        Ok((x, offsets.clone()))
    }

    /// What the Transformer gives, and one vector of each segment.
    pub(super) fn finish(&self, cx: &Context<'_>, x: Var, offsets: Offsets) -> Result<Encoded> {
        let pooled = self.pool(cx, &x, &offsets)?;
        Ok((x, offsets, pooled))
    }

    /// Tokens to one vector of each segment.
    pub(super) fn pool(&self, cx: &Context<'_>, x: &Var, offsets: &Offsets) -> Result<Var> {
        let mut pooled = self.pooling.apply(cx, x, offsets)?;
        if let Some((pooler, activation)) = &self.pooler {
            pooled = pooler.forward_with(cx, &pooled, (*activation).into())?;
        }
        if let Some(projection) = &self.projection {
            pooled = projection.forward(cx, &pooled)?;
        }
        if self.normalize {
            pooled = ops::normalize(cx.tape, &pooled, 1e-12)?;
        }
        Ok(pooled)
    }
}

/// Texts with tokens added behind each up to a length.
fn fill_up(ids: &[u32], offsets: &Offsets, token: u32, length: usize) -> (Vec<u32>, Offsets) {
    let filled = offsets.ranges().flat_map(|r| {
        let missing = length.saturating_sub(r.len());
        ids[r].iter().copied().chain(std::iter::repeat_n(token, missing))
    });
    (filled.collect(), Offsets::from_lengths(offsets.ranges().map(|r| r.len().max(length))))
}
