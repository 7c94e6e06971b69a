//! `adapter_config.json`: PEFT's for LoRA, DoRA and IA³, our own for the rest.

use super::{AdapterConfig, Ia3Config, LoraConfig};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// The version of our own configuration.
const FORMAT: u64 = 1;
/// The key by which our own configuration is known.
const OURS: &str = "sensorium_adapter";

/// Settings of LoRA that change what is computed, and are not computed here;
/// each with the values that leave them off.
const NOT_READ: [(&str, &[&str]); 9] = [
    ("bias", &["none"]),
    ("lora_bias", &[]),
    ("layer_replication", &[]),
    ("target_parameters", &[]),
    ("trainable_token_indices", &[]),
    ("alora_invocation_tokens", &[]),
    ("arrow_config", &[]),
    ("use_qalora", &[]),
    ("use_bdlora", &[]),
];

/// What a file's configuration says.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Read {
    /// Its targets are the file's names.
    pub config: AdapterConfig,
    /// Alpha of modules for which it differs, by the ends of their names.
    pub alphas: BTreeMap<String, f64>,
    /// Names of modules that were trained whole, and stand beside the adapter.
    pub modules_to_save: Vec<String>,
}

/// What a module's change differs in from the configuration.
#[derive(Debug, Default)]
pub(super) struct Patterns {
    /// Ranks by module.
    pub ranks: BTreeMap<String, usize>,
    /// Alphas by module.
    pub alphas: BTreeMap<String, f64>,
}

/// The configuration as it is written; `targets` and `feedforward` are module
/// names of the file.
pub(super) fn to_json(
    config: &AdapterConfig,
    targets: Vec<String>,
    feedforward: Vec<String>,
    patterns: &Patterns,
    base: Option<&str>,
) -> Value {
    let written_by = concat!("sensorium ", env!("CARGO_PKG_VERSION"));
    match config {
        AdapterConfig::Lora(c) => json!({
            "peft_type": "LORA",
            "task_type": null,
            "base_model_name_or_path": base,
            "r": c.rank,
            "lora_alpha": c.alpha,
            "lora_dropout": c.dropout,
            "use_rslora": c.rslora,
            "use_dora": c.dora,
            "target_modules": targets,
            "rank_pattern": patterns.ranks,
            "alpha_pattern": patterns.alphas,
            "bias": "none",
            "fan_in_fan_out": false,
            "init_lora_weights": true,
            "modules_to_save": null,
            "inference_mode": true,
        }),
        AdapterConfig::Ia3(_) => json!({
            "peft_type": "IA3",
            "task_type": null,
            "base_model_name_or_path": base,
            "target_modules": targets,
            "feedforward_modules": feedforward,
            "fan_in_fan_out": false,
            "init_ia3_weights": true,
            "modules_to_save": null,
            "inference_mode": true,
        }),
        other => json!({
            OURS: FORMAT,
            "written_by": written_by,
            "base_model_name_or_path": base,
            "config": other,
        }),
    }
}

/// Reads a configuration.
pub(super) fn from_json(json: &Value) -> Result<Read, String> {
    let map = json.as_object().ok_or("expected an object")?;
    if let Some(format) = map.get(OURS) {
        if format.as_u64().is_none_or(|n| n == 0 || n > FORMAT) {
            return Err(format!("format {format} is not known, this program reads {FORMAT}: use a newer sensorium"));
        }
        let config = map.get("config").cloned().ok_or("expected a key `config`")?;
        let config = serde_json::from_value(config).map_err(|e| format!("config: {e}"))?;
        return Ok(Read { config, alphas: BTreeMap::new(), modules_to_save: Vec::new() });
    }
    let config = match map.get("peft_type").and_then(Value::as_str) {
        Some("LORA") => {
            for (key, off) in NOT_READ {
                refuse_unless_off(map, key, off)?;
            }
            let rslora = flag(map, "use_rslora")?;
            AdapterConfig::Lora(LoraConfig {
                rank: number(map, "r")?.ok_or("expected a key `r`")? as usize,
                alpha: number(map, "lora_alpha")?.ok_or("expected a key `lora_alpha`")?,
                rslora,
                dropout: number(map, "lora_dropout")?.unwrap_or(0.0),
                dora: flag(map, "use_dora")?,
                targets: names(map, "target_modules")?,
            })
        }
        Some("IA3") => AdapterConfig::Ia3(Ia3Config {
            targets: names(map, "target_modules")?,
            feedforward: names(map, "feedforward_modules")?,
        }),
        Some(other) => return Err(format!("peft_type {other:?} is not read; LORA and IA3 are")),
        None => return Err("is neither PEFT's nor Sensorium's: it has no `peft_type`".into()),
    };
    let mut alphas = BTreeMap::new();
    if let Some(pattern) = map.get("alpha_pattern").and_then(Value::as_object) {
        for (module, alpha) in pattern {
            if !module.chars().all(|c| c.is_alphanumeric() || "._-".contains(c)) {
                return Err(format!(
                    "alpha_pattern: `{module}` is a regular expression; ends of module names are read"
                ));
            }
            let alpha = alpha.as_f64().ok_or_else(|| format!("alpha_pattern: `{module}` is not a number"))?;
            alphas.insert(module.clone(), alpha);
        }
    }
    Ok(Read { config, alphas, modules_to_save: names(map, "modules_to_save")? })
}

/// The alpha of a module of the file.
pub(super) fn alpha_of(alphas: &BTreeMap<String, f64>, module: &str) -> Option<f64> {
    let ends = |end: &str| module == end || module.strip_suffix(end).is_some_and(|rest| rest.ends_with('.'));
    alphas.iter().find(|(end, _)| ends(end)).map(|(_, alpha)| *alpha)
}

fn refuse_unless_off(map: &Map<String, Value>, key: &str, off: &[&str]) -> Result<(), String> {
    let is_off = match map.get(key) {
        None | Some(Value::Null | Value::Bool(false)) => true,
        Some(Value::String(s)) => off.contains(&s.as_str()),
        Some(Value::Array(a)) => a.is_empty(),
        Some(Value::Object(o)) => o.is_empty(),
        Some(_) => false,
    };
    if is_off { Ok(()) } else { Err(format!("{key} = {} is not computed here", map[key])) }
}

fn number(map: &Map<String, Value>, key: &str) -> Result<Option<f64>, String> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value.as_f64().map(Some).ok_or_else(|| format!("{key} = {value}, expected a number")),
    }
}

fn flag(map: &Map<String, Value>, key: &str) -> Result<bool, String> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(false),
        Some(value) => value.as_bool().ok_or_else(|| format!("{key} = {value}, expected true or false")),
    }
}

/// A list of names, one name, or nothing.
fn names(map: &Map<String, Value>, key: &str) -> Result<Vec<String>, String> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(one)) => Ok(vec![one.clone()]),
        Some(Value::Array(many)) => many
            .iter()
            .map(|v| v.as_str().map(str::to_owned).ok_or_else(|| format!("{key} holds {v}, expected names")))
            .collect(),
        Some(other) => Err(format!("{key} = {other}, expected a list of names")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_computed_is_refused_by_name() {
        let lora = |extra: Value| {
            let mut json = json!({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["query"]});
            json.as_object_mut().expect("object").extend(extra.as_object().expect("object").clone());
            from_json(&json)
        };
        assert!(lora(json!({"bias": "none", "lora_bias": false, "arrow_config": null})).is_ok());
        for (extra, said) in [
            (json!({"bias": "all"}), "bias = \"all\" is not computed here"),
            (json!({"lora_bias": true}), "lora_bias = true"),
            (json!({"alpha_pattern": {"^a.*b$": 3}}), "regular expression"),
            (json!({"peft_type": "LOHA"}), "LORA and IA3 are"),
            (json!({"r": "two"}), "r = \"two\", expected a number"),
        ] {
            let error = lora(extra).expect_err("refused");
            assert!(error.contains(said), "{error}");
        }
        assert!(from_json(&json!({"r": 2})).expect_err("unknown").contains("no `peft_type`"));
        assert!(from_json(&json!({"sensorium_adapter": 2})).expect_err("newer").contains("newer sensorium"));
    }

    #[test]
    fn our_own_configurations_come_back_as_they_went() {
        let config = AdapterConfig::Prefix(super::super::VirtualTokens { tokens: 5 });
        let json = to_json(&config, Vec::new(), Vec::new(), &Patterns::default(), Some("bert"));
        assert_eq!(from_json(&json).expect("reads").config, config);
    }
}
