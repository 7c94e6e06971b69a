//! Variations of a picture for training: crop, flip, colour jitter, RandAugment.
//!
//! All follow torchvision's definitions. The result is a function of the picture, the configuration
//! and one key, whatever the thread or the order.

use serde::{Deserialize, Serialize};

use super::affine::{affine, flip_horizontal, rotate};
use super::{Filter, Image, center_crop, color, crop, resize};
use crate::error::{MediaError, Result};
use crate::random::Draws;

/// Which variations to make; each can be switched off by itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ImageAugment {
    /// A random part of the picture, resized. Default scale 0.5 to 1; without it the picture is
    /// resized to cover the size and cut to its middle.
    pub random_resized_crop: Option<RandomResizedCrop>,
    /// Probability of mirroring left and right; 0 where sides matter, as with writing. Default 0.5.
    pub horizontal_flip: f64,
    /// Random changes of colour. Default mild.
    pub color_jitter: ColorJitter,
    /// Random operations of a fixed strength. Default none.
    pub rand_augment: Option<RandAugment>,
}

impl Default for ImageAugment {
    fn default() -> Self {
        Self {
            random_resized_crop: Some(RandomResizedCrop::default()),
            horizontal_flip: 0.5,
            color_jitter: ColorJitter::default(),
            rand_augment: None,
        }
    }
}

/// The part of the picture that a crop takes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RandomResizedCrop {
    /// Least and largest share of the area. Default 0.5 to 1.
    pub scale: [f64; 2],
    /// Least and largest width over height. Default 3/4 to 4/3.
    pub ratio: [f64; 2],
}

impl Default for RandomResizedCrop {
    fn default() -> Self {
        Self { scale: [0.5, 1.0], ratio: [3.0 / 4.0, 4.0 / 3.0] }
    }
}

/// How far colours may move: brightness, contrast and saturation by a factor from `1 - x` to
/// `1 + x`, hue by a share of the colour circle from `-x` to `x`; in random order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ColorJitter {
    /// Default 0.2.
    pub brightness: f64,
    /// Default 0.2.
    pub contrast: f64,
    /// Default 0.2.
    pub saturation: f64,
    /// At most 0.5. Default 0.02.
    pub hue: f64,
}

impl Default for ColorJitter {
    fn default() -> Self {
        Self { brightness: 0.2, contrast: 0.2, saturation: 0.2, hue: 0.02 }
    }
}

/// Random operations of a fixed strength, one after the other (Cubuk et al. 2020).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RandAugment {
    /// Operations in a row. Default 2.
    pub num_ops: usize,
    /// Strength, less than `num_magnitude_bins`. Default 9.
    pub magnitude: usize,
    /// Steps of strength from none to the most. Default 31.
    pub num_magnitude_bins: usize,
    /// Colour of what a turn or shift uncovers. Default black.
    pub fill: [u8; 3],
}

impl Default for RandAugment {
    fn default() -> Self {
        Self { num_ops: 2, magnitude: 9, num_magnitude_bins: 31, fill: [0; 3] }
    }
}

impl ImageAugment {
    /// Errors when a setting is out of its range.
    pub fn check(&self) -> Result<()> {
        let ordered = |what, [low, high]: [f64; 2], most: f64| {
            if 0.0 < low && low <= high && high <= most {
                return Ok(());
            }
            let expected = format!("[least, most] above 0 and at most {most}");
            Err(MediaError::parameter(what, expected, format!("[{low}, {high}]")))
        };
        let within = |what, value: f64, most: f64| {
            if (0.0..=most).contains(&value) {
                return Ok(());
            }
            Err(MediaError::parameter(what, format!("0 to {most}"), value))
        };
        if let Some(crop) = &self.random_resized_crop {
            ordered("random_resized_crop.scale", crop.scale, 1.0)?;
            ordered("random_resized_crop.ratio", crop.ratio, 100.0)?;
        }
        within("horizontal_flip", self.horizontal_flip, 1.0)?;
        within("color_jitter.brightness", self.color_jitter.brightness, 10.0)?;
        within("color_jitter.contrast", self.color_jitter.contrast, 10.0)?;
        within("color_jitter.saturation", self.color_jitter.saturation, 10.0)?;
        within("color_jitter.hue", self.color_jitter.hue, 0.5)?;
        match &self.rand_augment {
            Some(set) if set.magnitude >= set.num_magnitude_bins || set.num_magnitude_bins < 2 => {
                let expected =
                    format!("less than num_magnitude_bins = {}, which is at least 2", set.num_magnitude_bins);
                Err(MediaError::parameter("rand_augment.magnitude", expected, set.magnitude))
            }
            _ => Ok(()),
        }
    }

    /// Varies a picture and brings it to `width` x `height`; errors as [`check`](Self::check) does.
    pub fn apply(&self, image: &Image, (width, height): (usize, usize), filter: Filter, key: u64) -> Result<Image> {
        self.check()?;
        let mut draws = Draws::new(key, 1);
        let mut image = match &self.random_resized_crop {
            Some(settings) => {
                let [left, top, part_width, part_height] = settings.draw(image, &mut draws);
                resize(&crop(image, left, top, part_width, part_height), width, height, filter)
            }
            None => cover(image, width, height, filter),
        };
        if draws.chance(self.horizontal_flip) {
            image = flip_horizontal(&image);
        }
        image = self.color_jitter.apply(image, &mut draws);
        if let Some(set) = &self.rand_augment {
            image = set.apply(image, &mut draws);
        }
        Ok(image)
    }
}

/// Resizes so that the picture just covers the size and cuts out the middle; for a square this is
/// [`resize_shorter_side`](super::resize_shorter_side), then [`center_crop`].
pub fn cover(image: &Image, width: usize, height: usize, filter: Filter) -> Image {
    let (width, height) = (width.max(1), height.max(1));
    let (full_width, full_height) = (image.width as u128, image.height as u128);
    let scaled = |full: u128, side: usize, by: u128| {
        // As far as resize_shorter_side stretches a thin strip.
        ((full * side as u128 / by) as usize).clamp(1, 64 * side)
    };
    let wide = full_width * height as u128 >= full_height * width as u128;
    let (scaled_width, scaled_height) = if wide {
        (scaled(full_width, height, full_height), height)
    } else {
        (width, scaled(full_height, width, full_width))
    };
    center_crop(&resize(image, scaled_width, scaled_height, filter), width, height)
}

impl RandomResizedCrop {
    /// The part to take, `[left, top, width, height]`: ten tries at a random shape, else the
    /// largest middle part of an allowed shape.
    fn draw(&self, image: &Image, draws: &mut Draws) -> [usize; 4] {
        let (full_width, full_height) = (image.width as f64, image.height as f64);
        let [narrow, wide] = self.ratio;
        for _ in 0..10 {
            let area = full_width * full_height * draws.uniform(self.scale[0], self.scale[1]);
            let ratio = draws.uniform(narrow.ln(), wide.ln()).exp();
            let width = (area * ratio).sqrt().round_ties_even() as usize;
            let height = (area / ratio).sqrt().round_ties_even() as usize;
            if (1..=image.width).contains(&width) && (1..=image.height).contains(&height) {
                let top = draws.below(image.height - height + 1);
                let left = draws.below(image.width - width + 1);
                return [left, top, width, height];
            }
        }
        let ratio = full_width / full_height;
        let (width, height) = if ratio < narrow {
            (image.width, (full_width / narrow).round_ties_even() as usize)
        } else if ratio > wide {
            ((full_height * wide).round_ties_even() as usize, image.height)
        } else {
            (image.width, image.height)
        };
        let (width, height) = (width.clamp(1, image.width), height.clamp(1, image.height));
        [(image.width - width) / 2, (image.height - height) / 2, width, height]
    }
}

impl ColorJitter {
    fn apply(&self, mut image: Image, draws: &mut Draws) -> Image {
        let mut order = [0, 1, 2, 3];
        for last in (1..order.len()).rev() {
            order.swap(last, draws.below(last + 1));
        }
        let mut factor = |spread: f64| draws.uniform((1.0 - spread).max(0.0), 1.0 + spread) as f32;
        let (brightness, contrast, saturation) =
            (factor(self.brightness), factor(self.contrast), factor(self.saturation));
        let hue = draws.uniform(-self.hue, self.hue) as f32;
        for change in order {
            image = match change {
                0 if self.brightness > 0.0 => color::brightness(&image, brightness),
                1 if self.contrast > 0.0 => color::contrast(&image, contrast),
                2 if self.saturation > 0.0 => color::saturation(&image, saturation),
                3 if self.hue > 0.0 => color::hue(&image, hue),
                _ => image,
            };
        }
        image
    }
}

impl RandAugment {
    fn apply(&self, mut image: Image, draws: &mut Draws) -> Image {
        let strength = self.magnitude as f64 / (self.num_magnitude_bins - 1) as f64;
        for _ in 0..self.num_ops {
            let operation = Operation::ALL[draws.below(Operation::ALL.len())];
            let sign = if draws.chance(0.5) { -1.0 } else { 1.0 };
            image = operation.apply(&image, strength, sign, self.fill);
        }
        image
    }
}

/// The operations of torchvision's `RandAugment`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Identity,
    ShearX,
    ShearY,
    TranslateX,
    TranslateY,
    Rotate,
    Brightness,
    Color,
    Contrast,
    Sharpness,
    Posterize,
    Solarize,
    AutoContrast,
    Equalize,
}

impl Operation {
    const ALL: [Self; 14] = [
        Self::Identity,
        Self::ShearX,
        Self::ShearY,
        Self::TranslateX,
        Self::TranslateY,
        Self::Rotate,
        Self::Brightness,
        Self::Color,
        Self::Contrast,
        Self::Sharpness,
        Self::Posterize,
        Self::Solarize,
        Self::AutoContrast,
        Self::Equalize,
    ];

    /// Applies with `strength` from 0 to 1 of the operation's own range, in the direction of `sign`
    /// where it has two.
    fn apply(self, image: &Image, strength: f64, sign: f64, fill: [u8; 3]) -> Image {
        let signed = strength * sign;
        let factor = (1.0 + 0.9 * signed) as f32;
        // The furthest shift is 150 of 331 pixels, as in the paper's pictures.
        let shift = |side: usize| (150.0 / 331.0 * side as f64 * signed).trunc();
        match self {
            Self::Identity => image.clone(),
            Self::ShearX => affine(image, [1.0, 0.3 * signed, 0.0, 0.0, 1.0, 0.0], fill),
            Self::ShearY => affine(image, [1.0, 0.0, 0.0, 0.3 * signed, 1.0, 0.0], fill),
            Self::TranslateX => affine(image, [1.0, 0.0, -shift(image.width), 0.0, 1.0, 0.0], fill),
            Self::TranslateY => affine(image, [1.0, 0.0, 0.0, 0.0, 1.0, -shift(image.height)], fill),
            Self::Rotate => rotate(image, 30.0 * signed, fill),
            Self::Brightness => color::brightness(image, factor),
            Self::Color => color::saturation(image, factor),
            Self::Contrast => color::contrast(image, factor),
            Self::Sharpness => color::sharpness(image, factor),
            Self::Posterize => color::posterize(image, 8 - (4.0 * strength).round_ties_even() as u32),
            Self::Solarize => color::solarize(image, 255.0 * (1.0 - strength)),
            Self::AutoContrast => color::auto_contrast(image),
            Self::Equalize => color::equalize(image),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture() -> Image {
        let data = (0..40 * 30 * 3).map(|i| (i * 7 % 256) as u8).collect();
        Image::new(40, 30, data).unwrap()
    }

    fn everything() -> ImageAugment {
        ImageAugment { rand_augment: Some(RandAugment::default()), ..ImageAugment::default() }
    }

    #[test]
    fn a_key_gives_one_picture_and_keys_differ() {
        let apply = |key| everything().apply(&picture(), (16, 12), Filter::Bilinear, key).unwrap();
        assert_eq!(apply(5), apply(5));
        assert_eq!((apply(5).width, apply(5).height), (16, 12));
        let different = (0..20).filter(|&key| apply(key) != apply(key + 1)).count();
        assert!(different >= 19, "{different}");
    }

    #[test]
    fn with_everything_off_only_the_size_changes() {
        let off = ImageAugment {
            random_resized_crop: None,
            horizontal_flip: 0.0,
            color_jitter: ColorJitter { brightness: 0.0, contrast: 0.0, saturation: 0.0, hue: 0.0 },
            rand_augment: None,
        };
        let image = off.apply(&picture(), (30, 30), Filter::Bicubic, 3).unwrap();
        assert_eq!(image, center_crop(&picture(), 30, 30));
    }

    #[test]
    fn crops_keep_to_their_shares_and_shapes() {
        let settings = RandomResizedCrop { scale: [0.2, 0.4], ratio: [0.8, 1.25] };
        let image = Image::filled(400, 300, [1, 2, 3]);
        for key in 0..200 {
            let [left, top, width, height] = settings.draw(&image, &mut Draws::new(key, 0));
            assert!(left + width <= 400 && top + height <= 300);
            let share = (width * height) as f64 / 120_000.0;
            let ratio = width as f64 / height as f64;
            assert!((0.19..0.41).contains(&share) && (0.78..1.28).contains(&ratio), "{share} {ratio}");
        }
    }

    #[test]
    fn a_thin_strip_falls_back_to_its_middle() {
        let strip = Image::filled(1000, 2, [0; 3]);
        let [left, _, width, height] = RandomResizedCrop::default().draw(&strip, &mut Draws::new(1, 0));
        assert_eq!((left, width, height), (498, 3, 2));
    }

    #[test]
    fn half_of_the_pictures_are_mirrored() {
        let settings = ImageAugment {
            random_resized_crop: None,
            color_jitter: ColorJitter { brightness: 0.0, contrast: 0.0, saturation: 0.0, hue: 0.0 },
            ..ImageAugment::default()
        };
        let plain = picture();
        let flipped =
            (0..1000).filter(|&key| settings.apply(&plain, (40, 30), Filter::Box, key).unwrap() != plain).count();
        assert!((440..560).contains(&flipped), "{flipped}");
    }

    #[test]
    fn every_operation_keeps_the_size_and_does_something_when_strong() {
        for operation in Operation::ALL {
            let image = operation.apply(&picture(), 1.0, 1.0, [0; 3]);
            assert_eq!(image.data.len(), picture().data.len());
            let still = [Operation::Identity, Operation::AutoContrast].contains(&operation);
            assert_eq!(image == picture(), still, "{operation:?}");
        }
        for operation in Operation::ALL {
            let none = operation.apply(&picture(), 0.0, 1.0, [0; 3]);
            // Solarize at no strength inverts pure white alone; these three have no strength.
            let strengthless = [Operation::Equalize, Operation::Solarize, Operation::AutoContrast];
            assert!(none == picture() || strengthless.contains(&operation), "{operation:?}");
        }
    }

    #[test]
    fn settings_out_of_range_are_refused_by_name() {
        let mut settings = everything();
        settings.color_jitter.hue = 0.6;
        let message = settings.check().unwrap_err().to_string();
        assert!(message.contains("color_jitter.hue: expected 0 to 0.5, got 0.6"), "{message}");
        settings = everything();
        settings.random_resized_crop = Some(RandomResizedCrop { scale: [1.0, 0.5], ..Default::default() });
        assert!(settings.check().is_err());
        settings = everything();
        settings.rand_augment = Some(RandAugment { magnitude: 31, ..RandAugment::default() });
        assert!(settings.check().is_err());
    }
}
