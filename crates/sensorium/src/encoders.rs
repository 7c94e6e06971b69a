//! Pretrained encoders in place of towers from scratch: `text.encoder` and
//! likewise name a folder, and with it come the tower's structure, its
//! weights and the way its inputs are prepared.

use crate::config::{FitConfig, TowerSection};
use crate::{Error, Result};
use sensorium_data::{PlanOptions, Processor, Tokenizer};
use sensorium_engine::Params;
use sensorium_model::pretrained::Pretrained;
use sensorium_model::{MultimodalModel, TowerConfig};
use std::path::Path;

/// What a fully fine-tuned encoder learns at, as a multiple of `train.lr`:
/// what it knows already is worth more than what a batch says.
const LR_SCALE: f64 = 0.06;

/// From a parameter's name within its tower to the checkpoint's.
pub(crate) type TensorName<'a> = Box<dyn Fn(&str) -> Option<String> + 'a>;

/// The encoders of a configuration.
#[derive(Default)]
pub(crate) struct Encoders {
    text: Option<Encoder>,
}

/// A checkpoint that becomes a tower.
struct Encoder {
    source: Pretrained,
    part: &'static str,
    tower: TowerConfig,
}

impl Encoder {
    fn open(key: &str, part: &'static str, folder: &Path, section: &TowerSection) -> Result<Self> {
        for (name, set) in [("hidden", section.hidden), ("layers", section.layers), ("heads", section.heads)] {
            if set.is_some() {
                return Err(Error::Config {
                    place: format!("{key}.tower.{name}"),
                    problem: format!("is decided by {key}.encoder; leave it out, or leave out the encoder"),
                });
            }
        }
        let source = Pretrained::open(folder)
            .map_err(|e| Error::Config { place: format!("{key}.encoder"), problem: e.to_string() })?;
        let mut tower = source.tower_config(part)?.clone();
        if let TowerConfig::Text(text) = &mut tower {
            // A projection is for comparing towers; fusion has its own.
            (text.projection, text.projection_bias) = (None, false);
        }
        Ok(Self { source, part, tower })
    }

    fn describe(&self, key: &str) -> String {
        format!("{key} encoder: {} from {}", self.source.family().name, self.source.folder().display())
    }
}

impl Encoders {
    /// Opens what a configuration names.
    ///
    /// # Errors
    /// When a folder is not a checkpoint that is known, or settings
    /// contradict it.
    pub(crate) fn open(config: &FitConfig) -> Result<Self> {
        let text = match &config.text.encoder {
            Some(folder) => Some(Encoder::open("text", "text", folder, &config.text.tower)?),
            None => None,
        };
        if text.is_some() && (config.text.tokenizer.is_some() || config.text.vocab_size.is_some()) {
            return Err(Error::Config {
                place: "text".into(),
                problem: "an encoder comes with its own tokenizer; leave tokenizer and vocab_size out".into(),
            });
        }
        Ok(Self { text })
    }

    /// Prepares inputs as the encoders expect them.
    ///
    /// # Errors
    /// When their files do not say how.
    pub(crate) fn prepare(&self, config: &mut FitConfig, options: &mut PlanOptions) -> Result<()> {
        if let Some(encoder) = &self.text
            && let TowerConfig::Text(tower) = &encoder.tower
        {
            options.tokenizer = Some(Tokenizer::from_folder(encoder.source.folder())?);
            config.text.max_tokens = config.text.max_tokens.min(tower.max_positions);
            options.text.max_tokens = config.text.max_tokens;
        }
        Ok(())
    }

    /// The tower of a column, where an encoder makes it.
    pub(crate) fn tower(&self, processor: &Processor) -> Option<TowerConfig> {
        self.of(processor).map(|e| e.tower.clone())
    }

    fn of(&self, processor: &Processor) -> Option<&Encoder> {
        match processor {
            Processor::Text(_) => self.text.as_ref(),
            _ => None,
        }
    }

    /// Copies the encoders' weights into a model's towers; `processors` are
    /// those of its columns.
    ///
    /// # Errors
    /// When tensors are missing or of another shape.
    pub(crate) fn load<'p>(
        &self,
        model: &MultimodalModel,
        params: &mut Params,
        processors: impl IntoIterator<Item = &'p Processor>,
    ) -> Result<()> {
        for (column, processor) in processors.into_iter().enumerate() {
            let Some(encoder) = self.of(processor) else { continue };
            let (_, weights) = encoder.source.load_tower_as(encoder.part, &encoder.tower)?;
            let scope = model.tower_scope(column);
            for (_, weight) in weights.iter() {
                let name = format!("{scope}.{}", weight.name);
                let id = params.id(&name).ok_or_else(|| Error::Request(format!("the model has no {name}")))?;
                params.get_mut(id).value = weight.value.clone();
            }
        }
        Ok(())
    }

    /// What the names of the towers that encoders made begin with.
    pub(crate) fn scopes<'p>(
        &self,
        model: &MultimodalModel,
        processors: impl IntoIterator<Item = &'p Processor>,
    ) -> Vec<String> {
        let made = processors.into_iter().enumerate().filter(|(_, p)| self.of(p).is_some());
        made.map(|(column, _)| model.tower_scope(column).to_owned()).collect()
    }

    /// For each tower that an encoder made what its names begin with, and the
    /// checkpoint's name of one of its parameters.
    pub(crate) fn tensor_names<'s, 'p>(
        &'s self,
        model: &MultimodalModel,
        processors: impl IntoIterator<Item = &'p Processor>,
    ) -> Vec<(String, TensorName<'s>)> {
        let made = processors.into_iter().enumerate().filter_map(|(column, p)| Some((column, self.of(p)?)));
        made.map(|(column, encoder)| {
            let name = move |ours: &str| encoder.source.tensor_name(encoder.part, ours);
            (model.tower_scope(column).to_owned(), Box::new(name) as TensorName<'s>)
        })
        .collect()
    }

    /// Lets the towers that encoders made learn more slowly than the rest,
    /// unless the configuration already says how fast, or freezes them.
    pub(crate) fn slow_down<'p>(
        &self,
        config: &mut FitConfig,
        model: &MultimodalModel,
        processors: impl IntoIterator<Item = &'p Processor>,
    ) {
        if !config.train.lr_scale.is_empty() || !config.train.freeze.is_empty() || config.train.layer_decay != 1.0 {
            return;
        }
        for (column, processor) in processors.into_iter().enumerate() {
            if self.of(processor).is_some() {
                config.train.lr_scale.insert(format!("{}.*", model.tower_scope(column)), LR_SCALE);
            }
        }
    }

    /// Lines about the encoders for the person.
    pub(crate) fn describe(&self) -> Option<String> {
        self.text.as_ref().map(|e| e.describe("text"))
    }
}
