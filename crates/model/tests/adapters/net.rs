//! A small model of two columns, one of which counts as pretrained.

use sensorium_engine::{Offsets, Params, Random, Tape, Tensor, Var, ops};
use sensorium_model::adapters::{Finetune, Method};
use sensorium_model::towers::{ImageTowerConfig, TextTowerConfig};
use sensorium_model::{
    BlockConfig, ColumnInput, ColumnTower, Context, FusionConfig, FusionKind, Inputs, ModelConfig, MultimodalModel,
    TowerConfig, TransformerConfig, Values,
};
use sensorium_train::{BoxError, StepContext, StepLoss, Trainable};

/// A model, its weights, and the loss on a batch.
pub struct Net {
    pub model: MultimodalModel,
    pub params: Params,
}

/// The configuration of [`Net`], its text tower with this many layers.
pub fn config(text_layers: usize) -> ModelConfig {
    let transformer = |layers| TransformerConfig {
        layers,
        block: BlockConfig { hidden: 16, heads: 2, intermediate: 24, ..BlockConfig::default() },
        ..TransformerConfig::default()
    };
    let text = TextTowerConfig {
        vocab_size: 20,
        max_positions: 12,
        transformer: transformer(text_layers),
        ..TextTowerConfig::default()
    };
    let image = ImageTowerConfig { image_size: 8, patch_size: 4, transformer: transformer(1), ..Default::default() };
    ModelConfig {
        columns: vec![
            ColumnTower { name: "text".into(), tower: TowerConfig::Text(text) },
            ColumnTower { name: "image".into(), tower: TowerConfig::Image(image) },
        ],
        fusion: FusionConfig { kind: FusionKind::Concat, dim: 16, ..FusionConfig::default() },
        outputs: 3,
    }
}

impl Net {
    pub fn new(text_layers: usize) -> Self {
        let (model, params) = MultimodalModel::new(&config(text_layers), 1).expect("sound");
        Self { model, params }
    }

    /// Fine-tunes the text tower; the rest begins at random.
    pub fn finetuned(method: Method) -> Self {
        let mut net = Self::new(2);
        net.finetune("default", method);
        net
    }

    pub fn finetune(&mut self, name: &str, method: Method) {
        let finetune = Finetune { method, parts: vec!["towers.text".into()], modules_to_save: Vec::new() };
        finetune.apply(self.model.adapters_mut(), &mut self.params, name, 7).expect("applies");
    }

    /// The logits of the batch, nothing dropped.
    pub fn logits(&self) -> Vec<f32> {
        let tape = Tape::inference();
        let out = self.model.forward(&Context::inference(&tape, &self.params), &batch()).expect("runs");
        out.logits.data().to_vec()
    }

    /// Adds noise to the parameters of the active adapter, as training would.
    pub fn disturb(&mut self, purpose: &str) {
        let active = self.model.adapters().active().expect("one is active").to_owned();
        let random = Random::new(3).purpose(purpose);
        for id in self.model.adapters().parameters(&active).expect("known") {
            let random = random.purpose(&self.params.get(id).name);
            for (i, x) in self.params.get_mut(id).value.data_mut().iter_mut().enumerate() {
                *x += 0.3 * random.normal(i as u64) as f32;
            }
        }
    }
}

/// Four samples: two with both columns, one with each alone.
pub fn batch() -> Inputs {
    let text = ColumnInput::new(
        vec![0, 1, 2],
        Offsets::from_lengths([3, 5, 1]),
        Values::Tokens(vec![2, 3, 4, 5, 6, 7, 8, 9, 10]),
    );
    let mut pixels = Tensor::zeros(&[3, 3, 8, 8]);
    let random = Random::new(5);
    pixels.data_mut().iter_mut().enumerate().for_each(|(i, x)| *x = random.normal(i as u64) as f32);
    let image = ColumnInput::new(vec![0, 1, 3], Offsets::from_lengths([1, 1, 1]), Values::Images(pixels));
    Inputs { samples: 4, columns: vec![text.expect("sound"), image.expect("sound")] }
}

impl Trainable for Net {
    type Batch = Inputs;

    fn params(&self) -> &Params {
        &self.params
    }

    fn params_mut(&mut self) -> &mut Params {
        &mut self.params
    }

    fn loss(&self, tape: &Tape, batch: &Inputs, step: &StepContext) -> Result<StepLoss, BoxError> {
        let cx = match step.training {
            true => {
                Context::training(tape, &self.params, step.random).checkpointing(self.model.gradient_checkpointing())
            }
            false => Context::inference(tape, &self.params),
        };
        let out = self.model.forward(&cx, batch)?;
        let wanted = Var::constant(Tensor::full(out.logits.value().dims(), 0.5));
        let error = ops::sub(tape, &out.logits, &wanted)?;
        let loss = ops::mean(tape, &ops::mul(tape, &error, &error)?)?;
        Ok(StepLoss { loss, parts: Vec::new(), weight: 4.0, samples: 4, tokens: 9 })
    }
}
