//! Changes of colour, to the bit as Pillow makes them.
//!
//! They are what torchvision's transforms do to a Pillow image; factors of 1 change nothing.

use super::Image;

/// Brightness: towards black below a factor of 1, away from it above (`ImageEnhance.Brightness`).
pub fn brightness(image: &Image, factor: f32) -> Image {
    let table: [u8; 256] = std::array::from_fn(|value| blend(0, value as u8, factor));
    map_bytes(image, &table)
}

/// Contrast: towards the mean grey below a factor of 1, away from it above
/// (`ImageEnhance.Contrast`).
pub fn contrast(image: &Image, factor: f32) -> Image {
    let sum: u64 = image.data.chunks_exact(3).map(|pixel| u64::from(luma(pixel))).sum();
    let pixels = image.width * image.height;
    let mean = (sum as f64 / pixels as f64 + 0.5) as u8;
    let table: [u8; 256] = std::array::from_fn(|value| blend(mean, value as u8, factor));
    map_bytes(image, &table)
}

/// Saturation: towards grey below a factor of 1, away from it above (`ImageEnhance.Color`).
pub fn saturation(image: &Image, factor: f32) -> Image {
    map_pixels(image, |pixel| {
        let grey = luma(pixel);
        [blend(grey, pixel[0], factor), blend(grey, pixel[1], factor), blend(grey, pixel[2], factor)]
    })
}

/// Sharpness: towards a smoothed picture below a factor of 1, away from it above
/// (`ImageEnhance.Sharpness`).
pub fn sharpness(image: &Image, factor: f32) -> Image {
    let mut output = smooth(image);
    for (value, &original) in output.data.iter_mut().zip(&image.data) {
        *value = blend(*value, original, factor);
    }
    output
}

/// Hue: turned by `shift` of the colour circle, -0.5 to 0.5 (torchvision's `adjust_hue`).
pub fn hue(image: &Image, shift: f32) -> Image {
    let step = (f64::from(shift) * 255.0) as i32 as u8;
    map_pixels(image, |pixel| {
        let [hue, saturation, value] = rgb_to_hsv(pixel);
        hsv_to_rgb([hue.wrapping_add(step), saturation, value])
    })
}

/// Keeps the `bits` highest bits of every value, 0 to 8 (`ImageOps.posterize`).
pub fn posterize(image: &Image, bits: u32) -> Image {
    let mask = !(0xFFu32 >> bits.min(8)) as u8;
    let table: [u8; 256] = std::array::from_fn(|value| value as u8 & mask);
    map_bytes(image, &table)
}

/// Inverts every value of at least `threshold` (`ImageOps.solarize`).
pub fn solarize(image: &Image, threshold: f64) -> Image {
    let table: [u8; 256] =
        std::array::from_fn(|value| if (value as f64) < threshold { value } else { 255 - value } as u8);
    map_bytes(image, &table)
}

/// Stretches each channel to the whole range (`ImageOps.autocontrast`).
pub fn auto_contrast(image: &Image) -> Image {
    map_channels(image, |histogram| {
        let low = histogram.iter().position(|&count| count > 0).unwrap_or(0);
        let high = histogram.iter().rposition(|&count| count > 0).unwrap_or(0);
        if high <= low {
            return IDENTITY;
        }
        let scale = 255.0 / (high - low) as f64;
        let offset = -(low as f64) * scale;
        // A cast cuts at 0 and 255.
        std::array::from_fn(|value| (value as f64 * scale + offset) as u8)
    })
}

/// Spreads each channel so that its values are equally frequent (`ImageOps.equalize`).
pub fn equalize(image: &Image) -> Image {
    map_channels(image, |histogram| {
        let total: u64 = histogram.iter().sum();
        let last = histogram.iter().rev().find(|&&count| count > 0).copied().unwrap_or(0);
        let step = (total - last) / 255;
        if step == 0 {
            return IDENTITY;
        }
        let mut sum = step / 2;
        let mut table = IDENTITY;
        for (entry, &count) in table.iter_mut().zip(histogram) {
            *entry = (sum / step).min(255) as u8;
            sum += count;
        }
        table
    })
}

/// Every value as it is.
const IDENTITY: [u8; 256] = {
    let mut table = [0; 256];
    let mut value = 0;
    while value < 256 {
        table[value] = value as u8;
        value += 1;
    }
    table
};

fn map_bytes(image: &Image, table: &[u8; 256]) -> Image {
    let data = image.data.iter().map(|&value| table[usize::from(value)]).collect();
    Image { data, ..*image }
}

fn map_pixels(image: &Image, change: impl Fn(&[u8]) -> [u8; 3]) -> Image {
    let mut data = vec![0; image.data.len()];
    for (output, pixel) in data.chunks_exact_mut(3).zip(image.data.chunks_exact(3)) {
        output.copy_from_slice(&change(pixel));
    }
    Image { data, ..*image }
}

/// Maps each channel through a table made from its own histogram.
fn map_channels(image: &Image, table_of: impl Fn(&[u64; 256]) -> [u8; 256]) -> Image {
    let mut histograms = [[0u64; 256]; 3];
    for pixel in image.data.chunks_exact(3) {
        for channel in 0..3 {
            histograms[channel][usize::from(pixel[channel])] += 1;
        }
    }
    let tables = histograms.each_ref().map(table_of);
    map_pixels(image, |pixel| std::array::from_fn(|channel| tables[channel][usize::from(pixel[channel])]))
}

/// `from + factor * (to - from)`, cut to a whole number in 0 to 255.
fn blend(from: u8, to: u8, factor: f32) -> u8 {
    if factor == 1.0 {
        return to;
    }
    (f32::from(from) + factor * (f32::from(to) - f32::from(from))) as u8
}

/// ITU-R 601 luma in 16-bit fixed point.
fn luma(pixel: &[u8]) -> u8 {
    let [red, green, blue] = [pixel[0], pixel[1], pixel[2]].map(u32::from);
    ((red * 19_595 + green * 38_470 + blue * 7_471 + 0x8000) >> 16) as u8
}

/// The mean of the eight neighbours and five times the pixel; the border stays.
fn smooth(image: &Image) -> Image {
    let mut output = image.clone();
    let stride = image.width * 3;
    for y in 1..image.height.saturating_sub(1) {
        let rows: [&[u8]; 3] = std::array::from_fn(|row| &image.data[(y + row - 1) * stride..(y + row) * stride]);
        let target = &mut output.data[y * stride..(y + 1) * stride];
        for x in 3..stride.saturating_sub(3) {
            let mut sum = 4 * u32::from(rows[1][x]);
            for row in rows {
                sum += u32::from(row[x - 3]) + u32::from(row[x]) + u32::from(row[x + 3]);
            }
            target[x] = ((sum + 6) / 13) as u8;
        }
    }
    output
}

/// Hue, saturation and value in steps of 1/255.
fn rgb_to_hsv(pixel: &[u8]) -> [u8; 3] {
    let [red, green, blue] = [pixel[0], pixel[1], pixel[2]];
    let highest = red.max(green).max(blue);
    let lowest = red.min(green).min(blue);
    if highest == lowest {
        return [0, 0, highest];
    }
    // Single precision where Pillow has it and double where it has that: a hue beside a step must
    // fall to the same side.
    let range = f32::from(highest - lowest);
    let saturation = range / f32::from(highest);
    let distance = |value: u8| f32::from(highest - value) / range;
    let sixths = if red == highest {
        distance(blue) - distance(green)
    } else if green == highest {
        (2.0 + f64::from(distance(red)) - f64::from(distance(blue))) as f32
    } else {
        (4.0 + f64::from(distance(green)) - f64::from(distance(red))) as f32
    };
    let hue = ((f64::from(sixths) / 6.0 + 1.0) % 1.0) as f32;
    [(f64::from(hue) * 255.0) as u8, (f64::from(saturation) * 255.0) as u8, highest]
}

fn hsv_to_rgb([hue, saturation, value]: [u8; 3]) -> [u8; 3] {
    if saturation == 0 {
        return [value; 3];
    }
    let sixths = f64::from(hue) * 6.0 / 255.0;
    let fraction = f64::from((sixths - sixths.floor()) as f32);
    let saturation = f64::from((f64::from(saturation) / 255.0) as f32);
    let level = |share: f64| (f64::from(value) * (1.0 - saturation * share)).round() as u8;
    let (low, falling, rising) = (level(1.0), level(fraction), level(1.0 - fraction));
    match sixths as u8 % 6 {
        0 => [value, rising, low],
        1 => [falling, value, low],
        2 => [low, value, rising],
        3 => [low, falling, value],
        4 => [rising, low, value],
        _ => [value, low, falling],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_of_one_change_nothing_and_of_zero_reach_the_end() {
        let image = Image::new(2, 1, vec![10, 200, 30, 255, 0, 128]).unwrap();
        for change in [brightness, contrast, saturation, sharpness] {
            assert_eq!(change(&image, 1.0), image);
        }
        assert_eq!(brightness(&image, 0.0).data, [0; 6]);
        assert_eq!(saturation(&image, 0.0).pixel(0, 0), [124; 3]);
        assert_eq!(posterize(&image, 8), image);
        assert_eq!(posterize(&image, 0).data, [0; 6]);
        assert_eq!(solarize(&image, 256.0), image);
    }

    #[test]
    fn flat_and_tiny_pictures_survive_every_change() {
        for image in [Image::filled(1, 1, [7, 7, 7]), Image::filled(2, 3, [0, 255, 9])] {
            assert_eq!(auto_contrast(&image), image);
            assert_eq!(equalize(&image), image);
            let flat = sharpness(&image, 2.0);
            assert_eq!(flat, image);
            hue(&image, 0.5);
        }
    }
}
