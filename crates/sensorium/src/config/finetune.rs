//! `[finetune]`: how pretrained towers are fine-tuned.

use crate::{Error, Result};
use sensorium_model::adapters::{
    AdapterConfig, BottleneckConfig, BottleneckKind, Ia3Config, LoraConfig, Method, VirtualTokens,
};
use sensorium_model::layers::ActivationName;
use serde::{Deserialize, Serialize};

/// `[finetune]`: how pretrained towers are fine-tuned. Fusion, head and towers from scratch
/// always train in full. A setting that the method does not use is an error.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FinetuneSection {
    /// `full`, `head` (nothing of the towers), `top_layers`, `bitfit`, `lora`, `dora`, `ia3`,
    /// `adapter`, `prefix` or `prompt`.
    pub method: MethodName,
    /// Patterns of the parts that the method rules, as `towers.caption` (automatic: the towers
    /// with a pretrained encoder).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parts: Option<Vec<String>>,
    /// Patterns of modules inside those parts that train in full besides.
    pub modules_to_save: Vec<String>,
    /// The last blocks that train, of `top_layers` (automatic: 2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<usize>,
    /// The rank of the change, of `lora` and `dora` (automatic: 8).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank: Option<usize>,
    /// The change is multiplied by alpha / rank, of `lora` and `dora` (automatic: 8).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// Whether that is alpha / √rank, of `lora` and `dora` (automatic: false).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rslora: Option<bool>,
    /// Dropout on what goes into the change, of `lora` and `dora` (automatic: 0).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dropout: Option<f64>,
    /// Patterns of the modules that are changed, whole names or their ends, of `lora` and `dora`
    /// (automatic: query and value) and `ia3` (automatic: key, value and down).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub targets: Option<Vec<String>>,
    /// Those of the targets whose inputs are multiplied, not their outputs, of `ia3` (automatic:
    /// down).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub feedforward: Option<Vec<String>>,
    /// `houlsby`, `pfeiffer` or `parallel`, of `adapter` (automatic: pfeiffer).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placement: Option<BottleneckKind>,
    /// How many times narrower than the tower it is inside, of `adapter` (automatic: 16;
    /// parallel: 2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reduction: Option<f64>,
    /// The activation inside, of `adapter` (automatic: relu; houlsby: silu).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub activation: Option<ActivationName>,
    /// What its output is multiplied by, of `adapter` (automatic: 1; parallel: 4).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<f64>,
    /// Virtual tokens in front of each text, image, …, of `prefix` and `prompt` (automatic: 16).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<usize>,
}

/// A fine-tuning method by its name in configurations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum MethodName {
    #[default]
    Full,
    Head,
    TopLayers,
    Bitfit,
    Lora,
    Dora,
    Ia3,
    Adapter,
    Prefix,
    Prompt,
}

impl MethodName {
    /// As configurations say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Head => "head",
            Self::TopLayers => "top_layers",
            Self::Bitfit => "bitfit",
            Self::Lora => "lora",
            Self::Dora => "dora",
            Self::Ia3 => "ia3",
            Self::Adapter => "adapter",
            Self::Prefix => "prefix",
            Self::Prompt => "prompt",
        }
    }
}

impl FinetuneSection {
    /// The method with its numbers.
    ///
    /// # Errors
    /// When a setting is given that the method does not use, or makes no sense.
    pub fn resolve(&self) -> Result<Method> {
        self.refuse_unused()?;
        let method = match self.method {
            MethodName::Full => Method::Full,
            MethodName::Head => Method::Head,
            MethodName::TopLayers => Method::TopLayers(self.layers.unwrap_or(2)),
            MethodName::Bitfit => Method::BitFit,
            MethodName::Lora | MethodName::Dora => {
                let d = LoraConfig::default();
                Method::Adapter(AdapterConfig::Lora(LoraConfig {
                    rank: self.rank.unwrap_or(d.rank),
                    alpha: self.alpha.unwrap_or(d.alpha),
                    rslora: self.rslora.unwrap_or(d.rslora),
                    dropout: self.dropout.unwrap_or(d.dropout),
                    dora: self.method == MethodName::Dora,
                    targets: self.targets.clone().unwrap_or(d.targets),
                }))
            }
            MethodName::Ia3 => {
                let d = Ia3Config::default();
                Method::Adapter(AdapterConfig::Ia3(Ia3Config {
                    targets: self.targets.clone().unwrap_or(d.targets),
                    feedforward: self.feedforward.clone().unwrap_or(d.feedforward),
                }))
            }
            MethodName::Adapter => {
                let d = BottleneckConfig::of(self.placement.unwrap_or_default());
                Method::Adapter(AdapterConfig::Bottleneck(BottleneckConfig {
                    placement: d.placement,
                    reduction: self.reduction.unwrap_or(d.reduction),
                    activation: self.activation.unwrap_or(d.activation),
                    scale: self.scale.unwrap_or(d.scale),
                }))
            }
            MethodName::Prefix => Method::Adapter(AdapterConfig::Prefix(self.virtual_tokens())),
            MethodName::Prompt => Method::Adapter(AdapterConfig::Prompt(self.virtual_tokens())),
        };
        if let Method::Adapter(config) = &method {
            config.validate().map_err(|e| Error::Config { place: "finetune".into(), problem: e.to_string() })?;
        }
        Ok(method)
    }

    fn virtual_tokens(&self) -> VirtualTokens {
        VirtualTokens { tokens: self.tokens.unwrap_or(VirtualTokens::default().tokens) }
    }

    fn refuse_unused(&self) -> Result<()> {
        use MethodName as M;
        let settings: [(&str, bool, &[M]); 12] = [
            ("layers", self.layers.is_some(), &[M::TopLayers]),
            ("rank", self.rank.is_some(), &[M::Lora, M::Dora]),
            ("alpha", self.alpha.is_some(), &[M::Lora, M::Dora]),
            ("rslora", self.rslora.is_some(), &[M::Lora, M::Dora]),
            ("dropout", self.dropout.is_some(), &[M::Lora, M::Dora]),
            ("targets", self.targets.is_some(), &[M::Lora, M::Dora, M::Ia3]),
            ("feedforward", self.feedforward.is_some(), &[M::Ia3]),
            ("placement", self.placement.is_some(), &[M::Adapter]),
            ("reduction", self.reduction.is_some(), &[M::Adapter]),
            ("activation", self.activation.is_some(), &[M::Adapter]),
            ("scale", self.scale.is_some(), &[M::Adapter]),
            ("tokens", self.tokens.is_some(), &[M::Prefix, M::Prompt]),
        ];
        for (key, given, methods) in settings {
            if given && !methods.contains(&self.method) {
                let named = methods.iter().map(|m| m.name()).collect::<Vec<_>>().join(", ");
                return Err(Error::Config {
                    place: format!("finetune.{key}"),
                    problem: format!(
                        "is a setting of {named}, the method is {}; leave it out, or choose another method",
                        self.method.name()
                    ),
                });
            }
        }
        let full = self.method == M::Full;
        for (key, given) in [("parts", self.parts.is_some()), ("modules_to_save", !self.modules_to_save.is_empty())] {
            if given && full {
                return Err(Error::Config {
                    place: format!("finetune.{key}"),
                    problem: "means nothing with the method full, which trains everything; leave it out".into(),
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(text: &str) -> Result<Method> {
        crate::config::from_toml(&format!("[finetune]\n{text}"), &[])?.finetune.resolve()
    }

    #[test]
    fn methods_take_their_own_settings_and_no_others() {
        assert_eq!(section("").expect("default"), Method::Full);
        let lora = section("method = \"lora\"\nrank = 4\ntargets = [\"query\", \"mlp.up\"]").expect("lora");
        let Method::Adapter(AdapterConfig::Lora(c)) = lora else { panic!("{lora:?}") };
        assert_eq!((c.rank, c.alpha, c.targets.len(), c.dora), (4, 8.0, 2, false));
        assert_eq!(section("method = \"top_layers\"\nlayers = 3").expect("top"), Method::TopLayers(3));
        let error = section("method = \"adapter\"\nrank = 4").expect_err("unused").to_string();
        assert_eq!(
            error,
            "finetune.rank: is a setting of lora, dora, the method is adapter; leave it out, or choose another method"
        );
        assert!(section("parts = [\"towers.text\"]").expect_err("unused").to_string().contains("trains everything"));
        assert!(section("method = \"lora\"\nrank = 0").expect_err("no rank").to_string().contains("rank = 0"));
        let unknown = section("method = \"lora\"\nrnak = 4").expect_err("unknown").to_string();
        assert!(unknown.contains("rnak") && unknown.contains("rank"), "{unknown}");
    }

    #[test]
    fn the_examples_of_the_book_are_valid() {
        let page = include_str!("../../../../docs/finetuning.md");
        let examples: Vec<&str> =
            page.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default()).collect();
        assert!(examples.len() >= 8, "{} examples", examples.len());
        for example in examples {
            let config = crate::config::from_toml(example, &[]).unwrap_or_else(|e| panic!("{e}\n{example}"));
            config.finetune.resolve().unwrap_or_else(|e| panic!("{e}\n{example}"));
        }
    }

    #[test]
    fn the_defaults_in_the_book_are_the_defaults() {
        let page = include_str!("../../../../docs/finetuning.md");
        for method in ["lora", "ia3", "adapter", "prefix", "top_layers"] {
            let head = format!("[finetune]\nmethod = \"{method}\"\n");
            let mut shown = page.split("```toml\n").skip(1).map(|r| r.split("```").next().unwrap_or_default());
            let full = shown.find(|e| e.starts_with(&head) && !e.contains("parts")).expect(method);
            let read =
                |text: &str| crate::config::from_toml(text, &[]).expect("valid").finetune.resolve().expect(method);
            assert_eq!(read(full), read(&head), "{method}");
        }
    }
}
