//! Whether the settings of a pretraining run make sense together.

use super::column_sections::PatchFeatures;
use super::config::PretrainConfig;
use crate::{Error, Result};

/// A source is gone through so many times in an epoch, at most.
const MAX_WEIGHT: f64 = 1000.0;

fn wrong(place: impl Into<String>, problem: impl Into<String>) -> Result<()> {
    Err(Error::Config { place: place.into(), problem: problem.into() })
}

/// A weight, or another number that may be anything from 0 on.
fn not_negative(place: &str, x: f64) -> Result<()> {
    match x.is_finite() && x >= 0.0 {
        true => Ok(()),
        false => wrong(place, format!("{x} is not a number from 0 on")),
    }
}

/// A share of which something is left over.
fn share(place: &str, x: f64) -> Result<()> {
    match (0.0..1.0).contains(&x) {
        true => Ok(()),
        false => wrong(place, format!("{x} is not a share from 0 up to, but not, 1")),
    }
}

impl PretrainConfig {
    /// Whether the settings make sense together.
    ///
    /// # Errors
    /// With the key that does not.
    pub(crate) fn validate(&self) -> Result<()> {
        self.validate_objectives()?;
        self.validate_texts()?;
        let of_table = self.learns_images() || self.learns_sounds() || self.learns_columns();
        if of_table && self.data.table.is_none() {
            return wrong("data.table", "missing; expected a table with the columns to learn from");
        }
        self.validate_contrastive()?;
        self.validate_fusion()?;
        Ok(self.train.validate()?)
    }

    /// Those that every objective has, and single numbers of some.
    fn validate_objectives(&self) -> Result<()> {
        let p = &self.pretrain;
        for (name, weight) in p.weights() {
            not_negative(&format!("pretrain.{name}.weight"), weight)?;
        }
        if p.is_empty() {
            let keys: Vec<String> = p.weights().iter().map(|(name, _)| format!("pretrain.{name}.weight")).collect();
            return wrong("pretrain", format!("nothing is to be learnt; set one of these to 1: {}", keys.join(", ")));
        }
        if p.mlm.weight > 0.0 && p.clm.weight > 0.0 {
            let problem = "mlm and clm need different models, one that sees both sides and one that does not; set the \
                           weight of one to 0";
            return wrong("pretrain", problem);
        }
        let masking = [
            ("mlm", p.mlm.weight > 0.0, p.mlm.masking().validate()),
            ("mim", p.mim.weight > 0.0, p.mim.masking().validate()),
            ("msm", p.msm.weight > 0.0, p.msm.masking().validate()),
        ];
        for (name, _, checked) in masking.into_iter().filter(|(_, used, _)| *used) {
            if let Err(e) = checked {
                return wrong(format!("pretrain.{name}"), e.to_string());
            }
        }
        for (name, layers) in [("itm", p.itm.layers), ("caption", p.caption.layers), ("fusion", p.fusion.layers)] {
            if layers == 0 {
                return wrong(format!("pretrain.{name}.layers"), "0 is not at least 1");
            }
        }
        share("pretrain.image_class.label_smoothing", p.image_class.label_smoothing)?;
        not_negative("pretrain.frame_order.hidden_frame", p.frame_order.hidden_frame)
    }

    fn validate_texts(&self) -> Result<()> {
        let causal = self.pretrain.clm.weight > 0.0;
        if self.texts_of_table() && (self.data.table.is_none() || causal) {
            let or_table = if causal { "" } else { ", or data.table with a column of texts" };
            let problem = format!("missing; expected text files, shards, or folders of them{or_table}");
            return wrong("corpus.files", problem);
        }
        for source in &self.corpus.source {
            if source.files.is_empty() {
                return wrong("corpus.source.files", "missing; expected text files, shards, or folders of them");
            }
            if !(source.weight > 0.0 && source.weight <= MAX_WEIGHT) {
                let problem = format!("{} is not a number above 0 and up to {MAX_WEIGHT}", source.weight);
                return wrong("corpus.source.weight", problem);
            }
        }
        share("corpus.val", self.corpus.val)?;
        match self.text.max_tokens {
            0..4 => {
                let problem = format!("{} is too short to learn from; expected at least 4", self.text.max_tokens);
                wrong("text.max_tokens", problem)
            }
            _ => Ok(()),
        }
    }

    fn validate_contrastive(&self) -> Result<()> {
        let c = &self.pretrain.contrastive;
        if c.weight == 0.0 {
            return Ok(());
        }
        if c.pairs.as_ref().is_some_and(Vec::is_empty) {
            return wrong("pretrain.contrastive.pairs", "names no pair; expected some, as [[\"photo\", \"caption\"]]");
        }
        let templates = "pretrain.contrastive.templates";
        if let Some(bad) = c.templates.iter().find(|t| !t.contains("{}")) {
            let problem = format!("{bad:?} has no {{}} where the class belongs, as \"a photo of a {{}}.\"");
            return wrong(templates, problem);
        }
        if !c.templates.is_empty() && c.zero_shot.is_none() {
            return wrong(templates, "are for zero_shot, which names no column");
        }
        Ok(())
    }

    fn validate_fusion(&self) -> Result<()> {
        let p = &self.pretrain.fusion;
        if p.codes < 2 {
            return wrong("pretrain.fusion.codes", format!("{} is not at least 2", p.codes));
        }
        if p.weight > 0.0 && p.features == PatchFeatures::Encoder {
            if self.image.encoder.is_none() {
                let problem = "\"encoder\" needs one: name its folder with image.encoder";
                return wrong("pretrain.fusion.features", problem);
            }
            if p.patch_size.is_some() {
                let problem = "is decided by image.encoder; leave it out, or set features = \"pixels\"";
                return wrong("pretrain.fusion.patch_size", problem);
            }
        }
        not_negative("pretrain.fusion.image_weight", p.image_weight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_learnt_is_said() {
        let error = |text: &str| {
            let config = PretrainConfig::from_toml(text, &[]).expect("valid");
            config.validate().expect_err("refused").to_string()
        };
        let files = "[corpus]\nfiles = [\"a.txt\"]\n";
        assert!(error(files).contains("pretrain.mlm.weight"));
        assert!(error("[pretrain.mlm]\nweight = 1\n").starts_with("corpus.files"));
        let source = |keys: &str| error(&format!("[[corpus.source]]\n{keys}\n[pretrain.mlm]\nweight = 1\n"));
        assert!(source("weight = 2").starts_with("corpus.source.files"));
        assert!(source("files = [\"a.tar\"]\nweight = 0").starts_with("corpus.source.weight"));
        assert!(error(&format!("{files}[pretrain.mlm]\nweight = 1\n[pretrain.clm]\nweight = 1\n")).contains("clm"));
        assert!(error(&format!("{files}[pretrain.mlm]\nweight = 1\nshare = 2\n")).contains("pretrain.mlm"));
        assert!(error(&format!("{files}[pretrain.mlm]\nweight = -1\n")).contains("weight"));
        let fusion = "[data]\ntable = \"a.csv\"\n[pretrain.fusion]\nweight = 1\nfeatures = \"encoder\"\n";
        assert!(error(fusion).contains("image.encoder"));
        let encoder = format!("{fusion}patch_size = 4\n[image]\nencoder = \"vit\"\n");
        assert!(error(&encoder).starts_with("pretrain.fusion.patch_size"));
    }
}
