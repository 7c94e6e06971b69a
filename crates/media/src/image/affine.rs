//! Turns, shears, shifts and mirrors, by the nearest pixel as Pillow does.

use super::Image;

/// Takes each output pixel from where the matrix sends it: `x' = a x + b y + c`,
/// `y' = d x + e y + f`, both at pixel centres; outside the picture it is `fill`.
///
/// Coordinates are 16.16 fixed point, as in Pillow's `Image.transform` with `NEAREST`.
pub fn affine(image: &Image, [a, b, c, d, e, f]: [f64; 6], fill: [u8; 3]) -> Image {
    let fixed = |value: f64| (value * 65_536.0 + 0.5).floor() as i64;
    let (step_x, row_x) = (fixed(a), fixed(b));
    let (step_y, row_y) = (fixed(d), fixed(e));
    let mut start_x = fixed(c + a * 0.5 + b * 0.5);
    let mut start_y = fixed(f + d * 0.5 + e * 0.5);
    let mut output = Image::filled(image.width, image.height, fill);
    for row in output.data.chunks_exact_mut(image.width * 3) {
        let (mut x, mut y) = (start_x, start_y);
        for pixel in row.chunks_exact_mut(3) {
            let (column, line) = (x >> 16, y >> 16);
            let inside = 0 <= column && column < image.width as i64 && 0 <= line && line < image.height as i64;
            if inside {
                pixel.copy_from_slice(&image.pixel(column as usize, line as usize));
            }
            x += step_x;
            y += step_y;
        }
        start_x += row_x;
        start_y += row_y;
    }
    output
}

/// Turns the picture counter-clockwise around its middle, keeping the size (`Image.rotate`).
pub fn rotate(image: &Image, degrees: f64, fill: [u8; 3]) -> Image {
    let angle = -degrees.to_radians();
    let (sine, cosine) = angle.sin_cos();
    let (x, y) = (image.width as f64 / 2.0, image.height as f64 / 2.0);
    let matrix = [cosine, sine, x - cosine * x - sine * y, -sine, cosine, y + sine * x - cosine * y];
    affine(image, matrix, fill)
}

/// Mirrors left and right.
pub fn flip_horizontal(image: &Image) -> Image {
    let mut output = image.clone();
    let stride = image.width * 3;
    for (row, source) in output.data.chunks_exact_mut(stride).zip(image.data.chunks_exact(stride)) {
        for (pixel, mirrored) in row.chunks_exact_mut(3).zip(source.rchunks_exact(3)) {
            pixel.copy_from_slice(mirrored);
        }
    }
    output
}

#[cfg(test)]
mod tests {
    use super::*;

    fn corners() -> Image {
        Image::new(2, 2, vec![1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]).unwrap()
    }

    #[test]
    fn a_quarter_turn_goes_counter_clockwise() {
        let turned = rotate(&corners(), 90.0, [0; 3]);
        let values: Vec<u8> = turned.data.iter().step_by(3).copied().collect();
        assert_eq!(values, [2, 4, 1, 3]);
    }

    #[test]
    fn a_shift_fills_what_it_uncovers_and_a_mirror_undoes_itself() {
        let shifted = affine(&corners(), [1.0, 0.0, -1.0, 0.0, 1.0, 0.0], [9; 3]);
        let values: Vec<u8> = shifted.data.iter().step_by(3).copied().collect();
        assert_eq!(values, [9, 1, 9, 3]);
        assert_eq!(flip_horizontal(&flip_horizontal(&corners())), corners());
        assert_eq!(flip_horizontal(&corners()).pixel(0, 0), [2; 3]);
    }
}
