//! `sensorium pretrain`

use super::fit::cut_short;
use crate::arguments::PretrainArguments;
use crate::follow::Terminal;
use crate::interrupt::stop_flag;
use sensorium::fit::FitOptions;
use sensorium::pretrain::{
    AUDIO_FOLDER, CAPTION_FOLDER, FUSION_FOLDER, IMAGE_FOLDER, PAIR_FOLDER, PretrainConfig, TEXT_FOLDER, VIDEO_FOLDER,
    pretrain,
};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

pub fn run(arguments: &PretrainArguments) -> anyhow::Result<ExitCode> {
    let config = configuration(arguments)?;
    let out = arguments.out.clone().unwrap_or_else(|| default_out(&arguments.source));
    let options =
        FitOptions { out: out.clone(), resume: arguments.resume, time_limit: arguments.time_limit, stop: stop_flag()? };
    let done = pretrain(&config, &options, &mut Terminal::new())?;
    if let Some(code) = cut_short(&done.summary) {
        return Ok(code);
    }
    let mut stdout = std::io::stdout().lock();
    if arguments.json {
        writeln!(stdout, "{}", serde_json::to_string(&done.metrics)?)?;
    } else {
        for (name, value) in &done.metrics {
            writeln!(stdout, "{name:<34} {value:>10.4}")?;
        }
    }
    if done.metrics.is_empty() {
        eprintln!("nothing was held out, so there is nothing to measure the model on");
    }
    if let Some(page) = &done.report {
        eprintln!("report:  {}", page.display());
    }
    for folder in [TEXT_FOLDER, IMAGE_FOLDER, AUDIO_FOLDER, VIDEO_FOLDER] {
        let tower = out.join(folder);
        if tower.exists() {
            let tower = tower.display();
            eprintln!("model:   {tower}");
            eprintln!("fit:     sensorium fit TABLE --label COLUMN --set {folder}.encoder={tower}");
        }
    }
    let pair = out.join(PAIR_FOLDER);
    if pair.exists() {
        let pair = pair.display();
        eprintln!("model:   {pair}");
        eprintln!("index:   sensorium index {pair} TABLE --out INDEX");
    }
    for folder in [CAPTION_FOLDER, FUSION_FOLDER] {
        let folder = out.join(folder);
        if folder.exists() {
            eprintln!("model:   {}", folder.display());
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The configuration that the arguments name, with their overrides.
fn configuration(arguments: &PretrainArguments) -> sensorium::Result<PretrainConfig> {
    if arguments.source.extension().is_some_and(|e| e.eq_ignore_ascii_case("toml")) {
        return PretrainConfig::read(&arguments.source, &arguments.set);
    }
    let mut config = PretrainConfig::from_toml("", &arguments.set)?;
    config.corpus.files = vec![arguments.source.clone()];
    // Without a word on what is to be learnt.
    if config.pretrain.is_empty() {
        config.pretrain.mlm.weight = 1.0;
    }
    Ok(config)
}

fn default_out(source: &Path) -> PathBuf {
    let mut name = source.file_stem().unwrap_or_default().to_os_string();
    name.push("-pretrained");
    PathBuf::from(name)
}
