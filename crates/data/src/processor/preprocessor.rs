//! Image processors, and those of the frames of videos, as checkpoints bring them:
//! `preprocessor_config.json`, `video_preprocessor_config.json`.

use sensorium_media::image::Filter;
use serde_json::Value;

use super::{CropMode, ImageProcessor};
use crate::{DataError, Result};

const STANDARD: ([f32; 3], [f32; 3]) = ([0.5; 3], [0.5; 3]);
const CLIP: ([f32; 3], [f32; 3]) =
    ([0.481_454_66, 0.457_827_5, 0.408_210_73], [0.268_629_54, 0.261_302_6, 0.275_777_1]);

const IMAGENET: ([f32; 3], [f32; 3]) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);

/// What a class of processors does where its file says nothing.
struct Class {
    name: &'static str,
    filter: Filter,
    colors: ([f32; 3], [f32; 3]),
    /// Pixels, and whether both sides become so many, or the shorter one.
    size: (usize, bool),
    /// Whether a size that is one number is that of both sides.
    square: bool,
    crop: bool,
}

const CLASSES: &[Class] = &[
    Class { name: "ViT", filter: Filter::Bilinear, colors: STANDARD, size: (224, true), square: true, crop: false },
    Class { name: "DeiT", filter: Filter::Bicubic, colors: STANDARD, size: (256, true), square: true, crop: true },
    Class { name: "Beit", filter: Filter::Bicubic, colors: STANDARD, size: (224, true), square: true, crop: false },
    Class { name: "CLIP", filter: Filter::Bicubic, colors: CLIP, size: (224, false), square: false, crop: true },
    Class { name: "ChineseCLIP", filter: Filter::Bicubic, colors: CLIP, size: (224, false), square: false, crop: true },
    Class { name: "Bit", filter: Filter::Bicubic, colors: CLIP, size: (224, false), square: false, crop: true },
    Class { name: "Siglip", filter: Filter::Bicubic, colors: STANDARD, size: (224, true), square: false, crop: false },
    Class { name: "Blip", filter: Filter::Bicubic, colors: CLIP, size: (384, true), square: true, crop: false },
    VIDEOMAE,
    Class { name: "Timesformer", colors: IMAGENET, ..VIDEOMAE },
];

const VIDEOMAE: Class = Class {
    name: "VideoMAE",
    filter: Filter::Bilinear,
    colors: STANDARD,
    size: (224, false),
    square: false,
    crop: true,
};

impl ImageProcessor {
    /// The processor that a checkpoint's `preprocessor_config.json` describes; what the file leaves out
    /// is as in the class of processors that it names.
    ///
    /// # Errors
    /// When the class is not known, or a value means something that is not computed here.
    pub fn from_preprocessor(json: &Value) -> Result<Self> {
        let file = File(json);
        let class = file.class()?;
        for key in ["do_pad", "do_rotate_axis", "do_thumbnail", "do_align_long_axis", "offset", "do_flip_channel_order"]
        {
            if file.flag(key, false)? {
                return Err(file.wrong(key, "false (it is not computed here)"));
            }
        }
        if !file.flag("do_resize", true)? {
            return Err(file.wrong("do_resize", "true (a model takes pictures of one size)"));
        }
        let (resize, both) = match file.size("size", class.square)? {
            Some(size) => size,
            None => class.size,
        };
        let crop = match file.flag("do_center_crop", class.crop)? {
            false if !both => return Err(file.wrong("size", "height and width where nothing is cropped")),
            false => resize,
            true => match file.size("crop_size", true)? {
                None => 224,
                Some((size, true)) if size <= resize => size,
                Some(_) => return Err(file.wrong("crop_size", "height and width of at most those of size")),
            },
        };
        let (mut mean, mut std) = ([0.0; 3], [1.0; 3]);
        if file.flag("do_normalize", true)? {
            (mean, std) = (file.color("image_mean", class.colors.0)?, file.color("image_std", class.colors.1)?);
        }
        // Pixels are divided by 255 here, and another factor goes into mean and deviation.
        let factor = if file.flag("do_rescale", true)? { file.number("rescale_factor", 1.0 / 255.0)? } else { 1.0 };
        let times = factor * 255.0;
        if (times - 1.0).abs() > 1e-6 {
            mean = mean.map(|x| (f64::from(x) / times) as f32);
            std = std.map(|x| (f64::from(x) / times) as f32);
        }
        let processor = Self {
            size: crop,
            resize: (resize != crop).then_some(resize),
            crop: if both { CropMode::Squash } else { CropMode::Center },
            filter: file.filter(class.filter)?,
            mean,
            std,
        };
        processor.validate().map_err(|problem| DataError::Preprocessor {
            key: "the whole".into(),
            expected: "settings that make sense".into(),
            got: problem,
        })?;
        Ok(processor)
    }
}

/// The file, read key by key.
struct File<'a>(&'a Value);

impl File<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    fn wrong(&self, key: &str, expected: &str) -> DataError {
        let got = self.get(key).map_or("nothing".into(), ToString::to_string);
        DataError::Preprocessor { key: key.into(), expected: expected.into(), got }
    }

    fn class(&self) -> Result<&'static Class> {
        let keys = ["video_processor_type", "image_processor_type", "feature_extractor_type"];
        let key = keys.into_iter().find(|key| self.get(key).is_some()).unwrap_or(keys[2]);
        let name = self.get(key).and_then(Value::as_str).unwrap_or_default();
        let name = name.trim_end_matches("Fast").trim_end_matches("Pil");
        let kinds = ["VideoProcessor", "ImageProcessor", "FeatureExtractor"];
        let name = kinds.iter().find_map(|kind| name.strip_suffix(kind)).unwrap_or_default();
        CLASSES.iter().find(|class| class.name == name).ok_or_else(|| {
            let known: Vec<String> = CLASSES.iter().map(|class| format!("{}ImageProcessor", class.name)).collect();
            self.wrong(key, &format!("one of {}", known.join(", ")))
        })
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => value.as_bool().ok_or_else(|| self.wrong(key, "true or false")),
        }
    }

    fn number(&self, key: &str, default: f64) -> Result<f64> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => value.as_f64().filter(|x| *x > 0.0).ok_or_else(|| self.wrong(key, "a number above 0")),
        }
    }

    /// A size in pixels, and whether it is that of both sides; of the shorter one otherwise.
    fn size(&self, key: &str, square: bool) -> Result<Option<(usize, bool)>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let pixels = |value: &Value| value.as_u64().map(|n| n as usize);
        let side = |name: &str| value.get(name).filter(|side| !side.is_null());
        let found = match value {
            Value::Number(_) => pixels(value).map(|n| (n, square)),
            Value::Array(sides) if sides.len() == 2 && sides[0] == sides[1] => pixels(&sides[0]).map(|n| (n, true)),
            Value::Object(_) if side("longest_edge").is_some() => None,
            Value::Object(_) => match (side("height"), side("width"), side("shortest_edge")) {
                (Some(height), Some(width), None) if height == width => pixels(height).map(|n| (n, true)),
                (None, None, Some(shortest)) => pixels(shortest).map(|n| (n, false)),
                _ => None,
            },
            _ => None,
        };
        let expected = "a number, equal height and width, or shortest_edge (only squares are computed here)";
        found.map(Some).ok_or_else(|| self.wrong(key, expected))
    }

    fn color(&self, key: &str, default: [f32; 3]) -> Result<[f32; 3]> {
        let Some(value) = self.get(key) else { return Ok(default) };
        let numbers: Option<Vec<f32>> = match value {
            Value::Number(_) => value.as_f64().map(|x| vec![x as f32; 3]),
            Value::Array(list) => list.iter().map(|x| x.as_f64().map(|x| x as f32)).collect(),
            _ => None,
        };
        numbers.and_then(|n| n.try_into().ok()).ok_or_else(|| self.wrong(key, "three numbers"))
    }

    fn filter(&self, default: Filter) -> Result<Filter> {
        // The numbers are Pillow's.
        match self.get("resample") {
            None => Ok(default),
            Some(code) => Ok(match code.as_u64() {
                Some(0) => Filter::Nearest,
                Some(1) => Filter::Lanczos,
                Some(2) => Filter::Bilinear,
                Some(3) => Filter::Bicubic,
                Some(4) => Filter::Box,
                _ => {
                    return Err(
                        self.wrong("resample", "0 (nearest), 1 (lanczos), 2 (bilinear), 3 (bicubic) or 4 (box)")
                    );
                }
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(json: &Value) -> ImageProcessor {
        ImageProcessor::from_preprocessor(json).expect("known")
    }

    #[test]
    fn sizes_are_read_in_every_form() {
        let vit = read(&json!({"feature_extractor_type": "ViTFeatureExtractor", "size": 96}));
        assert_eq!((vit.size, vit.resize, vit.crop, vit.filter), (96, None, CropMode::Squash, Filter::Bilinear));
        let deit = read(&json!({"image_processor_type": "DeiTImageProcessor", "size": 256, "crop_size": 224}));
        assert_eq!((deit.size, deit.resize, deit.crop), (224, Some(256), CropMode::Squash));
        let clip = read(&json!({"image_processor_type": "CLIPImageProcessorFast", "size": 256, "crop_size": 224}));
        assert_eq!((clip.size, clip.resize, clip.crop), (224, Some(256), CropMode::Center));
        let bit = json!({"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 256}, "resample": 1});
        assert_eq!((read(&bit).resize, read(&bit).filter), (Some(256), Filter::Lanczos));
    }

    #[test]
    fn processors_of_videos_are_read_too() {
        let timesformer = read(&json!({"video_processor_type": "TimesformerVideoProcessor"}));
        assert_eq!((timesformer.size, timesformer.crop, timesformer.filter), (224, CropMode::Center, Filter::Bilinear));
        assert_eq!((timesformer.mean, timesformer.std), IMAGENET);
        let videomae = read(&json!({"image_processor_type": "VideoMAEImageProcessor", "size": {"shortest_edge": 256}}));
        assert_eq!((videomae.size, videomae.resize, videomae.mean), (224, Some(256), [0.5; 3]));
    }

    #[test]
    fn another_factor_goes_into_mean_and_deviation() {
        let twice = read(&json!({"image_processor_type": "ViTImageProcessor", "rescale_factor": 2.0 / 255.0}));
        assert_eq!((twice.mean, twice.std), ([0.25; 3], [0.25; 3]));
        let plain = json!({"image_processor_type": "ViTImageProcessor", "do_rescale": false, "do_normalize": false});
        assert_eq!((read(&plain).mean, read(&plain).std), ([0.0; 3], [1.0 / 255.0; 3]));
    }

    #[test]
    fn what_is_not_computed_is_refused_by_its_key() {
        let refused = |json: Value| ImageProcessor::from_preprocessor(&json).expect_err("refused").to_string();
        let vit = |key: &str, value: Value| {
            let mut json = json!({"image_processor_type": "ViTImageProcessor"});
            json[key] = value;
            refused(json)
        };
        assert!(vit("do_pad", json!(true)).contains("do_pad"));
        assert!(vit("size", json!({"height": 224, "width": 256})).contains("size"));
        assert!(vit("size", json!({"shortest_edge": 224})).contains("size"));
        assert!(vit("size", json!({"shortest_edge": 224, "longest_edge": 300})).contains("size"));
        assert!(vit("resample", json!(5)).contains("resample"));
        assert!(vit("image_mean", json!([0.5, 0.5])).contains("image_mean"));
        assert!(vit("image_std", json!([0.5, 0.5, 0.0])).contains("std"));
        assert!(refused(json!({"image_processor_type": "LayoutLMv3ImageProcessor"})).contains("CLIPImageProcessor"));
        assert!(refused(json!({})).contains("ViTImageProcessor"));
    }
}
