//! The order of frames (after Misra et al. 2016, "Shuffle and learn"; Lee et
//! al. 2017, "Unsupervised representation learning by sorting sequences"): the
//! frames of a video are shuffled, and each says where it stood. Beside it, a
//! hidden frame's colours are guessed from the frames around it.

use super::best_is;
use crate::layers::Linear;
use crate::towers::VideoTower;
use crate::{ColumnInput, Context, ModelError, Result, Values};
use sensorium_engine::{Builder, Init, Offsets, ParamId, Random, Tensor, Var, ops};

/// Settings of the heads over frames.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FrameOrderConfig {
    /// Width of the tokens of frames.
    pub hidden: usize,
    /// The most frames of a video.
    pub places: usize,
    /// Pixels of each side of a frame.
    pub image_size: usize,
    /// Pixels of each side of the patches whose mean colours are guessed.
    pub patch_size: usize,
    /// Whether frames are hidden too.
    pub hidden_frame: bool,
}

/// Heads over the frames of videos.
#[derive(Debug, Clone)]
pub struct FrameOrderHead {
    place: Linear,
    colours: Option<(ParamId, Linear)>,
    config: FrameOrderConfig,
}

/// A loss over shuffled frames.
pub struct Order {
    /// The mean over the frames: `[1]`.
    pub loss: Var,
    /// Of each frame whether its place was the best guess.
    pub hits: Vec<bool>,
}

/// A loss over hidden frames.
pub struct HiddenFrame {
    /// The mean over their numbers: `[1]`.
    pub loss: Var,
    /// How many were hidden.
    pub frames: usize,
}

impl FrameOrderHead {
    /// Creates `place` and, where frames are hidden, `mask_token` and
    /// `colours`.
    ///
    /// # Errors
    /// When sizes make no sense.
    pub fn new(b: &mut Builder<'_>, c: &FrameOrderConfig) -> Result<Self> {
        if c.places < 2 || c.patch_size == 0 || c.patch_size > c.image_size {
            let problem = format!("{} frames of {} pixels in patches of {}", c.places, c.image_size, c.patch_size);
            return Err(ModelError::config("frame order", problem));
        }
        let place = Linear::new(&mut b.scope("place"), c.hidden, c.places, true)?;
        let colours = match c.hidden_frame {
            true => {
                let token = b.param("mask_token", &[1, c.hidden], Init::Normal(0.02))?;
                Some((token, Linear::new(&mut b.scope("colours"), c.hidden, colours(c), true)?))
            }
            false => None,
        };
        Ok(Self { place, colours, config: *c })
    }

    /// Shuffles the frames of each video with more than one and asks each for
    /// its place; None where no video has more than one.
    ///
    /// # Errors
    /// When frames are not those of the tower.
    pub fn order(
        &self,
        cx: &Context<'_>,
        tower: &VideoTower,
        videos: &ColumnInput,
        random: Random,
    ) -> Result<Option<Order>> {
        let Some(videos) = several(videos) else { return Ok(None) };
        let (mut rows, mut places) = (Vec::new(), Vec::new());
        for (video, range) in videos.offsets().ranges().enumerate() {
            for place in random.at_step(video as u64).permutation(range.len()) {
                rows.push((range.start + place) as u32);
                places.push(Some(place as u32));
            }
        }
        let shuffled = with_frames(&videos, |frames| rows_of(frames, &rows))?;
        let (tokens, _, _) = tower.forward(cx, &shuffled)?;
        let scores = self.place.forward(cx, &tokens)?;
        let loss = ops::cross_entropy(cx.tape, &scores, &places, &ops::CrossEntropy::default())?;
        Ok(Some(Order { loss, hits: best_is(scores.data(), &places).collect() }))
    }

    /// Hides one frame of each video with more than one and asks for the mean
    /// colours of its patches; None where there is no such video, or nothing
    /// is to be hidden.
    ///
    /// # Errors
    /// When frames are not those of the tower.
    pub fn hidden_frame(
        &self,
        cx: &Context<'_>,
        tower: &VideoTower,
        videos: &ColumnInput,
        random: Random,
    ) -> Result<Option<HiddenFrame>> {
        let (Some((token, colours)), Some(videos)) = (&self.colours, several(videos)) else { return Ok(None) };
        let offsets = videos.offsets();
        let hidden: Vec<u32> = offsets
            .ranges()
            .enumerate()
            .map(|(video, r)| r.start as u32 + random.below(video as u64, r.len() as u64) as u32)
            .collect();
        let mut mask = vec![false; offsets.total()];
        hidden.iter().for_each(|row| mask[*row as usize] = true);
        let (tokens, _, _) = tower.forward_hidden(cx, &videos, &mask, &cx.param(*token))?;
        let guessed = colours.forward(cx, &ops::gather_rows(cx.tape, &tokens, &hidden)?)?;
        let Values::Video(frames) = videos.values() else { return Ok(None) };
        let wanted = mean_colours(&rows_of(frames, &hidden)?, self.config.patch_size);
        Ok(Some(HiddenFrame { loss: ops::mse(cx.tape, &guessed, &wanted, None)?, frames: hidden.len() }))
    }
}

/// Numbers that tell the colours of a frame.
fn colours(c: &FrameOrderConfig) -> usize {
    let side = c.image_size / c.patch_size;
    3 * side * side
}

/// The videos of a column with more than one frame; None where there are none.
fn several(videos: &ColumnInput) -> Option<ColumnInput> {
    let offsets = videos.offsets();
    let kept: Vec<usize> = (0..offsets.segments()).filter(|v| offsets.length(*v) > 1).collect();
    (!kept.is_empty()).then(|| videos.select(&kept))
}

fn with_frames(videos: &ColumnInput, change: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<ColumnInput> {
    let Values::Video(frames) = videos.values() else {
        return Err(ModelError::config(
            "frame order",
            format!("expected video frames, got {}", videos.values().kind()),
        ));
    };
    let offsets: Offsets = videos.offsets().clone();
    ColumnInput::new(videos.sample_of().to_vec(), offsets, Values::Video(change(frames)?))
}

/// Some of the frames `[frames, 3, height, width]`, in this order.
fn rows_of(frames: &Tensor, rows: &[u32]) -> Result<Tensor> {
    let width = frames.len() / frames.dims()[0].max(1);
    let data: Vec<f32> =
        rows.iter().flat_map(|r| frames.data()[*r as usize * width..][..width].iter().copied()).collect();
    let mut dims = frames.dims().to_vec();
    dims[0] = rows.len();
    Ok(Tensor::from_slice(&dims, &data)?)
}

/// For each frame `[3, size, size]` the mean of each channel in each patch that
/// lies wholly within it, channel by channel.
fn mean_colours(frames: &Tensor, patch: usize) -> Vec<f32> {
    let size = frames.dims()[3];
    let side = size / patch;
    let mut means = Vec::new();
    for channel in frames.data().chunks_exact(size * size) {
        for (y, x) in (0..side).flat_map(|y| (0..side).map(move |x| (y, x))) {
            let rows = (0..patch).map(|row| &channel[(y * patch + row) * size + x * patch..][..patch]);
            let sum: f64 = rows.flatten().map(|v| f64::from(*v)).sum();
            means.push((sum / (patch * patch) as f64) as f32);
        }
    }
    means
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::towers::{ImageTowerConfig, VideoTowerConfig};
    use crate::{BlockConfig, TransformerConfig};
    use sensorium_engine::{Params, Tape};

    fn tower(b: &mut Builder<'_>) -> Result<VideoTower> {
        let block = BlockConfig { hidden: 8, heads: 2, dropout: 0.0, ..BlockConfig::default() };
        let temporal = TransformerConfig { layers: 1, block, ..TransformerConfig::default() };
        let image = ImageTowerConfig {
            image_size: 8,
            patch_size: 4,
            transformer: temporal.clone(),
            ..ImageTowerConfig::default()
        };
        VideoTower::new(b, &VideoTowerConfig { image, max_positions: 4, temporal, ..VideoTowerConfig::default() })
    }

    fn videos() -> ColumnInput {
        let data: Vec<f32> = (0..8 * 3 * 64).map(|i| ((i * 37 % 101) as f32 / 50.0) - 1.0).collect();
        let frames = Values::Video(Tensor::from_slice(&[8, 3, 8, 8], &data).expect("fits"));
        ColumnInput::new(vec![0, 1, 2], Offsets::from_lengths([4, 1, 3]), frames).expect("packed")
    }

    fn head(b: &mut Builder<'_>) -> Result<FrameOrderHead> {
        let c = FrameOrderConfig { hidden: 8, places: 4, image_size: 8, patch_size: 4, hidden_frame: true };
        FrameOrderHead::new(b, &c)
    }

    #[test]
    fn every_parameter_gets_a_gradient_and_single_frames_have_no_order() -> Result<()> {
        let mut params = Params::new();
        let mut b = Builder::new(&mut params, 3);
        let (tower, head) = (tower(&mut b.scope("tower"))?, head(&mut b.scope("head"))?);
        let tape = Tape::new();
        let cx = Context::inference(&tape, &params);
        let order = head.order(&cx, &tower, &videos(), Random::new(1))?.expect("two videos");
        let hidden = head.hidden_frame(&cx, &tower, &videos(), Random::new(1))?.expect("two videos");
        assert_eq!((order.hits.len(), hidden.frames), (7, 2), "a single frame is left out");
        let single = videos().select(&[1]);
        assert!(head.order(&cx, &tower, &single, Random::new(1))?.is_none());
        let both = ops::add(&tape, &order.loss, &hidden.loss)?;
        drop(cx);
        let gradients = tape.backward(&both)?;
        for (id, p) in params.iter() {
            let gradient = gradients.param(id).unwrap_or_else(|| panic!("{} has no gradient", p.name));
            assert!(gradient.data().iter().any(|x| *x != 0.0), "{}: its gradient is zero", p.name);
        }
        Ok(())
    }

    #[test]
    fn each_shuffled_frame_is_asked_where_it_stood() -> Result<()> {
        let mut params = Params::new();
        let mut b = Builder::new(&mut params, 3);
        let (tower, head) = (tower(&mut b.scope("tower"))?, head(&mut b.scope("head"))?);
        let tape = Tape::inference();
        let cx = Context::inference(&tape, &params);
        let random = Random::new(1);
        let order = head.order(&cx, &tower, &videos(), random)?.expect("two videos");
        // By definition, video by video; the single frame is none.
        let (mut sum, mut moved, mut hits) = (0.0, 0, Vec::new());
        for (at, video) in [0, 2].into_iter().enumerate() {
            let video = videos().select(&[video]);
            let stood = random.at_step(at as u64).permutation(video.offsets().total());
            moved += stood.iter().enumerate().filter(|(now, then)| *now != **then).count();
            let rows: Vec<u32> = stood.iter().map(|place| *place as u32).collect();
            let (tokens, _, _) = tower.forward(&cx, &with_frames(&video, |frames| rows_of(frames, &rows))?)?;
            let scores = head.place.forward(&cx, &tokens)?;
            for (scores, place) in scores.data().chunks_exact(4).zip(stood) {
                sum += scores.iter().map(|x| f64::from(*x).exp()).sum::<f64>().ln() - f64::from(scores[place]);
                hits.push(scores.iter().all(|x| *x <= scores[place]));
            }
        }
        assert!(moved >= 4, "{moved} of 7 frames are shuffled");
        let loss = f64::from(order.loss.value().data()[0]);
        assert!((loss - sum / 7.0).abs() < 1e-5, "{loss} is not {}", sum / 7.0);
        assert_eq!(order.hits, hits);
        Ok(())
    }

    #[test]
    fn what_is_hidden_is_not_seen() -> Result<()> {
        let mut params = Params::new();
        let mut b = Builder::new(&mut params, 3);
        let tower = tower(&mut b)?;
        let token = b.param("token", &[1, 8], Init::Normal(0.02))?;
        let tape = Tape::inference();
        let cx = Context::inference(&tape, &params);
        let mask = [false, true, false, false, false, false, false, false];
        let changed = with_frames(&videos(), |frames| {
            let mut other = frames.clone();
            other.data_mut()[192..384].iter_mut().for_each(|x| *x += 1.0);
            Ok(other)
        })?;
        let states = |videos: &ColumnInput| -> Result<Vec<f32>> {
            Ok(tower.forward_hidden(&cx, videos, &mask, &cx.param(token))?.0.data().to_vec())
        };
        assert_eq!(states(&videos())?, states(&changed)?);
        Ok(())
    }

    #[test]
    fn colours_are_the_means_of_patches() {
        let data: Vec<f32> = (0..3 * 16).map(|i| i as f32).collect();
        let frames = Tensor::from_slice(&[1, 3, 4, 4], &data).expect("fits");
        let means = mean_colours(&frames, 2);
        assert_eq!(means[..4], [2.5, 4.5, 10.5, 12.5]);
        assert_eq!((means.len(), means[4]), (12, 18.5));
    }
}
