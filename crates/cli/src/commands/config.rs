//! `sensorium config`

use crate::arguments::ConfigArguments;
use std::io::Write;
use std::process::ExitCode;

pub fn run(arguments: &ConfigArguments) -> anyhow::Result<ExitCode> {
    use sensorium::config::{pretrain_reference, reference};
    let text = if arguments.pretrain { pretrain_reference() } else { reference() };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}
