//! `sensorium fit`

use crate::arguments::FitArguments;
use crate::follow::Terminal;
use crate::interrupt::{INTERRUPTED, stop_flag};
use sensorium::config::TaskName;
use sensorium::fit::{FitOptions, fit};
use sensorium::retrieve::fit_retrieval;
use sensorium::rooms::train::{Stopped, Summary};
use sensorium::{Error, FitConfig, config};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

pub fn run(arguments: &FitArguments) -> anyhow::Result<ExitCode> {
    let config = configuration(arguments)?;
    let out = arguments.out.clone().unwrap_or_else(|| default_out(&arguments.source));
    let stop = stop_flag()?;
    let options = FitOptions { out: out.clone(), resume: arguments.resume, time_limit: arguments.time_limit, stop };
    if config.task == TaskName::Retrieve {
        return retrieval(&config, &options, arguments.json);
    }
    let fitted = fit(&config, &options, &mut Terminal::new())?;
    if let Some(code) = cut_short(&fitted.summary) {
        return Ok(code);
    }
    let mut stdout = std::io::stdout().lock();
    match &fitted.evaluated {
        Some(result) if arguments.json => writeln!(stdout, "{}", serde_json::to_string(&result.evaluation)?)?,
        Some(result) => {
            for note in &result.notes {
                eprintln!("{note}");
            }
            writeln!(stdout, "On the {} split ({} rows):\n", fitted.split, result.evaluation.rows)?;
            writeln!(stdout, "{}", result.evaluation.to_text())?;
            if let Some(comparison) = &result.comparison {
                writeln!(stdout, "Before training against after:\n")?;
                writeln!(stdout, "{}", comparison.metrics_table())?;
            }
        }
        None => eprintln!("no row was held out, so there is nothing to measure the model on"),
    }
    eprintln!("model:   {}", out.display());
    if let Some(page) = &fitted.report {
        eprintln!("report:  {}", page.display());
    }
    eprintln!("predict: sensorium predict {} NEW_ROWS.csv", out.display());
    Ok(ExitCode::SUCCESS)
}

/// The exit status of a run that was interrupted; a remark on steps that were
/// skipped.
pub(super) fn cut_short(summary: &Summary) -> Option<ExitCode> {
    if summary.stopped == Stopped::Interrupted {
        eprintln!("interrupted at step {}; go on with the same command and --resume", summary.steps);
        return Some(ExitCode::from(INTERRUPTED));
    }
    if summary.skipped > 0 {
        eprintln!("{} steps were skipped because a gradient was not finite", summary.skipped);
    }
    None
}

/// A fit with `task = "retrieve"`.
fn retrieval(config: &FitConfig, options: &FitOptions, json: bool) -> anyhow::Result<ExitCode> {
    let fitted = fit_retrieval(config, options, &mut Terminal::new())?;
    if let Some(code) = cut_short(&fitted.summary) {
        return Ok(code);
    }
    let mut stdout = std::io::stdout().lock();
    match &fitted.evaluated {
        Some((after, _)) if json => writeln!(stdout, "{}", serde_json::to_string(after)?)?,
        Some((after, before)) => {
            for note in &after.notes {
                eprintln!("{note}");
            }
            writeln!(stdout, "On the {} split ({} rows):\n", fitted.split, after.rows)?;
            writeln!(stdout, "{}", after.to_text()?)?;
            writeln!(stdout, "Before training:\n")?;
            writeln!(stdout, "{}", before.to_text()?)?;
        }
        None => eprintln!("no row was held out, so there is nothing to measure the model on"),
    }
    let out = options.out.display();
    eprintln!("model:   {out}");
    if let Some(page) = &fitted.report {
        eprintln!("report:  {}", page.display());
    }
    eprintln!("index:   sensorium index {out} TABLE.csv --out TABLE.index");
    Ok(ExitCode::SUCCESS)
}

/// The configuration that the arguments name, with their overrides.
fn configuration(arguments: &FitArguments) -> Result<FitConfig, Error> {
    let is_toml = arguments.source.extension().is_some_and(|e| e.eq_ignore_ascii_case("toml"));
    let mut config = if is_toml {
        config::read(&arguments.source, &arguments.set)?
    } else {
        let mut config = config::from_toml("", &arguments.set)?;
        config.data.table = Some(arguments.source.clone());
        config
    };
    if let Some(label) = &arguments.label {
        config.label.column = Some(label.clone());
    }
    config.data.ignore.extend(arguments.ignore.iter().cloned());
    config.data.types.extend(arguments.types.iter().map(|t| (t.column.clone(), t.kind)));
    Ok(config)
}

fn default_out(source: &Path) -> PathBuf {
    let mut name = source.file_stem().unwrap_or_default().to_os_string();
    name.push("-model");
    PathBuf::from(name)
}
