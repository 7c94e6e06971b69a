//! Attention against its definition.

use super::*;
use crate::check::{gradients, random};
use crate::with_threads;

/// The definition, one score at a time; `bias` of a head, and the rows of
/// query and key.
fn naive(
    [q, k, v]: [&Tensor<f64>; 3],
    (queries, keys): (&Offsets, &Offsets),
    c: &Attention,
    bias: impl Fn(usize, usize, usize) -> f64,
) -> Vec<f64> {
    let (dim, value_dim) = (q.dims()[1] / c.heads, v.dims()[1] / c.kv_heads);
    let mut out = vec![0.0; q.dims()[0] * c.heads * value_dim];
    for (qs, ks) in queries.ranges().zip(keys.ranges()) {
        for h in 0..c.heads {
            let g = h / (c.heads / c.kv_heads);
            for i in 0..qs.len() {
                let place = if c.causal { i as i64 + ks.len() as i64 - qs.len() as i64 } else { i as i64 };
                let sees = |j: usize| {
                    (!c.causal || j as i64 <= place)
                        && c.window.is_none_or(|w| (j as i64 - place).unsigned_abs() <= w as u64)
                };
                let score = |j: usize| -> f64 {
                    let s: f64 = (0..dim)
                        .map(|x| {
                            q.data()[(qs.start + i) * c.heads * dim + h * dim + x]
                                * k.data()[(ks.start + j) * c.kv_heads * dim + g * dim + x]
                        })
                        .sum();
                    (s * c.scale.unwrap_or(1.0 / (dim as f64).sqrt()) + bias(h, qs.start + i, ks.start + j)).exp()
                };
                let total: f64 = (0..ks.len()).filter(|j| sees(*j)).map(score).sum();
                for x in 0..value_dim {
                    out[(qs.start + i) * c.heads * value_dim + h * value_dim + x] = (0..ks.len())
                        .filter(|j| sees(*j))
                        .map(|j| {
                            score(j) / total * v.data()[(ks.start + j) * c.kv_heads * value_dim + g * value_dim + x]
                        })
                        .sum();
                }
            }
        }
    }
    out
}

fn forms() -> Vec<(Attention, Offsets, Offsets)> {
    let plain = Attention::new(2);
    let own = Offsets::from_lengths([3, 0, 1, 4]);
    let cross = Offsets::from_lengths([2, 3, 0, 5]);
    vec![
        (plain.clone(), own.clone(), own.clone()),
        (Attention { causal: true, ..plain.clone() }, own.clone(), own.clone()),
        (Attention { kv_heads: 1, scale: Some(0.3), ..plain.clone() }, own.clone(), own.clone()),
        (plain.clone(), own.clone(), cross.clone()),
        (Attention { causal: true, kv_heads: 1, ..plain.clone() }, own.clone(), cross.clone()),
        (Attention { window: Some(1), ..plain.clone() }, own.clone(), own.clone()),
        (Attention { window: Some(1), causal: true, ..plain.clone() }, own.clone(), own.clone()),
        (Attention { window: Some(2), causal: true, kv_heads: 1, ..plain }, own, cross),
    ]
}

fn inputs(c: &Attention, queries: &Offsets, keys: &Offsets) -> [Tensor<f64>; 3] {
    [
        random(&[queries.total(), c.heads * 3], "q"),
        random(&[keys.total(), c.kv_heads * 3], "k"),
        random(&[keys.total(), c.kv_heads * 2], "v"),
    ]
}

#[test]
fn values_are_those_of_the_definition() -> Result<()> {
    for (c, queries, keys) in forms() {
        let [q, k, v] = inputs(&c, &queries, &keys);
        let want = naive([&q, &k, &v], (&queries, &keys), &c, |_, _, _| 0.0);
        let tape = Tape::inference();
        let [q, k, v] = [q, k, v].map(Var::constant);
        let got = attention(&tape, (&q, &k, &v), (&queries, &keys), &c, None)?;
        for (g, w) in got.data().iter().zip(&want) {
            assert!((g - w).abs() < 1e-12, "{c:?}: {g} is not {w}");
        }
    }
    Ok(())
}

#[test]
fn gradients_match_finite_differences() -> Result<()> {
    for (c, queries, keys) in forms() {
        gradients(&inputs(&c, &queries, &keys), |t, x| {
            attention(t, (&x[0], &x[1], &x[2]), (&queries, &keys), &c, None)
        })?;
    }
    Ok(())
}

#[test]
fn dropout_is_the_same_in_both_passes() -> Result<()> {
    let c = Attention { dropout: Some((0.4, Random::new(3))), ..Attention::new(2) };
    let o = Offsets::from_lengths([5, 2]);
    gradients(&inputs(&c, &o, &o), |t, x| attention(t, (&x[0], &x[1], &x[2]), (&o, &o), &c, None))
}

#[test]
fn a_relative_bias_is_added_and_learned() -> Result<()> {
    let (c, o) = (Attention::new(2), Offsets::from_lengths([4, 3]));
    let entries: Arc<[u32]> = [0, 1, 2, 2, 3].into();
    let table = random(&[4, 2], "table");
    let [q, k, v] = inputs(&c, &o, &o);
    let want = naive([&q, &k, &v], (&o, &o), &c, |h, i, j| {
        let place = (j as i64 - i as i64 + 2).clamp(0, 4) as usize;
        table.data()[entries[place] as usize * 2 + h]
    });
    let all = [q, k, v, table];
    let run = |t: &Tape<f64>, x: &[Var<f64>]| {
        let entries = Arc::clone(&entries);
        let bias = RelativeBias { table: &x[3], entries, zero: 2, places: None, gates: None };
        attention(t, (&x[0], &x[1], &x[2]), (&o, &o), &c, Some(&bias))
    };
    let got = run(&Tape::inference(), &all.clone().map(Var::constant))?;
    for (g, w) in got.data().iter().zip(&want) {
        assert!((g - w).abs() < 1e-12, "{g} is not {w}");
    }
    gradients(&all, run)
}

#[test]
fn a_relative_bias_can_follow_places() -> Result<()> {
    let (c, o) = (Attention::new(2), Offsets::from_lengths([3, 3]));
    let table = random(&[7, 2], "table");
    let [q, k, v] = inputs(&c, &o, &o);
    // Another order in each segment.
    let (at_q, at_k): (Vec<u32>, Vec<u32>) = (vec![2, 0, 1, 1, 1, 0], vec![3, 1, 0, 0, 2, 3]);
    let want = naive([&q, &k, &v], (&o, &o), &c, |h, i, j| {
        table.data()[(i64::from(at_k[j]) - i64::from(at_q[i]) + 3) as usize * 2 + h]
    });
    let all = [q, k, v, table];
    let run = |t: &Tape<f64>, x: &[Var<f64>]| {
        let places = Some((at_q.clone().into(), at_k.clone().into()));
        let bias = RelativeBias { table: &x[3], entries: (0..7).collect(), zero: 3, places, gates: None };
        attention(t, (&x[0], &x[1], &x[2]), (&o, &o), &c, Some(&bias))
    };
    let got = run(&Tape::inference(), &all.clone().map(Var::constant))?;
    for (g, w) in got.data().iter().zip(&want) {
        assert!((g - w).abs() < 1e-12, "{g} is not {w}");
    }
    gradients(&all, run)
}

#[test]
fn gates_multiply_the_biases_of_their_query() -> Result<()> {
    let (c, o) = (Attention::new(2), Offsets::from_lengths([4, 0, 3]));
    let entries: Arc<[u32]> = [0, 1, 2, 2, 3].into();
    let (table, gates) = (random(&[4, 2], "table"), random(&[7, 2], "gates"));
    let [q, k, v] = inputs(&c, &o, &o);
    let (at_q, at_k): (Arc<[u32]>, Arc<[u32]>) = ([0, 1, 4, 2, 1, 3, 0].into(), [2, 1, 0, 3, 0, 0, 5].into());
    for places in [None, Some((at_q, at_k))] {
        let want = naive([&q, &k, &v], (&o, &o), &c, |h, i, j| {
            let (at_q, at_k) = match &places {
                Some((q, k)) => (i64::from(q[i]), i64::from(k[j])),
                None => (i as i64, j as i64),
            };
            let distance = (at_k - at_q + 2).clamp(0, 4) as usize;
            gates.data()[i * 2 + h] * table.data()[entries[distance] as usize * 2 + h]
        });
        let all = [q.clone(), k.clone(), v.clone(), table.clone(), gates.clone()];
        let run = |t: &Tape<f64>, x: &[Var<f64>]| {
            let (entries, places) = (Arc::clone(&entries), places.clone());
            let bias = RelativeBias { table: &x[3], entries, zero: 2, places, gates: Some(&x[4]) };
            attention(t, (&x[0], &x[1], &x[2]), (&o, &o), &c, Some(&bias))
        };
        let got = run(&Tape::inference(), &all.clone().map(Var::constant))?;
        for (g, w) in got.data().iter().zip(&want) {
            assert!((g - w).abs() < 1e-12, "{g} is not {w}");
        }
        gradients(&all, run)?;
    }
    Ok(())
}

#[test]
fn biases_with_places_and_gates_have_the_same_bits_for_any_number_of_threads() -> Result<()> {
    let (c, o) = (Attention::new(2), Offsets::from_lengths([150, 9, 64, 33]));
    let places: Arc<[u32]> = (0..256).map(|i| i * 7 % 40).collect();
    let all = [&[256, 32][..], &[256, 32], &[256, 32], &[9, 2], &[256, 2]];
    let all = all.map(|dims| random(dims, &format!("{dims:?}")).cast::<f32>());
    let run = |threads| {
        with_threads(threads, || -> Result<Vec<Tensor<f32>>> {
            let tape = Tape::new();
            let x = all.clone().map(|t| tape.input(t));
            let (entries, places) = ((0..81).map(|d| d / 9).collect(), Some((places.clone(), places.clone())));
            let bias = RelativeBias { table: &x[3], entries, zero: 40, places, gates: Some(&x[4]) };
            let y = attention(&tape, (&x[0], &x[1], &x[2]), (&o, &o), &c, Some(&bias))?;
            let g = tape.backward_from(&y, Tensor::full(&[256, 32], 0.5))?;
            let mut found = vec![y.into_value()];
            found.extend(x.iter().map(|x| g.of(x).expect("a gradient").clone()));
            Ok(found)
        })
        .expect("threads start")
    };
    let one = run(1)?;
    for threads in [2, 4] {
        for (a, b) in run(threads)?.iter().zip(&one) {
            assert_eq!(a.data(), b.data());
        }
    }
    Ok(())
}

#[test]
fn a_relative_bias_follows_new_queries_of_a_past() -> Result<()> {
    let (c, whole) = (Attention { causal: true, ..Attention::new(2) }, Offsets::from_lengths([5]));
    let table = Var::constant(random(&[5, 2], "table"));
    let bias = RelativeBias { table: &table, entries: [0, 1, 2, 3, 4].into(), zero: 4, places: None, gates: None };
    let [q, k, v] = inputs(&c, &whole, &whole);
    let last = Tensor::from_slice(&[2, 6], &q.data()[18..])?;
    let [q, last, k, v] = [q, last, k, v].map(Var::constant);
    let tape = Tape::inference();
    let all = attention(&tape, (&q, &k, &v), (&whole, &whole), &c, Some(&bias))?;
    let new = attention(&tape, (&last, &k, &v), (&Offsets::from_lengths([2]), &whole), &c, Some(&bias))?;
    for (a, b) in all.data()[12..].iter().zip(new.data()) {
        assert!((a - b).abs() < 1e-12, "{a} is not {b}");
    }
    Ok(())
}

#[test]
fn long_segments_in_f32_follow_f64_and_threads_do_not_change_bits() -> Result<()> {
    let c = Attention { causal: true, ..Attention::new(2) };
    let o = Offsets::from_lengths([300, 17]);
    let [q, k, v] = [random(&[317, 64], "q"), random(&[317, 64], "k"), random(&[317, 64], "v")];
    let wide = {
        let [q, k, v] = [&q, &k, &v].map(|t| Var::constant(t.clone()));
        attention(&Tape::inference(), (&q, &k, &v), (&o, &o), &c, None)?
    };
    let run = |threads| {
        with_threads(threads, || -> Result<(Tensor<f32>, Tensor<f32>)> {
            let tape = Tape::new();
            let [q, k, v] = [&q, &k, &v].map(|t| tape.input(t.cast::<f32>()));
            let y = attention(&tape, (&q, &k, &v), (&o, &o), &c, None)?;
            let g = tape.backward_from(&y, Tensor::full(&[317, 64], 0.5))?;
            Ok((y.into_value(), g.of(&k).expect("a gradient").clone()))
        })
        .expect("threads start")
    };
    let (one, one_k) = run(1)?;
    for (n, w) in one.data().iter().zip(wide.data()) {
        assert!((f64::from(*n) - w).abs() < 2e-5);
    }
    for threads in [2, 4] {
        let (y, dk) = run(threads)?;
        assert_eq!((y.data(), dk.data()), (one.data(), one_k.data()));
    }
    Ok(())
}

/// Result and gradients of attention over long segments of 2 heads of 40 and
/// values of 72, in one precision.
fn long<E: Element>(c: &Attention, (o, cross): (&Offsets, &Offsets), biased: bool) -> Result<Vec<Vec<f64>>> {
    let (queries, keys) = (o.total(), cross.total());
    let dims = [[queries, 80], [keys, c.kv_heads * 40], [keys, c.kv_heads * 72], [41, 2], [queries, 2]];
    let tape = Tape::<E>::new();
    let x = dims.map(|dims| tape.input(random(&dims, &format!("{dims:?}")).cast()));
    let entries = (0..41).collect();
    let bias = RelativeBias { table: &x[3], entries, zero: 20, places: None, gates: Some(&x[4]) };
    let y = attention(&tape, (&x[0], &x[1], &x[2]), (o, cross), c, biased.then_some(&bias))?;
    let g = tape.backward_from(&y, random(&[queries, 144], "d").cast())?;
    let mut found = vec![y.into_value()];
    found.extend(x[..if biased { 5 } else { 3 }].iter().map(|x| g.of(x).expect("a gradient").clone()));
    Ok(found.iter().map(|t| t.data().iter().map(|v| v.to_f64()).collect()).collect())
}

#[test]
fn long_segments_and_all_their_gradients_follow_f64_for_any_number_of_threads() -> Result<()> {
    // Longer than a run of keys, just long enough for tiles, none, short.
    let (o, cross) = (Offsets::from_lengths([600, 130, 0, 20]), Offsets::from_lengths([1100, 150, 3, 0]));
    let plain = Attention::new(2);
    let forms = [
        (plain.clone(), &o, &o, false),
        (plain.clone(), &o, &cross, true),
        (Attention { causal: true, ..plain.clone() }, &o, &o, true),
        (Attention { kv_heads: 1, dropout: Some((0.3, Random::new(2))), ..plain.clone() }, &o, &cross, false),
        (Attention { causal: true, window: Some(200), kv_heads: 1, ..plain.clone() }, &o, &cross, false),
        (Attention { window: Some(100), ..plain }, &cross, &o, true),
    ];
    for (c, queries, keys, biased) in forms {
        let wide = long::<f64>(&c, (queries, keys), biased)?;
        let run = |threads| with_threads(threads, || long::<f32>(&c, (queries, keys), biased)).expect("threads start");
        let found = run(1)?;
        for (i, (f, w)) in found.iter().zip(&wide).enumerate() {
            let largest = w.iter().fold(0.0_f64, |m, w| m.max(w.abs()));
            let off = f.iter().zip(w).fold(0.0_f64, |m, (f, w)| m.max((f - w).abs()));
            assert!(off < 1e-5 * largest, "{c:?}, {i}: off by {off} of {largest}");
        }
        assert!(run(2)? == found && run(3)? == found, "{c:?}: other bits on more threads");
    }
    Ok(())
}

#[test]
fn a_segment_has_the_same_bits_alone_and_among_others() -> Result<()> {
    let run = |lengths: &[usize], first: usize| -> Result<Vec<f32>> {
        let (o, rows) = (Offsets::from_lengths(lengths.iter().copied()), 450);
        let [q, k, v] = ["q", "k", "v"].map(|name| {
            let all = random(&[rows, 128], name).cast::<f32>();
            let part = &all.data()[first * 128..][..o.total() * 128];
            Var::constant(Tensor::from_slice(&[o.total(), 128], part).expect("the part's size"))
        });
        Ok(attention(&Tape::inference(), (&q, &k, &v), (&o, &o), &Attention::new(2), None)?
            .into_value()
            .data()
            .to_vec())
    };
    let all = run(&[30, 200, 220], 0)?;
    assert!(run(&[200], 30)? == all[30 * 128..230 * 128]);
    assert!(run(&[220], 230)? == all[230 * 128..]);
    Ok(())
}

#[test]
fn huge_scores_stay_finite() -> Result<()> {
    let o = Offsets::from_lengths([3]);
    let x = Var::constant(Tensor::<f32>::full(&[3, 4], 1e4));
    let y = attention(&Tape::inference(), (&x, &x, &x), (&o, &o), &Attention::new(1), None)?;
    assert!(y.data().iter().all(|v| (v - 1e4).abs() < 1.0));
    Ok(())
}

#[test]
fn weights_of_a_row_sum_to_one() -> Result<()> {
    let (c, o) = (Attention { causal: true, ..Attention::new(2) }, Offsets::from_lengths([2, 4]));
    let [q, k, _] = inputs(&c, &o, &o).map(Var::constant);
    let w = attention_weights((&q, &k), (&o, &o), &c, 1)?;
    assert_eq!(w.dims(), [2, 4, 4]);
    for row in w.data().chunks(4) {
        assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-12);
    }
    assert_eq!(w.data()[1], 0.0, "the first query does not see the second key");
    Ok(())
}

#[test]
fn weights_of_a_long_segment_follow_f64() -> Result<()> {
    let (c, o) = (Attention::new(2), Offsets::from_lengths([30, 170]));
    let [q, k] = ["q", "k"].map(|name| random(&[200, 128], name));
    let wide = attention_weights((&Var::constant(q.clone()), &Var::constant(k.clone())), (&o, &o), &c, 1)?;
    let [q, k] = [q, k].map(|t| Var::constant(t.cast::<f32>()));
    let found = attention_weights((&q, &k), (&o, &o), &c, 1)?;
    assert!(found.data().iter().zip(wide.data()).all(|(f, w)| (f64::from(*f) - w).abs() < 1e-6));
    Ok(())
}

#[test]
fn offsets_that_do_not_fit_are_refused() {
    let x = Var::constant(Tensor::<f32>::zeros(&[4, 4]));
    let (good, bad) = (Offsets::from_lengths([4]), Offsets::from_lengths([2, 2]));
    let run = |a, b, heads| attention(&Tape::inference(), (&x, &x, &x), (a, b), &Attention::new(heads), None);
    assert!(run(&good, &bad, 2).is_err());
    assert!(run(&good, &good, 3).is_err());
    assert!(run(&Offsets::from_lengths([3]), &good, 2).is_err());
}
