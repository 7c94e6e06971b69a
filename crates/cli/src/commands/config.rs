//! `sensorium config`

use crate::arguments::ConfigArguments;
use std::io::Write;
use std::process::ExitCode;

pub fn run(_: &ConfigArguments) -> anyhow::Result<ExitCode> {
    std::io::stdout().write_all(sensorium::config::reference().as_bytes())?;
    Ok(ExitCode::SUCCESS)
}
