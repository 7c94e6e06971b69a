//! Rotary position embeddings (Su et al. 2021).

use super::matrix;
use crate::parallel::rows_mut;
use crate::{Element, EngineError, Result, Tape, Tensor, Var};
use std::sync::Arc;

/// How rotary embeddings turn the features of a head.
#[derive(Debug, Clone, PartialEq)]
pub struct Rotary {
    /// The number of heads in a row.
    pub heads: usize,
    /// Radians per position of each pair of features; twice as many leading
    /// features of each head are turned.
    pub frequencies: Arc<[f64]>,
    /// Pairs are neighbours (2i, 2i+1) as in the paper and GPT-J; otherwise
    /// (i, i + pairs) as in Llama and GPT-NeoX.
    pub interleaved: bool,
    /// What turned features are multiplied by (YaRN, Peng et al. 2023); 1 in
    /// the paper.
    pub amplitude: f64,
}

impl Rotary {
    /// The paper's: pair i of the leading `dims` features is turned by
    /// base^(−2i/dims) per position; pairs are (i, i + dims/2).
    pub fn new(heads: usize, dims: usize, base: f64) -> Self {
        let frequencies = (0..dims / 2).map(|i| base.powf(-2.0 * i as f64 / dims as f64)).collect();
        Self { heads, frequencies, interleaved: false, amplitude: 1.0 }
    }
}

/// Turns queries or keys `[rows, heads * head_dim]` by their positions
/// (`[rows]`): pair i by the angle position · frequencies\[i\].
///
/// # Errors
/// When the shapes do not fit or there are more pairs than the head has.
pub fn rotary<E: Element>(tape: &Tape<E>, x: &Var<E>, positions: &[u32], config: &Rotary) -> Result<Var<E>> {
    let (rows, cols) = matrix("rotary", "x", x)?;
    let Rotary { heads, interleaved, amplitude, .. } = *config;
    let half = config.frequencies.len();
    if heads == 0 || cols % heads != 0 || 2 * half > cols / heads {
        return Err(EngineError::setting(
            "rotary",
            format!("{} of the features of {heads} heads in {cols} columns", 2 * half),
        ));
    }
    if positions.len() != rows {
        return Err(EngineError::setting("rotary", format!("{} positions for {rows} rows", positions.len())));
    }
    let table: Arc<[(E, E)]> = positions
        .iter()
        .flat_map(|&p| {
            config.frequencies.iter().map(move |frequency| {
                let angle = f64::from(p) * frequency;
                (E::of(angle.cos() * amplitude), E::of(angle.sin() * amplitude))
            })
        })
        .collect();
    let turn = move |t: &mut Tensor<E>, sign: E| {
        let table = Arc::clone(&table);
        rows_mut(t.data_mut(), cols, |first, part| {
            for (r, row) in part.chunks_exact_mut(cols).enumerate() {
                let angles = &table[(first + r) * half..][..half];
                for head in row.chunks_exact_mut(cols / heads) {
                    for (i, (cos, sin)) in angles.iter().enumerate() {
                        let (a, b) = if interleaved { (2 * i, 2 * i + 1) } else { (i, i + half) };
                        let (x, y) = (head[a], head[b]);
                        head[a] = x * *cos - y * *sin * sign;
                        head[b] = y * *cos + x * *sin * sign;
                    }
                }
            }
        });
    };
    let mut value = x.value().clone();
    turn(&mut value, E::ONE);
    let h = x.handle();
    Ok(tape.record(value, &[x], move |mut d, g| {
        turn(&mut d, -E::ONE);
        g.add(h, d);
        Ok(())
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{gradients, random};

    fn config(interleaved: bool) -> Rotary {
        Rotary { interleaved, amplitude: 1.3, ..Rotary::new(2, 4, 100.0) }
    }

    #[test]
    fn gradients_match_finite_differences() -> Result<()> {
        for interleaved in [false, true] {
            gradients(&[random(&[3, 12], "x")], |t, v| rotary(t, &v[0], &[0, 5, 2], &config(interleaved)))?;
        }
        Ok(())
    }

    #[test]
    fn scores_depend_on_distance_alone() -> Result<()> {
        let tape = Tape::<f64>::inference();
        let (q, k) = (Var::constant(random(&[1, 8], "q")), Var::constant(random(&[1, 8], "k")));
        let score = |a: u32, b: u32| -> Result<f64> {
            let c = Rotary::new(1, 8, 100.0);
            let (q, k) = (rotary(&tape, &q, &[a], &c)?, rotary(&tape, &k, &[b], &c)?);
            Ok(q.data().iter().zip(k.data()).map(|(x, y)| x * y).sum())
        };
        assert!((score(3, 1)? - score(9, 7)?).abs() < 1e-12);
        assert!((score(3, 1)? - score(3, 2)?).abs() > 1e-3);
        Ok(())
    }

    #[test]
    fn wrong_settings_are_refused() {
        let x = Var::constant(Tensor::<f32>::zeros(&[2, 12]));
        let tape = Tape::inference();
        assert!(rotary(&tape, &x, &[0, 1], &Rotary::new(2, 8, 100.0)).is_err());
        assert!(rotary(&tape, &x, &[0], &config(false)).is_err());
    }
}
