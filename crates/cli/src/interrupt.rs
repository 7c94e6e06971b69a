//! Ctrl-C: once to stop with a checkpoint, twice to stop at once.

use sensorium::StopFlag;

/// The exit status of a program that Ctrl-C ended.
pub const INTERRUPTED: u8 = 130;

/// A flag that Ctrl-C raises.
pub fn stop_flag() -> anyhow::Result<StopFlag> {
    let stop = StopFlag::new();
    let flag = stop.clone();
    ctrlc::set_handler(move || {
        if flag.is_raised() {
            // Asked twice: at once. The last checkpoint stands.
            std::process::exit(i32::from(INTERRUPTED));
        }
        flag.raise();
        eprintln!("\nstopping after this step, with a checkpoint; Ctrl-C again stops at once");
    })?;
    Ok(stop)
}
