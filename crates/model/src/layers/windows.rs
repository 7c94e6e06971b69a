//! Attention within the windows of a grid of tokens.

use super::{Arrangement, DistanceBias};
use crate::{Context, ModelError, Result};
use sensorium_engine::{Builder, Init, Offsets, ParamId};
use std::rc::Rc;
use std::sync::Arc;

/// The windows of a stack of layers over grids of tokens, and what each layer
/// adds to the scores by the way from one token to another (Swin, Liu et al.
/// 2021).
///
/// Every second layer's windows are moved down and across by half a side, the
/// grid's borders joined; tokens that only that join brings into one window do
/// not see each other. So a window, or what the borders leave of it, is a
/// segment of the tokens in another order, and attention needs no mask. Tokens
/// that fill up a grid which windows do not cover evenly are zeros, and seen.
#[derive(Debug, Clone)]
pub(super) struct GridWindows {
    side: usize,
    tables: Vec<ParamId>,
    entries: Arc<[u32]>,
}

impl GridWindows {
    /// Windows with this side, for no layer yet.
    ///
    /// # Errors
    /// When the windows are empty or too large.
    pub(super) fn new(side: usize) -> Result<Self> {
        if !(1..=256).contains(&side) {
            return Err(ModelError::config("windows", format!("a side of {side} tokens is not from 1 to 256")));
        }
        let ways = (2 * side - 1) * (2 * side - 1);
        // Ways from a query to a key are counted from the last.
        Ok(Self { side, tables: Vec::new(), entries: (0..ways as u32).rev().collect() })
    }

    /// Creates the next layer's `relative_positions` `[(2 side - 1)², heads]`.
    ///
    /// # Errors
    /// When the name is taken.
    pub(super) fn add_layer(&mut self, b: &mut Builder<'_>, heads: usize) -> Result<()> {
        self.tables.push(b.param("relative_positions", &[self.entries.len(), heads], Init::Normal(0.02))?);
        Ok(())
    }

    /// The windows of segments that are grids of (height, width) tokens: those
    /// of even layers, and those of odd ones.
    ///
    /// # Errors
    /// When the segments are no such grids, or a window does not fit into one.
    pub(super) fn layouts_of(&self, segments: &Offsets, grid: Option<(usize, usize)>) -> Result<[Rc<WindowLayout>; 2]> {
        let Some((height, width)) = grid else {
            return Err(ModelError::config("windows", "the tokens of a stack with windows must be grids"));
        };
        if let Some(odd) = segments.ranges().map(|r| r.len()).find(|n| *n != height * width) {
            let problem = format!("a segment of {odd} tokens is no grid of {height} × {width}");
            return Err(ModelError::config("windows", problem));
        }
        let (smallest, grids) = (height.min(width), segments.segments());
        if smallest < self.side {
            let problem = format!("windows of {0} × {0} do not fit a grid of {height} × {width} tokens", self.side);
            return Err(ModelError::config("windows", problem));
        }
        let layout = |moved| Rc::new(WindowLayout::new(grids, (height, width), self.side, moved));
        let still = layout(0);
        // A grid of one window has nowhere to move it.
        let moved = if smallest == self.side { 0 } else { self.side / 2 };
        let odd = if moved == 0 { Rc::clone(&still) } else { layout(moved) };
        Ok([still, odd])
    }

    /// The biases of a layer over a layout.
    pub(super) fn bias(&self, cx: &Context<'_>, layer: usize, layout: &WindowLayout) -> DistanceBias {
        DistanceBias {
            table: cx.param(self.tables[layer % self.tables.len()]),
            entries: Arc::clone(&self.entries),
            zero: self.entries.len() / 2,
            places: Some((Arc::clone(&layout.places), Arc::clone(&layout.places))),
        }
    }
}

/// Tokens of grids in the order of their windows.
#[derive(Debug)]
pub(super) struct WindowLayout {
    pub(super) arrangement: Rc<Arrangement>,
    /// Where each row stands in its window.
    places: Arc<[u32]>,
}

impl WindowLayout {
    fn new(grids: usize, (height, width): (usize, usize), side: usize, moved: usize) -> Self {
        let (down, across) = (height.div_ceil(side), width.div_ceil(side));
        let (tall, wide) = (down * side, across * side);
        let tokens = grids * height * width;
        let (mut order, mut places, mut lengths) = (Vec::new(), Vec::new(), Vec::new());
        // Of a last window that was moved, what was there before and what
        // came from the other border.
        let parts = |window: usize, windows: usize| {
            let cut = if window + 1 == windows { side - moved } else { side };
            [0..cut, cut..side].into_iter().filter(|part| !part.is_empty())
        };
        for grid in 0..grids {
            for (row, column) in (0..down).flat_map(|row| (0..across).map(move |column| (row, column))) {
                for lines in parts(row, down) {
                    for columns in parts(column, across) {
                        lengths.push(lines.len() * columns.len());
                        for (y, x) in lines.clone().flat_map(|y| columns.clone().map(move |x| (y, x))) {
                            let at = ((row * side + y + moved) % tall, (column * side + x + moved) % wide);
                            places.push((y * (2 * side - 1) + x) as u32);
                            let inside = at.0 < height && at.1 < width;
                            let token = (grid * height + at.0) * width + at.1;
                            order.push(if inside { token } else { tokens } as u32);
                        }
                    }
                }
            }
        }
        Self { arrangement: Rc::new(Arrangement::new(tokens, order, lengths)), places: places.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segments(layout: &WindowLayout) -> Vec<&[u32]> {
        layout.arrangement.segments.ranges().map(|r| &layout.arrangement.order()[r]).collect()
    }

    #[test]
    fn windows_that_stand_still_are_squares_of_the_grid() {
        let layout = WindowLayout::new(1, (2, 4), 2, 0);
        assert_eq!(segments(&layout), [[0, 1, 4, 5], [2, 3, 6, 7]]);
        assert_eq!(layout.places[..], [0, 1, 3, 4, 0, 1, 3, 4]);
    }

    #[test]
    fn moved_windows_are_cut_at_the_borders() {
        let layout = WindowLayout::new(2, (4, 4), 2, 1);
        let first = [&[5, 6, 9, 10][..], &[7, 11], &[4, 8], &[13, 14], &[1, 2], &[15], &[12], &[3], &[0]];
        assert_eq!(segments(&layout)[..9], first);
        assert_eq!(segments(&layout)[17], [16]);
        // The lines that came from the other border stand below the others.
        assert_eq!(layout.places[8..12], [0, 1, 3, 4]);
    }

    #[test]
    fn a_grid_that_windows_do_not_cover_is_filled_with_zeros() {
        let layout = WindowLayout::new(1, (3, 3), 2, 0);
        assert_eq!(segments(&layout), [[0, 1, 3, 4], [2, 9, 5, 9], [6, 7, 9, 9], [8, 9, 9, 9]]);
        let moved = WindowLayout::new(1, (3, 3), 2, 1);
        assert_eq!(segments(&moved)[..3], [&[4, 5, 7, 8][..], &[9, 9], &[3, 6]]);
    }
}
