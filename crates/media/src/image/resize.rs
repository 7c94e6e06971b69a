//! Changing the size of a picture, as Pillow does it.
//!
//! Shrinking widens the filter by the scale, so that every source pixel counts (antialiasing).

use serde::{Deserialize, Serialize};

use super::Image;
use super::convolution::{Kernel, convolve};

/// The filter of a resize, by Pillow's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Filter {
    /// The one pixel nearest to the centre.
    Nearest,
    /// The mean of the covered pixels.
    Box,
    /// A triangle, the usual choice of ImageNet models.
    Bilinear,
    /// Catmull-Rom with a = -0.5, the usual choice of CLIP and ViT models.
    #[default]
    Bicubic,
    /// A sinc of three lobes.
    Lanczos,
}

/// Resizes to `width` x `height` (each at least 1), as Pillow's `Image.resize` does within 1/255.
pub fn resize(image: &Image, width: usize, height: usize, filter: Filter) -> Image {
    let (width, height) = (width.max(1), height.max(1));
    if (width, height) == (image.width, image.height) {
        return image.clone();
    }
    let kernel = match filter {
        Filter::Nearest => return nearest(image, width, height),
        Filter::Box => Kernel::BOX,
        Filter::Bilinear => Kernel::BILINEAR,
        Filter::Bicubic => Kernel::BICUBIC,
        Filter::Lanczos => Kernel::LANCZOS,
    };
    convolve(image, width, height, &kernel)
}

fn nearest(image: &Image, width: usize, height: usize) -> Image {
    // Positions are summed rather than multiplied, so that ties fall as in Pillow.
    let positions = |from: usize, to: usize| -> Vec<usize> {
        let scale = from as f64 / to as f64;
        let mut position = scale * 0.5;
        let mut step = || {
            let index = (position as usize).min(from - 1);
            position += scale;
            index
        };
        (0..to).map(|_| step()).collect()
    };
    let columns = positions(image.width, width);
    let mut data = Vec::with_capacity(width * height * 3);
    for row in positions(image.height, height) {
        let row = &image.data[row * image.width * 3..(row + 1) * image.width * 3];
        for column in &columns {
            data.extend_from_slice(&row[column * 3..column * 3 + 3]);
        }
    }
    Image { width, height, data }
}

/// Longest side of a resize to a shorter side, as a multiple of it.
const MAX_ASPECT: usize = 64;

/// Resizes so that the shorter side has `size` pixels, keeping the proportions.
///
/// The longer side is `size * longer / shorter` cut to a whole number, as in torchvision's `Resize`;
/// it is held to 64 times the shorter one, so that a picture one pixel high cannot fill the memory.
pub fn resize_shorter_side(image: &Image, size: usize, filter: Filter) -> Image {
    let (width, height) = shorter_side_size(image.width, image.height, size);
    resize(image, width, height, filter)
}

/// The size that keeps the proportions and has a shorter side of `size`.
pub(crate) fn shorter_side_size(width: usize, height: usize, size: usize) -> (usize, usize) {
    let size = size.max(1);
    let longer = |longer: usize, shorter: usize| {
        let proportional = size as u128 * longer as u128 / shorter.max(1) as u128;
        proportional.min(size as u128 * MAX_ASPECT as u128) as usize
    };
    if width <= height { (size, longer(height, width)) } else { (longer(width, height), size) }
}

/// Cuts `width` x `height` pixels out of the middle; sides that are too short are padded with black
/// first, as in torchvision's `CenterCrop`.
pub fn center_crop(image: &Image, width: usize, height: usize) -> Image {
    let (width, height) = (width.max(1), height.max(1));
    let missing_x = width.saturating_sub(image.width);
    let missing_y = height.saturating_sub(image.height);
    let padded;
    let image = if missing_x + missing_y > 0 {
        let (left, top) = (missing_x / 2, missing_y / 2);
        let margins = [left, top, missing_x - left, missing_y - top];
        padded = pad(image, margins, [0; 3]);
        &padded
    } else {
        image
    };
    crop(image, half_to_even(image.width - width), half_to_even(image.height - height), width, height)
}

/// Half of `n`, rounded to the even neighbour as Python's `round` does.
fn half_to_even(n: usize) -> usize {
    let half = n / 2;
    if n % 2 == 1 && half % 2 == 1 { half + 1 } else { half }
}

/// Cuts out the rectangle of `width` x `height` pixels at (`left`, `top`), moved and shrunk to lie
/// inside the picture.
pub fn crop(image: &Image, left: usize, top: usize, width: usize, height: usize) -> Image {
    let (left, width) = fit_inside(left, width, image.width);
    let (top, height) = fit_inside(top, height, image.height);
    let mut data = Vec::with_capacity(width * height * 3);
    for row in image.data.chunks_exact(image.width * 3).skip(top).take(height) {
        data.extend_from_slice(&row[left * 3..(left + width) * 3]);
    }
    Image { width, height, data }
}

/// The nearest span of at least one pixel inside `0..available`.
fn fit_inside(start: usize, length: usize, available: usize) -> (usize, usize) {
    let length = length.clamp(1, available);
    (start.min(available - length), length)
}

/// Adds `[left, top, right, bottom]` pixels of one colour around the picture.
pub fn pad(image: &Image, [left, top, right, bottom]: [usize; 4], color: [u8; 3]) -> Image {
    let mut padded = Image::filled(left + image.width + right, top + image.height + bottom, color);
    let stride = padded.width * 3;
    let rows = padded.data.chunks_exact_mut(stride).skip(top);
    for (row, source) in rows.zip(image.data.chunks_exact(image.width * 3)) {
        row[left * 3..left * 3 + source.len()].copy_from_slice(source);
    }
    padded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(width: usize, height: usize) -> Image {
        let data = (0..width * height).flat_map(|i| [i as u8, 0, 255 - i as u8]).collect();
        Image::new(width, height, data).unwrap()
    }

    #[test]
    fn the_shorter_side_gets_the_size_and_the_other_keeps_the_proportion() {
        assert_eq!(shorter_side_size(640, 480, 224), (298, 224));
        assert_eq!(shorter_side_size(480, 640, 224), (224, 298));
        assert_eq!(shorter_side_size(10_000, 1, 224), (64 * 224, 224));
        let image = resize_shorter_side(&numbered(6, 3), 8, Filter::Bicubic);
        assert_eq!((image.width, image.height), (16, 8));
    }

    #[test]
    fn a_centre_crop_takes_the_middle_and_pads_what_is_missing() {
        let image = center_crop(&numbered(5, 3), 3, 1);
        assert_eq!([image.pixel(0, 0)[0], image.pixel(2, 0)[0]], [6, 8]);
        let image = center_crop(&numbered(1, 1), 3, 3);
        assert_eq!(image.pixel(1, 1), [0, 0, 255]);
        assert_eq!(image.pixel(0, 1), [0, 0, 0]);
    }

    #[test]
    fn crops_outside_the_picture_are_moved_inside() {
        let image = crop(&numbered(4, 4), 100, 100, 2, 9);
        assert_eq!((image.width, image.height), (2, 4));
        assert_eq!(image.pixel(0, 0)[0], 2);
    }
}
