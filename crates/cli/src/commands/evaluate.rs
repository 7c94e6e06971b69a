//! `sensorium evaluate`

use crate::arguments::EvaluateArguments;
use sensorium::Model;
use sensorium::evaluate::{EvaluateOptions, evaluate};
use sensorium::retrieve::{Retriever, evaluate_retrieval};
use std::io::Write;
use std::process::ExitCode;

pub fn run(arguments: &EvaluateArguments) -> anyhow::Result<ExitCode> {
    if Retriever::is_in(&arguments.model) {
        return retrieval(arguments);
    }
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

/// A model that was fitted with `task = "retrieve"`.
fn retrieval(arguments: &EvaluateArguments) -> anyhow::Result<ExitCode> {
    if arguments.report.is_some() {
        anyhow::bail!(
            "--report is for models that predict; fitting has written {}/report.html",
            arguments.model.display()
        );
    }
    let split = arguments.split.and_then(crate::arguments::SplitName::split);
    let result = evaluate_retrieval(&Retriever::load(&arguments.model)?, &arguments.table, split)?;
    let before = match &arguments.before {
        Some(folder) => Some(evaluate_retrieval(&Retriever::load(folder)?, &arguments.table, split)?),
        None => None,
    };
    for note in &result.notes {
        eprintln!("{note}");
    }
    let mut stdout = std::io::stdout().lock();
    if arguments.json {
        writeln!(stdout, "{}", serde_json::to_string(&result)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(stdout, "{}", result.to_text()?)?;
    if let Some(before) = before {
        writeln!(stdout, "The one before:\n\n{}", before.to_text()?)?;
    }
    Ok(ExitCode::SUCCESS)
}
