//! Following fits, downloads and extractions on standard error.

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use sensorium::fit::Follower;
use sensorium::hub::Downloading;
use sensorium::rooms::train::{Event, Observer, Progress};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

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

/// Rows done, rows per second and time left: a bar on a terminal, lines
/// elsewhere.
pub struct Rows {
    bar: Option<ProgressBar>,
    /// Rows that were done when it began, and how many there are.
    first: u64,
    total: u64,
    start: Instant,
    last: Instant,
}

/// How often a line is written when there is no terminal.
const LINES_EVERY: Duration = Duration::from_secs(10);

impl Rows {
    pub fn stderr() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{bar:24} {pos}/{len} rows · {wide_msg}");
            ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        let now = Instant::now();
        Self { bar, first: 0, total: 0, start: now, last: now }
    }

    /// A line of its own.
    pub fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            None => eprintln!("{line}"),
        }
    }

    pub fn begin(&mut self, done: u64, total: u64) {
        (self.first, self.total, self.start) = (done, total, Instant::now());
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_position(done);
        }
    }

    pub fn at(&mut self, done: u64) {
        let seconds = self.start.elapsed().as_secs_f64().max(1e-9);
        let speed = (done - self.first) as f64 / seconds;
        let left = HumanDuration(Duration::from_secs_f64(((self.total - done) as f64 / speed.max(1e-9)).min(1e9)));
        let text = format!("{speed:.1} rows/s · {left:#} left");
        match &self.bar {
            Some(bar) => {
                bar.set_position(done);
                bar.set_message(text);
            }
            None if self.last.elapsed() >= LINES_EVERY => {
                self.last = Instant::now();
                eprintln!("{done}/{} rows · {text}", self.total);
            }
            None => {}
        }
    }

    pub fn end(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let seconds = self.start.elapsed().as_secs_f64();
        let rows = self.total - self.first;
        eprintln!("{rows} rows in {seconds:.1} s: {:.1} rows/s", rows as f64 / seconds.max(1e-9));
    }
}
