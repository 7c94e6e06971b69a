//! A Vision Transformer and GPT-2, which writes about what it sees.

use super::{Config, Family, Part, gpt2, vit};
use crate::layers::BlockConfig;
use crate::{ModelError, Result, TowerConfig};
use serde_json::json;

/// The reference library's pair of any encoder of pictures and any decoder (as
/// in TrOCR, Li et al. 2021); here of ViT and GPT-2.
pub(super) const VISION_ENCODER_DECODER: Family =
    Family { name: "ViT and GPT-2", model_types: &["vision-encoder-decoder"], parts };

fn parts(c: &Config) -> Result<Vec<Part>> {
    let (encoder, decoder) = (c.object("encoder")?, c.object("decoder")?);
    encoder.only("model_type", &[json!("vit")])?;
    decoder.only("model_type", &[json!("gpt2")])?;
    let image = vit::tower(&encoder)?;
    let mut config = gpt2::decoder(&decoder)?;
    let block = &mut config.transformer.block;
    if image.transformer.block.hidden != block.hidden {
        let problem = format!(
            "the encoder is {} wide and the decoder {}; what stands between them is not computed here",
            image.transformer.block.hidden, block.hidden
        );
        return Err(ModelError::config("config.json", problem));
    }
    *block = BlockConfig { cross_attention: true, ..block.clone() };
    let keys = gpt2::cross_keys(gpt2::keys("decoder")).ignore(&["decoder.lm_head.weight"]);
    Ok(vec![
        Part::tower("image", TowerConfig::Image(image), vit::keys(1).under(&["encoder."])),
        Part::decoder("decoder", config, keys.under(&["decoder.transformer."])),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_width_or_family_is_refused() {
        let config = |width: usize, decoder: &str| {
            json!({
                "model_type": "vision-encoder-decoder",
                "encoder": { "model_type": "vit", "hidden_size": width, "num_attention_heads": 2 },
                "decoder": { "model_type": decoder, "n_embd": 8, "n_head": 2, "n_layer": 1, "vocab_size": 9, "n_positions": 4 },
            })
        };
        let parts = |width, decoder| parts(&Config::new("config.json", config(width, decoder)).expect("an object"));
        let names: Vec<&str> = parts(8, "gpt2").expect("known").iter().map(|p| p.name).collect();
        assert_eq!(names, ["image", "decoder"]);
        assert!(parts(12, "gpt2").expect_err("widths").to_string().contains("12 wide"));
        assert!(parts(8, "bert").is_err());
    }
}
