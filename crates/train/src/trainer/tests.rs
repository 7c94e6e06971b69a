//! The loop held to what it promises.

use super::*;
use crate::config::{CheckpointEvery, EarlyStopping, OptimizerKind, ScheduleKind};
use crate::contract::{Event, NoJudge, StepContext, StepLoss};
use crate::fixture::{Data, Net, SAMPLES, Validation, config, log_lines, options, train};
use sensorium_engine::{Params, Tape};

fn run(dir: &Path, config: &TrainConfig, resume: bool) -> (Net, Summary) {
    let trainer = Trainer::new(config.clone(), options(dir, resume)).expect("valid");
    let (net, summary) = train(&trainer, config);
    (net, summary.expect("trains"))
}

fn uninterrupted(config: &TrainConfig) -> (Vec<u32>, Vec<String>) {
    let dir = tempfile::tempdir().expect("dir");
    let (net, _) = run(dir.path(), config, false);
    (net.bits(), log_lines(dir.path()))
}

#[test]
fn the_loss_falls_and_the_model_ends_with_its_best_weights() {
    let dir = tempfile::tempdir().expect("dir");
    let config = TrainConfig { epochs: 30, ..config() };
    let (net, summary) = run(dir.path(), &config, false);
    let best = summary.best.expect("validated");
    let first = summary.history.epochs[0].metrics["loss"];
    assert!(best.value < 0.3 * first, "{} after {first}", best.value);
    assert_eq!(Validation(SAMPLES).judge(&net, 0).expect("loss")["loss"], best.value);
    assert_eq!(summary.stopped, Stopped::Finished);
    // 70 samples in batches of 8 are 9 batches, two by two 5 steps.
    assert_eq!((summary.steps, summary.epochs, summary.history.steps.len()), (150, 30, 150));
}

#[test]
fn a_crash_at_any_operation_on_the_disk_changes_nothing() {
    let config = TrainConfig { epochs: 2, ..config() };
    let (bits, lines) = uninterrupted(&config);
    let mut crashes = 0;
    loop {
        let dir = tempfile::tempdir().expect("dir");
        let mut trainer = Trainer::new(config.clone(), options(dir.path(), false)).expect("valid");
        trainer.disk.fuse = Some(std::cell::Cell::new(crashes));
        let (_, summary) = train(&trainer, &config);
        if summary.is_ok() {
            break;
        }
        let (net, _) = run(dir.path(), &config, true);
        assert_eq!(net.bits(), bits, "weights after a crash at operation {crashes}");
        assert_eq!(log_lines(dir.path()), lines, "losses after a crash at operation {crashes}");
        crashes += 1;
    }
    assert!(crashes > 50, "{crashes} operations are too few to have tried them all");
}

#[test]
fn a_second_crash_while_resuming_changes_nothing() {
    let config = TrainConfig { epochs: 2, ..config() };
    let (bits, lines) = uninterrupted(&config);
    for first in [17, 40] {
        for second in 0..16 {
            let dir = tempfile::tempdir().expect("dir");
            for (resume, fuse) in [(false, first), (true, second)] {
                let mut trainer = Trainer::new(config.clone(), options(dir.path(), resume)).expect("valid");
                trainer.disk.fuse = Some(std::cell::Cell::new(fuse));
                assert!(train(&trainer, &config).1.is_err());
            }
            let (net, _) = run(dir.path(), &config, true);
            assert_eq!(net.bits(), bits, "weights after crashes at {first} and {second}");
            assert_eq!(log_lines(dir.path()), lines);
        }
    }
}

#[test]
fn another_seed_gives_other_bits() {
    let other = TrainConfig { seed: 1, ..config() };
    assert_ne!(uninterrupted(&config()).0, uninterrupted(&other).0);
}

#[test]
fn interrupted_and_resumed_is_as_never_interrupted() {
    struct StopAt(u64, StopFlag);
    impl Observer for StopAt {
        fn event(&mut self, event: &Event<'_>) {
            if matches!(event, Event::Step(s) if s.step == self.0) {
                self.1.raise();
            }
        }
    }
    for kind in [OptimizerKind::AdamW, OptimizerKind::Adam, OptimizerKind::Sgd] {
        let config = TrainConfig { optimizer: kind, checkpoint_every: rarely(), ..config() };
        let (bits, lines) = uninterrupted(&config);
        // Within an epoch, and at its last step, before its validation.
        for at in [3, 5, 10] {
            let dir = tempfile::tempdir().expect("dir");
            let stop = StopFlag::new();
            let interrupted = RunOptions { stop: stop.clone(), ..options(dir.path(), false) };
            let trainer = Trainer::new(config.clone(), interrupted).expect("valid");
            let (mut net, source) = (Net::new(config.seed, 20), Data::new(&config, SAMPLES));
            let summary =
                trainer.run(&mut net, &source, &mut Validation(SAMPLES), &mut StopAt(at, stop)).expect("stops cleanly");
            assert_eq!((summary.stopped, summary.steps), (Stopped::Interrupted, at));
            let (net, summary) = run(dir.path(), &config, true);
            assert_eq!((net.bits(), summary.stopped), (bits.clone(), Stopped::Finished));
            assert_eq!(log_lines(dir.path()), lines);
            // Once more: there is nothing left to do, and the same comes out.
            assert_eq!(run(dir.path(), &config, true).0.bits(), bits);
            assert_eq!(log_lines(dir.path()), lines);
        }
    }
}

#[test]
fn best_weights_from_before_the_interruption_are_kept() {
    // By this metric the first epoch is the best.
    let early_stopping = EarlyStopping { metric: "epoch_error".into(), ..EarlyStopping::default() };
    let config = TrainConfig { early_stopping, ..config() };
    let (bits, lines) = uninterrupted(&config);
    assert_ne!(bits, uninterrupted(&TrainConfig { early_stopping: EarlyStopping::default(), ..config.clone() }).0);
    for fuse in [45, 60, 70] {
        let dir = tempfile::tempdir().expect("dir");
        let mut trainer = Trainer::new(config.clone(), options(dir.path(), false)).expect("valid");
        trainer.disk.fuse = Some(std::cell::Cell::new(fuse));
        assert!(train(&trainer, &config).1.is_err());
        let (net, summary) = run(dir.path(), &config, true);
        assert_eq!(summary.best.map(|b| b.epoch), Some(1));
        assert_eq!(net.bits(), bits, "after a crash at operation {fuse}");
        assert_eq!(log_lines(dir.path()), lines);
    }
}

fn rarely() -> CheckpointEvery {
    CheckpointEvery { seconds: 0.0, steps: 0, epochs: 0 }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let config = TrainConfig { batch_size: 256, epochs: 2, ..config() };
    let bits = |threads| {
        let config = config.clone();
        sensorium_engine::with_threads(threads, move || {
            let dir = tempfile::tempdir().expect("dir");
            let trainer = Trainer::new(config.clone(), options(dir.path(), false)).expect("valid");
            let (mut net, source) = (Net::new(0, 600), Data::new(&config, 1000));
            trainer.run(&mut net, &source, &mut Validation(1000), &mut ()).expect("trains");
            net.bits()
        })
        .expect("threads")
    };
    let one = bits(1);
    assert_eq!(one, bits(2));
    assert_eq!(one, bits(4));
}

#[test]
fn accumulated_batches_are_one_large_batch() {
    // Dropout is drawn per batch, so the two are compared without it.
    let accumulated = TrainConfig { batch_size: 8, grad_accumulation: 9, epochs: 1, ..config() };
    let large = TrainConfig { batch_size: 72, grad_accumulation: 1, ..accumulated.clone() };
    let norm = |config: &TrainConfig| {
        struct Plain(Net);
        impl Trainable for Plain {
            type Batch = crate::fixture::Pair;
            fn params(&self) -> &Params {
                self.0.params()
            }
            fn params_mut(&mut self) -> &mut Params {
                self.0.params_mut()
            }
            fn loss(
                &self,
                tape: &Tape,
                batch: &Self::Batch,
                cx: &StepContext,
            ) -> std::result::Result<StepLoss, BoxError> {
                self.0.loss(tape, batch, &StepContext { training: false, ..*cx })
            }
        }
        let dir = tempfile::tempdir().expect("dir");
        let trainer = Trainer::new(config.clone(), options(dir.path(), false)).expect("valid");
        let mut net = Plain(Net::new(0, 20));
        let summary = trainer.run(&mut net, &Data::new(config, SAMPLES), &mut NoJudge, &mut ()).expect("trains");
        assert_eq!(summary.steps, 1);
        (summary.history.steps[0].grad_norm, summary.history.steps[0].loss)
    };
    // The last of the nine batches has 6 samples, the others 8: they must not count alike.
    let (a, b) = (norm(&accumulated), norm(&large));
    assert!((a.0 / b.0 - 1.0).abs() < 1e-5 && (a.1 / b.1 - 1.0).abs() < 1e-6, "{a:?}, {b:?}");
}

#[test]
fn poisoned_steps_are_skipped_and_five_in_a_row_stop_the_run() {
    let often = TrainConfig { grad_accumulation: 1, epochs: 2, ..config() };
    let attempt = |config: &TrainConfig, poisoned| {
        let dir = tempfile::tempdir().expect("dir");
        let trainer = Trainer::new(config.clone(), options(dir.path(), false)).expect("valid");
        let mut net = Net::new(0, 20);
        let source = Data { poisoned, ..Data::new(config, SAMPLES) };
        let summary = trainer.run(&mut net, &source, &mut Validation(SAMPLES), &mut ());
        (summary, net.bits())
    };
    let (summary, bits) = attempt(&often, 2..6);
    let summary = summary.expect("four in a row are borne");
    assert_eq!((summary.steps, summary.skipped, summary.history.skips.len()), (18, 8, 8));
    assert!(bits.iter().all(|b| f32::from_bits(*b).is_finite()));
    for (config, written) in [(often.clone(), true), (TrainConfig { checkpoint_every: rarely(), ..often }, false)] {
        let error = attempt(&config, 2..7).0.expect_err("five in a row").to_string();
        assert!(error.contains("5 steps in a row were skipped up to step 7") && error.contains("NaN"), "{error}");
        assert_eq!(error.contains("the checkpoint before holds finite weights"), written, "{error}");
    }
}

#[test]
fn patience_ends_the_run_and_the_best_epoch_is_kept() {
    let early_stopping = EarlyStopping { metric: "one_minus".into(), patience: 2, min_gain: 10.0 };
    let dir = tempfile::tempdir().expect("dir");
    let (_, summary) = run(dir.path(), &TrainConfig { early_stopping, epochs: 9, ..config() }, false);
    // No epoch gains 10, so the first is the reference and two more are patience.
    assert_eq!((summary.stopped, summary.epochs), (Stopped::EarlyStopping, 3));
    let values: Vec<f64> = summary.history.epochs.iter().map(|e| e.metrics["one_minus"]).collect();
    assert_eq!(summary.best.expect("best").value, values.iter().copied().fold(f64::MIN, f64::max));
}

#[test]
fn a_metric_that_is_not_measured_is_named() {
    let early_stopping = EarlyStopping { metric: "accuracy".into(), ..EarlyStopping::default() };
    let dir = tempfile::tempdir().expect("dir");
    let config = TrainConfig { early_stopping, ..config() };
    let trainer = Trainer::new(config.clone(), options(dir.path(), false)).expect("valid");
    let error = train(&trainer, &config).1.expect_err("no such metric").to_string();
    assert!(error.contains("`accuracy` is not measured here; available: epoch_error, loss, one_minus"), "{error}");
    let files = || std::fs::read_dir(dir.path()).expect("listed").count();
    let before = files();
    let error = trainer.check(&Net::new(0, 20), &mut Validation(SAMPLES)).expect_err("before training").to_string();
    assert!(error.contains("`accuracy` is not measured here"), "{error}");
    let early_stopping = EarlyStopping { metric: "one_mimus".into(), ..EarlyStopping::default() };
    let trainer = Trainer::new(TrainConfig { early_stopping, ..config }, options(dir.path(), false)).expect("valid");
    let error = trainer.check(&Net::new(0, 20), &mut Validation(SAMPLES)).expect_err("before training").to_string();
    assert!(error.contains("near names: one_minus") && files() == before, "{error}");
}

#[test]
fn steps_without_targets_are_no_divergence() {
    struct Aimless(Net);
    impl Trainable for Aimless {
        type Batch = crate::fixture::Pair;
        fn params(&self) -> &Params {
            self.0.params()
        }
        fn params_mut(&mut self) -> &mut Params {
            self.0.params_mut()
        }
        fn loss(&self, tape: &Tape, batch: &Self::Batch, cx: &StepContext) -> std::result::Result<StepLoss, BoxError> {
            Ok(StepLoss { weight: 0.0, ..self.0.loss(tape, batch, cx)? })
        }
    }
    let (dir, config) =
        (tempfile::tempdir().expect("dir"), TrainConfig { grad_accumulation: 1, epochs: 1, ..config() });
    let trainer = Trainer::new(config.clone(), options(dir.path(), false)).expect("valid");
    let mut net = Aimless(Net::new(0, 20));
    let before = net.0.bits();
    let summary = trainer.run(&mut net, &Data::new(&config, SAMPLES), &mut NoJudge, &mut ()).expect("goes through");
    assert_eq!((summary.skipped, summary.history.skips.len() as u64), (0, summary.steps));
    assert!(summary.steps > 5 && net.0.bits() == before);
}

#[test]
fn the_time_limit_stops_with_a_checkpoint_to_resume_from() {
    let config = TrainConfig { checkpoint_every: rarely(), ..config() };
    let (bits, lines) = uninterrupted(&config);
    let dir = tempfile::tempdir().expect("dir");
    let hurried = RunOptions { time_limit: Some(Duration::ZERO), ..options(dir.path(), false) };
    let (_, summary) = train(&Trainer::new(config.clone(), hurried).expect("valid"), &config);
    let summary = summary.expect("stops cleanly");
    assert_eq!((summary.stopped, summary.steps), (Stopped::TimeLimit, 1));
    assert_eq!(summary.best.expect("judged at the end").step, 1);
    assert_eq!(run(dir.path(), &config, true).0.bits(), bits);
    assert_eq!(log_lines(dir.path()), lines);
}

#[test]
fn a_run_is_not_overwritten_and_not_resumed_under_other_settings() {
    let dir = tempfile::tempdir().expect("dir");
    run(dir.path(), &config(), false);
    let attempt = |config: TrainConfig, resume, identity: &str| {
        let options = RunOptions { identity: identity.into(), ..options(dir.path(), resume) };
        train(&Trainer::new(config.clone(), options).expect("valid"), &config).1
    };
    assert!(matches!(attempt(config(), false, ""), Err(TrainError::RunExists { .. })));
    for (changed, key) in [
        (TrainConfig { seed: 9, ..config() }, "train.seed was 0, is now 9"),
        (TrainConfig { batch_size: 4, ..config() }, "train.batch_size was 8, is now 4"),
        (TrainConfig { lr: 0.5, ..config() }, "train.lr was 0.02, is now 0.5"),
        (TrainConfig { schedule: ScheduleKind::Linear, ..config() }, "train.schedule"),
        (
            TrainConfig {
                early_stopping: EarlyStopping { metric: "one_minus".into(), ..EarlyStopping::default() },
                ..config()
            },
            "train.early_stopping.metric",
        ),
    ] {
        let error = attempt(changed, true, "").expect_err(key).to_string();
        assert!(error.contains(key), "{error}");
    }
    assert!(matches!(attempt(config(), true, "other data"), Err(TrainError::Changed { .. })));
    let mut other = Net::new(0, 21);
    let trainer = Trainer::new(config(), options(dir.path(), true)).expect("valid");
    let error = trainer.run(&mut other, &Data::new(&config(), SAMPLES), &mut NoJudge, &mut ());
    assert!(error.expect_err("other shapes").to_string().contains("model.encoder.layer.0.bias was [20], is now [21]"));
    let early_stopping = EarlyStopping { patience: 50, ..EarlyStopping::default() };
    let (_, summary) = run(dir.path(), &TrainConfig { epochs: 5, early_stopping, ..config() }, true);
    assert_eq!(summary.epochs, 5);
}

#[test]
fn a_checkpoint_damaged_later_is_passed_over_for_the_one_before() {
    struct Heard(usize);
    impl Observer for Heard {
        fn event(&mut self, event: &Event<'_>) {
            self.0 += usize::from(matches!(event, Event::DamagedCheckpoint { .. }));
        }
    }
    let (bits, lines) = uninterrupted(&config());
    let dir = tempfile::tempdir().expect("dir");
    run(dir.path(), &config(), false);
    let root = checkpoints_dir(dir.path());
    let newest = root.join(std::fs::read_to_string(root.join("latest")).expect("latest"));
    std::fs::write(newest.join("optimizer.safetensors"), b"torn").expect("write");
    let trainer = Trainer::new(config(), options(dir.path(), true)).expect("valid");
    let (mut net, mut heard) = (Net::new(0, 20), Heard(0));
    trainer
        .run(&mut net, &Data::new(&config(), SAMPLES), &mut Validation(SAMPLES), &mut heard)
        .expect("goes on from the one before");
    assert_eq!((net.bits(), log_lines(dir.path()), heard.0), (bits, lines, 1));
}
