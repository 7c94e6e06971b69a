//! A moving average of the parameters.

use super::update;
use crate::{Element, EngineError, Params, Result, Tensor};

/// The exponential moving average of all parameters, which often evaluates
/// better than the last of them (Polyak and Juditsky 1992).
#[derive(Debug, Clone)]
pub struct Ema<E: Element = f32> {
    averages: Vec<Tensor<E>>,
}

impl<E: Element> Ema<E> {
    /// Starts at the parameters as they are.
    pub fn new(params: &Params<E>) -> Self {
        Self { averages: params.iter().map(|(_, p)| p.value.clone()).collect() }
    }

    /// average ← decay · average + (1 − decay) · parameter. Frozen parameters
    /// are taken over as they are.
    ///
    /// # Errors
    /// When the parameters are not those of the beginning or `decay` is not in
    /// [0, 1].
    pub fn update(&mut self, params: &Params<E>, decay: f64) -> Result<()> {
        if !(0.0..=1.0).contains(&decay) {
            return Err(EngineError::setting("moving average", format!("decay {decay} is not in [0, 1]")));
        }
        self.check(params)?;
        let fresh = E::of(1.0 - decay);
        for (average, (_, p)) in self.averages.iter_mut().zip(params.iter()) {
            if !p.trainable {
                *average = p.value.clone();
                continue;
            }
            let from = p.value.data();
            crate::parallel::rows_mut(average.data_mut(), 1, |first, part| {
                let end = first + part.len();
                update::average(part, &from[first..end], fresh);
            });
        }
        Ok(())
    }

    /// Exchanges the parameters and their averages: once to evaluate with the
    /// averages, once more to go on training.
    ///
    /// # Errors
    /// When the parameters are not those of the beginning.
    pub fn swap(&mut self, params: &mut Params<E>) -> Result<()> {
        self.check(params)?;
        for (average, (_, p)) in self.averages.iter_mut().zip(params.iter_mut()) {
            std::mem::swap(average, &mut p.value);
        }
        Ok(())
    }

    /// The averages under their parameters' names.
    pub fn state(&self, params: &Params<E>) -> Vec<(String, Tensor<E>)> {
        params.iter().zip(&self.averages).map(|((_, p), t)| (p.name.clone(), t.clone())).collect()
    }

    /// Replaces the averages by what [`Ema::state`] gave.
    ///
    /// # Errors
    /// When a name or a shape does not fit, or one is missing; nothing has
    /// changed then.
    pub fn load_state(&mut self, params: &Params<E>, state: &[(String, Tensor<E>)]) -> Result<()> {
        let bad = |problem: String| Err(EngineError::setting("moving average state", problem));
        let mut averages: Vec<Option<Tensor<E>>> = vec![None; params.len()];
        for (name, tensor) in state {
            let Some(id) = params.id(name) else {
                return bad(format!("{name} is no parameter of this model"));
            };
            let expected = params.get(id).value.shape();
            if tensor.shape() != expected {
                return bad(format!("{name} has shape {}, expected {expected}", tensor.shape()));
            }
            averages[id.index()] = Some(tensor.clone());
        }
        if let Some((_, p)) = params.iter().find(|(id, _)| averages[id.index()].is_none()) {
            return bad(format!("{} is missing", p.name));
        }
        self.averages = averages.into_iter().flatten().collect();
        Ok(())
    }

    fn check(&self, params: &Params<E>) -> Result<()> {
        let same = self.averages.len() == params.len()
            && self.averages.iter().zip(params.iter()).all(|(a, (_, p))| a.shape() == p.value.shape());
        if same {
            return Ok(());
        }
        Err(EngineError::setting("moving average", "the parameters are not those it was started with"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(values: &[f32]) -> Result<Params<f32>> {
        let mut p = Params::new();
        p.insert("w", Tensor::from_slice(&[values.len()], values)?)?;
        p.insert("frozen", Tensor::full(&[1], 7.0))?;
        let id = p.id("frozen").expect("just inserted");
        p.get_mut(id).trainable = false;
        Ok(p)
    }

    #[test]
    fn averages_follow_the_formula_swap_and_return() -> Result<()> {
        let mut p = params(&[1.0, 2.0])?;
        let mut ema = Ema::new(&p);
        let w = p.id("w").expect("there");
        p.get_mut(w).value = Tensor::from_slice(&[2], &[3.0, -2.0])?;
        ema.update(&p, 0.75)?;
        ema.swap(&mut p)?;
        assert_eq!(p.get(w).value.data(), [1.5, 1.0]);
        ema.swap(&mut p)?;
        assert_eq!(p.get(w).value.data(), [3.0, -2.0]);
        Ok(())
    }

    #[test]
    fn state_goes_out_and_in_to_the_bit() -> Result<()> {
        let p = params(&[0.1, 0.2, 0.3])?;
        let mut ema = Ema::new(&params(&[1.0, 1.0, 1.0])?);
        ema.update(&p, 0.9)?;
        let mut other = Ema::new(&p);
        other.load_state(&p, &ema.state(&p))?;
        for ((_, a), (_, b)) in ema.state(&p).iter().zip(&other.state(&p)) {
            assert_eq!(a.data(), b.data());
        }
        assert!(other.load_state(&p, &ema.state(&p)[..1]).is_err());
        assert!(other.load_state(&p, &[("x".into(), Tensor::zeros(&[1]))]).is_err());
        assert!(other.load_state(&p, &[("w".into(), Tensor::zeros(&[1]))]).is_err());
        Ok(())
    }

    #[test]
    fn other_parameters_and_impossible_decays_are_refused() -> Result<()> {
        let mut ema = Ema::new(&params(&[1.0])?);
        assert!(ema.update(&params(&[1.0, 2.0])?, 0.9).is_err());
        assert!(ema.swap(&mut params(&[1.0, 2.0])?).is_err());
        assert!(ema.update(&params(&[1.0])?, 1.1).is_err());
        Ok(())
    }
}
