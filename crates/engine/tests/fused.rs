//! The fused operations against compositions of plain ones: values, gradients
//! and whole trainings.

use sensorium_engine::check::random;
use sensorium_engine::optim::{Hyper, Method, Optimizer, clip_factor, global_norm};
use sensorium_engine::{Activation, Builder, Element, Init, Offsets, ParamId, Params, Random, Result, Tape, Tensor};
use sensorium_engine::{Var, ops, with_threads};

/// softmax(scale · Q·Kᵀ)·V of each segment and head from linear layers: V is
/// transposed by a product with the identity. No causality, no windows.
fn plain_attention<E: Element>(
    tape: &Tape<E>,
    [q, k, v]: [&Var<E>; 3],
    (queries, keys): (&Offsets, &Offsets),
    heads: usize,
) -> Result<Var<E>> {
    let dim = q.cols() / heads;
    let mut identity = Tensor::zeros(&[dim, dim]);
    (0..dim).for_each(|i| identity.data_mut()[i * dim + i] = E::ONE);
    let identity = Var::constant(identity);
    let linear = |x: &Var<E>, w: &Var<E>| ops::linear(tape, x, w, None, Activation::Identity);
    let mut segments = Vec::new();
    for (of_q, of_k) in queries.ranges().zip(keys.ranges()) {
        let part = |x: &Var<E>, rows: std::ops::Range<usize>| {
            let rows = ops::gather_rows(tape, x, &rows.map(|r| r as u32).collect::<Vec<_>>())?;
            ops::split_cols(tape, &rows, &vec![dim; heads])
        };
        let (q, k, v) = (part(q, of_q)?, part(k, of_k.clone())?, part(v, of_k)?);
        let mut outputs = Vec::new();
        for ((q, k), v) in q.iter().zip(&k).zip(&v) {
            let scores = ops::scale(tape, &linear(q, k)?, 1.0 / (dim as f64).sqrt())?;
            outputs.push(linear(&ops::softmax(tape, &scores)?, &linear(&identity, v)?)?);
        }
        segments.push(ops::concat_cols(tape, &outputs.iter().collect::<Vec<_>>())?);
    }
    ops::concat_rows(tape, &segments.iter().collect::<Vec<_>>())
}

/// The result and the gradients of q, k, v.
fn through<E: Element>(
    inputs: &[Tensor<f64>; 3],
    f: impl Fn(&Tape<E>, [&Var<E>; 3]) -> Result<Var<E>>,
) -> Result<Vec<Vec<f64>>> {
    let tape = Tape::new();
    let [q, k, v] = [0, 1, 2].map(|i| tape.input(inputs[i].cast::<E>()));
    let y = f(&tape, [&q, &k, &v])?;
    let d = random(y.value().dims(), "d").cast();
    let g = tape.backward_from(&y, d)?;
    let wide = |t: &Tensor<E>| t.data().iter().map(|x| x.to_f64()).collect::<Vec<_>>();
    Ok([y.value()].into_iter().chain([&q, &k, &v].map(|v| g.of(v).expect("a gradient"))).map(wide).collect())
}

fn assert_close(got: &[Vec<f64>], want: &[Vec<f64>], tolerance: f64, what: &str) {
    for (part, (got, want)) in got.iter().zip(want).enumerate() {
        let scale = want.iter().fold(1.0_f64, |m, x| m.max(x.abs()));
        for (g, w) in got.iter().zip(want) {
            assert!((g - w).abs() <= tolerance * scale, "{what}, part {part}: {g} is not {w}");
        }
    }
}

#[test]
fn attention_is_its_composition_at_odd_sizes() -> Result<()> {
    let own = Offsets::from_lengths([1, 7, 130, 64, 257]);
    let cross = Offsets::from_lengths([5, 1, 33, 200, 16]);
    for (dim, keys) in [(32, &own), (64, &cross), (5, &own), (24, &cross), (33, &cross)] {
        let inputs = [
            random(&[own.total(), 2 * dim], "q"),
            random(&[keys.total(), 2 * dim], "k"),
            random(&[keys.total(), 2 * dim], "v"),
        ];
        let want = through::<f64>(&inputs, |t, qkv| plain_attention(t, qkv, (&own, keys), 2))?;
        let attention = ops::Attention::new(2);
        let wide =
            through::<f64>(&inputs, |t, [q, k, v]| ops::attention(t, (q, k, v), (&own, keys), &attention, None))?;
        assert_close(&wide, &want, 1e-11, &format!("f64, heads of {dim}"));
        let narrow =
            through::<f32>(&inputs, |t, [q, k, v]| ops::attention(t, (q, k, v), (&own, keys), &attention, None))?;
        assert_close(&narrow, &want, 3e-6, &format!("f32, heads of {dim}"));
    }
    Ok(())
}

/// Every option of attention, in the order of [`attention_options_follow_f64`].
fn options() -> Vec<ops::Attention> {
    let plain = ops::Attention::new(4);
    vec![
        ops::Attention { causal: true, ..plain.clone() },
        ops::Attention { window: Some(20), ..plain.clone() },
        ops::Attention { window: Some(3), causal: true, kv_heads: 2, ..plain.clone() },
        ops::Attention { kv_heads: 1, scale: Some(0.3), ..plain.clone() },
        ops::Attention { dropout: Some((0.3, Random::new(5))), ..plain.clone() },
        ops::Attention { dropout: Some((0.1, Random::new(6))), causal: true, kv_heads: 2, ..plain },
    ]
}

#[test]
fn attention_options_follow_f64_and_threads_do_not_change_a_bit() -> Result<()> {
    let (own, more) = (Offsets::from_lengths([0, 1, 9, 150, 0, 47]), Offsets::from_lengths([3, 1, 20, 150, 0, 60]));
    for config in options() {
        let inputs = [
            random(&[own.total(), 4 * 24], "q"),
            random(&[more.total(), config.kv_heads * 24], "k"),
            random(&[more.total(), config.kv_heads * 20], "v"),
        ];
        let table = random(&[40, 4], "table");
        let run = |wide: bool, threads| {
            with_threads(threads, || {
                let entries: std::sync::Arc<[u32]> = (0..40).collect();
                if wide {
                    return through::<f64>(&inputs, |t, [q, k, v]| {
                        let table = Var::constant(table.clone());
                        let bias = ops::RelativeBias {
                            table: &table,
                            entries: entries.clone(),
                            zero: 25,
                            places: None,
                            gates: None,
                        };
                        ops::attention(t, (q, k, v), (&own, &more), &config, Some(&bias))
                    });
                }
                through::<f32>(&inputs, |t, [q, k, v]| {
                    let table = Var::constant(table.cast());
                    let bias = ops::RelativeBias {
                        table: &table,
                        entries: entries.clone(),
                        zero: 25,
                        places: None,
                        gates: None,
                    };
                    ops::attention(t, (q, k, v), (&own, &more), &config, Some(&bias))
                })
            })
            .expect("threads start")
        };
        let one = run(false, 1)?;
        assert_close(&one, &run(true, 1)?, 5e-6, &format!("{config:?}"));
        assert_eq!(one, run(false, 2)?);
        assert_eq!(one, run(false, 4)?);
    }
    Ok(())
}

#[test]
fn attention_stays_finite_with_huge_and_tiny_values() -> Result<()> {
    let o = Offsets::from_lengths([70, 1]);
    for size in [1e-30, 1e4, 1e12] {
        let inputs = ["q", "k", "v"].map(|n| {
            let mut t = random(&[71, 32], n);
            t.data_mut().iter_mut().for_each(|x| *x *= size);
            t
        });
        let all = through::<f32>(&inputs, |t, [q, k, v]| {
            ops::attention(t, (q, k, v), (&o, &o), &ops::Attention::new(1), None)
        })?;
        let largest = inputs[2].data().iter().fold(0.0_f64, |m, x| m.max(x.abs()));
        assert!(all[0].iter().all(|x| x.abs() <= largest * 1.0001), "an average of values of {size}");
        assert!(all.iter().flatten().all(|x| x.is_finite()), "values of {size}");
    }
    Ok(())
}

const VOCABULARY: usize = 23;
const WIDTH: usize = 16;

/// A small causal-free language model: which word stands at each place?
struct Small {
    table: ParamId,
    query: ParamId,
    key: ParamId,
    value: ParamId,
    output: ParamId,
    norms: [(ParamId, ParamId); 2],
    up: ParamId,
    down: ParamId,
}

impl Small {
    fn new(b: &mut Builder<'_>) -> Result<Self> {
        let square = [WIDTH, WIDTH];
        let mut norm = |name: &str| -> Result<(ParamId, ParamId)> {
            let weight = b.param(&format!("{name}.weight"), &[WIDTH], Init::Constant(1.0))?;
            Ok((weight, b.param(&format!("{name}.bias"), &[WIDTH], Init::Constant(0.0))?))
        };
        let norms = [norm("first")?, norm("second")?];
        Ok(Self {
            table: b.param("table", &[VOCABULARY, WIDTH], Init::Normal(0.5))?,
            query: b.param("query", &square, Init::Xavier)?,
            key: b.param("key", &square, Init::Xavier)?,
            value: b.param("value", &square, Init::Xavier)?,
            output: b.param("output", &square, Init::Xavier)?,
            norms,
            up: b.param("up", &[2 * WIDTH, WIDTH], Init::Xavier)?,
            down: b.param("down", &[WIDTH, 2 * WIDTH], Init::Xavier)?,
        })
    }

    fn loss(
        &self,
        tape: &Tape,
        params: &Params,
        (words, offsets, targets): (&[u32], &Offsets, &[Option<u32>]),
        fused: bool,
    ) -> Result<Var> {
        let p = |id| tape.param(params, id);
        let linear = |x: &Var, w, f| ops::linear(tape, x, &p(w), None, f);
        let add_norm = |a: &Var, b: &Var, (weight, bias): (ParamId, ParamId)| {
            if fused {
                return ops::add_layer_norm(tape, (a, b), &p(weight), Some(&p(bias)), 1e-5);
            }
            let sum = ops::add(tape, a, b)?;
            let normed = ops::layer_norm(tape, &sum, &p(weight), Some(&p(bias)), 1e-5)?;
            Ok((sum, normed))
        };
        let x = ops::embedding(tape, &p(self.table), words)?;
        let plain = Activation::Identity;
        let [q, k, v] = [self.query, self.key, self.value].map(|w| linear(&x, w, plain));
        let (q, k, v) = (q?, k?, v?);
        let y = if fused {
            ops::attention(tape, (&q, &k, &v), (offsets, offsets), &ops::Attention::new(2), None)?
        } else {
            plain_attention(tape, [&q, &k, &v], (offsets, offsets), 2)?
        };
        let (x, y) = add_norm(&linear(&y, self.output, plain)?, &x, self.norms[0])?;
        let y = linear(&linear(&y, self.up, Activation::Gelu)?, self.down, plain)?;
        let (_, hidden) = add_norm(&y, &x, self.norms[1])?;
        if fused {
            return ops::vocabulary_cross_entropy(tape, &hidden, &p(self.table), None, targets, 0.05);
        }
        let logits = linear(&hidden, self.table, plain)?;
        let settings = ops::CrossEntropy { label_smoothing: 0.05, ..Default::default() };
        ops::cross_entropy(tape, &logits, targets, &settings)
    }
}

#[test]
fn two_hundred_steps_take_the_same_way_fused_and_plain() -> Result<()> {
    let train = |fused: bool| -> Result<Vec<f32>> {
        let mut params = Params::new();
        let model = Small::new(&mut Builder::new(&mut params, 3))?;
        let mut optimizer = Optimizer::new(Method::ADAM_W)?;
        let hyper = vec![Hyper { lr: 3e-3, weight_decay: 0.01 }; params.len()];
        let random = Random::new(1).purpose("words");
        let offsets = Offsets::from_lengths([9, 1, 14, 6]);
        (0..200)
            .map(|step| {
                // Words that follow from the ones before: w(i + 1) = 2 w(i) + 1.
                let mut words = Vec::new();
                for (segment, range) in offsets.ranges().enumerate() {
                    let first = random.at_step(step).below(segment as u64, VOCABULARY as u64) as u32;
                    words.extend((0..range.len()).scan(first, |w, _| {
                        let word = *w;
                        *w = (2 * *w + 1) % VOCABULARY as u32;
                        Some(word)
                    }));
                }
                let targets: Vec<_> = words
                    .iter()
                    .enumerate()
                    .map(|(i, w)| (i % 7 != 3).then(|| (2 * w + 1) % VOCABULARY as u32))
                    .collect();
                let tape = Tape::new();
                let loss = model.loss(&tape, &params, (&words, &offsets, &targets), fused)?;
                let gradients = tape.backward(&loss)?;
                let scale = clip_factor(global_norm(&gradients), 1.0);
                optimizer.step(&mut params, &gradients, &hyper, scale)?;
                loss.value().scalar()
            })
            .collect()
    };
    let (fused, plain) = (train(true)?, train(false)?);
    for (step, (f, p)) in fused.iter().zip(&plain).enumerate() {
        assert!((f - p).abs() < 2e-3, "step {step}: {f} fused, {p} plain");
    }
    let (first, last) = (plain[..10].iter().sum::<f32>(), plain[190..].iter().sum::<f32>());
    assert!(last < 0.5 * first, "nothing was learned: {first} at first, {last} at last");
    Ok(())
}
