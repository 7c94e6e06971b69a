//! Reading configurations, with errors that name the key and the near one.

use super::FitConfig;
use crate::{Error, Result};
use serde::de::DeserializeOwned;
use std::path::Path;
use toml::{Table, Value};

/// Reads a configuration file and applies overrides such as `train.lr=2e-5`.
///
/// Relative paths (`data.table`, `text.tokenizer`, encoders) are relative to
/// the file.
///
/// # Errors
/// When the file cannot be read, is not TOML, or has unknown keys or values of
/// the wrong type; the error names the key and the near one.
pub fn read(path: &Path, overrides: &[String]) -> Result<FitConfig> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
    let mut config = parse_fit(&text, &path.display().to_string(), overrides)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let encoders =
        [&mut config.text.encoder, &mut config.image.encoder, &mut config.audio.encoder, &mut config.video.encoder];
    for file in [&mut config.data.table, &mut config.text.tokenizer].into_iter().flatten() {
        *file = folder.join(&*file);
    }
    for encoder in encoders.into_iter().flatten() {
        // What is no folder beside the file may be the name of a model on the hub.
        let beside = folder.join(&*encoder);
        if beside.exists() {
            *encoder = beside;
        }
    }
    Ok(config)
}

/// As [`read`] from a text, whose relative paths stay as they are.
///
/// # Errors
/// As [`read`].
pub fn from_toml(text: &str, overrides: &[String]) -> Result<FitConfig> {
    parse_fit(text, "configuration", overrides)
}

fn parse_fit(text: &str, place: &str, overrides: &[String]) -> Result<FitConfig> {
    parse(text, place, overrides, |table| {
        // Within a section that is there, keys left out take the section's own
        // defaults; how long to train is to be chosen by the data all the same.
        if let Some(Value::Table(train)) = table.get_mut("train") {
            train.entry("epochs").or_insert(Value::Integer(0));
        }
    })
}

/// Any configuration from a text with overrides; `place` is where the text
/// comes from, `fill` puts in what is left out.
pub(crate) fn parse<T: DeserializeOwned>(
    text: &str,
    place: &str,
    overrides: &[String],
    fill: impl FnOnce(&mut Table),
) -> Result<T> {
    let mut table = table(text, place, overrides)?;
    fill(&mut table);
    typed(table, text, place)
}

fn table(text: &str, place: &str, overrides: &[String]) -> Result<Table> {
    let mut table: Table = toml::from_str(text).map_err(|e| {
        let line = e.span().map(|s| text[..s.start.min(text.len())].lines().count().max(1));
        Error::Config {
            place: line.map_or_else(|| place.to_owned(), |n| format!("{place}, line {n}")),
            problem: format!("not valid TOML: {}", e.message()),
        }
    })?;
    for setting in overrides {
        set(&mut table, setting)?;
    }
    Ok(table)
}

/// Applies `a.b.c=value`; the value is TOML, or a text where it is not.
fn set(table: &mut Table, setting: &str) -> Result<()> {
    let wrong = |problem: String| Error::Config { place: format!("--set {setting}"), problem };
    let (key, value) =
        setting.split_once('=').ok_or_else(|| wrong("expected KEY=VALUE, as train.lr=2e-5".to_owned()))?;
    let value = toml::from_str::<Table>(&format!("v = {value}"))
        .ok()
        .and_then(|mut t| t.remove("v"))
        .unwrap_or_else(|| Value::String(value.trim().to_owned()));
    let mut parts: Vec<&str> = key.trim().split('.').collect();
    let last = parts.pop().filter(|p| !p.is_empty()).ok_or_else(|| wrong("the key is empty".to_owned()))?;
    let mut at = table;
    for part in parts {
        at = at
            .entry(part)
            .or_insert_with(|| Value::Table(Table::new()))
            .as_table_mut()
            .ok_or_else(|| wrong(format!("{part} is a value, not a section")))?;
    }
    at.insert(last.to_owned(), value);
    Ok(())
}

/// Sections that only one command's configuration has.
const OF_ONE_COMMAND: [(&str, &str); 7] = [
    ("pretrain", "pretrain"),
    ("corpus", "pretrain"),
    ("task", "fit"),
    ("label", "fit"),
    ("fusion", "fit"),
    ("retrieve", "fit"),
    ("finetune", "fit"),
];

/// A number without a fraction is also a number with one.
fn typed<T: DeserializeOwned>(table: Table, text: &str, place: &str) -> Result<T> {
    serde_path_to_error::deserialize(Value::Table(table)).map_err(|e| {
        let path = e.path().to_string();
        let message = e.into_inner().to_string();
        let message = message.trim().to_owned();
        let (key, problem) = match unknown_field(&message) {
            Some((field, known)) => {
                let section = path.rsplit_once('.').map_or("", |(s, last)| if last == field { s } else { &path });
                let section = if path == field || path == "." { "" } else { section };
                let key = if section.is_empty() { field.clone() } else { format!("{section}.{field}") };
                let near = sensorium_data::error::nearest(&field, known.iter().map(String::as_str));
                let other = OF_ONE_COMMAND.iter().find(|(name, _)| section.is_empty() && *name == field);
                let hint = match (other, near) {
                    (Some((_, command)), _) => format!("this is a configuration of `sensorium {command}`"),
                    (None, Some(near)) => format!("did you mean {near:?}?"),
                    (None, None) => format!("known keys here: {}", known.join(", ")),
                };
                (key, format!("unknown key; {hint}"))
            }
            None => (path, message),
        };
        let line = line_of(text, &key).map_or_else(String::new, |n| format!(", line {n}"));
        Error::Config { place: format!("{place}{line}: {key}"), problem }
    })
}

/// The field and the known ones in serde's "unknown field" message.
fn unknown_field(message: &str) -> Option<(String, Vec<String>)> {
    let rest = message.strip_prefix("unknown field `")?;
    let (field, rest) = rest.split_once('`')?;
    let known = rest.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    Some((field.to_owned(), known))
}

/// The line of a dotted key in a TOML text, as far as plain reading finds it.
fn line_of(text: &str, key: &str) -> Option<usize> {
    let mut section = String::new();
    for (n, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.split(']').next()) {
            section = name.trim().to_owned();
            if section == key {
                return Some(n + 1);
            }
        } else if let Some((name, _)) = line.split_once('=') {
            let name = name.trim();
            let full = if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") };
            if full == key {
                return Some(n + 1);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str, sets: &[&str]) -> String {
        let sets: Vec<String> = sets.iter().map(|s| (*s).to_owned()).collect();
        from_toml(text, &sets).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn an_unknown_key_names_the_near_one_and_its_line() {
        let e = error("[train]\nlr = 0.1\nepoch = 3\n", &[]);
        assert_eq!(e, "configuration, line 3: train.epoch: unknown key; did you mean \"epochs\"?");
        let e = error("[trian]\nlr = 0.1\n", &[]);
        assert_eq!(e, "configuration, line 1: trian: unknown key; did you mean \"train\"?");
        let e = error("", &["image.tower.hiden=3"]);
        assert_eq!(e, "configuration: image.tower.hiden: unknown key; did you mean \"hidden\"?");
        let e = error("[pretrain.mlm]\nweight = 1\n", &[]);
        assert!(e.ends_with("pretrain: unknown key; this is a configuration of `sensorium pretrain`"), "{e}");
    }

    #[test]
    fn a_wrong_type_names_the_key() {
        let e = error("[train]\nepochs = \"many\"\n", &[]);
        assert!(e.starts_with("configuration, line 2: train.epochs: invalid type"), "{e}");
    }

    #[test]
    fn overrides_take_precedence_and_may_be_bare_words() -> Result<()> {
        let sets = ["train.lr=2e-5", "fusion.kind=concat", "train.epochs = 7", "data.types.photo=image"];
        let sets: Vec<String> = sets.iter().map(|s| (*s).to_owned()).collect();
        let c = from_toml("[train]\nlr = 1.0\n", &sets)?;
        assert_eq!((c.train.lr, c.train.epochs), (2e-5, 7));
        assert_eq!(c.fusion.kind, sensorium_model::FusionKind::Concat);
        assert_eq!(c.data.types["photo"], sensorium_data::ColumnType::Image);
        Ok(())
    }

    #[test]
    fn epochs_are_automatic_wherever_they_are_left_out() -> Result<()> {
        assert_eq!(from_toml("", &[])?.train.epochs, 0);
        assert_eq!(from_toml("[train]\nlr = 0.1\n", &[])?.train.epochs, 0);
        assert_eq!(from_toml("", &["train.lr=0.1".to_owned()])?.train.epochs, 0);
        Ok(())
    }

    #[test]
    fn a_whole_number_is_a_valid_rate() -> Result<()> {
        assert_eq!(from_toml("[train]\nlr = 1\n", &[])?.train.lr, 1.0);
        Ok(())
    }

    #[test]
    fn the_default_survives_a_round_trip() -> Result<()> {
        let text = toml::to_string(&FitConfig::default()).expect("the defaults are TOML");
        assert_eq!(from_toml(&text, &[])?, FitConfig::default());
        Ok(())
    }
}
