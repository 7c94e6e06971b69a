//! The arithmetic of one step on one run of elements, with PyTorch's order of
//! operations.

use crate::Element;
use crate::simd::vectorised;

/// The rule of one parameter at one step.
#[derive(Clone, Copy)]
pub(super) enum Factors<E> {
    Adam(Adam<E>),
    Sgd(Sgd<E>),
}

impl<E: Element> Factors<E> {
    /// Updates a run of elements with as many moments as the rule keeps.
    pub(super) fn update<'a>(self, p: &mut [E], g: &[E], mut moments: impl Iterator<Item = &'a mut [E]>) {
        match (self, moments.next(), moments.next()) {
            (Self::Adam(factors), Some(m), Some(v)) => adam(p, g, m, v, factors),
            (Self::Sgd(factors), Some(m), None) => sgd_momentum(p, g, m, factors),
            (Self::Sgd(factors), None, None) => sgd(p, g, factors),
            _ => unreachable!("Adam keeps two moments, gradient descent at most one"),
        }
    }

    /// Whether elements without gradient and moments change by a factor alone:
    /// not if their decay counts as a gradient, or zero is divided by zero.
    pub(super) fn spares_untouched(self) -> bool {
        match self {
            Self::Adam(factors) => factors.l2 == E::ZERO && factors.eps != E::ZERO,
            Self::Sgd(factors) => factors.l2 == E::ZERO,
        }
    }

    /// Updates elements without gradient and moments.
    pub(super) fn untouched(self, p: &mut [E]) {
        if let Self::Adam(factors) = self
            && factors.keep != E::ONE
        {
            p.iter_mut().for_each(|p| *p *= factors.keep);
        }
    }
}

/// Adam's factors for one parameter at one step.
#[derive(Clone, Copy)]
pub(super) struct Adam<E> {
    /// What the gradient is multiplied by first (clipping, accumulation).
    pub scale: E,
    /// What the parameter is multiplied by: 1 − lr · decay (AdamW), else 1.
    pub keep: E,
    /// What of the parameter is added to the gradient (L2, Adam), else 0.
    pub l2: E,
    pub beta2: E,
    /// 1 − β₁
    pub fresh1: E,
    /// 1 − β₂
    pub fresh2: E,
    /// lr / (1 − β₁ᵗ)
    pub rate: E,
    /// √(1 − β₂ᵗ)
    pub correction: E,
    pub eps: E,
}

/// SGD's factors for one parameter at one step.
#[derive(Clone, Copy)]
pub(super) struct Sgd<E> {
    pub scale: E,
    pub l2: E,
    pub momentum: E,
    pub nesterov: bool,
    pub rate: E,
}

vectorised! {
    pub(super) fn adam<E>(p: &mut [E], g: &[E], m: &mut [E], v: &mut [E], c: Adam<E>) {
        for (((p, g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
            let g = *g * c.scale + *p * c.l2;
            *m += (g - *m) * c.fresh1;
            *v = *v * c.beta2 + g * g * c.fresh2;
            *p = *p * c.keep - c.rate * *m / (v.sqrt() / c.correction + c.eps);
        }
    }
}
vectorised! {
    pub(super) fn sgd<E>(p: &mut [E], g: &[E], c: Sgd<E>) {
        for (p, g) in p.iter_mut().zip(g) {
            let g = *g * c.scale + *p * c.l2;
            *p -= c.rate * g;
        }
    }
}
vectorised! {
    pub(super) fn sgd_momentum<E>(p: &mut [E], g: &[E], m: &mut [E], c: Sgd<E>) {
        // Nesterov looks ahead: the gradient plus what momentum will add.
        let (of_gradient, of_momentum) = if c.nesterov { (E::ONE, c.momentum) } else { (E::ZERO, E::ONE) };
        for ((p, g), m) in p.iter_mut().zip(g).zip(m) {
            let g = *g * c.scale + *p * c.l2;
            *m = *m * c.momentum + g;
            *p -= c.rate * (g * of_gradient + *m * of_momentum);
        }
    }
}
vectorised! {
    /// average ← average + fresh · (p − average)
    pub(super) fn average<E>(average: &mut [E], p: &[E], fresh: E) {
        for (a, p) in average.iter_mut().zip(p) {
            *a += (*p - *a) * fresh;
        }
    }
}
