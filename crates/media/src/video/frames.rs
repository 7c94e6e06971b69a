//! Frames of a video at exact times, scaled inside FFmpeg and read from a pipe.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::probe::{VideoInfo, probe_with};
use crate::Limits;
use crate::error::{MediaError, Result};
use crate::ffmpeg::Ffmpeg;
use crate::image::{Image, shorter_side_size};

/// Which frames to take.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FrameSampling {
    /// So many frames, in the middles of as many equal spans of the whole length.
    Count(usize),
    /// So many per second, from the start.
    Rate(f64),
}

impl Default for FrameSampling {
    /// Eight frames, spread over the whole length.
    fn default() -> Self {
        Self::Count(8)
    }
}

/// How large the frames come out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FrameSize {
    /// As they are shown.
    Original,
    /// Exactly this size, whatever the proportions.
    Exact {
        /// Pixels in a row.
        width: usize,
        /// Rows.
        height: usize,
    },
    /// The shorter side this long, the proportions kept.
    ShorterSide(usize),
}

/// Takes frames of a video in the order of time, each with the second it stands for.
///
/// The frame at time `t` is the one on the screen then: the last that began at or before `t`, or
/// the first of all when none had begun. Times count from the start of the file. One pass decodes
/// the video, or one jump for each frame where they lie far apart; memory holds the frames returned
/// and no more.
///
/// # Errors
/// No video, FFmpeg missing or failing, a limit exceeded, or a sampling that makes no sense.
pub fn frames(path: &Path, sampling: &FrameSampling, size: FrameSize, limits: &Limits) -> Result<Vec<(f64, Image)>> {
    let programs = Ffmpeg::from_environment();
    let info = probe_with(&programs, path, limits)?;
    let origin = path.display().to_string();
    let grid = Grid::new(sampling, info.duration_s)?;
    limits.check_frames(&origin, grid.count)?;
    let (width, height) = output_size(&info, size);
    limits.check_pixels(&origin, "video", width as u64, height as u64)?;
    limits.check_decoded(&origin, grid.count.saturating_mul((width * height * 3) as u64))?;

    let source = Source { programs, path, origin, width, height, limits };
    let sought = if 1.0 / grid.rate >= SEEK_SPACING_S { source.seek_each(&grid)? } else { None };
    let images = match sought {
        Some(images) => images,
        None => source.read_all(&grid)?,
    };
    Ok(images.into_iter().enumerate().map(|(i, image)| (grid.time(i), image)).collect())
}

/// Seconds between frames from which it is quicker to jump to each than to decode all between.
const SEEK_SPACING_S: f64 = 20.0;

/// A video to read and the size to read it at.
struct Source<'a> {
    programs: Ffmpeg,
    path: &'a Path,
    origin: String,
    width: usize,
    height: usize,
    limits: &'a Limits,
}

impl Source<'_> {
    /// All frames of a grid in one pass over the file.
    fn read_all(&self, grid: &Grid) -> Result<Vec<Image>> {
        let count = grid.count as usize;
        let mut images = self.read(&[], &grid.filter(self.width, self.height), count)?;
        // A file may end a little before the length it states; its last frame stays on the screen.
        let Some(last) = images.last().cloned().filter(|_| images.len() * 2 >= count) else {
            let problem = format!("only {} of {count} frames could be decoded", images.len());
            return Err(MediaError::broken(&self.origin, "video", problem));
        };
        images.resize(count, last);
        Ok(images)
    }

    /// The frames of a grid one by one, each decoded from the key frame before it; `None` when one
    /// cannot be reached that way.
    fn seek_each(&self, grid: &Grid) -> Result<Option<Vec<Image>>> {
        let mut images = Vec::new();
        let now = Grid { start: 0.0, rate: 1.0, count: 1 }.filter(self.width, self.height);
        for index in 0..grid.count as usize {
            // Not accurate means: from the key frame, so that the frame on the screen is not cut off
            // for having begun before the time.
            let time = format!("{:.6}", grid.time(index));
            match self.read(&["-noaccurate_seek", "-ss", &time], &now, 1)?.pop() {
                Some(image) => images.push(image),
                None => return Ok(None),
            }
        }
        Ok(Some(images))
    }

    /// At most `count` frames of what the filter passes.
    fn read(&self, input_options: &[&str], filter: &str, count: usize) -> Result<Vec<Image>> {
        let (width, height) = (self.width, self.height);
        let frame_bytes = width * height * 3;
        let most = count.to_string();
        let select = ["-map", "0:V:0", "-an", "-sn", "-dn", "-vf", filter, "-frames:v", &most];
        let encode = ["-c:v", "rawvideo", "-pix_fmt", "rgb24", "-f", "rawvideo"];
        let options = [&select[..], &encode].concat();
        let mut images: Vec<Image> = Vec::new();
        let mut current: Vec<u8> = Vec::with_capacity(frame_bytes);
        let take = |mut bytes: &[u8]| {
            while !bytes.is_empty() && images.len() < count {
                let (now, later) = bytes.split_at(bytes.len().min(frame_bytes - current.len()));
                current.extend_from_slice(now);
                bytes = later;
                if current.len() == frame_bytes {
                    let data = std::mem::replace(&mut current, Vec::with_capacity(frame_bytes));
                    images.push(Image { width, height, data });
                }
            }
            Ok(())
        };
        self.programs.decode(self.path, &self.origin, (input_options, &options), self.limits, take)?;
        Ok(images)
    }
}

/// Evenly spaced times.
#[derive(Clone, Copy, Debug)]
struct Grid {
    /// The first time, in seconds.
    start: f64,
    /// Times per second.
    rate: f64,
    count: u64,
}

impl Grid {
    fn new(sampling: &FrameSampling, duration: f64) -> Result<Self> {
        match *sampling {
            FrameSampling::Count(0) => Err(MediaError::parameter("frame sampling", "at least 1 frame", 0)),
            FrameSampling::Count(count) => {
                let rate = count as f64 / duration;
                Ok(Self { start: 0.5 / rate, rate, count: count as u64 })
            }
            FrameSampling::Rate(rate) if rate > 0.0 && rate <= 1000.0 => {
                // The small part keeps a length of 2.0000001 s at 1 per second from a third frame.
                let count = ((duration * rate - 1e-3).ceil() as u64).max(1);
                Ok(Self { start: 0.0, rate, count })
            }
            FrameSampling::Rate(rate) => {
                Err(MediaError::parameter("frame sampling", "more than 0 and at most 1000 frames per second", rate))
            }
        }
    }

    fn time(&self, index: usize) -> f64 {
        self.start + index as f64 / self.rate
    }

    /// FFmpeg's filters that pass the frame on the screen at each time, scaled.
    ///
    /// Time is moved so that the first of the grid is 0; `fps` then repeats or drops frames, and
    /// rounding their beginnings up to the grid makes each the last that began by then.
    fn filter(&self, width: usize, height: usize) -> String {
        format!(
            "setpts=PTS-({start:.9})/TB,fps=fps={rate:.12}:start_time=0:round=up,\
             scale={width}:{height}:flags=bicubic+accurate_rnd+full_chroma_int,setsar=1",
            start = self.start,
            rate = self.rate,
        )
    }
}

fn output_size(info: &VideoInfo, size: FrameSize) -> (usize, usize) {
    match size {
        FrameSize::Original => (info.width, info.height),
        FrameSize::Exact { width, height } => (width.max(1), height.max(1)),
        FrameSize::ShorterSide(side) => shorter_side_size(info.width, info.height, side),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_take_middles_and_rates_begin_at_the_start() {
        let grid = Grid::new(&FrameSampling::Count(4), 2.0).unwrap();
        let times: Vec<f64> = (0..4).map(|i| grid.time(i)).collect();
        assert_eq!(times, [0.25, 0.75, 1.25, 1.75]);
        let grid = Grid::new(&FrameSampling::Rate(2.0), 2.0000001).unwrap();
        assert_eq!((grid.count, grid.time(0), grid.time(3)), (4, 0.0, 1.5));
        assert_eq!(Grid::new(&FrameSampling::Rate(1.0), 0.1).unwrap().count, 1);
    }

    #[test]
    fn senseless_samplings_are_refused() {
        for sampling in [FrameSampling::Count(0), FrameSampling::Rate(0.0), FrameSampling::Rate(f64::NAN)] {
            assert!(Grid::new(&sampling, 1.0).is_err(), "{sampling:?}");
        }
    }

    #[test]
    fn jumping_to_frames_gives_those_of_one_pass() {
        let programs = Ffmpeg::from_environment();
        if std::process::Command::new(&programs.ffmpeg).arg("-version").output().is_err() {
            println!("left out: FFmpeg is not installed");
            return;
        }
        for name in ["clip.mp4", "silent.webm"] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/formats").join(name);
            let source = Source {
                programs: programs.clone(),
                path: &path,
                origin: name.to_owned(),
                width: 16,
                height: 12,
                limits: &Limits::default(),
            };
            let grid = Grid::new(&FrameSampling::Count(7), 0.98).unwrap();
            let jumped = source.seek_each(&grid).unwrap().expect("every frame is reached");
            assert!(jumped == source.read_all(&grid).unwrap(), "{name}");
        }
    }
}
