//! The `sensorium` program: arguments in, verbs of the library called, results
//! on standard output, everything else on standard error.
//!
//! Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted.

mod arguments;
mod commands;
mod follow;
mod interrupt;

use arguments::{Arguments, Command};
use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(code) => code,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            let mut said = error.to_string();
            for cause in error.chain().skip(1) {
                let cause = cause.to_string();
                // Some errors already carry their cause in their own words.
                if !said.contains(&cause) {
                    eprintln!("  because: {cause}");
                }
                said = cause;
            }
            if arguments.backtrace {
                eprintln!("{}", error.backtrace());
            }
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    if let Some(threads) = arguments.threads {
        rayon::ThreadPoolBuilder::new().num_threads(threads.get()).build_global()?;
    }
    match &arguments.command {
        Command::Inspect(a) => commands::inspect::run(a),
        Command::Fit(a) => commands::fit::run(a),
        Command::Pretrain(a) => commands::pretrain::run(a),
        Command::Evaluate(a) => commands::evaluate::run(a),
        Command::Predict(a) => commands::predict::run(a),
        Command::Model(a) => commands::model::run(a),
        Command::Convert(a) => commands::convert::run(a),
        Command::Extract(a) => commands::extract::run(a),
        Command::Quantize(a) => commands::quantize::run(a),
        Command::Index(a) => commands::index::run(a),
        Command::Search(a) => commands::search::run(a),
        Command::Recommend(a) => commands::recommend::run(a),
        Command::Config(a) => commands::config::run(a),
    }
}

/// Whether the reader of our output has gone, as `| head` does: not a fault.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|c| c.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe))
}
