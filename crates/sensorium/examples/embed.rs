//! The library in a dozen lines: fit a model to a table, then ask it.
//!
//! ```sh
//! cargo run --release -p sensorium --example embed -- products.csv category "a red lamp"
//! ```
//!
//! The last argument is a text for the model's text column.

use sensorium::fit::{FitOptions, fit};
use sensorium::predict::{only_column, predict_values};
use sensorium::{Error, FitConfig, Modality, Value};
use std::path::Path;

fn main() -> sensorium::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [table, label, text] = arguments.as_slice() else {
        return Err(Error::Request("expected TABLE LABEL TEXT".into()));
    };
    let mut config = FitConfig::default();
    config.data.table = Some(table.into());
    config.label.column = Some(label.clone());
    let options = FitOptions { out: "embedded-model".into(), ..FitOptions::default() };
    let fitted = fit(&config, &options, &mut ())?;
    if let Some(result) = &fitted.evaluated {
        println!("{}", result.evaluation.to_text());
    }
    let column = only_column(&fitted.model, Modality::Text)?;
    let answer = predict_values(&fitted.model, &[(column, Value::Text(text.clone()))], Path::new("."))?;
    println!("{text}: {}", answer.label.unwrap_or_default());
    Ok(())
}
