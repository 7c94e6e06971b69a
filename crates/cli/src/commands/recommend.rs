//! `sensorium recommend`

use super::search::{options, show};
use crate::arguments::RecommendArguments;
use sensorium::search::{Finder, RecommendOptions};
use std::process::ExitCode;

pub fn run(arguments: &RecommendArguments) -> anyhow::Result<ExitCode> {
    let mut finder = Finder::open(&arguments.index)?;
    let wanted = RecommendOptions {
        liked: arguments.liked.clone(),
        disliked: arguments.disliked.clone(),
        seen: arguments.seen.clone(),
        variety: arguments.variety,
        find: options(&arguments.hits),
    };
    let found = finder.recommend(&wanted)?;
    show(&format!("like {}", arguments.liked.join(", ")), &mut finder, &found, &arguments.hits)?;
    Ok(ExitCode::SUCCESS)
}
