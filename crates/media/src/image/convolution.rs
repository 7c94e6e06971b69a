//! The separable convolution behind resizing: along the rows and along the columns.
//!
//! Pillow's arithmetic is kept where it can be seen: the same windows and weights, the same of the
//! two first, the result rounded to bytes in between. Sums are 32-bit floating point in a fixed order instead
//! of fixed point, which the compiler turns into vector code on every machine and which differs from
//! exact sums by less than a ten-thousandth of a step.

use super::Image;

/// A filter: its weight at a distance, and the distance at which it ends.
pub(super) struct Kernel {
    weight: fn(f64) -> f64,
    support: f64,
}

impl Kernel {
    pub const BOX: Self = Self { weight: |x| if x > -0.5 && x <= 0.5 { 1.0 } else { 0.0 }, support: 0.5 };
    pub const BILINEAR: Self = Self { weight: |x| (1.0 - x.abs()).max(0.0), support: 1.0 };
    pub const BICUBIC: Self = Self { weight: bicubic, support: 2.0 };
    pub const LANCZOS: Self = Self { weight: lanczos, support: 3.0 };
}

fn bicubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

fn lanczos(x: f64) -> f64 {
    let sinc = |x: f64| {
        let angle = x * std::f64::consts::PI;
        if angle == 0.0 { 1.0 } else { angle.sin() / angle }
    };
    if (-3.0..3.0).contains(&x) { sinc(x) * sinc(x / 3.0) } else { 0.0 }
}

/// The inputs that make one output: the first of them and their weights, which sum to 1.
struct Window {
    first: usize,
    weights: Vec<f32>,
}

/// One window for each output of a line.
fn windows(input: usize, output: usize, kernel: &Kernel) -> Vec<Window> {
    let scale = input as f64 / output as f64;
    // Shrinking widens the filter; enlarging leaves it.
    let stretch = scale.max(1.0);
    let support = kernel.support * stretch;
    let window = |index: usize| {
        let centre = (index as f64 + 0.5) * scale;
        // Casts cut towards zero and at zero.
        let first = ((centre - support + 0.5) as usize).min(input - 1);
        let end = ((centre + support + 0.5) as usize).clamp(first + 1, input);
        let weight = |i: usize| (kernel.weight)((i as f64 - centre + 0.5) / stretch);
        let weights: Vec<f64> = (first..end).map(weight).collect();
        let sum: f64 = weights.iter().sum();
        let scale = if sum == 0.0 { 1.0 } else { 1.0 / sum };
        Window { first, weights: weights.iter().map(|weight| (weight * scale) as f32).collect() }
    };
    (0..output).map(window).collect()
}

/// Resizes with a filter; sides that keep their length are not filtered.
pub(super) fn convolve(image: &Image, width: usize, height: usize, kernel: &Kernel) -> Image {
    // As in Pillow 13. Which comes first can be seen where values beyond black and white are cut off.
    let lower = image.height.saturating_sub(height);
    let narrower = image.width.saturating_sub(width);
    let steps = if lower > 2 * narrower { [Axis::Columns, Axis::Rows] } else { [Axis::Rows, Axis::Columns] };
    let mut result = None;
    for step in steps {
        let image = result.as_ref().unwrap_or(image);
        match step {
            Axis::Rows if width != image.width => result = Some(along_rows(image, width, kernel)),
            Axis::Columns if height != image.height => result = Some(along_columns(image, height, kernel)),
            Axis::Rows | Axis::Columns => {}
        }
    }
    result.unwrap_or_else(|| image.clone())
}

/// What a step of the convolution goes along.
#[derive(Clone, Copy)]
enum Axis {
    Rows,
    Columns,
}

/// Values summed side by side: four pixels of three channels.
const LANES: usize = 12;

fn along_rows(image: &Image, width: usize, kernel: &Kernel) -> Image {
    // Weights are laid out like the values of a row, each three times, and filled up with zeros to
    // whole steps; a row is filled up as well, so that every window may read whole steps.
    let windows: Vec<(usize, Vec<f32>)> = windows(image.width, width, kernel)
        .into_iter()
        .map(|window| {
            let mut spread: Vec<f32> = window.weights.iter().flat_map(|&w| [w; 3]).collect();
            spread.resize(spread.len().next_multiple_of(LANES), 0.0);
            (window.first * 3, spread)
        })
        .collect();
    let mut row = vec![0.0f32; image.width * 3 + LANES];
    let mut data = vec![0u8; width * image.height * 3];
    let rows = image.data.chunks_exact(image.width * 3);
    for (source, target) in rows.zip(data.chunks_exact_mut(width * 3)) {
        for (value, &byte) in row.iter_mut().zip(source) {
            *value = f32::from(byte);
        }
        for (pixel, (first, weights)) in target.chunks_exact_mut(3).zip(&windows) {
            let mut sums = [0.0f32; LANES];
            let values = row[*first..*first + weights.len()].chunks_exact(LANES);
            for (values, weights) in values.zip(weights.chunks_exact(LANES)) {
                for lane in 0..LANES {
                    sums[lane] += values[lane] * weights[lane];
                }
            }
            for (channel, byte) in pixel.iter_mut().enumerate() {
                let sum = (sums[channel] + sums[channel + 3]) + (sums[channel + 6] + sums[channel + 9]);
                *byte = round_to_byte(sum);
            }
        }
    }
    Image { width, height: image.height, data }
}

fn along_columns(image: &Image, height: usize, kernel: &Kernel) -> Image {
    let stride = image.width * 3;
    let mut data = vec![0u8; stride * height];
    let mut sums = vec![0.0f32; stride];
    let windows = windows(image.height, height, kernel);
    for (target, window) in data.chunks_exact_mut(stride).zip(&windows) {
        sums.fill(0.0);
        let rows = image.data[window.first * stride..].chunks_exact(stride);
        for (row, &weight) in rows.zip(&window.weights) {
            for (sum, &byte) in sums.iter_mut().zip(row) {
                *sum += weight * f32::from(byte);
            }
        }
        for (byte, &sum) in target.iter_mut().zip(&sums) {
            *byte = round_to_byte(sum);
        }
    }
    Image { width: image.width, height, data }
}

/// To the nearest whole number in 0 to 255.
fn round_to_byte(value: f32) -> u8 {
    (value + 0.5) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_sum_to_one_and_windows_lie_inside() {
        for kernel in [Kernel::BOX, Kernel::BILINEAR, Kernel::BICUBIC, Kernel::LANCZOS] {
            for (input, output) in [(1, 1), (1, 9), (9, 1), (37, 10), (10, 37), (1000, 3), (29, 10)] {
                for window in windows(input, output, &kernel) {
                    let sum: f32 = window.weights.iter().sum();
                    assert!((sum - 1.0).abs() < 1e-5, "{input} to {output}: {sum}");
                    assert!(window.first + window.weights.len() <= input);
                }
            }
        }
    }

    #[test]
    fn a_flat_picture_stays_flat() {
        let image = Image::filled(50, 40, [7, 128, 255]);
        for kernel in [Kernel::BOX, Kernel::BILINEAR, Kernel::BICUBIC, Kernel::LANCZOS] {
            assert_eq!(convolve(&image, 13, 90, &kernel), Image::filled(13, 90, [7, 128, 255]));
        }
    }
}
