//! What is learnt of pictures: the structure of a ViT, from scratch or from a
//! checkpoint, and the pictures of a table.

use super::config::PretrainConfig;
use super::going_on;
use super::sections::MimMethod;
use super::start::START;
use crate::assemble::augmentation;
use crate::config::{FitConfig, TowerSection};
use crate::{Dataset, Error, Result, processors};
use sensorium_data::processor::{CropMode, ImageProcessor};
use sensorium_data::{
    BatchSize, ColumnSchema, ColumnType, DataPlan, Loader, LoaderOptions, PlanOptions, Schema, SchemaOptions, Table,
    TableOptions,
};
use sensorium_media::image::Filter;
use sensorium_model::TowerConfig;
use sensorium_model::objectives::PixelDecoderConfig;
use sensorium_model::pretrained::{Config, KeyMap, PartConfig, Pretrained, describe};
use sensorium_model::towers::ImageTowerConfig;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;

/// The model of pictures.
pub(super) struct ImageStructure {
    /// The family's `config.json`.
    pub config: Value,
    /// The family's name among people.
    pub family: &'static str,
    /// The encoder.
    pub tower: ImageTowerConfig,
    /// The names of its tensors.
    pub keys: KeyMap,
    /// The names of those of its head or decoder.
    pub head_keys: KeyMap,
    /// The decoder of a masked autoencoder.
    pub decoder: Option<PixelDecoderConfig>,
    /// Where it goes on from.
    pub source: Option<Pretrained>,
    /// How pictures are prepared.
    pub processor: ImageProcessor,
}

impl ImageStructure {
    /// Decides on the structure and fills in the sizes of the configuration.
    ///
    /// # Errors
    /// When a checkpoint is not a ViT, or sizes do not fit.
    pub(super) fn new(config: &mut PretrainConfig, rows: usize) -> Result<Self> {
        let (mut json, source, processor) = match config.image.encoder.clone() {
            Some(folder) => {
                let (source, processor) = going_on(config, &folder)?;
                (source.config().to_value(), Some(source), processor)
            }
            None => {
                let processor =
                    ImageProcessor { size: config.image.size, crop: config.image.crop, ..ImageProcessor::default() };
                let image = &mut config.image;
                let json = vit("image", (image.size, image.crop), &mut image.patch_size, &mut image.tower, rows)?;
                (json, None, processor)
            }
        };
        let mim = &config.pretrain.mim;
        // The same tensors under the same names: only what is learnt differs.
        let method = (mim.weight > 0.0).then_some(mim.method);
        json["model_type"] = json!(if method == Some(MimMethod::Mae) { "vit_mae" } else { "vit" });
        json["architectures"] = json!([match method {
            Some(MimMethod::Simmim) => "ViTForMaskedImageModeling",
            Some(MimMethod::Mae) => "ViTMAEForPreTraining",
            None => "ViTModel",
        }]);
        if method == Some(MimMethod::Mae) {
            json["decoder_hidden_size"] = json!(mim.decoder_hidden);
            json["decoder_num_hidden_layers"] = json!(mim.decoder_layers);
            json["decoder_num_attention_heads"] = json!(mim.decoder_heads());
            json["decoder_intermediate_size"] = json!(4 * mim.decoder_hidden);
            json["mask_ratio"] = json!(mim.share());
            json["norm_pix_loss"] = json!(mim.normalise);
        }
        let described = Config::new("image.tower", json.clone())?;
        let (family, parts) = describe(&described, Path::new("image.tower"))?;
        let part = |name: &str| {
            let found = parts.iter().find(|p| p.name == name);
            found.ok_or_else(|| Error::Request(format!("a {} model has no {name} part", family.name)))
        };
        let (tower, head) = (part("image")?, part("masked_image")?);
        let PartConfig::Tower(tower_config) = &tower.config else {
            return Err(Error::Request(format!("the image part of {} is no tower", family.name)));
        };
        let TowerConfig::Image(mut image) = (**tower_config).clone() else {
            return Err(Error::Request(format!("the image part of {} is no image tower", family.name)));
        };
        // Nothing here trains a pooler.
        image.pooler = None;
        image.image_size = processor.size;
        image.transformer.block.validate("image.tower")?;
        let decoder = (method == Some(MimMethod::Mae)).then(|| PixelDecoderConfig {
            hidden: mim.decoder_hidden,
            layers: mim.decoder_layers,
            heads: mim.decoder_heads(),
            intermediate: 0,
            normalise: mim.normalise,
            norm_eps: image.transformer.block.norm_eps,
        });
        Ok(Self {
            config: json,
            family: family.name,
            tower: image,
            keys: tower.keys.clone(),
            head_keys: head.keys.clone(),
            decoder,
            source,
            processor,
        })
    }

    /// Says which classes are told from the pictures: a ViT's classifier is
    /// written with it.
    pub(super) fn name_classes(&mut self, id2label: Value) {
        name_classes(&mut self.config, "ViTForImageClassification", id2label);
    }

    /// How rows become pictures.
    ///
    /// # Errors
    /// When no training row has one.
    pub(super) fn plan(&self, config: &PretrainConfig, dataset: &Dataset) -> Result<Arc<DataPlan>> {
        let image = self.processor.clone();
        let how = PlanOptions { image, limits: config.limits.clone(), ..PlanOptions::default() };
        Ok(Arc::new(DataPlan::fit(&dataset.table, &dataset.schema, &dataset.splits.train, &how)?))
    }

    /// The `preprocessor_config.json` that says how pictures are prepared.
    pub(super) fn preprocessor(&self) -> Value {
        preprocessor(&self.processor)
    }
}

/// Makes a configuration that of another library's class that tells these
/// classes of pictures.
pub(super) fn name_classes(config: &mut Value, class: &str, id2label: Value) {
    let named = id2label.as_object().into_iter().flatten();
    let label2id: serde_json::Map<String, Value> =
        named.filter_map(|(id, name)| Some((name.as_str()?.to_owned(), json!(id.parse::<usize>().ok()?)))).collect();
    config["architectures"] = json!([class]);
    config["label2id"] = Value::Object(label2id);
    config["id2label"] = id2label;
}

/// The `preprocessor_config.json` that says how pictures are prepared.
pub(super) fn preprocessor(p: &ImageProcessor) -> Value {
    let resample = match p.filter {
        Filter::Nearest => 0,
        Filter::Lanczos => 1,
        Filter::Bilinear => 2,
        Filter::Bicubic => 3,
        Filter::Box => 4,
    };
    let resize = p.resize.unwrap_or(p.size);
    let squash = p.crop == CropMode::Squash;
    json!({
        // The class that takes the middle of a picture is the one of CLIP and BiT.
        "image_processor_type": if squash && resize == p.size { "ViTImageProcessor" } else { "BitImageProcessor" },
        "do_resize": true,
        "size": if squash { json!({ "height": resize, "width": resize }) } else { json!({ "shortest_edge": resize }) },
        "do_center_crop": !(squash && resize == p.size),
        "crop_size": { "height": p.size, "width": p.size },
        "resample": resample,
        "do_rescale": true,
        "rescale_factor": 1.0 / 255.0,
        "do_normalize": true,
        "image_mean": p.mean,
        "image_std": p.std,
        "do_convert_rgb": true,
    })
}

/// The model of single frames of a video.
pub(super) struct FrameStructure {
    /// ViT's `config.json`.
    pub config: Value,
    /// The encoder.
    pub tower: ImageTowerConfig,
    /// The names of its tensors.
    pub keys: KeyMap,
    /// How frames are prepared.
    pub processor: ImageProcessor,
}

impl FrameStructure {
    /// Decides on the structure and fills in the sizes of the configuration.
    ///
    /// # Errors
    /// When sizes do not fit.
    pub(super) fn new(config: &mut PretrainConfig, rows: usize) -> Result<Self> {
        let video = &mut config.video;
        let mut json = vit("video", (video.size, video.crop), &mut video.patch_size, &mut video.tower, rows)?;
        (json["model_type"], json["architectures"]) = (json!("vit"), json!(["ViTModel"]));
        let processor = ImageProcessor { size: video.size, crop: video.crop, ..ImageProcessor::default() };
        let (_, parts) = describe(&Config::new("video.tower", json.clone())?, Path::new("video.tower"))?;
        for part in parts {
            if let PartConfig::Tower(tower) = part.config
                && let TowerConfig::Image(mut tower) = *tower
            {
                tower.pooler = None;
                return Ok(Self { config: json, tower, keys: part.keys, processor });
            }
        }
        Err(Error::Request("ViT has no image part".into()))
    }

    /// The `preprocessor_config.json` that says how frames are prepared.
    pub(super) fn preprocessor(&self) -> Value {
        preprocessor(&self.processor)
    }
}

fn going_on(config: &mut PretrainConfig, folder: &Path) -> Result<(Pretrained, ImageProcessor)> {
    if config.image.patch_size.is_some() {
        let problem = "is decided by image.encoder; leave it out";
        return Err(Error::Config { place: "image.patch_size".into(), problem: problem.into() });
    }
    let source = going_on::checkpoint("image", &config.image.tower, folder)?;
    let what = "masked image modelling and captions go on from ViT";
    going_on::of_family("image", &source, &["vit", "vit_mae"], what)?;
    let processor = processors::image(&source)?;
    config.image.size = processor.size;
    Ok((source, processor))
}

/// Hidden size, layers and heads of a tower that learns from so many rows;
/// automatic ones are written back.
pub(super) fn sizes(tower: &mut TowerSection, rows: usize) -> [usize; 3] {
    let (hidden, layers) = match rows {
        0..5_000 => (96, 4),
        5_000..100_000 => (192, 6),
        _ => (384, 12),
    };
    let hidden = *tower.hidden.get_or_insert(hidden);
    let layers = *tower.layers.get_or_insert(layers);
    [hidden, layers, *tower.heads.get_or_insert((hidden / 32).max(1))]
}

/// The `config.json` of a ViT, whose automatic sizes are filled in; `section` is
/// the one of the configuration that they stand in.
fn vit(
    section: &str,
    (size, crop): (usize, CropMode),
    patch: &mut Option<usize>,
    tower: &mut TowerSection,
    rows: usize,
) -> Result<Value> {
    if crop == CropMode::Pad {
        return Err(Error::Config {
            place: format!("{section}.crop"),
            problem: "\"pad\" is nothing that a ViT's files can say; expected \"squash\" or \"center\"".into(),
        });
    }
    let patch = *patch.get_or_insert((size / 8).max(1));
    if patch == 0 || !size.is_multiple_of(patch) {
        return Err(Error::Config {
            place: format!("{section}.patch_size"),
            problem: format!("{patch} does not divide the {size} pixels of {section}.size"),
        });
    }
    let [hidden, layers, heads] = sizes(tower, rows);
    Ok(json!({
        "dtype": "float32",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 4 * hidden,
        "hidden_act": "gelu",
        "hidden_dropout_prob": tower.dropout,
        "attention_probs_dropout_prob": tower.attention_dropout,
        "drop_path_rate": tower.drop_path,
        "image_size": size,
        "patch_size": patch,
        "encoder_stride": patch,
        "num_channels": 3,
        "qkv_bias": true,
        "layer_norm_eps": 1e-12,
        "initializer_range": START,
    }))
}

/// The pictures or sounds of a table, by split.
pub(super) struct Media {
    pub training: Loader,
    pub validation: Loader,
    pub rows: usize,
    pub held_out: usize,
    /// The columns that they stand in.
    pub columns: Vec<String>,
}

/// What a fit's configuration says too.
pub(super) fn as_fit(config: &PretrainConfig) -> FitConfig {
    FitConfig {
        data: config.data.clone(),
        text: config.text.clone(),
        image: config.image.clone(),
        audio: config.audio.clone(),
        video: config.video.clone(),
        train: config.train.clone(),
        limits: config.limits.clone(),
        ..FitConfig::default()
    }
}

/// Opens a table with its columns that are wanted, by name and type; all
/// others are left out.
///
/// # Errors
/// When the table cannot be read.
pub(super) fn open_columns(
    config: &PretrainConfig,
    path: &Path,
    wanted: impl Fn(&str, ColumnType) -> bool,
) -> Result<Dataset> {
    let mut fit = as_fit(config);
    let table = Table::open(path, &TableOptions::default())?;
    let options = SchemaOptions {
        label: None,
        types: fit.data.types.clone(),
        ignore: fit.data.ignore.clone(),
        split: fit.data.split.clone(),
        group: fit.data.group.clone(),
    };
    let schema = Schema::infer(&table, &options)?;
    let kept = |c: &ColumnSchema| c.kind == ColumnType::Identifier || wanted(&c.name, c.kind);
    let split = schema.split.clone();
    let others = schema.columns.iter().filter(|c| !kept(c) && Some(&c.name) != split.as_ref());
    let others: Vec<String> = others.map(|c| c.name.clone()).collect();
    fit.data.types.retain(|column, _| !others.contains(column));
    fit.data.ignore.extend(others);
    Dataset::of(table, &fit)
}

/// As [`open_columns`], the columns of a type.
///
/// # Errors
/// When the table cannot be read or has none.
pub(super) fn open(config: &PretrainConfig, path: &Path, wanted: ColumnType) -> Result<Dataset> {
    let dataset = open_columns(config, path, |_, kind| kind == wanted)?;
    if !dataset.schema.columns.iter().any(|c| c.kind == wanted) {
        return Err(Error::Request(format!(
            "{path:?} has no column of type {wanted} to learn from; name one: [data.types] COLUMN = \"{wanted}\""
        )));
    }
    Ok(dataset)
}

impl Media {
    /// Loaders of the rows of a data set.
    ///
    /// # Errors
    /// When no row is left to learn from.
    pub(super) fn new(dataset: &Dataset, config: &PretrainConfig, plan: Arc<DataPlan>) -> Result<Self> {
        let (train, val) = (dataset.splits.train.clone(), dataset.splits.val.clone());
        if train.is_empty() {
            return Err(Error::Request(format!("no row is left to learn from ({})", dataset.splits.summary())));
        }
        let options = LoaderOptions {
            batch_size: BatchSize::Samples(config.train.batch_size.max(1)),
            seed: config.train.seed,
            workers: rayon::current_num_threads().max(1),
            prefetch: 4,
            on_bad: config.data.on_error,
            max_bad_fraction: config.data.max_bad_fraction,
            ..LoaderOptions::default()
        };
        let training = LoaderOptions { shuffle: true, augmentation: augmentation(&as_fit(config)), ..options.clone() };
        let loader = |rows: &Vec<u64>, options| {
            let table = Arc::clone(&dataset.table);
            Loader::new(table, Arc::clone(&plan), rows.clone(), dataset.cache.clone(), options)
        };
        Ok(Self {
            training: loader(&train, training)?,
            validation: loader(&val, options)?,
            rows: train.len(),
            held_out: val.len(),
            columns: plan.columns.iter().map(|c| c.name.clone()).collect(),
        })
    }

    /// What there is, in words.
    pub(super) fn describe(&self) -> String {
        let columns = self.columns.join(", ");
        format!("column {columns}, {} rows to learn from, {} held out", self.rows, self.held_out)
    }
}
