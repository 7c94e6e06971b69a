//! From the names of a checkpoint's tensors to ours.

use super::{export, grid};
use crate::checkpoint::Checkpoint;
use crate::{ModelError, Result};
use sensorium_engine::{EngineError, Tensor, Weights};
use std::cell::RefCell;
use std::collections::BTreeMap;

/// How a tensor of ours comes out of one of the checkpoint's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Convert {
    /// As it is; more or fewer dimensions of the same elements in the same
    /// order are fine (convolution kernels as matrices).
    Same,
    /// Rows and columns swapped (the linear layers of GPT-2).
    Transpose,
    /// One of several equal parts of the rows (projections stored as one).
    Rows {
        /// Which part.
        part: usize,
        /// Of how many.
        of: usize,
    },
    /// One of several equal parts of the columns, then transposed.
    TransposeRows {
        /// Which part.
        part: usize,
        /// Of how many.
        of: usize,
    },
    /// `[outputs, channels, kernel]` to `[outputs, kernel * channels]`: the
    /// kernel of a convolution along time, as frames are unfolded here; also
    /// `[outputs, 1, bands, frames]` to `[outputs, frames * bands]`.
    Convolution1d,
    /// `[outputs, channels, frames, height, width]` to `[outputs, frames *
    /// channels * height * width]`: the kernel of a convolution over pieces of
    /// a video, whose frames lie one after another here.
    Tubelets {
        /// Frames of a piece.
        frames: usize,
    },
    /// `[1, first + side², width]` to `[first + side², width]`: positions of a
    /// square grid of patches, behind those of the first tokens; interpolated
    /// where our grid has another side.
    Grid {
        /// Tokens before the grid.
        first: usize,
        /// Whether a smaller grid is smoothed.
        antialias: bool,
    },
}

/// The dimensions that a tensor has in files, where ours are fewer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `[outputs, channels · side²]` as `[outputs, channels, side, side]`: the
    /// kernel of a convolution over patches.
    Kernel {
        /// The channels.
        channels: usize,
    },
    /// Ones before the dimensions, up to so many in all.
    Rank(usize),
}

#[derive(Debug, Clone)]
struct Rule {
    ours: String,
    theirs: String,
    convert: Convert,
    /// Whether their name never stands behind a prefix.
    rooted: bool,
}

/// The names of a part of a checkpoint: rules from our names to theirs, the
/// first of them one without which the part is not there. In
/// both, `*` stands for one component of a dotted name, and a `**` at the end
/// for all the rest; what they stand for carries over in order.
///
/// ```
/// use sensorium_model::pretrained::KeyMap;
/// let keys = KeyMap::new().map("encoder.layer.*.mlp.up.**", "h.*.mlp.c_fc.**");
/// assert_eq!(keys.theirs("encoder.layer.7.mlp.up.bias"), Some("h.7.mlp.c_fc.bias".to_owned()));
/// ```
#[derive(Debug, Clone, Default)]
pub struct KeyMap {
    prefixes: Vec<String>,
    rules: Vec<Rule>,
    ignored: Vec<String>,
    forms: Vec<(String, Form)>,
}

impl KeyMap {
    /// No rules yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// What may stand before all their names, one of these. Without a call,
    /// nothing does.
    #[must_use]
    pub fn under(mut self, prefixes: &[&str]) -> Self {
        self.prefixes = prefixes.iter().map(|p| (*p).to_owned()).collect();
        self
    }

    /// Our name from theirs, the values as they are.
    #[must_use]
    pub fn map(self, ours: &str, theirs: &str) -> Self {
        self.convert(ours, theirs, Convert::Same)
    }

    /// Our name from theirs, the values converted.
    #[must_use]
    pub fn convert(mut self, ours: &str, theirs: &str, convert: Convert) -> Self {
        self.rules.push(Rule { ours: ours.into(), theirs: theirs.into(), convert, rooted: false });
        self
    }

    /// Our name from theirs, which no prefix stands before (the output of a
    /// decoder, beside the model that makes its hidden states).
    #[must_use]
    pub fn rooted(mut self, ours: &str, theirs: &str) -> Self {
        self.rules.push(Rule { ours: ours.into(), theirs: theirs.into(), convert: Convert::Same, rooted: true });
        self
    }

    /// The dimensions of a tensor of theirs in files, where ours are fewer.
    #[must_use]
    pub fn form(mut self, theirs: &str, form: Form) -> Self {
        self.forms.push((theirs.into(), form));
        self
    }

    /// Tensors of theirs that are not parameters (buffers of constants) or
    /// that nothing here needs.
    #[must_use]
    pub fn ignore(mut self, theirs: &[&str]) -> Self {
        self.ignored.extend(theirs.iter().map(|p| (*p).to_owned()));
        self
    }

    /// All the rules of another map, both sides one name deeper.
    #[must_use]
    pub fn nest(mut self, ours: &str, theirs: &str, other: &KeyMap) -> Self {
        for rule in &other.rules {
            self.rules.push(Rule {
                ours: format!("{ours}{}", rule.ours),
                theirs: format!("{theirs}{}", rule.theirs),
                ..rule.clone()
            });
        }
        self.ignored.extend(other.ignored.iter().map(|p| format!("{theirs}{p}")));
        self.forms.extend(other.forms.iter().map(|(p, form)| (format!("{theirs}{p}"), *form)));
        self
    }

    /// Tensors of ours as the family's files hold them, by their names there:
    /// the opposite of loading.
    ///
    /// # Errors
    /// When a name is not known, or a part of a tensor is missing.
    pub fn export<'a>(
        &self,
        ours: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
    ) -> Result<BTreeMap<String, Tensor>> {
        let prefix = self.prefixes.last().map_or("", String::as_str);
        let mut pieces: BTreeMap<String, Vec<(Convert, &Tensor)>> = BTreeMap::new();
        let mut forms = BTreeMap::new();
        for (name, tensor) in ours {
            let (theirs, rule) = self
                .find(name)
                .ok_or_else(|| ModelError::config("export", format!("no name in files is known for {name}")))?;
            let full = format!("{}{theirs}", if rule.rooted { "" } else { prefix });
            let form = self.forms.iter().find(|(pattern, _)| captures(pattern, &theirs).is_some());
            forms.extend(form.map(|(_, form)| (full.clone(), *form)));
            pieces.entry(full).or_default().push((rule.convert, tensor));
        }
        let joined = pieces.into_iter().map(|(name, pieces)| {
            let tensor = export::join(&pieces, forms.get(&name).copied())
                .map_err(|problem| ModelError::config(format!("export of {name}"), problem))?;
            Ok((name, tensor))
        });
        joined.collect()
    }

    /// Their name, without a prefix, of a parameter of ours.
    pub fn theirs(&self, ours: &str) -> Option<String> {
        self.find(ours).map(|(name, _)| name)
    }

    fn find<'a>(&'a self, ours: &'a str) -> Option<(String, &'a Rule)> {
        self.all(ours).next()
    }

    /// Their name by every rule for a parameter of ours: later ones are other
    /// spellings of the same tensor.
    fn all<'a>(&'a self, ours: &'a str) -> impl Iterator<Item = (String, &'a Rule)> + 'a {
        self.rules.iter().filter_map(move |rule| {
            let captured = captures(&rule.ours, ours)?;
            Some((fill(&rule.theirs, &captured), rule))
        })
    }

    /// Whether a tensor of theirs, without its prefix, belongs to this part.
    fn claims(&self, theirs: &str) -> bool {
        self.needs(theirs) || self.ignored.iter().any(|p| captures(p, theirs).is_some())
    }

    /// Whether a tensor of theirs, without its prefix, becomes one of this
    /// part.
    fn needs(&self, theirs: &str) -> bool {
        self.rules.iter().filter(|r| !r.rooted).any(|r| captures(&r.theirs, theirs).is_some())
    }

    /// The prefix that a checkpoint uses: the one under which it has most of
    /// the names.
    fn prefix(&self, checkpoint: &Checkpoint) -> &str {
        let count =
            |prefix: &str| checkpoint.names().filter(|n| n.strip_prefix(prefix).is_some_and(|n| self.needs(n))).count();
        let mut best = ("", 0);
        for prefix in &self.prefixes {
            let n = count(prefix);
            if n > best.1 {
                best = (prefix, n);
            }
        }
        best.0
    }

    /// Whether a tensor of the checkpoint, with its prefix, belongs to this part.
    pub(crate) fn claims_in(&self, checkpoint: &Checkpoint, name: &str) -> bool {
        let rooted = self.rules.iter().filter(|r| r.rooted).map(|r| &r.theirs).chain(&self.ignored);
        name.strip_prefix(self.prefix(checkpoint)).is_some_and(|n| self.claims(n))
            || rooted.into_iter().any(|p| captures(p, name).is_some())
    }

    /// Whether a checkpoint has this part: something of its first rule.
    pub(crate) fn is_in(&self, checkpoint: &Checkpoint) -> bool {
        let prefix = self.prefix(checkpoint);
        let Some(first) = self.rules.first() else { return false };
        checkpoint.names().any(|n| n.strip_prefix(prefix).is_some_and(|n| captures(&first.theirs, n).is_some()))
    }

    /// The checkpoint's tensors under our names.
    pub fn over<'a>(&'a self, checkpoint: &'a Checkpoint) -> Mapped<'a> {
        Mapped { map: self, checkpoint, prefix: self.prefix(checkpoint), problems: RefCell::default() }
    }
}

/// What the stars of a pattern stand for in a name.
fn captures<'n>(pattern: &str, name: &'n str) -> Option<Vec<&'n str>> {
    let mut found = Vec::new();
    let mut rest = Some(name);
    let mut parts = pattern.split('.').peekable();
    while let Some(part) = parts.next() {
        let here = rest?;
        if part == "**" && parts.peek().is_none() {
            found.push(here);
            return Some(found);
        }
        let (first, after) = match here.split_once('.') {
            Some((first, after)) => (first, Some(after)),
            None => (here, None),
        };
        match part {
            "*" => found.push(first),
            _ if part == first => {}
            _ => return None,
        }
        rest = after;
    }
    rest.is_none().then_some(found)
}

/// A pattern with its stars filled in.
fn fill(pattern: &str, captured: &[&str]) -> String {
    let mut next = captured.iter();
    let parts = pattern.split('.').map(|part| match part {
        "*" | "**" => next.next().copied().unwrap_or(part),
        _ => part,
    });
    parts.collect::<Vec<_>>().join(".")
}

/// A checkpoint seen through a [`KeyMap`]. Tensors that are missing or of
/// another shape are noted and stand as zeros until [`Mapped::finish`], so
/// that all of them can be named at once.
pub struct Mapped<'a> {
    map: &'a KeyMap,
    checkpoint: &'a Checkpoint,
    prefix: &'a str,
    problems: RefCell<Vec<String>>,
}

impl Mapped<'_> {
    /// Whether everything asked for was there.
    ///
    /// # Errors
    /// With the names of all tensors that were missing or of another shape.
    pub fn finish(self, part: &str) -> Result<()> {
        let problems = self.problems.into_inner();
        if problems.is_empty() {
            return Ok(());
        }
        let shown = problems.iter().take(20).map(|p| format!("\n  {p}")).collect::<String>();
        let more = problems.len().saturating_sub(20);
        let more = if more > 0 { format!("\n  and {more} more") } else { String::new() };
        Err(ModelError::config(part, format!("{} tensors of the checkpoint do not fit:{shown}{more}", problems.len())))
    }

    /// The checkpoint's name of a parameter of ours.
    pub fn tensor_name(&self, ours: &str) -> Option<String> {
        self.find(ours).map(|(name, rule)| self.full(&name, rule))
    }

    /// The checkpoint's name of a parameter of ours, and how that comes out of it.
    pub(super) fn place(&self, ours: &str) -> Option<(String, Convert)> {
        self.find(ours).map(|(name, rule)| (self.full(&name, rule), rule.convert))
    }

    /// Of several spellings the one that the checkpoint has; the first where
    /// it has none.
    fn find<'b>(&'b self, ours: &'b str) -> Option<(String, &'b Rule)> {
        let there = |(name, rule): &(String, &Rule)| self.checkpoint.info(&self.full(name, rule)).is_some();
        self.map.all(ours).find(there).or_else(|| self.map.find(ours))
    }

    fn full(&self, name: &str, rule: &Rule) -> String {
        format!("{}{name}", if rule.rooted { "" } else { self.prefix })
    }

    fn converted(&self, name: &str, convert: Convert, dims: &[usize]) -> std::result::Result<Tensor, String> {
        let info = self.checkpoint.info(name).ok_or_else(|| format!("{name}: missing"))?;
        let theirs = info.dims.clone();
        let len = |dims: &[usize]| dims.iter().product::<usize>();
        let odd = |expected: Vec<usize>| format!("{name}: expected {expected:?}, the checkpoint has {theirs:?}");
        let swapped = |dims: &[usize]| dims.iter().rev().copied().collect::<Vec<_>>();
        let times = |dims: &[usize], n: usize, at: usize| {
            let mut dims = dims.to_vec();
            dims[at] *= n;
            dims
        };
        match convert {
            Convert::Same if same_rows(&theirs, dims) => {}
            Convert::Same => return Err(odd(dims.to_vec())),
            Convert::Transpose if theirs == swapped(dims) => {}
            Convert::Transpose => return Err(odd(swapped(dims))),
            Convert::Rows { of, .. } if theirs == times(dims, of, 0) => {}
            Convert::Rows { of, .. } => return Err(odd(times(dims, of, 0))),
            Convert::TransposeRows { of, .. } if theirs == swapped(&times(dims, of, 0)) => {}
            Convert::TransposeRows { of, .. } => return Err(odd(swapped(&times(dims, of, 0)))),
            Convert::Convolution1d
                if len(&theirs) == len(dims) && theirs[0] == dims[0] && single(&theirs).is_some() => {}
            Convert::Convolution1d => return Err(odd(dims.to_vec())),
            Convert::Tubelets { frames } if theirs.len() == 5 && theirs[2] == frames && same_rows(&theirs, dims) => {}
            Convert::Tubelets { .. } => return Err(odd(dims.to_vec())),
            Convert::Grid { .. } if theirs.last() == dims.last() => {}
            Convert::Grid { .. } => return Err(odd(dims.to_vec())),
        }
        if convert == Convert::Same {
            return self.checkpoint.read_as(name, dims).map_err(|e| format!("{name}: {e}"));
        }
        // Five dimensions are more than a tensor has here.
        let tensor = match convert {
            Convert::Tubelets { .. } => self.checkpoint.read_as(name, dims),
            _ => self.checkpoint.read(name),
        };
        let tensor = tensor.map_err(|e| format!("{name}: {e}"))?;
        let data = tensor.data();
        let values = match convert {
            Convert::Same => data.to_vec(),
            Convert::Grid { first, antialias } => {
                grid::resized(data, first, dims, antialias).ok_or_else(|| odd(dims.to_vec()))?
            }
            Convert::Transpose => transposed(data, theirs[0], theirs[1]),
            Convert::Rows { part, .. } => data[part * len(dims)..(part + 1) * len(dims)].to_vec(),
            Convert::TransposeRows { part, .. } => {
                let all = if theirs.len() == 1 { data.to_vec() } else { transposed(data, theirs[0], theirs[1]) };
                all[part * len(dims)..(part + 1) * len(dims)].to_vec()
            }
            Convert::Tubelets { .. } => {
                let (channels, frames, pixels) = (theirs[1], theirs[2], theirs[3] * theirs[4]);
                let places = (0..theirs[0] * frames * channels).map(|i| {
                    let (output, frame, channel) = (i / (frames * channels), i / channels % frames, i % channels);
                    (output * channels + channel) * frames + frame
                });
                places.flat_map(|place| &data[place * pixels..(place + 1) * pixels]).copied().collect()
            }
            Convert::Convolution1d => {
                let (channels, kernel) = single(&theirs).ok_or_else(|| odd(dims.to_vec()))?;
                data.chunks_exact(channels * kernel).flat_map(|m| transposed(m, channels, kernel)).collect()
            }
        };
        Tensor::from_slice(dims, &values).map_err(|e| e.to_string())
    }
}

/// What the outputs of a kernel along one dimension read: `[outputs, channels,
/// kernel]`, or one channel of two dimensions.
pub(super) fn single(dims: &[usize]) -> Option<(usize, usize)> {
    match *dims {
        [_, channels, kernel] | [_, 1, channels, kernel] => Some((channels, kernel)),
        _ => None,
    }
}

/// The same first dimension and number of elements: one may be a flattened
/// form of the other. Leading dimensions of 1 do not count.
fn same_rows(theirs: &[usize], ours: &[usize]) -> bool {
    let trimmed = |dims: &[usize]| dims.iter().copied().skip_while(|d| *d == 1).collect::<Vec<_>>();
    let (a, b) = (trimmed(theirs), trimmed(ours));
    let len = |dims: &[usize]| dims.iter().product::<usize>();
    len(&a) == len(&b) && a.first() == b.first()
}

pub(super) fn transposed(data: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    (0..cols).flat_map(|c| (0..rows).map(move |r| data[r * cols + c])).collect()
}

impl Weights for Mapped<'_> {
    fn tensor(&self, name: &str, dims: &[usize]) -> std::result::Result<Tensor, EngineError> {
        let result = match self.find(name) {
            Some((theirs, rule)) => self.converted(&self.full(&theirs, rule), rule.convert, dims),
            None => Err(format!("no name in the checkpoint is known for {name}")),
        };
        Ok(result.unwrap_or_else(|problem| {
            self.problems.borrow_mut().push(problem);
            Tensor::zeros(dims)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_carry_over() {
        let keys = KeyMap::new().map("a.*.b.*", "x.*.y.*").map("tail.**", "rest.**");
        assert_eq!(keys.theirs("a.3.b.weight").as_deref(), Some("x.3.y.weight"));
        assert_eq!(keys.theirs("tail.one.two").as_deref(), Some("rest.one.two"));
        assert_eq!(keys.theirs("a.3.b"), None);
        assert_eq!(keys.theirs("a.3.b.weight.more"), None);
        assert!(keys.claims("x.0.y.bias") && !keys.claims("x.0.z.bias"));
    }

    #[test]
    fn kernels_may_be_flattened_but_not_reordered() {
        assert!(same_rows(&[8, 3, 4, 4], &[8, 48]));
        assert!(same_rows(&[1, 5, 8], &[5, 8]));
        assert!(!same_rows(&[8, 48], &[48, 8]));
        assert!(!same_rows(&[8, 3], &[8, 4]));
    }
}
