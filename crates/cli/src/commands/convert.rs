//! `sensorium convert`

use crate::arguments::ConvertArguments;
use crate::follow::Download;
use anyhow::bail;
use sensorium::rooms::model::checkpoint::{Checkpoint, convert};
use std::process::ExitCode;

pub fn run(arguments: &ConvertArguments) -> anyhow::Result<ExitCode> {
    let out = &arguments.out;
    if out.extension().is_none_or(|e| e != "safetensors") {
        bail!("{} does not end in .safetensors, which is what is written", out.display());
    }
    if out.exists() && !arguments.force {
        bail!("{} is already there; remove it, or write over it with --force", out.display());
    }
    let path = sensorium::hub::resolve(&arguments.input, &mut Download::default().follow())?;
    let checkpoint = Checkpoint::open(&path)?;
    for note in checkpoint.notes() {
        eprintln!("note: {note}");
    }
    convert(&checkpoint, out, arguments.dtype.map(Into::into))?;
    eprintln!("wrote {} tensors to {}", checkpoint.names().count(), out.display());
    Ok(ExitCode::SUCCESS)
}
