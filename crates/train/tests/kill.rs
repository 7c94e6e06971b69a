//! Kills a training process at random moments and resumes it: the losses and the weights
//! must be those of a run that nobody disturbed.
#![cfg(unix)]

mod common;

use common::{Net, config, log_lines, options, train};
use sensorium_engine::Random;
use sensorium_train::{TrainConfig, Trainer};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const DIR: &str = "SENSORIUM_TRAIN_KILL_TEST_DIR";

const EPOCHS: u64 = 30;

fn long() -> TrainConfig {
    TrainConfig { epochs: EPOCHS, ..config() }
}

/// Resumes the run in `dir`, or begins it.
fn run(dir: &Path) -> Net {
    let (net, summary) = train(&Trainer::new(long(), options(dir, true)).expect("valid"), &long());
    assert_eq!(summary.expect("trains").epochs, EPOCHS);
    net
}

/// Not a test of its own: what the other one starts and kills.
#[test]
#[ignore = "the process that another test kills"]
fn victim() {
    let dir = std::env::var_os(DIR).expect("started by the test below");
    let net = run(Path::new(&dir));
    let bits: Vec<u8> = net.bits().iter().flat_map(|b| b.to_le_bytes()).collect();
    std::fs::write(Path::new(&dir).join("weights"), bits).expect("write");
}

#[test]
fn killed_at_random_moments_and_resumed_is_as_never_killed() {
    let reference = tempfile::tempdir().expect("dir");
    let bits: Vec<u8> = run(reference.path()).bits().iter().flat_map(|b| b.to_le_bytes()).collect();
    let (mut kills, mut under_way) = (0, 0);
    for round in 0..3 {
        let dir = tempfile::tempdir().expect("dir");
        let random = Random::new(round).purpose("kill");
        for attempt in 0.. {
            let mut victim = Command::new(std::env::current_exe().expect("this test"))
                .args(["--ignored", "--exact", "victim"])
                .env(DIR, dir.path())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("starts");
            if attempt < 12 {
                std::thread::sleep(Duration::from_micros(2_000 + random.below(attempt, 200_000)));
                victim.kill().expect("kill");
            }
            let status = victim.wait().expect("wait");
            if status.success() {
                break;
            }
            assert_eq!(status.signal(), Some(9), "the process failed by itself: {status}");
            kills += 1;
            under_way += usize::from(dir.path().join("checkpoints/latest").exists());
        }
        assert_eq!(std::fs::read(dir.path().join("weights")).expect("written"), bits, "weights, round {round}");
        assert_eq!(log_lines(dir.path()), log_lines(reference.path()), "losses, round {round}");
    }
    println!("{kills} kills, {under_way} of them after the first checkpoint");
    assert!(under_way >= 5, "{kills} kills, {under_way} of them after the first checkpoint, prove nothing");
}
