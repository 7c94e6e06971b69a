//! The reference: every key with its default and a comment.

use super::FitConfig;
use crate::pretrain::PretrainConfig;
use serde::Serialize;

/// Where the fields of the sections are declared.
const SOURCES: [&str; 9] = [
    include_str!("mod.rs"),
    include_str!("sections.rs"),
    include_str!("retrieve.rs"),
    include_str!("finetune.rs"),
    include_str!("../pretrain/config.rs"),
    include_str!("../pretrain/sections.rs"),
    include_str!("../pretrain/column_sections.rs"),
    include_str!("../../../train/src/config.rs"),
    include_str!("../../../media/src/limits.rs"),
];

/// Every key of a configuration with its default, as TOML with comments.
///
/// The comments are the documentation of the fields, so that there is one
/// definition of both.
pub fn reference() -> String {
    let head = "# Every key of a Sensorium configuration with its default.\n\
                # Keys that are commented out are chosen from the data.\n";
    let structs = [
        ("data", "DataSection"),
        ("label", "LabelSection"),
        ("text", "TextSection"),
        ("image", "ImageSection"),
        ("audio", "AudioSection"),
        ("video", "VideoSection"),
        ("features", "FeaturesSection"),
        ("fusion", "FusionSection"),
        ("retrieve", "RetrieveSection"),
        ("finetune", "FinetuneSection"),
        ("train", "TrainConfig"),
        ("limits", "Limits"),
    ];
    written(head, "FitConfig", &FitConfig::default(), &structs)
}

/// Every key of a configuration for `sensorium pretrain`, likewise.
pub fn pretrain_reference() -> String {
    let head = "# Every key of a configuration for sensorium pretrain with its default.\n\
                # Keys that are commented out are chosen from the data.\n";
    let structs = [
        ("corpus", "CorpusSection"),
        ("data", "DataSection"),
        ("pretrain", "PretrainSection"),
        ("text", "TextSection"),
        ("image", "ImageSection"),
        ("audio", "AudioSection"),
        ("video", "VideoSection"),
        ("train", "TrainConfig"),
        ("limits", "Limits"),
    ];
    written(head, "PretrainConfig", &PretrainConfig::default(), &structs)
}

fn written(head: &str, root: &str, defaults: &impl Serialize, structs: &[(&str, &str)]) -> String {
    let mut table = toml::Table::try_from(defaults).unwrap_or_default();
    let mut out = head.to_owned();
    for field in fields(root) {
        if let Some(value) = table.get(&field.name).filter(|v| !v.is_table()) {
            out.push('\n');
            for line in &field.docs {
                out.push_str(&format!("# {line}\n"));
            }
            out.push_str(&format!("{} = {value}\n", field.name));
        }
    }
    for (section, name) in structs {
        let values = match table.remove(*section) {
            Some(toml::Value::Table(t)) => t,
            _ => toml::Table::new(),
        };
        write_section(&mut out, section, name, &values);
    }
    out
}

fn write_section(out: &mut String, section: &str, name: &str, values: &toml::Table) {
    let fields = fields(name);
    out.push_str(&format!("\n[{section}]\n"));
    let mut nested = Vec::new();
    for field in &fields {
        match values.get(&field.name) {
            Some(toml::Value::Table(inner))
                if !inner.is_empty()
                    || field.kind.chars().next().is_some_and(char::is_uppercase)
                        && !field.kind.starts_with("BTreeMap") =>
            {
                nested.push((field, inner));
                continue;
            }
            value => {
                for line in &field.docs {
                    out.push_str(&format!("# {line}\n"));
                }
                match value {
                    // An empty map has no one-line form that a person would fill in.
                    Some(toml::Value::Table(_)) => out.push_str(&format!("# [{section}.{}]\n", field.name)),
                    Some(value) => out.push_str(&format!("{} = {value}\n", field.name)),
                    None => out.push_str(&format!("# {} =\n", field.name)),
                }
            }
        }
    }
    for (field, inner) in nested {
        write_section(out, &format!("{section}.{}", field.name), &field.kind, inner);
    }
}

/// A field of a struct as its source declares it.
struct Field {
    name: String,
    kind: String,
    docs: Vec<String>,
}

/// The public fields of a struct, read from the source that declares it.
fn fields(name: &str) -> Vec<Field> {
    let head = format!("pub struct {name} {{");
    let Some(body) = SOURCES.iter().find_map(|s| s.split_once(&head)).and_then(|(_, rest)| rest.split_once("\n}"))
    else {
        return Vec::new();
    };
    declared(body.0)
}

/// The public fields that the body of a struct declares.
fn declared(body: &str) -> Vec<Field> {
    let (mut fields, mut docs) = (Vec::new(), Vec::new());
    for line in body.lines().map(str::trim) {
        if line == "..meeting," {
            // Those that the macro declares in every such section, its parameters aside.
            let shared = include_str!("retrieve.rs")
                .split_once("pub struct $name {")
                .and_then(|(_, s)| s.split_once("\n        }"));
            fields.extend(declared(shared.map_or("", |(body, _)| body)).into_iter().filter(|f| !f.name.contains('$')));
        } else if let Some(doc) = line.strip_prefix("///") {
            docs.push(doc.trim().to_owned());
        } else if let Some((field, kind)) = line.strip_prefix("pub ").and_then(|l| l.split_once(':')) {
            let kind = kind.split(" = ").next().unwrap_or(kind).trim().trim_end_matches(',').to_owned();
            fields.push(Field { name: field.to_owned(), kind, docs: std::mem::take(&mut docs) });
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_is_a_valid_configuration_with_every_default() {
        let text = reference();
        let read = super::super::from_toml(&text, &[]).unwrap_or_else(|e| panic!("{e}\n{text}"));
        assert_eq!(read, FitConfig::default());
    }

    #[test]
    fn the_reference_for_pretraining_is_a_valid_configuration_with_every_default() {
        let text = pretrain_reference();
        let read = PretrainConfig::from_toml(&text, &[]).unwrap_or_else(|e| panic!("{e}\n{text}"));
        assert_eq!(read, PretrainConfig::default());
        for key in ["whole_word", "validation", "structure", "hidden", "epoch_batches"] {
            assert!(text.contains(&format!("{key} =")), "{key} is not in the reference:\n{text}");
        }
    }

    #[test]
    fn the_page_in_the_book_shows_this_reference() {
        let page = include_str!("../../../../docs/configuration.md");
        let shown = page.split("```toml\n").nth(1).and_then(|p| p.split("```").next()).unwrap_or_default();
        assert!(
            shown == reference(),
            "docs/configuration.md is out of date: print `sensorium config --default` into it"
        );
    }

    #[test]
    fn every_key_of_the_defaults_is_explained() {
        let text = reference();
        for key in [
            "table",
            "class_weights",
            "max_tokens",
            "patch_size",
            "modality_dropout",
            "early_stopping",
            "max_pixels",
            "hidden",
        ] {
            let at = text.find(&format!("{key} =")).or_else(|| text.find(&format!("{key}]")));
            assert!(at.is_some(), "{key} is not in the reference:\n{text}");
        }
    }
}
