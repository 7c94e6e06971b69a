//! `sensorium quantize`

use crate::arguments::QuantizeArguments;
use sensorium::quantize::{QuantizeOptions, QuantizeResult, quantize};
use std::io::Write;
use std::process::ExitCode;

/// Weights shown of those that moved most.
const SHOWN: usize = 5;

pub fn run(arguments: &QuantizeArguments) -> anyhow::Result<ExitCode> {
    let options = QuantizeOptions {
        out: arguments.out.clone(),
        calibrate: arguments.calibrate.clone(),
        keep: arguments.keep.clone(),
    };
    let result = quantize(&arguments.model, &options)?;
    for note in &result.notes {
        eprintln!("{note}");
    }
    let mut stdout = std::io::stdout().lock();
    let mb = |bytes: f64| format!("{:.1} MB", bytes / 1e6);
    let share = |(before, after): (f64, f64)| format!("{} → {} ({:.2}×)", mb(before), mb(after), after / before);
    let memory = (result.memory.0 as f64, result.memory.1 as f64);
    writeln!(stdout, "weights     {}", share((result.bytes.0 as f64, result.bytes.1 as f64)))?;
    writeln!(stdout, "in memory   {}", share(memory))?;
    let (codes, floats) = result.parameters;
    let all = (codes + floats).max(1) as f64;
    writeln!(
        stdout,
        "in 8 bits   {:.1} % of the parameters, {} tensors",
        100.0 * codes as f64 / all,
        result.deviations.len()
    )?;
    writeln!(stdout, "in f32      {}", left(&result))?;
    match result.calibrated_on {
        Some(rows) => writeln!(stdout, "activations ranges fixed from {rows} rows")?,
        None => writeln!(stdout, "activations quantised row by row")?,
    }
    let mut moved: Vec<_> = result.deviations.iter().collect();
    moved.sort_by(|a, b| b.relative.total_cmp(&a.relative));
    writeln!(stdout, "\nlargest deviations of weights (root mean square, relative)")?;
    for d in moved.iter().take(SHOWN) {
        writeln!(stdout, "  {:>5.2} %  {}", 100.0 * d.relative, d.name)?;
    }
    if let Some(evaluated) = &result.evaluated {
        writeln!(stdout, "\n{}", evaluated.evaluation.to_text())?;
        if let Some(comparison) = &evaluated.comparison {
            writeln!(stdout, "{}", comparison.to_text(Some(&evaluated.names)))?;
        }
    }
    let (out, model) = (arguments.out.display(), arguments.model.display());
    eprintln!("\nwritten to {out}; next:");
    if result.evaluated.is_none() {
        eprintln!("  sensorium evaluate {out} TABLE --before {model}    what it costs on rows with a known label");
    }
    eprintln!("  sensorium predict {out} TABLE");
    if result.evaluated.is_some() {
        eprintln!("too much lost? leave the largest deviations as they are: --keep NAME; or leave out --calibrate");
    }
    Ok(ExitCode::SUCCESS)
}

/// A kind of parameter, and whether a name is one.
type Kind<'a> = (&'a str, &'a dyn Fn(&str) -> bool);

/// What stayed as it was, by kind.
fn left(result: &QuantizeResult) -> String {
    let kinds: [Kind<'_>; 4] = [
        ("head", &|name| name.starts_with("head.")),
        ("norms", &|name| name.contains("norm")),
        ("biases", &|name| name.ends_with(".bias")),
        ("positions", &|name| name.contains("position")),
    ];
    let mut counts = vec![0; kinds.len() + 1];
    for (name, n) in &result.kept {
        counts[kinds.iter().position(|(_, is)| is(name)).unwrap_or(kinds.len())] += n;
    }
    let names = kinds.iter().map(|(name, _)| *name).chain(["others"]);
    let parts: Vec<String> =
        names.zip(&counts).filter(|(_, n)| **n > 0).map(|(name, n)| format!("{name} {n}")).collect();
    format!("{} parameters: {}", result.parameters.1, parts.join(", "))
}
