//! Following fits and downloads on standard error.

use indicatif::{ProgressBar, ProgressStyle};
use sensorium::fit::Follower;
use sensorium::hub::Downloading;
use sensorium::rooms::train::{Event, Observer, Progress};

/// Remarks and progress on standard error.
pub struct Terminal {
    progress: Progress,
}

impl Terminal {
    pub fn new() -> Self {
        Self { progress: Progress::stderr() }
    }
}

impl Follower for Terminal {
    fn note(&mut self, text: &str) {
        eprintln!("{text}\n");
    }

    fn event(&mut self, event: &Event<'_>) {
        self.progress.event(event);
    }
}

/// A bar for each file that is downloaded.
#[derive(Default)]
pub struct Download {
    bar: Option<(String, ProgressBar)>,
}

impl Download {
    /// What to tell the progress to.
    pub fn follow(mut self) -> impl FnMut(&Downloading) {
        move |progress| self.update(progress)
    }

    fn update(&mut self, progress: &Downloading) {
        if self.bar.as_ref().is_none_or(|(file, _)| *file != progress.file) {
            let style = ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
            let bar = ProgressBar::new(progress.total).with_message(progress.file.clone());
            // The template is fixed and valid; without it the bar is a plain one.
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            self.bar = Some((progress.file.clone(), bar));
        }
        if let Some((_, bar)) = &self.bar {
            bar.set_position(progress.done);
            if progress.done == progress.total {
                bar.finish();
            }
        }
    }
}
