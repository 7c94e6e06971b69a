//! `sensorium extract`

use crate::arguments::ExtractArguments;
use crate::follow::{Download, Rows};
use sensorium::extract::{ExtractOptions, ExtractStep, extract};
use std::process::ExitCode;

pub fn run(arguments: &ExtractArguments) -> anyhow::Result<ExitCode> {
    let options = ExtractOptions {
        out: arguments.out.clone(),
        columns: arguments.column.clone(),
        pooled: arguments.pooled,
        layer: arguments.layer,
        types: arguments.types.iter().map(|t| (t.column.clone(), t.kind)).collect(),
        on_error: arguments.on_error.into(),
        batch_size: arguments.batch_size.get(),
        shard_rows: arguments.shard_rows.map(|n| n.get()),
        keep_shards: arguments.shards,
        restart: arguments.restart,
    };
    let model = sensorium::hub::resolve(&arguments.model, &mut Download::default().follow())?;
    let mut progress = Rows::stderr();
    let extracted = extract(&model, &arguments.table, &options, &mut |step| match step {
        ExtractStep::Begin { rows, done, columns } => {
            progress.say(&format!("extracting {}", columns.join("; ")));
            if done > 0 {
                progress.say(&format!("going on after row {done} of {rows}"));
            }
            progress.begin(done, rows);
        }
        ExtractStep::Rows(done) => progress.at(done),
        ExtractStep::Writing => progress.end(),
    })?;
    for column in &extracted.absent {
        eprintln!("the table has no column {column:?}: it is missing in every row");
    }
    for problem in &extracted.problems {
        eprintln!("{problem}");
    }
    let unsaid = extracted.bad - extracted.problems.len() as u64;
    if unsaid > 0 {
        eprintln!("… and {unsaid} rows more");
    }
    if extracted.bad > 0 {
        eprintln!("{} rows could not be read whole", extracted.bad);
    }
    for (column, rows) in &extracted.present {
        println!("{column}: {rows} of {} rows", extracted.rows);
    }
    match extracted.files.as_slice() {
        [file] => println!("{}", file.display()),
        [first, .., last] => {
            println!("{} … {} ({} files)", first.display(), last.display(), extracted.files.len());
        }
        [] => {}
    }
    Ok(ExitCode::SUCCESS)
}
