//! Progress on standard error: a bar on a terminal, lines elsewhere.

use crate::contract::{Event, Observer, Stopped};
use crate::record::{EpochRecord, StepRecord};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Shows epoch, step, loss, learning rate, samples and tokens per second, and time left.
pub struct Progress {
    view: View,
    epochs: u64,
    steps_per_epoch: u64,
    /// When the loop began, and at which step.
    start: (Instant, u64),
    step: u64,
    loss: Smoothed,
    speed: Speed,
}

enum View {
    Bar(ProgressBar),
    Lines { out: Box<dyn Write + Send>, every: Duration, last: Instant },
}

/// How often a line is written when there is no terminal.
const LINES_EVERY: Duration = Duration::from_secs(10);

impl Progress {
    /// On standard error: a bar where that is a terminal, otherwise lines.
    pub fn stderr() -> Self {
        if std::io::stderr().is_terminal() {
            let bar = ProgressBar::new(0);
            let style = ProgressStyle::with_template("{prefix} {bar:12} {pos}/{len} {wide_msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            Self::new(View::Bar(bar))
        } else {
            Self::lines(Box::new(std::io::stderr()), LINES_EVERY)
        }
    }

    /// Lines to any writer, one per epoch and one at most `every` so often.
    pub fn lines(out: Box<dyn Write + Send>, every: Duration) -> Self {
        Self::new(View::Lines { out, every, last: Instant::now() })
    }

    fn new(view: View) -> Self {
        Self {
            view,
            epochs: 0,
            steps_per_epoch: 0,
            start: (Instant::now(), 0),
            step: 0,
            loss: Smoothed::default(),
            speed: Speed::new(),
        }
    }

    fn step(&mut self, record: &StepRecord) {
        self.step = record.step;
        self.loss.add(record.loss);
        self.speed.add(record.samples, record.tokens);
        // A narrow terminal cuts off the end: what matters most comes first.
        let text = format!(
            "loss {:.4} · {} left · lr {:.1e} · {} samples/s · {} tokens/s",
            self.loss.value(),
            clock(self.seconds_left()),
            record.lr,
            short(self.speed.samples()),
            short(self.speed.tokens()),
        );
        let place = format!("epoch {}/{}", record.epoch, self.epochs);
        let total = self.total();
        match &mut self.view {
            View::Bar(bar) => {
                bar.set_position(record.step);
                bar.set_prefix(place);
                bar.set_message(text);
            }
            View::Lines { out, every, last } => {
                if last.elapsed() >= *every {
                    *last = Instant::now();
                    write_line(out, &format!("{place} · step {}/{total} · {text}", record.step));
                }
            }
        }
    }

    fn total(&self) -> u64 {
        (self.epochs * self.steps_per_epoch).max(self.step)
    }

    /// At the pace of this call so far, validation included.
    fn seconds_left(&self) -> f64 {
        let done = (self.step - self.start.1.min(self.step)).max(1);
        self.start.0.elapsed().as_secs_f64() / done as f64 * (self.total() - self.step) as f64
    }

    fn say(&mut self, line: &str) {
        match &mut self.view {
            View::Bar(bar) => bar.println(line),
            View::Lines { out, .. } => write_line(out, line),
        }
    }
}

/// A closed standard error must not end the training.
fn write_line(out: &mut dyn Write, line: &str) {
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

impl Observer for Progress {
    fn event(&mut self, event: &Event<'_>) {
        match event {
            Event::Start { epochs, steps_per_epoch, resumed } => {
                (self.epochs, self.steps_per_epoch) = (*epochs, *steps_per_epoch);
                self.step = resumed.unwrap_or(0);
                self.start = (Instant::now(), self.step);
                self.speed.pause();
                let total = self.total();
                if let View::Bar(bar) = &self.view {
                    bar.set_length(total);
                    bar.set_position(self.step);
                }
                match resumed {
                    Some(step) => self.say(&format!("resuming at step {step} of {total}")),
                    None => self.say(&format!("training: {epochs} epochs of {steps_per_epoch} steps")),
                }
            }
            Event::DamagedCheckpoint { path, problem } => {
                self.say(&format!("warning: {} is damaged ({problem}); trying the one before", path.display()));
            }
            Event::Step(record) => self.step(record),
            Event::Skip(record) => {
                self.step = record.step;
                self.say(&format!("step {} skipped: {}", record.step, record.cause));
            }
            Event::Validating { .. } => {
                if let View::Bar(bar) = &self.view {
                    bar.set_message("validating");
                }
            }
            Event::Epoch(record) => {
                let line = epoch_line(record, self.epochs);
                self.say(&line);
                self.speed.pause();
            }
            Event::Report(text) => self.say(text),
            Event::Checkpoint { .. } => self.speed.pause(),
            Event::Stop(stopped) => {
                if let View::Bar(bar) = &self.view {
                    bar.finish_and_clear();
                }
                self.say(match stopped {
                    Stopped::Finished => "training finished",
                    Stopped::EarlyStopping => "stopped early: the watched metric gains nothing any more",
                    Stopped::TimeLimit => "stopped: the time limit is reached",
                    Stopped::Interrupted => "interrupted: a checkpoint is written, resume with --resume",
                });
            }
        }
    }
}

fn epoch_line(record: &EpochRecord, epochs: u64) -> String {
    /// What people ask for first; the rest follows by name where there is room.
    const FIRST: [&str; 13] = [
        "loss",
        "mlm_perplexity",
        "clm_perplexity",
        "recall_at_10",
        "zero_shot_accuracy",
        "accuracy",
        "macro_f1",
        "micro_f1",
        "subset_accuracy",
        "mean_rank_error",
        "mae",
        "r2",
        "spearman",
    ];
    /// More would not fit a line; all of them are in `metrics.jsonl`.
    const SHOWN: usize = 4;
    let mut line = format!("epoch {}/{epochs}: train loss {:.4}", record.epoch, record.train_loss);
    let first = FIRST.iter().filter_map(|name| record.metrics.get_key_value(*name));
    let others = record.metrics.iter().filter(|(name, _)| !FIRST.contains(&name.as_str()));
    for (n, (name, value)) in first.chain(others).take(SHOWN).enumerate() {
        let separator = if n == 0 { " · validation " } else { ", " };
        line += &format!("{separator}{name} {value:.4}");
    }
    line += &format!(" · {}", clock(record.seconds));
    if record.waiting_share() >= 0.05 {
        line += &format!(" · {:.0} % of the epoch waiting for data", record.waiting_share() * 100.0);
    }
    if record.best {
        line += " · best so far";
    }
    line
}

/// A mean that forgets: each new value has a weight of 5 %.
#[derive(Default)]
struct Smoothed {
    sum: f64,
    weight: f64,
}

impl Smoothed {
    fn add(&mut self, x: f64) {
        self.sum = 0.95 * self.sum + x;
        self.weight = 0.95 * self.weight + 1.0;
    }

    fn value(&self) -> f64 {
        self.sum / self.weight
    }
}

/// Samples and tokens per second of training over about the last quarter of a minute.
struct Speed {
    last: Instant,
    seconds: f64,
    samples: f64,
    tokens: f64,
}

impl Speed {
    fn new() -> Self {
        Self { last: Instant::now(), seconds: 0.0, samples: 0.0, tokens: 0.0 }
    }

    /// Leaves out the time since the last step.
    fn pause(&mut self) {
        self.last = Instant::now();
    }

    fn add(&mut self, samples: u64, tokens: u64) {
        let seconds = self.last.elapsed().as_secs_f64();
        self.pause();
        let kept = (-seconds / 15.0).exp();
        self.seconds = self.seconds * kept + seconds;
        self.samples = self.samples * kept + samples as f64;
        self.tokens = self.tokens * kept + tokens as f64;
    }

    fn samples(&self) -> f64 {
        self.samples / self.seconds.max(1e-9)
    }

    fn tokens(&self) -> f64 {
        self.tokens / self.seconds.max(1e-9)
    }
}

/// 12, 345, 6.7k, 890k, 1.2M.
fn short(x: f64) -> String {
    match x {
        x if x < 10.0 => format!("{x:.1}"),
        x if x < 1e3 => format!("{x:.0}"),
        x if x < 1e4 => format!("{:.1}k", x / 1e3),
        x if x < 1e6 => format!("{:.0}k", x / 1e3),
        x => format!("{:.1}M", x / 1e6),
    }
}

/// 0:07, 12:34, 1:23:45.
fn clock(seconds: f64) -> String {
    let s = seconds.round() as u64;
    let (h, m, s) = (s / 3600, s / 60 % 60, s % 60);
    if h > 0 { format!("{h}:{m:02}:{s:02}") } else { format!("{m}:{s:02}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Data, Net, SAMPLES, Validation, config, options};
    use crate::trainer::Trainer;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("lock").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_say_where_the_run_is() {
        let dir = tempfile::tempdir().expect("dir");
        let trainer = Trainer::new(config(), options(dir.path(), false)).expect("valid");
        let out = Shared::default();
        let mut progress = Progress::lines(Box::new(out.clone()), Duration::ZERO);
        let (mut net, source) = (Net::new(0, 20), Data::new(&config(), SAMPLES));
        trainer.run(&mut net, &source, &mut Validation(SAMPLES), &mut progress).expect("trains");
        let text = String::from_utf8(out.0.lock().expect("lock").clone()).expect("text");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 1 + 15 + 3 + 1, "{text}");
        assert_eq!(lines[0], "training: 3 epochs of 5 steps");
        assert!(
            lines[1].starts_with("epoch 1/3 · step 1/15 · loss ") && lines[1].contains(" samples/s · "),
            "{}",
            lines[1]
        );
        assert!(lines[6].starts_with("epoch 1/3: train loss ") && lines[6].contains("validation loss"), "{}", lines[6]);
        assert_eq!(lines[19], "training finished");
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([1.25, 99.6, 6_700.0, 890_000.0, 1.23e6].map(short), ["1.2", "100", "6.7k", "890k", "1.2M"]);
        assert_eq!([7.4, 754.0, 5025.0].map(clock), ["0:07", "12:34", "1:23:45"]);
    }
}
