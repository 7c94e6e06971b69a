//! Decoders: token embeddings, a causal Transformer, scores of the next token.
//!
//! GPT-2, Llama, Whisper's and T5's decoders are settings of one module. A
//! whole text goes through [`Decoder::forward`], where every token is scored
//! from those before it (teacher forcing, training); texts that grow go
//! through a [`DecoderCache`], which keeps what the tokens so far have left
//! behind.

use crate::layers::KeyValueCache;
use crate::{Context, Linear, ModelError, Result, Transformer, TransformerConfig};
use sensorium_engine::{Activation, Builder, Init, Offsets, ParamId, Var, ops};
use serde::{Deserialize, Serialize};

/// What makes scores of a decoder's hidden states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum DecoderOutput {
    /// The token embeddings.
    #[default]
    Tied,
    /// A matrix of its own.
    Untied,
    /// Nothing: hidden states are all there is.
    None,
}

/// Settings of a decoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DecoderConfig {
    /// Number of tokens in the vocabulary.
    pub vocab_size: usize,
    /// Rows of the table of learned positions, the longest text in tokens;
    /// none without such a table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learned_positions: Option<usize>,
    /// What makes scores of the hidden states.
    pub output: DecoderOutput,
    /// What hidden states are multiplied by before the output (T5).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_scale: Option<f64>,
    /// The Transformer; causal, with cross-attention where there is an
    /// encoder.
    pub transformer: TransformerConfig,
}

impl Default for DecoderConfig {
    fn default() -> Self {
        let mut transformer = TransformerConfig::default();
        transformer.block.causal = true;
        Self {
            vocab_size: 1000,
            learned_positions: Some(128),
            output: DecoderOutput::Tied,
            output_scale: None,
            transformer,
        }
    }
}

/// A decoder.
#[derive(Debug, Clone)]
pub struct Decoder {
    word: ParamId,
    positions: Option<(ParamId, usize)>,
    transformer: Transformer,
    output: Output,
    output_scale: Option<f64>,
    dropout: f64,
}

#[derive(Debug, Clone)]
enum Output {
    Tied,
    Untied(Linear),
    None,
}

/// What a decoder keeps of sequences that grow token by token.
#[derive(Debug, Clone)]
pub struct DecoderCache {
    past: KeyValueCache,
}

impl DecoderCache {
    /// The number of tokens so far of each sequence.
    pub fn lengths(&self) -> &[usize] {
        self.past.lengths()
    }
}

impl Decoder {
    /// Creates `decoder.embeddings.{word,positions}`, `decoder.layer.{i}`,
    /// `decoder.norm` and `decoder.output`, each where it is wanted.
    ///
    /// # Errors
    /// When the configuration makes no sense.
    pub fn new(b: &mut Builder<'_>, c: &DecoderConfig) -> Result<Self> {
        let word = b.scope("decoder.embeddings").param(
            "word",
            &[c.vocab_size, c.transformer.block.hidden],
            Init::Normal(0.02),
        )?;
        Self::sharing(b, c, word)
    }

    /// As [`Decoder::new`] with token embeddings `[vocab_size, hidden]` that
    /// are there already, as an encoder's.
    ///
    /// # Errors
    /// When the configuration makes no sense.
    pub fn sharing(b: &mut Builder<'_>, c: &DecoderConfig, word: ParamId) -> Result<Self> {
        let block = &c.transformer.block;
        if !block.causal {
            return Err(ModelError::config("decoder", "transformer.block.causal must be true"));
        }
        let mut b = b.scope("decoder");
        let positions = match c.learned_positions {
            Some(0) => return Err(ModelError::config("decoder", "learned_positions must be at least 1")),
            Some(most) => {
                let mut e = b.scope("embeddings");
                Some((e.param("positions", &[most, block.hidden], Init::Normal(0.02))?, most))
            }
            None => None,
        };
        let output = match c.output {
            DecoderOutput::Tied => Output::Tied,
            DecoderOutput::Untied => {
                Output::Untied(Linear::new(&mut b.scope("output"), block.hidden, c.vocab_size, false)?)
            }
            DecoderOutput::None => Output::None,
        };
        let transformer = Transformer::new(&mut b, &c.transformer)?;
        Ok(Self { word, positions, transformer, output, output_scale: c.output_scale, dropout: block.dropout })
    }

    /// The table of token embeddings `[vocab_size, hidden]`.
    pub fn word_embeddings(&self) -> ParamId {
        self.word
    }

    /// The scores of the token after each `[tokens, vocab_size]`, from it and
    /// those before it in its segment, and from the memory `[memory_tokens,
    /// hidden]` of an encoder, segment to segment.
    ///
    /// # Errors
    /// When a token is not in the vocabulary, a segment is too long, or the
    /// memory is missing or does not fit.
    pub fn forward(
        &self,
        cx: &Context<'_>,
        tokens: &[u32],
        segments: &Offsets,
        memory: Option<(&Var, &Offsets)>,
    ) -> Result<Var> {
        let hidden = self.hidden(cx, tokens, segments, memory)?;
        self.logits(cx, &hidden)
    }

    /// As [`Decoder::forward`] without the output: `[tokens, hidden]`.
    ///
    /// # Errors
    /// As there.
    pub fn hidden(
        &self,
        cx: &Context<'_>,
        tokens: &[u32],
        segments: &Offsets,
        memory: Option<(&Var, &Offsets)>,
    ) -> Result<Var> {
        let x = self.embed(cx, tokens, segments, &vec![0; segments.segments()])?;
        let around = crate::layers::Surroundings { memory, ..crate::layers::Surroundings::of(segments) };
        self.transformer.forward_among(cx, x, around)
    }

    /// The scores `[rows, vocab_size]` of hidden states `[rows, hidden]`.
    ///
    /// # Errors
    /// When they do not fit, or there is no output.
    pub fn logits(&self, cx: &Context<'_>, hidden: &Var) -> Result<Var> {
        let scaled = match self.output_scale {
            Some(factor) => ops::scale(cx.tape, hidden, factor)?,
            None => hidden.clone(),
        };
        match &self.output {
            Output::Tied => Ok(ops::linear(cx.tape, &scaled, &cx.param(self.word), None, Activation::Identity)?),
            Output::Untied(linear) => linear.forward(cx, &scaled),
            Output::None => Err(ModelError::config("decoder", "it has no output, only hidden states")),
        }
    }

    /// The mean cross-entropy of hidden states `[rows, hidden]` with the token
    /// that follows each; a row without one does not count. The scores of all
    /// rows never stand in memory together.
    ///
    /// # Errors
    /// When they do not fit, or there is no output.
    pub fn loss(&self, cx: &Context<'_>, hidden: &Var, next: &[Option<u32>]) -> Result<Var> {
        let scaled = match self.output_scale {
            Some(factor) => ops::scale(cx.tape, hidden, factor)?,
            None => hidden.clone(),
        };
        let weight = match &self.output {
            Output::Tied => self.word,
            Output::Untied(linear) => linear.weight(),
            Output::None => return Err(ModelError::config("decoder", "it has no output, only hidden states")),
        };
        Ok(ops::vocabulary_cross_entropy(cx.tape, &scaled, &cx.param(weight), None, next, 0.0)?)
    }

    /// A cache for sequences without tokens yet. What cross-attention needs
    /// of the memory is computed here, once.
    ///
    /// # Errors
    /// When the memory is not of as many segments, or does not fit.
    pub fn cache(&self, cx: &Context<'_>, sequences: usize, memory: Option<(&Var, &Offsets)>) -> Result<DecoderCache> {
        Ok(DecoderCache { past: self.transformer.cache(cx, sequences, memory)? })
    }

    /// Takes the next tokens of the cached sequences, segment i of sequence i
    /// and one or more of each; returns the scores of the token after the
    /// last of each: `[sequences, vocab_size]`. For inference.
    ///
    /// # Errors
    /// As [`Decoder::forward`], when a segment is empty, and when the tape
    /// records gradients.
    pub fn step(&self, cx: &Context<'_>, tokens: &[u32], segments: &Offsets, cache: &mut DecoderCache) -> Result<Var> {
        if let Some(empty) = segments.ranges().position(|r| r.is_empty()) {
            return Err(ModelError::config("decoder", format!("no new token for sequence {empty}")));
        }
        let hidden = self.hidden_step(cx, tokens, segments, cache)?;
        let last = ops::pool(cx.tape, &hidden, segments, ops::Pooling::Last)?;
        self.logits(cx, &last)
    }

    /// As [`Decoder::step`] without the output, for every new token:
    /// `[tokens, hidden]`.
    ///
    /// # Errors
    /// As there; segments may be empty.
    pub fn hidden_step(
        &self,
        cx: &Context<'_>,
        tokens: &[u32],
        segments: &Offsets,
        cache: &mut DecoderCache,
    ) -> Result<Var> {
        if segments.segments() != cache.lengths().len() {
            let problem = format!("{} segments for {} sequences", segments.segments(), cache.lengths().len());
            return Err(ModelError::config("decoder", problem));
        }
        let x = self.embed(cx, tokens, segments, cache.lengths())?;
        self.transformer.forward_cached(cx, x, segments, &mut cache.past)
    }

    /// Tokens that follow `starts` others in their segments to `[tokens,
    /// hidden]`.
    fn embed(&self, cx: &Context<'_>, tokens: &[u32], segments: &Offsets, starts: &[usize]) -> Result<Var> {
        if segments.total() != tokens.len() {
            let problem = format!("segments of {} tokens cut {} tokens", segments.total(), tokens.len());
            return Err(ModelError::config("decoder", problem));
        }
        let mut x = cx.embedding(self.word, tokens)?;
        if let Some((table, most)) = self.positions {
            let places = || segments.ranges().zip(starts).map(|(r, start)| *start..start + r.len());
            if let Some(long) = places().map(|p| p.end).find(|end| *end > most) {
                return Err(ModelError::config(
                    "decoder",
                    format!("a text of {long} tokens is longer than the {most} positions of the model"),
                ));
            }
            let places: Vec<u32> = places().flatten().map(|p| p as u32).collect();
            x = ops::add_rows_broadcast(cx.tape, &x, &cx.param(table), &places)?;
        }
        Ok(cx.dropout(x, self.dropout)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::{BlockConfig, NormKind, RelativePositionsConfig};
    use sensorium_engine::{Params, Tape, Tensor};

    fn block() -> BlockConfig {
        BlockConfig { hidden: 12, heads: 3, causal: true, dropout: 0.0, ..BlockConfig::default() }
    }

    fn with(block: BlockConfig) -> DecoderConfig {
        let transformer = TransformerConfig { layers: 2, block, ..TransformerConfig::default() };
        DecoderConfig { vocab_size: 20, learned_positions: None, transformer, ..DecoderConfig::default() }
    }

    /// One of every kind: positions learned, rotary, relative; grouped heads;
    /// windows; a memory.
    fn kinds() -> Vec<DecoderConfig> {
        let learned = DecoderConfig { learned_positions: Some(16), ..with(block()) };
        let llama = with(BlockConfig {
            kv_heads: 1,
            head_dim: Some(6),
            qk_norm: true,
            norm: NormKind::RmsNorm,
            gated: true,
            bias: false,
            rotary_base: Some(100.0),
            ..block()
        });
        let mut window = llama.clone();
        (window.transformer.block.window, window.transformer.global_layers) = (Some(2), vec![1]);
        window.output = DecoderOutput::Untied;
        let mut t5 = with(BlockConfig { cross_attention: true, attention_scale: Some(1.0), ..block() });
        t5.transformer.relative_positions =
            Some(RelativePositionsConfig { buckets: 6, max_distance: 9, bidirectional: false });
        t5.output_scale = Some(0.5);
        vec![learned, llama, window, t5]
    }

    fn memory(segments: usize) -> (Tensor, Offsets) {
        let offsets = Offsets::from_lengths((0..segments).map(|i| i + 2));
        let data: Vec<f32> = (0..offsets.total() * 12).map(|i| ((i * 37 % 101) as f32 / 50.0) - 1.0).collect();
        (Tensor::from_slice(&[offsets.total(), 12], &data).expect("fits"), offsets)
    }

    #[test]
    fn growing_texts_score_as_whole_ones() -> Result<()> {
        for config in kinds() {
            let mut params = Params::new();
            let decoder = Decoder::new(&mut Builder::new(&mut params, 3), &config)?;
            // Larger weights than those of the start, so that differences show.
            for (_, p) in params.iter_mut().filter(|(_, p)| p.value.dims().len() == 2) {
                p.value.data_mut().iter_mut().for_each(|x| *x *= 3.0);
            }
            let tape = Tape::inference();
            let cx = Context::inference(&tape, &params);
            let (memory, of) = memory(2);
            let memory = Var::constant(memory);
            let memory = config.transformer.block.cross_attention.then_some((&memory, &of));
            let texts: [&[u32]; 2] = [&[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5], &[2, 7, 18, 2, 8]];
            let whole = decoder.forward(&cx, &texts.concat(), &Offsets::from_lengths([11, 5]), memory)?;
            let mut cache = decoder.cache(&cx, 2, memory)?;
            let mut rows: [Vec<f32>; 2] = Default::default();
            let mut at = [0, 0];
            for add in [[4, 1], [1, 1], [0, 2], [3, 0], [3, 1]] {
                let new: Vec<u32> = (0..2).flat_map(|s| texts[s][at[s]..at[s] + add[s]].to_vec()).collect();
                let segments = Offsets::from_lengths(add);
                let hidden = decoder.hidden_step(&cx, &new, &segments, &mut cache)?;
                let scores = decoder.logits(&cx, &hidden)?;
                for s in 0..2 {
                    let range = segments.range(s);
                    rows[s].extend(&scores.data()[range.start * 20..range.end * 20]);
                    at[s] += add[s];
                }
            }
            assert_eq!(cache.lengths(), [11, 5]);
            for (new, old) in rows.concat().iter().zip(whole.data()) {
                assert!((new - old).abs() < 1e-5, "{new} is not {old}");
            }
        }
        Ok(())
    }

    #[test]
    fn every_parameter_and_the_memory_get_gradients() -> Result<()> {
        for config in kinds() {
            let mut params = Params::new();
            let decoder = Decoder::new(&mut Builder::new(&mut params, 3), &config)?;
            let tape = Tape::new();
            let cx = Context::inference(&tape, &params);
            let (memory, of) = memory(2);
            let memory = tape.input(memory);
            let cross = config.transformer.block.cross_attention;
            let segments = Offsets::from_lengths([9, 5]);
            let tokens: Vec<u32> = (0..14).map(|i| i * 7 % 20).collect();
            let scores = decoder.forward(&cx, &tokens, &segments, cross.then_some((&memory, &of)))?;
            let next: Vec<Option<u32>> = (0..14).map(|i| Some((i * 11 + 3) % 20)).collect();
            let loss = ops::cross_entropy(&tape, &scores, &next, &ops::CrossEntropy::default())?;
            let hidden = decoder.hidden(&cx, &tokens, &segments, cross.then_some((&memory, &of)))?;
            let sliced = decoder.loss(&cx, &hidden, &next)?.value().scalar()?;
            assert!((loss.value().scalar()? - sliced).abs() < 1e-5);
            drop(cx);
            let gradients = tape.backward(&loss)?;
            for (id, p) in params.iter() {
                let gradient = gradients.param(id).unwrap_or_else(|| panic!("{} has no gradient", p.name));
                assert!(gradient.data().iter().any(|x| *x != 0.0), "{}: its gradient is zero", p.name);
            }
            assert_eq!(gradients.of(&memory).is_some_and(|g| g.data().iter().all(|x| *x != 0.0)), cross);
        }
        Ok(())
    }

    #[test]
    fn misuse_is_refused() -> Result<()> {
        let config = DecoderConfig { learned_positions: Some(4), ..with(block()) };
        let mut params = Params::new();
        let decoder = Decoder::new(&mut Builder::new(&mut params, 3), &config)?;
        let tape = Tape::inference();
        let cx = Context::inference(&tape, &params);
        let three = Offsets::from_lengths([3]);
        let mut cache = decoder.cache(&cx, 1, None)?;
        assert_eq!(decoder.step(&cx, &[1, 2, 3], &three, &mut cache)?.value().dims(), [1, 20]);
        let error = decoder.step(&cx, &[1, 2, 3], &three, &mut cache).expect_err("too long").to_string();
        assert!(error.contains("6 tokens is longer than the 4 positions"), "{error}");
        assert!(decoder.step(&cx, &[99], &Offsets::from_lengths([1]), &mut cache).is_err(), "no such token");
        assert!(decoder.step(&cx, &[1, 2], &Offsets::from_lengths([1, 1]), &mut cache).is_err(), "two sequences");
        assert_eq!(cache.lengths(), [3], "what is refused leaves the cache as it was");
        let training = Tape::new();
        let cx = Context::inference(&training, &params);
        assert!(decoder.step(&cx, &[1], &Offsets::from_lengths([1]), &mut cache).is_err(), "gradients");
        let mut open = with(block());
        open.transformer.block.causal = false;
        assert!(Decoder::new(&mut Builder::new(&mut Params::new(), 0), &open).is_err());
        open = with(BlockConfig { cross_attention: true, ..block() });
        let mut params = Params::new();
        let decoder = Decoder::new(&mut Builder::new(&mut params, 3), &open)?;
        let cx = Context::inference(&tape, &params);
        assert!(decoder.forward(&cx, &[1, 2, 3], &three, None).is_err(), "no memory");
        Ok(())
    }
}
