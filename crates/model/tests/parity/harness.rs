//! Replays the cases of tools/parity: the same tiny checkpoint is made from
//! its tensors' names, opened as a user's folder would be, and compared with
//! what the reference library made of it.

use safetensors::tensor::{Dtype, TensorView};
use sensorium_engine::{Init, Params, Tape, Tensor, Var, ops};
use sensorium_model::pretrained::Pretrained;
use sensorium_model::{ColumnInput, Context, Tower, TowerConfig};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Largest difference of outputs from the reference.
const OUTPUTS: f32 = 1e-4;
/// Largest difference of gradients, relative to their length.
const GRADIENTS: f64 = 1e-3;

/// A golden file.
#[derive(Deserialize)]
pub struct Case {
    pub config: Value,
    /// Other files of the folder by name.
    pub files: BTreeMap<String, Value>,
    /// Name, dimensions, mean and scale.
    tensors: Vec<(String, Vec<usize>, f64, f64)>,
    pub runs: Vec<Run>,
}

/// One pass through a part.
#[derive(Deserialize)]
pub struct Run {
    pub part: String,
    pub head: Option<String>,
    pub inputs: Value,
    pub outputs: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    /// By tensor: product with a known direction, and length.
    pub gradients: BTreeMap<String, (f64, f64)>,
}

/// mean + scale · u, u uniform in [−1, 1) from the name and the place: the
/// same as `values` in tools/parity/common.py.
pub fn values(name: &str, len: usize, mean: f64, scale: f64) -> Vec<f32> {
    let seed = u64::from(crc32fast::hash(name.as_bytes())) << 32;
    (0..len as u64)
        .map(|i| {
            let mut z = (i + seed).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^= z >> 31;
            let u = (z >> 40) as f64 / f64::from(1 << 24) * 2.0 - 1.0;
            (mean + scale * u) as f32
        })
        .collect()
}

impl Case {
    pub fn read(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/parity/{name}.json"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    /// Writes the folder that the reference library would write, the values
    /// of tensors from their names behind `prefix`.
    pub fn write(&self, folder: &Path, prefix: &str) -> PathBuf {
        let bytes: Vec<(String, Vec<usize>, Vec<u8>)> = self
            .tensors
            .iter()
            .map(|(name, dims, mean, scale)| {
                let (mean, scale) = if prefix.is_empty() { (*mean, *scale) } else { (0.0, 1.0) };
                let data = values(&format!("{prefix}{name}"), dims.iter().product(), mean, scale);
                (name.clone(), dims.clone(), data.iter().flat_map(|x| x.to_le_bytes()).collect())
            })
            .collect();
        let views = bytes.iter().map(|(name, dims, data)| {
            (name.as_str(), TensorView::new(Dtype::F32, dims.clone(), data).expect("whole tensors"))
        });
        std::fs::write(folder.join("model.safetensors"), safetensors::serialize(views, None).expect("valid"))
            .expect("temporary folder");
        std::fs::write(folder.join("config.json"), self.config.to_string()).expect("temporary folder");
        for (name, content) in &self.files {
            let path = folder.join(name);
            std::fs::create_dir_all(path.parent().expect("within the folder")).expect("temporary folder");
            std::fs::write(path, content.to_string()).expect("temporary folder");
        }
        folder.to_owned()
    }
}

/// Compares outputs and gradients of every run of a case that goes through
/// towers and heads. `input` makes a column of a run's inputs.
pub fn check_towers(name: &str, input: impl Fn(&Value) -> ColumnInput) {
    let case = Case::read(name);
    let folders = Folders::of(name, &case);
    for run in &case.runs {
        let (tower, mut params) = folders.tower(&run.part, &run.inputs).unwrap_or_else(|e| panic!("{name}: {e}"));
        let head = run
            .head
            .as_ref()
            .map(|head| folders.model.load_head(head, &mut params).unwrap_or_else(|e| panic!("{name}: {e}")));
        let tape = Tape::new();
        let cx = Context::inference(&tape, &params);
        let features = tower.forward(&cx, &input(&run.inputs)).unwrap_or_else(|e| panic!("{name}: {e}"));
        let mut outputs = BTreeMap::new();
        if let Some(head) = head {
            outputs.insert("head", head.forward(&cx, &features).unwrap_or_else(|e| panic!("{name}: {e}")));
        }
        outputs.insert("tokens", features.tokens);
        outputs.insert("pooled", features.pooled);
        outputs.retain(|output, _| run.outputs.contains_key(*output));
        let parts: Vec<&str> = std::iter::once(run.part.as_str()).chain(run.head.as_deref()).collect();
        drop(cx);
        folders.compare(name, run, &parts, tape, &params, &outputs);
    }
}

/// The folders of a case: the model, and the directions in which gradients
/// are compared, as a model of the same shape.
pub struct Folders {
    pub model: Pretrained,
    directions: Pretrained,
    _temporary: [tempfile::TempDir; 2],
}

impl Folders {
    /// Writes and opens them; no tensor may be left over.
    pub fn of(name: &str, case: &Case) -> Self {
        let temporary = [tempfile::tempdir().expect("folder"), tempfile::tempdir().expect("folder")];
        let open = |folder: &tempfile::TempDir, prefix: &str| {
            Pretrained::open(&case.write(folder.path(), prefix)).unwrap_or_else(|e| panic!("{name}: {e}"))
        };
        let (model, directions) = (open(&temporary[0], ""), open(&temporary[1], "gradient."));
        assert_eq!(model.unexpected(), Vec::<&str>::new(), "{name}: tensors that no part knows");
        Self { model, directions, _temporary: temporary }
    }

    /// A tower for a run's inputs: of pictures of another size where the
    /// run has such.
    fn tower(&self, part: &str, inputs: &Value) -> sensorium_model::Result<(Tower, Params)> {
        let mut config = self.model.tower_config(part)?.clone();
        if let (TowerConfig::Image(image), Some(size)) = (&mut config, inputs["images"][3].as_u64()) {
            image.image_size = size as usize;
        }
        self.model.load_tower_as(part, &config)
    }

    /// Compares what a run computed, and the gradients of the sum over
    /// outputs of output · values("loss." + its name).
    pub fn compare(
        &self,
        name: &str,
        run: &Run,
        parts: &[&str],
        tape: Tape,
        params: &Params,
        outputs: &BTreeMap<&str, Var>,
    ) {
        assert_eq!(outputs.len(), run.outputs.len(), "{name}: outputs");
        let mut loss: Option<Var> = None;
        for (output, value) in outputs {
            let (dims, expected) = &run.outputs[*output];
            assert_eq!(value.value().len(), dims.iter().product::<usize>(), "{name}: size of {output}");
            let worst = value.data().iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            println!("{name}: {output} differs by {worst:.1e}");
            assert!(worst <= OUTPUTS, "{name}: {output} differs by {worst:e}");
            let direction = values(&format!("loss.{output}"), expected.len(), 0.0, 1.0);
            let direction = Var::constant(Tensor::from_slice(value.shape().dims(), &direction).expect("same shape"));
            let part = ops::sum(&tape, &ops::mul(&tape, value, &direction).expect("same shape")).expect("a sum");
            loss = Some(match loss {
                Some(loss) => ops::add(&tape, &loss, &part).expect("numbers"),
                None => part,
            });
        }
        let gradients = tape.backward(&loss.expect("an output")).expect("a gradient");
        let mut found: BTreeMap<String, f64> = BTreeMap::new();
        for (id, gradient) in gradients.params() {
            let ours = &params.get(id).name;
            let part = parts.iter().find(|p| self.model.tensor_name(p, ours).is_some()).expect("a part knows it");
            let theirs = self.model.tensor_name(part, ours).expect("just asked");
            // The direction in our layout, through the same map.
            let mut one = Params::new();
            let direction = self
                .directions
                .load_into(&mut one, part, |b| Ok(b.param(ours, gradient.dims(), Init::Constant(0.0))?))
                .unwrap_or_else(|e| panic!("{name}: {e}"));
            let direction = &one.get(direction).value;
            let dot = |(a, b): (&f32, &f32)| f64::from(*a) * f64::from(*b);
            *found.entry(theirs).or_default() += gradient.data().iter().zip(direction.data()).map(dot).sum::<f64>();
        }
        // Gradients that vanish (a bias on keys moves all scores alike) are
        // rounding in both.
        let rounding = run.gradients.values().map(|g| g.1).fold(0.0, f64::max) * 1e-3;
        let mut worst: f64 = 0.0;
        for (tensor, (dot, length)) in &run.gradients {
            let ours = found.get(tensor).unwrap_or_else(|| panic!("{name}: no gradient for {tensor}"));
            let difference = (ours - dot).abs() / (length + rounding);
            assert!(
                difference <= GRADIENTS,
                "{name}: gradient of {tensor} gives {ours}, the reference {dot} of {length}"
            );
            worst = worst.max(difference);
        }
        println!("{name}: {} gradients differ by {worst:.1e}", run.gradients.len());
    }
}
