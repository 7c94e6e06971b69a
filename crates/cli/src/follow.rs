//! Following a fit on standard error.

use sensorium::fit::Follower;
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
