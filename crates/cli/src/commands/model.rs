//! `sensorium model`

use crate::arguments::{ModelArguments, ModelCommand, ModelInfoArguments};
use crate::follow::Download;
use sensorium::ModelInfo;
use std::io::Write;
use std::process::ExitCode;

pub fn run(arguments: &ModelArguments) -> anyhow::Result<ExitCode> {
    match &arguments.command {
        ModelCommand::Info(a) => info(a),
    }
}

fn info(arguments: &ModelInfoArguments) -> anyhow::Result<ExitCode> {
    let path = sensorium::hub::resolve(&arguments.model, &mut Download::default().follow())?;
    let info = ModelInfo::of(&path, arguments.tensors)?;
    let mut stdout = std::io::stdout().lock();
    if arguments.json {
        writeln!(stdout, "{}", serde_json::to_string(&info)?)?;
    } else {
        write!(stdout, "{}", info.render())?;
    }
    Ok(ExitCode::SUCCESS)
}
