//! Adapters held against PEFT and the papers' formulas: hidden states and
//! gradients. The values come from `tools/adapters_golden.py`.

use sensorium_engine::{Offsets, ParamId, Params, Tape, Tensor, Var, ops};
use sensorium_model::adapters::module_names;
use sensorium_model::checkpoint::Checkpoint;
use sensorium_model::pretrained::Pretrained;
use sensorium_model::{Adapters, ColumnInput, Context, Tower, Values};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const KINDS: [&str; 10] =
    ["lora", "rslora", "lora-patterns", "dora", "ia3", "houlsby", "pfeiffer", "parallel", "prefix", "prompt"];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/adapters").join(name)
}

struct Bert {
    tower: Tower,
    params: Params,
    adapters: Adapters,
}

impl Bert {
    fn new() -> Self {
        let pretrained = Pretrained::open(&folder("base")).expect("opens");
        let (tower, mut params) = pretrained.load_tower("text").expect("loads");
        params.iter_mut().for_each(|(_, p)| p.trainable = false);
        let mut adapters = Adapters::default();
        let names = module_names(&params).into_iter().map(|(module, weight)| {
            let theirs = pretrained.tensor_name("text", &params.get(weight).name).expect("known");
            (module, theirs.trim_end_matches(".weight").to_owned())
        });
        adapters.set_file_names(names.collect());
        Self { tower, params, adapters }
    }

    /// The checkpoint's name of a module.
    fn name(&self, module: &str) -> &str {
        &self.adapters.file_names()[module]
    }

    fn with(adapter: &Path) -> Self {
        let mut bert = Self::new();
        let left = bert.adapters.load(&mut bert.params, "golden", adapter, &[]).expect("loads");
        assert!(left.is_empty());
        bert
    }

    fn hidden(&self, tape: &Tape) -> Var {
        let tokens = vec![2, 3, 4, 5, 6, 7, 8, 9, 10, 11];
        let column = ColumnInput::new(vec![0, 1, 2], Offsets::from_lengths([6, 3, 1]), Values::Tokens(tokens));
        let cx = Context::inference(tape, &self.params);
        let cx = cx.with_adapters(&self.adapters);
        self.tower.forward(&cx, &column.expect("sound")).expect("runs").tokens
    }
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn expected(name: &str) -> Checkpoint {
    Checkpoint::open(&folder(name).join("expected.safetensors")).expect("opens")
}

#[test]
fn hidden_states_match() {
    let plain = Bert::new().hidden(&Tape::inference());
    let base = largest_difference(plain.data(), expected("base").read("hidden").expect("there").data());
    assert!(base < 1e-5, "base: {base}");
    for kind in KINDS {
        let hidden = Bert::with(&folder(kind)).hidden(&Tape::inference());
        let difference = largest_difference(hidden.data(), expected(kind).read("hidden").expect("there").data());
        println!("{kind}: {difference:e}");
        assert!(difference < 1e-5, "{kind}: {difference}");
        assert!(largest_difference(hidden.data(), plain.data()) > 0.05, "{kind} does something");
    }
}

/// What a parameter of ours is called in a file, without what PEFT puts before.
fn file_name(bert: &Bert, ours: &str) -> String {
    let (module, part) = ours.split_once(".golden").expect("an adapter's");
    let (module, head) = module.rsplit_once('.').expect("has a part");
    format!("gradient.base_model.model.{}.{head}{part}", bert.name(module))
}

/// A gradient of ours laid out as the file's.
fn as_in_file(params: &Params, id: ParamId, gradient: &Tensor) -> Vec<f32> {
    let data = gradient.data();
    if !params.get(id).name.contains("lora_embedding_A") {
        return data.to_vec();
    }
    let (rows, cols) = (gradient.dims()[0], gradient.dims()[1]);
    (0..cols).flat_map(|c| (0..rows).map(move |r| data[r * cols + c])).collect()
}

#[test]
fn gradients_match() {
    for kind in KINDS {
        let bert = Bert::with(&folder(kind));
        let tape = Tape::new();
        let hidden = bert.hidden(&tape);
        let mut weights = Tensor::any(hidden.value().dims());
        weights.data_mut().iter_mut().enumerate().for_each(|(i, w)| *w = (i as f64).cos() as f32);
        let product = ops::mul(&tape, &hidden, &Var::constant(weights)).expect("fits");
        let loss = ops::sum(&tape, &product).expect("sums");
        let gradients = tape.backward(&loss).expect("runs");
        let expected = expected(kind);
        let ids = bert.adapters.parameters("golden").expect("known");
        let mut seen = BTreeMap::new();
        for id in &ids {
            let name = file_name(&bert, &bert.params.get(*id).name);
            let ours = as_in_file(&bert.params, *id, &gradients.param(*id).unwrap_or_else(|| panic!("{name}: none")));
            let theirs = expected.read(&name).expect("in the golden file");
            let scale = theirs.data().iter().fold(0f32, |m, x| m.max(x.abs())).max(1e-3);
            let difference = largest_difference(&ours, theirs.data()) / scale;
            assert!(difference < 1e-4, "{kind}: {name}: {difference}");
            seen.insert(name, difference);
        }
        println!("{kind}: {:e}", seen.values().fold(0f32, |m, d| m.max(*d)));
        assert_eq!(seen.len() + 1, expected.names().count(), "{kind}: every gradient is compared");
        assert_eq!(gradients.params().count(), ids.len(), "{kind}: the base gets no gradients");
    }
}

#[test]
fn what_is_written_again_says_the_same() {
    for kind in KINDS {
        let bert = Bert::with(&folder(kind));
        let place = tempfile::tempdir().expect("a folder");
        bert.adapters.save(&bert.params, "golden", place.path(), Some("tiny")).expect("saves");
        let (theirs, ours) = (folder(kind), place.path());
        let open = |folder: &Path| Checkpoint::open(&folder.join("adapter_model.safetensors")).expect("opens");
        let (theirs, ours_file) = (open(&theirs), open(ours));
        assert_eq!(theirs.names().count(), ours_file.names().count(), "{kind}");
        for (name, info) in theirs.infos() {
            assert_eq!(ours_file.info(name).map(|i| &i.dims), Some(&info.dims), "{kind}: {name}");
            let (a, b) = (theirs.read(name).expect("there"), ours_file.read(name).expect("there"));
            assert_eq!(a.data(), b.data(), "{kind}: {name}");
        }
        let again = Bert::with(ours);
        assert_eq!(again.hidden(&Tape::inference()).data(), bert.hidden(&Tape::inference()).data(), "{kind}");
    }
}

#[test]
fn an_adapter_of_another_model_is_refused() {
    let mut bert = Bert::new();
    let mut load =
        |folder: &Path| bert.adapters.load(&mut bert.params, "a", folder, &[]).expect_err("refused").to_string();
    let error = load(&folder("base"));
    assert!(error.contains("adapter_config.json: is not there"), "{error}");
    let place = tempfile::tempdir().expect("a folder");
    std::fs::copy(folder("lora").join("adapter_config.json"), place.path().join("adapter_config.json"))
        .expect("copies");
    let dora = folder("dora").join("adapter_model.safetensors");
    std::fs::copy(dora, place.path().join("adapter_model.safetensors")).expect("copies");
    let error = load(place.path());
    assert!(error.contains("expected lora_A.weight, lora_B.weight"), "{error}");
    bert.adapters.set_file_names(BTreeMap::new());
    let error = bert.adapters.load(&mut bert.params, "a", &folder("lora"), &[]).expect_err("refused").to_string();
    assert!(error.contains("was made on another model"), "{error}");
}
