//! A codebook: vectors as the number of the nearest of so many centres, which
//! k-means has found. Patches of pictures become tokens so, as words are.

use crate::{ModelError, Result};
use sensorium_engine::{Activation, Random, Tape, Tensor, Var, ops};

/// Vectors compared with the centres at a time.
const ROWS_AT_ONCE: usize = 2048;

/// Centres of vectors.
#[derive(Debug, Clone)]
pub struct Codebook {
    centres: Tensor,
}

impl Codebook {
    /// A codebook of these centres `[codes, width]`.
    ///
    /// # Errors
    /// When there are none.
    pub fn new(centres: Tensor) -> Result<Self> {
        match centres.dims() {
            [codes, width] if *codes > 0 && *width > 0 => Ok(Self { centres }),
            dims => Err(ModelError::config("codebook", format!("expected centres [codes, width], got {dims:?}"))),
        }
    }

    /// Finds centres of vectors `[vectors, width]`: k-means from a start by
    /// k-means++ (Arthur and Vassilvitskii 2007), in which a vector becomes a
    /// centre in proportion to its squared distance from those that are there.
    ///
    /// # Errors
    /// When there are fewer different vectors than codes.
    pub fn fit(vectors: &Tensor, codes: usize, iterations: usize, random: Random) -> Result<Self> {
        let &[n, width] = vectors.dims() else {
            return Err(ModelError::config("codebook", format!("expected [vectors, width], got {:?}", vectors.dims())));
        };
        let row = |i: usize| &vectors.data()[i * width..][..width];
        let mut chosen = Vec::with_capacity(codes);
        let mut distances = vec![f64::INFINITY; n];
        for code in 0..codes {
            let next = match code {
                0 => random.below(0, n.max(1) as u64) as usize,
                _ => drawn(&distances, f64::from(random.uniform(code as u64))).unwrap_or(n),
            };
            if next >= n {
                let problem = format!("{codes} codes need as many different vectors; there are {code}");
                return Err(ModelError::config("codebook", problem));
            }
            chosen.push(next);
            for (i, distance) in distances.iter_mut().enumerate() {
                *distance = distance.min(squared_distance(row(i), row(next)));
            }
        }
        let start: Vec<f32> = chosen.iter().flat_map(|i| row(*i).iter().copied()).collect();
        let mut book = Self { centres: Tensor::from_slice(&[codes, width], &start)? };
        for _ in 0..iterations {
            let nearest = book.nearest(vectors)?;
            let (mut sums, mut counts) = (vec![0.0_f64; codes * width], vec![0_usize; codes]);
            for (i, code) in nearest.iter().enumerate() {
                counts[*code as usize] += 1;
                let sum = &mut sums[*code as usize * width..][..width];
                sum.iter_mut().zip(row(i)).for_each(|(sum, x)| *sum += f64::from(*x));
            }
            let before = book.centres.clone();
            for (code, centre) in book.centres.data_mut().chunks_exact_mut(width).enumerate() {
                // A centre that has lost all its vectors stays where it is.
                if counts[code] > 0 {
                    let sum = &sums[code * width..][..width];
                    centre.iter_mut().zip(sum).for_each(|(x, sum)| *x = (sum / counts[code] as f64) as f32);
                }
            }
            if before.data() == book.centres.data() {
                break;
            }
        }
        Ok(book)
    }

    /// The centres `[codes, width]`.
    pub fn centres(&self) -> &Tensor {
        &self.centres
    }

    /// How many codes there are.
    pub fn codes(&self) -> usize {
        self.centres.dims()[0]
    }

    /// The number of the centre nearest to each vector `[vectors, width]`; the
    /// first of several equally near ones.
    ///
    /// # Errors
    /// When widths differ.
    pub fn nearest(&self, vectors: &Tensor) -> Result<Vec<u32>> {
        let width = self.centres.dims()[1];
        let centres = Var::constant(self.centres.clone());
        let half: Vec<f32> =
            self.centres.data().chunks_exact(width).map(|c| c.iter().map(|x| x * x).sum::<f32>() / 2.0).collect();
        let mut nearest = Vec::with_capacity(vectors.dims()[0]);
        for rows in vectors.data().chunks(ROWS_AT_ONCE * width.max(1)) {
            let x = Var::constant(Tensor::from_slice(&[rows.len() / width, width], rows)?);
            let dots = ops::linear(&Tape::inference(), &x, &centres, None, Activation::Identity)?;
            // |x - c|² is smallest where x·c - |c|²/2 is largest.
            nearest.extend(dots.data().chunks_exact(half.len()).map(|dots| {
                let score = |code: usize| dots[code] - half[code];
                (1..half.len()).fold(0, |best, code| if score(code) > score(best) { code } else { best }) as u32
            }));
        }
        Ok(nearest)
    }
}

/// The place at which a share of the sum of weights is passed; None where all
/// are 0.
fn drawn(weights: &[f64], share: f64) -> Option<usize> {
    let sum: f64 = weights.iter().sum();
    let mut left = share * sum;
    let passed = weights.iter().position(|w| {
        left -= w;
        *w > 0.0 && left < 0.0
    });
    passed.or_else(|| weights.iter().rposition(|w| *w > 0.0))
}

fn squared_distance(a: &[f32], b: &[f32]) -> f64 {
    f64::from(a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f32>())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Forty vectors around four corners.
    fn vectors() -> Tensor {
        let noise = |i: usize| ((i * 37 % 11) as f32 - 5.0) / 50.0;
        let data: Vec<f32> = (0..40)
            .flat_map(|i| {
                let (x, y) = ((i % 2) as f32 * 4.0, (i / 2 % 2) as f32 * 4.0);
                [x + noise(i), y + noise(i + 3), 1.0]
            })
            .collect();
        Tensor::from_slice(&[40, 3], &data).expect("fits")
    }

    #[test]
    fn centres_are_the_means_of_what_is_nearest_to_them() -> Result<()> {
        let vectors = vectors();
        let book = Codebook::fit(&vectors, 4, 20, Random::new(1))?;
        let codes = book.nearest(&vectors)?;
        for i in 0..40 {
            assert_eq!(codes[i], codes[i % 4], "vectors of a corner have one code");
        }
        let own: Vec<usize> = (0..40).filter(|i| codes[*i] == codes[0]).collect();
        assert_eq!(own.len(), 10);
        for feature in 0..3 {
            let mean = own.iter().map(|i| vectors.data()[i * 3 + feature]).sum::<f32>() / 10.0;
            assert!((book.centres().data()[codes[0] as usize * 3 + feature] - mean).abs() < 1e-5);
        }
        // The nearest by plain distances.
        let plain = |x: &[f32]| {
            let far = |code: &usize| squared_distance(x, &book.centres().data()[code * 3..][..3]);
            (0..4).min_by(|a, b| far(a).total_cmp(&far(b))).map(|code| code as u32)
        };
        assert!(vectors.data().chunks(3).zip(&codes).all(|(x, code)| plain(x) == Some(*code)));
        let again = Codebook::fit(&vectors, 4, 20, Random::new(1))?;
        assert!(again.centres().data() == book.centres().data());
        Ok(())
    }

    #[test]
    fn more_codes_than_different_vectors_are_refused() -> Result<()> {
        let same = Tensor::from_slice(&[6, 1], &[1.0, 1.0, 2.0, 2.0, 1.0, 2.0])?;
        assert!(Codebook::fit(&same, 2, 5, Random::new(1)).is_ok());
        let error = Codebook::fit(&same, 3, 5, Random::new(1)).expect_err("two").to_string();
        assert!(error.contains("there are 2"), "{error}");
        Ok(())
    }
}
