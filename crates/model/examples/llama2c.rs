//! Continues a story greedily with weights in llama2.c's legacy layout, from
//! a key/value cache:
//!
//! `cargo run --release -p sensorium-model --example llama2c -- model.bin tokenizer.bin 200`
//!
//! prints the token numbers on one line, then the text.

use sensorium_engine::{Builder, EngineError, Offsets, Params, Tape, Tensor, Weights};
use sensorium_model::layers::{ActivationName, BlockConfig, NormKind};
use sensorium_model::{Context, Decoder, DecoderConfig, DecoderOutput, TransformerConfig};
use std::error::Error;
use std::ops::Range;

/// The token that begins every text, and ends it where the model writes it.
const BEGIN: u32 = 1;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, tokenizer, steps] = &args[..] else {
        return Err("usage: llama2c MODEL.bin TOKENIZER.bin STEPS".into());
    };
    let steps: usize = steps.parse()?;
    let legacy = Legacy::open(model)?;
    let mut params = Params::new();
    let decoder = Decoder::new(&mut Builder::loading(&mut params, &legacy), &legacy.config())?;
    let tape = Tape::inference();
    let cx = Context::inference(&tape, &params);
    let (mut cache, one) = (decoder.cache(&cx, 1, None)?, Offsets::from_lengths([1]));
    let started = std::time::Instant::now();
    let mut ids = vec![BEGIN];
    while ids.len() <= steps.min(legacy.longest) {
        let scores = decoder.step(&cx, &ids[ids.len() - 1..], &one, &mut cache)?;
        let next = largest(scores.data());
        if next == BEGIN {
            break;
        }
        ids.push(next);
    }
    let seconds = started.elapsed().as_secs_f64();
    let listed: Vec<String> = ids.iter().map(ToString::to_string).collect();
    println!("{}", listed.join(" "));
    println!("{}", text(&std::fs::read(tokenizer)?, legacy.vocab, &ids)?);
    eprintln!("{} tokens, {:.1} tokens/s", ids.len() - 1, (ids.len() - 1) as f64 / seconds);
    Ok(())
}

/// The number of the first of the largest scores.
fn largest(scores: &[f32]) -> u32 {
    let mut best = 0;
    for (i, score) in scores.iter().enumerate() {
        if *score > scores[best] {
            best = i;
        }
    }
    best as u32
}

/// A file of weights: seven numbers, then all tensors in a fixed order, those
/// of all layers together.
struct Legacy {
    hidden: usize,
    inner: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    vocab: usize,
    longest: usize,
    tied: bool,
    numbers: Vec<f32>,
}

impl Legacy {
    fn open(path: &str) -> Result<Self, Box<dyn Error>> {
        let file = std::fs::read(path)?;
        let words = |at: Range<usize>| file.get(at).unwrap_or_default().chunks_exact(4);
        let header: Vec<i32> = words(0..28).map(|w| i32::from_le_bytes([w[0], w[1], w[2], w[3]])).collect();
        let [hidden, inner, layers, heads, kv_heads, vocab, longest] = header[..] else {
            return Err(format!("{path}: shorter than its header").into());
        };
        let size =
            |n: i32| usize::try_from(n).ok().filter(|n| (1..1 << 24).contains(n)).ok_or("a size is out of range");
        let legacy = Self {
            hidden: size(hidden)?,
            inner: size(inner)?,
            layers: size(layers)?,
            heads: size(heads)?,
            kv_heads: size(kv_heads)?,
            vocab: size(vocab.saturating_abs())?,
            longest: size(longest)?,
            // A negative size of the vocabulary means an output of its own.
            tied: vocab > 0,
            numbers: words(28..file.len()).map(|w| f32::from_le_bytes([w[0], w[1], w[2], w[3]])).collect(),
        };
        let expected = legacy.tensors().last().map_or(0, |(_, range)| range.end);
        if legacy.numbers.len() != expected {
            return Err(format!("{path}: expected {expected} weights, got {}", legacy.numbers.len()).into());
        }
        Ok(legacy)
    }

    /// Where each kind of tensor stands, by our name for it in layer `*`.
    fn tensors(&self) -> Vec<(&'static str, Range<usize>)> {
        let (d, l, inner) = (self.hidden, self.layers, self.inner);
        let keys = d / self.heads * self.kv_heads;
        let angles = self.longest * (d / self.heads);
        let sizes = [
            ("embeddings.word", self.vocab * d),
            ("layer.*.attention_norm.weight", l * d),
            ("layer.*.attention.query.weight", l * d * d),
            ("layer.*.attention.key.weight", l * d * keys),
            ("layer.*.attention.value.weight", l * d * keys),
            ("layer.*.attention.output.weight", l * d * d),
            ("layer.*.mlp_norm.weight", l * d),
            ("layer.*.mlp.gate.weight", l * d * inner),
            ("layer.*.mlp.down.weight", l * d * inner),
            ("layer.*.mlp.up.weight", l * d * inner),
            ("norm.weight", d),
            // Cosines and sines of the positions, computed here.
            ("", angles),
            ("output.weight", if self.tied { 0 } else { self.vocab * d }),
        ];
        let mut end = 0;
        let place = |(name, size)| {
            end += size;
            (name, end - size..end)
        };
        sizes.into_iter().map(place).collect()
    }

    fn config(&self) -> DecoderConfig {
        let block = BlockConfig {
            hidden: self.hidden,
            heads: self.heads,
            kv_heads: self.kv_heads,
            intermediate: self.inner,
            activation: ActivationName::Silu,
            gated: true,
            norm: NormKind::RmsNorm,
            norm_eps: 1e-5,
            bias: false,
            causal: true,
            rotary_base: Some(10_000.0),
            rotary_interleaved: true,
            dropout: 0.0,
            ..BlockConfig::default()
        };
        DecoderConfig {
            vocab_size: self.vocab,
            learned_positions: None,
            output: if self.tied { DecoderOutput::Tied } else { DecoderOutput::Untied },
            output_scale: None,
            transformer: TransformerConfig { layers: self.layers, block, ..TransformerConfig::default() },
        }
    }
}

impl Weights for Legacy {
    fn tensor(&self, name: &str, dims: &[usize]) -> Result<Tensor, EngineError> {
        let mut layer = 0;
        let parts = name.split('.').skip(1).map(|part| match part.parse::<usize>() {
            Ok(number) => {
                layer = number;
                "*"
            }
            Err(_) => part,
        });
        let kind = parts.collect::<Vec<_>>().join(".");
        let len: usize = dims.iter().product();
        let found = self.tensors().into_iter().find(|(known, _)| *known == kind);
        let data = found.and_then(|(_, range)| self.numbers[range].get(layer * len..(layer + 1) * len));
        Tensor::from_slice(dims, data.unwrap_or_default())
    }
}

/// The text of tokens: the file lists, after the longest one's length, for
/// each its score, its length and its bytes.
fn text(tokenizer: &[u8], vocab: usize, ids: &[u32]) -> Result<String, Box<dyn Error>> {
    let mut rest = tokenizer.get(4..).ok_or("the tokenizer is empty")?;
    let mut pieces = Vec::new();
    for _ in 0..vocab {
        let (head, after) = rest.split_at_checked(8).ok_or("the tokenizer ends early")?;
        let len = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        let (piece, after) = after.split_at_checked(len).ok_or("the tokenizer ends early")?;
        pieces.push(piece);
        rest = after;
    }
    let mut bytes = Vec::new();
    for id in ids.iter().filter(|id| **id != BEGIN) {
        let piece = *pieces.get(*id as usize).ok_or("a token that the tokenizer does not have")?;
        // Single bytes are written as <0x0A>.
        let byte = std::str::from_utf8(piece).ok().and_then(|p| p.strip_prefix("<0x")?.strip_suffix('>'));
        match byte.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => bytes.push(byte),
            None => bytes.extend_from_slice(piece),
        }
    }
    Ok(String::from_utf8_lossy(&bytes).trim_start().to_owned())
}
