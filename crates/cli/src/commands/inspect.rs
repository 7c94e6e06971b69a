//! `sensorium inspect`

use crate::arguments::InspectArguments;
use sensorium::rooms::data::inspect::{InspectOptions, inspect};
use sensorium::rooms::data::{SchemaOptions, SplitOptions, Table, TableOptions};
use std::io::Write;
use std::process::ExitCode;

pub fn run(arguments: &InspectArguments) -> anyhow::Result<ExitCode> {
    let table = Table::open(&arguments.table, &TableOptions::default())?;
    let defaults = sensorium::FitConfig::default().data;
    let options = InspectOptions {
        schema: SchemaOptions {
            label: arguments.label.clone(),
            types: arguments.types.iter().map(|t| (t.column.clone(), t.kind)).collect(),
            ignore: arguments.ignore.clone(),
            ..SchemaOptions::default()
        },
        // The splits that a fit would make.
        split: SplitOptions { val: defaults.val, test: defaults.test, ..SplitOptions::default() },
        ..InspectOptions::default()
    };
    let inspection = inspect(&table, &options)?;
    let mut stdout = std::io::stdout().lock();
    if arguments.json {
        writeln!(stdout, "{}", serde_json::to_string(&inspection)?)?;
    } else {
        write!(stdout, "{}", inspection.render())?;
    }
    Ok(ExitCode::SUCCESS)
}
