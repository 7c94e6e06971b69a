//! FFmpeg as a subprocess: found, run with limits, stopped when it overruns.
//!
//! Arguments are arrays, never a shell's line. Only the file and pipe protocols and ordinary
//! containers are allowed, so that a playlist posing as a video cannot reach other files or the
//! network. Paths go in behind `file:`, so none can pass for an option or an address.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::Limits;
use crate::error::{MediaError, Result};

/// Containers that FFmpeg may open: those that hold media themselves, no playlists or scripts.
const FORMATS: &str = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,m4v,h264,hevc,\
    flv,asf,ogg,wav,w64,aiff,caf,flac,mp3,aac,ac3,eac3,amr,amrnb,amrwb,au,ape,tta,wv,gif,apng,\
    webp_pipe,webp_anim,ivf,mxf,nut,dv,rm,dts,dtshd,av1,obu,voc,sox,mpc,mpc8,wsaud,gsm,qcp";

/// Bytes of complaints that are kept for the error message.
const MESSAGE_BYTES: usize = 4096;
/// Bytes handed over at a time.
const CHUNK_BYTES: usize = 256 << 10;

/// Where the two programs are.
#[derive(Clone, Debug)]
pub(crate) struct Ffmpeg {
    /// Decodes.
    pub ffmpeg: OsString,
    /// Tells facts.
    pub ffprobe: OsString,
}

/// Names the `ffmpeg` program when it is not on the path.
const FFMPEG_VARIABLE: &str = "SENSORIUM_FFMPEG";
/// Names the `ffprobe` program when it is not on the path.
const FFPROBE_VARIABLE: &str = "SENSORIUM_FFPROBE";

impl Ffmpeg {
    /// The programs on the path, or those that `SENSORIUM_FFMPEG` and `SENSORIUM_FFPROBE` name.
    pub fn from_environment() -> Self {
        Self {
            ffmpeg: env::var_os(FFMPEG_VARIABLE).unwrap_or_else(|| "ffmpeg".into()),
            ffprobe: env::var_os(FFPROBE_VARIABLE).unwrap_or_else(|| "ffprobe".into()),
        }
    }

    /// Runs `ffprobe` on a file and returns what it prints, at most 16 MiB.
    pub fn probe(&self, path: &Path, arguments: &[&str], limits: &Limits) -> Result<Vec<u8>> {
        const MAX_FACTS_BYTES: usize = 16 << 20;
        let mut command = Command::new(&self.ffprobe);
        command.args(["-v", "error", "-hide_banner"]).args(input_limits(limits)).args(arguments);
        command.arg("-i").arg(file_argument(path));
        let origin = path.display().to_string();
        let mut output = Vec::new();
        run(command, FFPROBE_VARIABLE, &origin, limits, |bytes| {
            output.extend_from_slice(bytes);
            if output.len() > MAX_FACTS_BYTES {
                return Err(MediaError::broken(&origin, "media", "its facts fill more than 16 MiB"));
            }
            Ok(())
        })?;
        Ok(output)
    }

    /// Runs `ffmpeg` on a file with options of the input and of one output and hands what it writes to `sink`,
    /// piece by piece; an error of the sink stops it.
    pub fn decode(
        &self,
        path: &Path,
        origin: &str,
        (input_options, output_options): (&[&str], &[&str]),
        limits: &Limits,
        sink: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut command = Command::new(&self.ffmpeg);
        command.args(["-v", "error", "-hide_banner", "-nostdin"]).args(input_limits(limits));
        command.args(input_options).arg("-i").arg(file_argument(path)).args(output_options).arg("pipe:1");
        run(command, FFMPEG_VARIABLE, origin, limits, sink)
    }
}

/// Options in front of the input that keep it to this one file and its pixels to the limit.
fn input_limits(limits: &Limits) -> [String; 6] {
    [
        "-protocol_whitelist".to_owned(),
        "file,pipe".to_owned(),
        "-format_whitelist".to_owned(),
        FORMATS.to_owned(),
        "-max_pixels".to_owned(),
        limits.max_pixels.min(i32::MAX as u64).to_string(),
    ]
}

/// `file:PATH`, which FFmpeg takes for a path whatever characters it holds.
fn file_argument(path: &Path) -> OsString {
    let mut argument = OsString::from("file:");
    argument.push(path);
    argument
}

/// A child that does not outlive its owner.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only when the child has already ended, which is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(
    mut command: Command,
    variable: &'static str,
    origin: &str,
    limits: &Limits,
    mut sink: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let program = display_name(command.get_program());
    let seconds = limits.max_decode_seconds.clamp(0.0, 1e9);
    let deadline = Instant::now() + Duration::from_secs_f64(seconds);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().map_err(|error| MediaError::FfmpegMissing {
        origin: origin.to_owned(),
        program: program.clone(),
        variable,
        error,
    })?;
    let mut child = Running(child);
    let output = child.0.stdout.take().map(read_in_pieces);
    let complaints = child.0.stderr.take().map(collect_start);

    while let Some(output) = &output {
        let left = deadline.saturating_duration_since(Instant::now());
        match output.recv_timeout(left) {
            Ok(piece) => sink(&piece)?,
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                return Err(MediaError::TimedOut {
                    origin: origin.to_owned(),
                    program,
                    limit: limits.max_decode_seconds,
                });
            }
        }
    }
    // The output is closed, so the program is at its end.
    let failed = |message: String| MediaError::Ffmpeg { origin: origin.to_owned(), program: program.clone(), message };
    let status = child.0.wait().map_err(|error| failed(error.to_string()))?;
    if status.success() {
        return Ok(());
    }
    let said = complaints.and_then(|thread| thread.join().ok()).unwrap_or_default();
    let said = said.trim();
    if let Some(size) = too_many_pixels(said) {
        return Err(MediaError::OverLimit {
            origin: origin.to_owned(),
            got: size,
            unit: "pixels",
            limit: limits.max_pixels.to_string(),
            field: "max_pixels",
        });
    }
    Err(failed(if said.is_empty() { status.to_string() } else { one_line(said) }))
}

fn display_name(program: &OsStr) -> String {
    program.to_string_lossy().into_owned()
}

/// The size that FFmpeg refused for its pixels, if that is what it complains of.
fn too_many_pixels(said: &str) -> Option<String> {
    let (before, _) = said.split_once(" exceeds specified max pixel count")?;
    before.split_whitespace().next_back().map(str::to_owned)
}

/// Joins what was said into a line, leaving out addresses of FFmpeg's inner parts.
fn one_line(said: &str) -> String {
    let parts = said.lines().map(|line| {
        let mut line = line;
        while let Some((part, rest)) = line.split_once("] ") {
            if !part.starts_with('[') || !part.contains(" @ ") {
                break;
            }
            line = rest;
        }
        line.trim()
    });
    parts.filter(|part| !part.is_empty()).take(4).collect::<Vec<_>>().join("; ")
}

/// Reads on a thread, at most a few pieces ahead.
fn read_in_pieces(mut pipe: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = sync_channel(2);
    thread::spawn(move || {
        loop {
            let mut piece = vec![0; CHUNK_BYTES];
            match pipe.read(&mut piece) {
                Ok(0) => return,
                Ok(length) => {
                    piece.truncate(length);
                    if sender.send(piece).is_err() {
                        return;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    });
    receiver
}

/// Reads on a thread to the end, so that the program is never held up, and keeps the beginning.
fn collect_start(mut pipe: impl Read + Send + 'static) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut kept = Vec::new();
        // What cannot be read cannot be reported either.
        let _ = pipe.by_ref().take(MESSAGE_BYTES as u64).read_to_end(&mut kept);
        let _ = std::io::copy(&mut pipe, &mut std::io::sink());
        String::from_utf8_lossy(&kept).into_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_told_with_how_to_install_it() {
        let programs = Ffmpeg { ffmpeg: "no-such-ffmpeg".into(), ffprobe: "no-such-ffprobe".into() };
        let error = programs.probe(Path::new("a.mp4"), &[], &Limits::default()).unwrap_err();
        assert!(matches!(error, MediaError::FfmpegMissing { .. }));
        let message = error.to_string();
        assert!(message.starts_with("a.mp4: `no-such-ffprobe` is needed"), "{message}");
        assert!(message.contains("apt install ffmpeg"), "{message}");
        assert!(message.contains("SENSORIUM_FFPROBE"), "{message}");
    }

    #[test]
    #[cfg(unix)]
    fn a_program_that_hangs_is_stopped_at_the_time_limit() {
        let limits = Limits { max_decode_seconds: 0.2, ..Limits::default() };
        let mut command = Command::new("sleep");
        command.arg("60");
        let started = Instant::now();
        let outcome = run(command, FFMPEG_VARIABLE, "a.mp4", &limits, |_| Ok(()));
        assert!(matches!(outcome, Err(MediaError::TimedOut { .. })), "{outcome:?}");
        assert!(started.elapsed() < Duration::from_secs(10));
    }

    #[test]
    #[cfg(unix)]
    fn an_error_of_the_sink_stops_an_endless_program() {
        let mut command = Command::new("yes");
        command.arg("x");
        let mut seen = 0;
        let outcome = run(command, FFMPEG_VARIABLE, "a.mp4", &Limits::default(), |bytes| {
            seen += bytes.len();
            Limits { max_bytes: 1 << 20, ..Limits::default() }.check_bytes("a.mp4", seen as u64)
        });
        assert!(matches!(outcome, Err(MediaError::OverLimit { .. })), "{outcome:?}");
    }

    #[test]
    fn complaints_become_one_line_without_addresses() {
        let said = "[h264 @ 0x55aa] [mov,mp4 @ 0x55aa] moov atom not found\nfile:a.mp4: Invalid data\n";
        assert_eq!(one_line(said), "moov atom not found; file:a.mp4: Invalid data");
        let said = "[a @ 0x1] Picture size 64x48 exceeds specified max pixel count 3071, see";
        assert_eq!(too_many_pixels(said).as_deref(), Some("64x48"));
    }
}
