//! Pictures as codes: each patch is the number of the nearest of so many
//! centres, which k-means has found among the patches of training pictures.
//! What is compared of a patch are its pixels, or what a frozen encoder makes
//! of it.

use super::column_sections::{FusionObjectiveSection, PatchFeatures};
use super::columns::Columns;
use super::config::PretrainConfig;
use super::start::fill;
use crate::feature_cache::FeatureCache;
use crate::verbs::open_cache;
use crate::{Error, Result, hub};
use sensorium_data::Processor;
use sensorium_engine::matmul::rows_alike;
use sensorium_engine::{Builder, Params, Random, Tape, Tensor, Var, ops};
use sensorium_model::objectives::Codebook;
use sensorium_model::pretrained::Pretrained;
use sensorium_model::{ColumnInput, ColumnTower, Context, Tower, TowerConfig, Towers, Values};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Patches that the codebook is learnt from, at most.
const MAX_PATCHES: usize = 20_000;
/// The least deviation that numbers of an encoder are divided by.
const LEAST_DEVIATION: f32 = 1e-6;

/// How the pictures of a column become codes.
pub(super) struct ImageCodes {
    codebook: Codebook,
    vectors: Vectors,
    /// Codes of a picture.
    pub each: usize,
    /// Pixels of a side of a picture.
    size: usize,
}

/// What stands for a patch.
enum Vectors {
    /// Its pixels, so many on each side.
    Pixels(usize),
    /// A token of a frozen encoder.
    Tokens(Box<FrozenEncoder>),
}

/// An encoder that nothing changes.
struct FrozenEncoder {
    /// Where it comes from.
    folder: PathBuf,
    /// One, of pictures.
    towers: Towers,
    params: Params,
    /// Where its features are kept, if they are.
    cache: Option<FeatureCache>,
    /// Tokens before those of the patches.
    special: usize,
    /// Each number's mean and deviation over training patches.
    scale: Option<[Tensor; 2]>,
}

impl ImageCodes {
    /// Learns the codebook of the training pictures of a column.
    ///
    /// # Errors
    /// When patches do not divide pictures or are too alike, or there is no
    /// encoder where one is wanted.
    pub(super) fn learn(columns: &Columns, image: usize, config: &PretrainConfig) -> Result<Self> {
        let p = &config.pretrain.fusion;
        let wrong = |key: &str, problem: String| Error::Config { place: format!("pretrain.fusion.{key}"), problem };
        let Processor::Image(processor) = &columns.plan.columns[image].processor else {
            return Err(wrong("columns", "the first is no column of pictures".into()));
        };
        let size = processor.size;
        let (mut vectors, each) = match p.features {
            PatchFeatures::Pixels => {
                let patch = patch_of(p, size)?;
                (Vectors::Pixels(patch), (size / patch).pow(2))
            }
            PatchFeatures::Encoder => {
                let encoder = FrozenEncoder::open(config)?;
                let each = encoder.patches();
                (Vectors::Tokens(Box::new(encoder)), each)
            }
        };
        let mut patches = vectors.of_training(columns, image, each)?;
        if let Vectors::Tokens(encoder) = &mut vectors {
            encoder.scale = Some(mean_and_deviation(&patches)?);
            patches = encoder.standardised(patches);
        }
        let random = Random::new(config.train.seed).purpose("codebook");
        let codebook =
            Codebook::fit(&patches, p.codes, p.iterations, random).map_err(|e| wrong("codes", e.to_string()))?;
        Ok(Self { codebook, vectors, each, size })
    }

    /// The codes of pictures, those of each one after another.
    ///
    /// # Errors
    /// When they are not of the size that the codebook was learnt with.
    pub(super) fn of(&self, pictures: &ColumnInput) -> Result<Vec<u32>> {
        let vectors = self.vectors.of(pictures)?;
        let vectors = match &self.vectors {
            Vectors::Pixels(_) => vectors,
            Vectors::Tokens(encoder) => encoder.standardised(vectors),
        };
        Ok(self.codebook.nearest(&vectors)?)
    }

    /// How many different ones there are.
    pub(super) fn codes(&self) -> usize {
        self.codebook.codes()
    }

    /// What must be known to make codes of pictures, beside the tensors.
    pub(super) fn facts(&self) -> Value {
        let mut facts = json!({ "image_size": self.size });
        match &self.vectors {
            Vectors::Pixels(patch) => {
                facts["features"] = json!("pixels");
                facts["patch_size"] = json!(patch);
            }
            Vectors::Tokens(encoder) => {
                facts["features"] = json!("encoder");
                facts["encoder"] = json!(encoder.folder);
            }
        }
        facts
    }

    /// The centres `[codes, width]`; of an encoder's numbers also `mean` and
    /// `deviation` `[width]`, by which they are standardised before.
    pub(super) fn tensors(&self) -> Vec<(&'static str, &Tensor)> {
        let mut tensors = vec![("centres", self.codebook.centres())];
        if let Vectors::Tokens(encoder) = &self.vectors
            && let Some([mean, deviation]) = &encoder.scale
        {
            tensors.extend([("mean", mean), ("deviation", deviation)]);
        }
        tensors
    }

    /// What decides about the codes, for a resumed run.
    pub(super) fn identity(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for (name, tensor) in self.tensors() {
            hasher.update(name.as_bytes());
            tensor.data().iter().for_each(|x| {
                hasher.update(&x.to_le_bytes());
            });
        }
        hasher.finalize().to_hex().to_string()
    }

    /// What they are of, in words.
    pub(super) fn describe(&self) -> String {
        let codes = self.codebook.codes();
        match &self.vectors {
            Vectors::Pixels(patch) => format!("{codes} codes of patches of {patch} pixels"),
            Vectors::Tokens(encoder) => {
                format!("{codes} codes of the {} tokens that {} makes", self.each, encoder.folder.display())
            }
        }
    }
}

/// Pixels of a side of a patch.
fn patch_of(p: &FusionObjectiveSection, size: usize) -> Result<usize> {
    let patch = p.patch_size.unwrap_or((size / 8).max(1));
    match patch > 0 && size.is_multiple_of(patch) {
        true => Ok(patch),
        false => Err(Error::Config {
            place: "pretrain.fusion.patch_size".into(),
            problem: format!("{patch} does not divide the {size} pixels of a picture"),
        }),
    }
}

impl Vectors {
    /// Those of pictures `[n, 3, size, size]`: `[n · patches, width]`.
    fn of(&self, pictures: &ColumnInput) -> Result<Tensor> {
        match (self, pictures.values()) {
            (Self::Pixels(patch), Values::Images(pixels)) => {
                let (tape, pixels) = (Tape::inference(), Var::constant(pixels.clone()));
                Ok(ops::unfold_patches(&tape, &pixels, (*patch, *patch), (*patch, *patch))?.into_value())
            }
            (Self::Tokens(encoder), Values::Images(_)) => encoder.tokens(pictures),
            _ => Err(Error::Request("only pictures become codes".into())),
        }
    }

    /// Those of training pictures with `each` patches, spread evenly over the
    /// rows.
    fn of_training(&self, columns: &Columns, image: usize, each: usize) -> Result<Tensor> {
        let rows = &columns.dataset.splits.train;
        let every = (rows.len() * each).div_ceil(MAX_PATCHES).max(1);
        let rows: Vec<u64> = rows.iter().step_by(every).copied().collect();
        let loader = columns.dataset.in_order(&columns.plan, &rows, &columns.fit, false)?;
        let (mut data, mut count) = (Vec::new(), 0);
        for pack in loader.epoch(0, 0) {
            let batch = crate::Batch::new(pack?)?;
            let pictures = &batch.inputs.columns[image];
            if pictures.offsets().segments() > 0 {
                let vectors = self.of(pictures)?;
                count += vectors.dims()[0];
                data.extend_from_slice(vectors.data());
            }
        }
        Ok(Tensor::from_slice(&[count, data.len() / count.max(1)], &data)?)
    }
}

impl FrozenEncoder {
    /// Opens `image.encoder`.
    fn open(config: &PretrainConfig) -> Result<Self> {
        let wrong = |problem: String| Error::Config { place: "pretrain.fusion.features".into(), problem };
        let Some(folder) = &config.image.encoder else {
            return Err(wrong("\"encoder\" needs one: name its folder with image.encoder".into()));
        };
        let found = hub::resolve(&folder.to_string_lossy(), &mut |_| {}).map_err(|e| wrong(e.to_string()))?;
        let source = Pretrained::open(&found).map_err(|e| wrong(e.to_string()))?;
        let TowerConfig::Image(tower) = source.tower_config("image").map_err(|e| wrong(e.to_string()))? else {
            return Err(wrong(format!("{} has no encoder of pictures", source.family().name)));
        };
        let mut tower = tower.clone();
        // Patches are told apart by what they are before that.
        (tower.pooler, tower.projection) = (None, None);
        let special = tower.special_tokens();
        let tower = TowerConfig::Image(tower);
        let mut params = Params::new();
        let columns = [ColumnTower { name: "image".into(), tower: tower.clone() }];
        let towers = Towers::new(&mut Builder::new(&mut params, 0), &columns)?;
        fill(&mut params, towers.tower_scope(0), 0, Some(&source), "image", |b| Tower::new(b, &tower))?;
        params.iter_mut().for_each(|(_, p)| p.trainable = false);
        // Pictures that are varied are new in every epoch.
        let cache = match config.image.augment {
            true => None,
            false => open_cache(&super::pictures::as_fit(config), "features")?,
        };
        let cache = cache.map(|cache| FeatureCache::new(cache, &[true], true));
        Ok(Self { folder: folder.clone(), towers, params, cache, special, scale: None })
    }

    /// Tokens of patches of a picture.
    fn patches(&self) -> usize {
        self.towers.columns()[0].tower.tokens(1) - self.special
    }

    /// The tokens of the patches of pictures: `[n · patches, hidden]`.
    fn tokens(&self, pictures: &ColumnInput) -> Result<Tensor> {
        let tape = Tape::inference();
        let cx = Context::inference(&tape, &self.params);
        let features = match &self.cache {
            Some(cache) => cache.features(&cx, &self.towers, 0, pictures)?,
            // The bits are those that the cache would hold, whatever shares the batch.
            None => rows_alike(|| self.towers.column_features(&cx, 0, pictures))?,
        };
        let patches = |range: std::ops::Range<usize>| range.start as u32 + self.special as u32..range.end as u32;
        let rows: Vec<u32> = features.offsets.ranges().flat_map(patches).collect();
        Ok(ops::gather_rows(&tape, &features.tokens, &rows)?.into_value())
    }

    /// Vectors with mean 0 and deviation 1, as they are among training patches.
    fn standardised(&self, mut vectors: Tensor) -> Tensor {
        let Some([mean, deviation]) = &self.scale else { return vectors };
        for row in vectors.data_mut().chunks_exact_mut(mean.len()) {
            for ((x, mean), deviation) in row.iter_mut().zip(mean.data()).zip(deviation.data()) {
                *x = (*x - mean) / deviation;
            }
        }
        vectors
    }
}

/// The mean and the deviation of each number of vectors `[n, width]`.
fn mean_and_deviation(vectors: &Tensor) -> Result<[Tensor; 2]> {
    let (n, width) = (vectors.dims()[0].max(1) as f64, vectors.dims()[1]);
    let (mut sums, mut squares) = (vec![0.0_f64; width], vec![0.0_f64; width]);
    let rows = || vectors.data().chunks_exact(width.max(1));
    for row in rows() {
        sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x));
    }
    let mean: Vec<f64> = sums.iter().map(|sum| sum / n).collect();
    for row in rows() {
        for ((square, x), mean) in squares.iter_mut().zip(row).zip(&mean) {
            *square += (f64::from(*x) - mean).powi(2);
        }
    }
    let deviation: Vec<f32> = squares.iter().map(|s| ((s / n).sqrt() as f32).max(LEAST_DEVIATION)).collect();
    let mean: Vec<f32> = mean.iter().map(|x| *x as f32).collect();
    Ok([Tensor::from_slice(&[width], &mean)?, Tensor::from_slice(&[width], &deviation)?])
}
