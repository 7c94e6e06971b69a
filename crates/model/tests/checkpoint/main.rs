//! PyTorch files as `torch.save` wrote them (see `tools/checkpoint_golden.py`):
//! every tensor of every file with its values, and every kind of damage.

use sensorium_model::checkpoint::{Checkpoint, Format, convert};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn golden(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/checkpoint/golden").join(file)
}

fn open(file: &str) -> Checkpoint {
    Checkpoint::open(&golden(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
}

fn refusal(path: &Path) -> String {
    Checkpoint::open(path).map(|c| c.names().count()).expect_err("must be refused").to_string()
}

/// The values of every tensor, `f32`.
fn values(checkpoint: &Checkpoint) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let read = |name: &str| {
        let info = checkpoint.info(name).expect("listed");
        let tensor = checkpoint.read_as(name, &[info.len()]).unwrap_or_else(|e| panic!("{e}"));
        (name.to_owned(), (info.dims.clone(), tensor.data().to_vec()))
    };
    checkpoint.names().map(read).collect()
}

#[test]
fn every_file_has_the_tensors_that_were_saved() {
    let text = fs::read_to_string(golden("expected.json")).expect("goldens");
    let expected: BTreeMap<String, BTreeMap<String, Value>> = serde_json::from_str(&text).expect("goldens");
    assert!(expected.len() > 10);
    for (file, tensors) in &expected {
        let checkpoint = open(file);
        let read = values(&checkpoint);
        assert_eq!(read.keys().collect::<Vec<_>>(), tensors.keys().collect::<Vec<_>>(), "{file}");
        for (name, tensor) in tensors {
            let (dims, numbers) = &read[name];
            let list = |key: &str| tensor[key].as_array().expect("a list").clone();
            let expected_dims: Vec<usize> = list("dims").iter().map(|d| d.as_u64().expect("a size") as usize).collect();
            let expected: Vec<f32> = list("values").iter().map(|x| x.as_f64().expect("a number") as f32).collect();
            assert_eq!((dims, numbers), (&expected_dims, &expected), "{file}: {name}");
            let short = match tensor["dtype"].as_str().expect("a dtype") {
                "bool" => "bool".to_owned(),
                name => name.replace("bfloat", "bf").replace("float", "f").replace("uint", "u").replace("int", "i"),
            };
            assert_eq!(checkpoint.info(name).expect("listed").dtype.to_string(), short, "{file}: {name}");
        }
    }
}

#[test]
fn both_forms_are_told_apart() {
    let format = |file: &str| open(file).files().next().expect("a file").format;
    assert_eq!(format("state.pt"), Format::PyTorch);
    assert_eq!(format("state-legacy.pt"), Format::PyTorchLegacy);
}

#[test]
fn the_weights_are_taken_out_of_a_training_checkpoint() {
    for file in ["training.pt", "training-legacy.pt"] {
        let checkpoint = open(file);
        assert_eq!(checkpoint.metadata()["epoch"], "3", "{file}");
        assert_eq!(checkpoint.metadata()["config.name"], "中文", "{file}");
        let notes = checkpoint.notes().join("\n");
        for said in ["the entry \"model\"", "\"optimizer\" (6 tensors)", "args (argparse.Namespace)"] {
            assert!(notes.contains(said), "{file}: {notes}");
        }
    }
    assert!(open("complex.pt").notes().join("\n").contains("freqs (a tensor of torch.ComplexFloatStorage)"));
    assert!(open("state.pt").notes().is_empty());
}

#[test]
fn files_that_run_code_are_refused_by_name() {
    for (file, said) in [
        ("refused-system.pt", "run code (posix.system)"),
        ("refused-eval.pt", "run code (__builtin__.eval)"),
        ("refused-plain.pt", "neither a safetensors nor a PyTorch file"),
        ("refused-script.pt", "TorchScript"),
        ("refused-packed.pt", "compresses"),
    ] {
        let problem = refusal(&golden(file));
        assert!(problem.contains(said) && problem.contains(file), "{file}: {problem}");
    }
}

#[test]
fn conversion_keeps_every_tensor() {
    let folder = tempfile::tempdir().expect("a folder");
    for file in ["state.pt", "state-legacy.pt", "two-parts.pt", "unsigned.pt"] {
        let (from, to) = (open(file), folder.path().join("out.safetensors"));
        convert(&from, &to, None).expect("converted");
        let converted = Checkpoint::open(&to).expect("opened");
        assert_eq!(values(&converted), values(&from), "{file}");
        for name in from.names() {
            assert_eq!(converted.info(name).map(|i| i.dtype), from.info(name).map(|i| i.dtype), "{file}: {name}");
        }
        // The reference implementation takes the file too.
        let bytes = fs::read(&to).expect("read");
        let reference = safetensors::SafeTensors::deserialize(&bytes).expect("a safetensors file");
        assert_eq!(reference.len(), from.names().count(), "{file}");
    }
}

/// What opens is read to the end.
fn try_all(path: &Path, bytes: &[u8]) -> bool {
    fs::write(path, bytes).expect("a file");
    let Ok(checkpoint) = Checkpoint::open(path) else { return false };
    for name in checkpoint.names() {
        // A damaged file may open; reading it then fails or gives other numbers.
        let _ = checkpoint.read(name);
    }
    true
}

#[test]
fn damage_never_panics() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("damaged.pt");
    for file in ["training.pt", "state-legacy.pt", "module.pt", "state-protocol4-legacy.pt"] {
        let whole = fs::read(golden(file)).expect("a golden");
        for at in (0..whole.len()).step_by(5) {
            let mut bytes = whole.clone();
            bytes[at] ^= [0xff, 0x01, 0x20][at / 5 % 3];
            try_all(&path, &bytes);
        }
        for length in (0..whole.len()).step_by(31) {
            assert!(!try_all(&path, &whole[..length]), "{file}: {length} bytes of {} are not whole", whole.len());
        }
    }
}

/// A pickle in the legacy form around `object`, with no storages.
fn legacy(object: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}.".to_vec();
    bytes.extend(object);
    bytes.extend(b"\x80\x02].");
    bytes
}

#[test]
fn hostile_pickles_meet_a_limit() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("x.pt");
    let refused = |object: &[u8]| {
        fs::write(&path, legacy(object)).expect("a file");
        refusal(&path)
    };
    assert!(refused(b"}.").contains("no tensors"));
    assert!(refused(b"0.").contains("runs empty"));
    assert!(refused(b"N(\x85.").contains("does not fit"));
    assert!(refused(b"h\x07.").contains("did not remember"));
    assert!(refused(b"cos\nsystem\n.").contains("os.system"));
    assert!(refused(b"csubprocess\nPopen\n.").contains("subprocess.Popen"));
    assert!(refused(b"\x8c\x05posix\x8c\x06system\x93.").contains("posix.system"));
    assert!(refused(b"\x82\x01.").contains("extension registry"));
    assert!(refused(b"\xff").contains("no instruction"));
    // A dictionary that holds itself.
    assert!(refused(b"}q\x00X\x01\x00\x00\x00ah\x00s.").contains("without end"));
    // Lists of lists, each holding the one before ten times: 10^12 values in 200 bytes.
    let mut bomb = b"]".to_vec();
    for i in 0..12u8 {
        bomb.extend([b'q', i, b'0', b']', b'(']);
        bomb.extend([b'h', i].repeat(10));
        bomb.push(b'e');
    }
    assert!(refused(&[b"}X\x01\x00\x00\x00a".as_slice(), &bomb, b"s."].concat()).contains("without end"));
    // A text that claims four gigabytes.
    assert!(refused(b"X\xff\xff\xff\xff").contains("ends in the middle"));
    // More values than any weights have.
    assert!(refused(&b"N".repeat(4_000_001)).contains("more than 4000000 values"));
}
