//! Rotary position embeddings (Su et al. 2021).

use super::matrix;
use crate::parallel::rows_mut;
use crate::{Element, EngineError, Result, Tape, Tensor, Var};
use std::sync::Arc;

/// How rotary embeddings turn the features of a head.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rotary {
    /// The number of heads in a row.
    pub heads: usize,
    /// How many leading features of each head are turned (even).
    pub dims: usize,
    /// The base of the wavelengths, 10000 in the paper.
    pub base: f64,
    /// Pairs are neighbours (2i, 2i+1) as in the paper and GPT-J; otherwise
    /// (i, i + dims/2) as in Llama and GPT-NeoX.
    pub interleaved: bool,
}

/// Turns queries or keys `[rows, heads * head_dim]` by their positions
/// (`[rows]`): pair i by the angle position · base^(−2i/dims).
///
/// # Errors
/// When the shapes do not fit or `dims` is odd or exceeds the head.
pub fn rotary<E: Element>(tape: &Tape<E>, x: &Var<E>, positions: &[u32], config: Rotary) -> Result<Var<E>> {
    let (rows, cols) = matrix("rotary", "x", x)?;
    let Rotary { heads, dims, base, .. } = config;
    if heads == 0 || cols % heads != 0 || dims % 2 != 0 || dims > cols / heads {
        return Err(EngineError::setting(
            "rotary",
            format!("{dims} of the features of {heads} heads in {cols} columns"),
        ));
    }
    if positions.len() != rows {
        return Err(EngineError::setting("rotary", format!("{} positions for {rows} rows", positions.len())));
    }
    let half = dims / 2;
    let table: Arc<[(E, E)]> = positions
        .iter()
        .flat_map(|&p| {
            (0..half).map(move |i| {
                let angle = f64::from(p) * base.powf(-2.0 * i as f64 / dims as f64);
                (E::of(angle.cos()), E::of(angle.sin()))
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
                        let (a, b) = if config.interleaved { (2 * i, 2 * i + 1) } else { (i, i + half) };
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
        Rotary { heads: 2, dims: 4, base: 100.0, interleaved }
    }

    #[test]
    fn gradients_match_finite_differences() -> Result<()> {
        for interleaved in [false, true] {
            gradients(&[random(&[3, 12], "x")], |t, v| rotary(t, &v[0], &[0, 5, 2], config(interleaved)))?;
        }
        Ok(())
    }

    #[test]
    fn scores_depend_on_distance_alone() -> Result<()> {
        let tape = Tape::<f64>::inference();
        let (q, k) = (Var::constant(random(&[1, 8], "q")), Var::constant(random(&[1, 8], "k")));
        let score = |a: u32, b: u32| -> Result<f64> {
            let c = Rotary { heads: 1, dims: 8, base: 100.0, interleaved: false };
            let (q, k) = (rotary(&tape, &q, &[a], c)?, rotary(&tape, &k, &[b], c)?);
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
        assert!(rotary(&tape, &x, &[0, 1], Rotary { dims: 3, ..config(false) }).is_err());
        assert!(rotary(&tape, &x, &[0], config(false)).is_err());
    }
}
