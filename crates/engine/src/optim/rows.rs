//! What an optimizer remembers of a large table of which few rows ever had a
//! gradient.
//!
//! The moments of a row that no token has touched are zero, and so is its
//! update but for the decoupled decay: neither is stored nor computed. What is
//! computed has the bits that it would have with all moments there.

use super::update::Factors;
use crate::Element;
use crate::parallel::Shared;
use crate::row_gradient::RowGradient;

/// The place of a row that never had a gradient.
const NOWHERE: u32 = u32::MAX;

/// The moments of some rows of a table.
#[derive(Debug, Clone)]
pub(super) struct RowMoments<E> {
    cols: usize,
    /// By row, its place in the moments.
    places: Vec<u32>,
    touched: usize,
    /// Each `[touched, cols]`, in the order of first gradients.
    moments: Vec<Vec<E>>,
}

impl<E: Element> RowMoments<E> {
    /// Nothing yet, for a table `[rows, cols]`.
    pub fn new(rows: usize, cols: usize, moments: usize) -> Self {
        Self { cols, places: vec![NOWHERE; rows], touched: 0, moments: vec![Vec::new(); moments] }
    }

    /// The rows of whole moments that are not all zero, if those are few.
    pub fn of_whole(rows: usize, cols: usize, whole: &[&[E]]) -> Option<Self> {
        let mut own = Self::new(rows, cols, whole.len());
        let used = |row: usize| whole.iter().any(|m| m[row * cols..][..cols].iter().any(|x| *x != E::ZERO));
        let touched: Vec<u32> = (0..rows).filter(|row| used(*row)).map(|row| row as u32).collect();
        if !RowGradient::<E>::pays(rows, cols, touched.len()) {
            return None;
        }
        own.touch(&touched);
        for (own, whole) in own.moments.iter_mut().zip(whole) {
            for (to, row) in own.chunks_exact_mut(cols).zip(&touched) {
                to.copy_from_slice(&whole[*row as usize * cols..][..cols]);
            }
        }
        Some(own)
    }

    /// Makes places for rows that have a gradient now.
    pub fn touch(&mut self, rows: &[u32]) {
        for row in rows {
            let place = &mut self.places[*row as usize];
            if *place == NOWHERE {
                *place = self.touched as u32;
                self.touched += 1;
            }
        }
        for moment in &mut self.moments {
            moment.resize(self.touched * self.cols, E::ZERO);
        }
    }

    /// Whether so many rows are touched that whole moments are better.
    pub fn is_full(&self) -> bool {
        self.touched * 2 > self.places.len()
    }

    /// One moment of all rows into `whole`, `[rows, cols]`.
    pub fn write_out(&self, moment: usize, whole: &mut [E]) {
        for (row, place) in whole.chunks_exact_mut(self.cols).zip(&self.places) {
            match *place {
                NOWHERE => row.fill(E::ZERO),
                place => row.copy_from_slice(&self.moments[moment][place as usize * self.cols..][..self.cols]),
            }
        }
    }

    /// The moments for tasks that each take rows of their own.
    pub fn shared(&mut self) -> SharedMoments<'_, E> {
        let moments = self.moments.iter_mut().map(|m| Shared::new(m)).collect();
        SharedMoments { places: Some(&self.places), moments }
    }
}

/// Moments that several tasks update, each those of its own rows.
pub(super) struct SharedMoments<'a, E> {
    /// By row; None: each row is at its own place.
    places: Option<&'a [u32]>,
    moments: Vec<Shared<E>>,
}

impl<'a, E: Element> SharedMoments<'a, E> {
    /// Those of all rows.
    pub fn whole(moments: impl Iterator<Item = &'a mut [E]>) -> Self {
        Self { places: None, moments: moments.map(Shared::new).collect() }
    }

    /// Updates rows `first..` of a table, `p`, of which some have a gradient.
    /// `nothing` is a row of zeros.
    ///
    /// # Safety
    /// Nobody else updates these rows, and all of them lie in the table.
    pub unsafe fn update(
        &self,
        first: usize,
        p: &mut [E],
        gradient: &RowGradient<E>,
        nothing: &[E],
        factors: Factors<E>,
    ) {
        let (cols, index) = (nothing.len(), gradient.index());
        let mut next = index.partition_point(|row| (*row as usize) < first);
        for (row, p) in (first..).zip(p.chunks_exact_mut(cols)) {
            let known = index.get(next) == Some(&(row as u32));
            let g = if known { gradient.row(next) } else { nothing };
            next += usize::from(known);
            let place = self.places.map_or(row, |places| places[row] as usize);
            if place == NOWHERE as usize {
                factors.untouched(p);
                continue;
            }
            // SAFETY: each row has a place of its own, and the row is the
            // caller's.
            let moments = self.moments.iter().map(|m| unsafe { m.slice(place * cols, cols) });
            factors.update(p, g, moments);
        }
    }
}
