//! Tokens in another order, for attention among others than their segment's.

use crate::{Context, Result};
use sensorium_engine::{Offsets, Tensor, Var, ops};

/// An order of tokens in which those that see each other are segments: windows
/// of a grid, the patches of a frame, one patch through time.
#[derive(Debug)]
pub struct Arrangement {
    /// Who sees whom.
    pub(super) segments: Offsets,
    /// The token that stands at each row; one past the last token for zeros.
    order: Vec<u32>,
    /// The rows at which each token stands, those of a token one after
    /// another; one past the last row for zeros.
    back: Vec<u32>,
    /// How many rows of `back` each token has; none for one each.
    several: Option<Offsets>,
    tokens: usize,
}

impl Arrangement {
    /// An order of `tokens` tokens cut into segments of these lengths. A token
    /// may stand at several rows, and what attention makes of it is then their
    /// mean, or at none, which makes zeros; rows may be zeros (`tokens`).
    pub(crate) fn new(tokens: usize, order: Vec<u32>, lengths: impl IntoIterator<Item = usize>) -> Self {
        let mut counts = vec![0_usize; tokens];
        for token in order.iter().filter(|token| (**token as usize) < tokens) {
            counts[*token as usize] += 1;
        }
        let of_tokens = Offsets::from_lengths(counts.iter().map(|rows| (*rows).max(1)));
        let mut next = of_tokens.bounds()[..tokens].to_vec();
        let mut back = vec![order.len() as u32; of_tokens.total()];
        for (row, token) in order.iter().enumerate().filter(|(_, token)| (**token as usize) < tokens) {
            back[next[*token as usize]] = row as u32;
            next[*token as usize] += 1;
        }
        let several = counts.iter().any(|rows| *rows > 1).then_some(of_tokens);
        Self { segments: Offsets::from_lengths(lengths), order, back, several, tokens }
    }

    #[cfg(test)]
    pub(super) fn order(&self) -> &[u32] {
        &self.order
    }

    /// Tokens `[tokens, hidden]` in this order `[rows, hidden]`.
    pub(super) fn arrange(&self, cx: &Context<'_>, x: &Var) -> Result<Var> {
        gather_or_zeros(cx, x, &self.order, self.tokens)
    }

    /// The reverse of [`Arrangement::arrange`].
    pub(super) fn restore(&self, cx: &Context<'_>, x: &Var) -> Result<Var> {
        let rows = gather_or_zeros(cx, x, &self.back, self.order.len())?;
        match &self.several {
            Some(several) => Ok(ops::pool(cx.tape, &rows, several, ops::Pooling::Mean)?),
            None => Ok(rows),
        }
    }
}

/// The rows of `x` that `index` names, zeros for `none`, one past the last.
pub(super) fn gather_or_zeros(cx: &Context<'_>, x: &Var, index: &[u32], none: usize) -> Result<Var> {
    if !index.contains(&(none as u32)) {
        return Ok(ops::gather_rows(cx.tape, x, index)?);
    }
    let zeros = Var::constant(Tensor::zeros(&[1, x.cols()]));
    Ok(ops::gather_rows(cx.tape, &ops::concat_rows(cx.tape, &[x, &zeros])?, index)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sensorium_engine::{Params, Tape};

    #[test]
    fn tokens_come_back_as_the_mean_of_their_rows_or_as_zeros() -> Result<()> {
        let (tape, params) = (Tape::inference(), Params::new());
        let cx = Context::inference(&tape, &params);
        let x = Var::constant(Tensor::from_slice(&[3, 1], &[1.0, 2.0, 3.0])?);
        let plain = Arrangement::new(3, vec![2, 0, 1], [2, 1]);
        assert_eq!(plain.arrange(&cx, &x)?.data(), [3.0, 1.0, 2.0]);
        assert_eq!(plain.restore(&cx, &plain.arrange(&cx, &x)?)?.data(), [1.0, 2.0, 3.0]);
        let other = Arrangement::new(3, vec![0, 2, 3, 0], [2, 2]);
        assert_eq!(other.arrange(&cx, &x)?.data(), [1.0, 3.0, 0.0, 1.0]);
        let rows = Var::constant(Tensor::from_slice(&[4, 1], &[1.0, 2.0, 3.0, 5.0])?);
        assert_eq!(other.restore(&cx, &rows)?.data(), [3.0, 0.0, 2.0]);
        Ok(())
    }
}
