//! `sensorium evaluate`

use crate::arguments::EvaluateArguments;
use sensorium::Model;
use sensorium::evaluate::{EvaluateOptions, evaluate};
use std::io::Write;
use std::process::ExitCode;

pub fn run(arguments: &EvaluateArguments) -> anyhow::Result<ExitCode> {
    let model = Model::load(&arguments.model)?;
    let against = arguments.before.as_deref().map(Model::load).transpose()?;
    let options = EvaluateOptions {
        split: arguments.split.and_then(crate::arguments::SplitName::split),
        against,
        ..EvaluateOptions::default()
    };
    if arguments.split.is_none() && model.was_trained_on(&arguments.table) {
        eprintln!("this is the table that the model was trained on: --split test measures on rows it has not seen");
    }
    let result = evaluate(&model, &arguments.table, &options)?;
    for note in &result.notes {
        eprintln!("{note}");
    }
    if let Some(folder) = &arguments.report {
        let page = result.write_report(&model, folder)?;
        eprintln!("report: {}", page.display());
    }
    let mut stdout = std::io::stdout().lock();
    if arguments.json {
        let json = match &result.comparison {
            Some(comparison) => serde_json::to_string(comparison)?,
            None => serde_json::to_string(&result.evaluation)?,
        };
        writeln!(stdout, "{json}")?;
    } else {
        writeln!(stdout, "{}", result.evaluation.to_text())?;
        if let Some(comparison) = &result.comparison {
            writeln!(stdout, "{}", comparison.to_text(Some(&result.names)))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
