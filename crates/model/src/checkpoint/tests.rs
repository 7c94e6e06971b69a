//! Files that are whole are read as written; files that are not are refused.

use super::*;
use proptest::prelude::*;
use std::fs;

/// A safetensors file of this header and so many bytes of numbers.
fn file_of(header: &str, numbers: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(numbers);
    bytes
}

fn opened(name: &str, bytes: &[u8]) -> Result<Checkpoint> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(name);
    fs::write(&path, bytes).expect("a file");
    Checkpoint::open(&path)
}

fn refusal(bytes: &[u8]) -> String {
    opened("model.safetensors", bytes).expect_err("must be refused").to_string()
}

fn tensor(dims: &[usize]) -> Tensor {
    let n: usize = dims.iter().product();
    let values: Vec<f32> = (0..n).map(|i| i as f32 * 0.5 - 3.0).collect();
    Tensor::from_slice(dims, &values).expect("a tensor")
}

#[test]
fn what_is_written_is_read_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let (a, b, c) = (tensor(&[3, 5]), tensor(&[]), tensor(&[0, 4]));
    let path = folder.path().join("model.safetensors");
    write_safetensors(&path, [("b.weight", &a), ("a", &b), ("empty", &c)]).expect("written");
    let checkpoint = Checkpoint::open(folder.path()).expect("opened");
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["a", "b.weight", "empty"]);
    assert_eq!(checkpoint.metadata()["format"], "pt");
    let read = checkpoint.read("b.weight").expect("read");
    assert_eq!((read.dims(), read.data()), (a.dims(), a.data()));
    assert_eq!(checkpoint.read("a").expect("read").data(), [-3.0]);
    assert!(checkpoint.read("empty").expect("read").is_empty());
    assert_eq!(checkpoint.read_as("b.weight", &[15]).expect("read").dims(), [15]);
    assert!(checkpoint.read_as("b.weight", &[16]).is_err());
    assert!(checkpoint.read("c").is_err_and(|e| e.to_string().contains("no tensor \"c\"")));
    assert_eq!(fs::read_dir(folder.path()).expect("listed").count(), 1, "no temporary file is left");
}

#[test]
fn conversion_changes_floats_and_keeps_integers() {
    let folder = tempfile::tempdir().expect("a folder");
    let header = r#"{"ids":{"dtype":"I64","shape":[2],"data_offsets":[0,16]},
        "w":{"dtype":"F32","shape":[1,2,1,1,1],"data_offsets":[16,24]}}"#;
    let numbers: Vec<u8> = [7i64, i64::MAX]
        .iter()
        .flat_map(|x| x.to_le_bytes())
        .chain([1.5f32, -0.25].iter().flat_map(|x| x.to_le_bytes()))
        .collect();
    let (from, to) = (folder.path().join("from.safetensors"), folder.path().join("to.safetensors"));
    fs::write(&from, file_of(header, &numbers)).expect("a file");
    convert(&Checkpoint::open(&from).expect("opened"), &to, Some(DType::BF16)).expect("converted");
    let converted = Checkpoint::open(&to).expect("opened");
    assert_eq!(converted.info("ids").map(|i| i.dtype), Some(DType::I64));
    let info = converted.info("w").expect("there");
    assert_eq!((info.dtype, info.bytes, info.dims.as_slice()), (DType::BF16, 4, [1, 2, 1, 1, 1].as_slice()));
    assert_eq!(converted.read_as("w", &[2]).expect("read").data(), [1.5, -0.25]);
    assert!(converted.read("w").is_err_and(|e| e.to_string().contains("dimensions")));
    let written = fs::read(&to).expect("read");
    assert!(written.windows(8).any(|w| w == i64::MAX.to_le_bytes()), "integers are copied, not rounded");
}

#[test]
fn an_unfinished_file_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("x.safetensors");
    let plan = |name: &str| TensorPlan { name: name.into(), dims: vec![2], dtype: DType::F32 };
    let mut writer = SafetensorsWriter::create(&path, vec![plan("a"), plan("b")], &BTreeMap::new()).expect("created");
    assert!(writer.values(&[1.0]).is_err_and(|e| e.to_string().contains("has 1 values, 2 are planned")));
    writer.values(&[1.0, 2.0]).expect("written");
    drop(writer);
    let mut writer = SafetensorsWriter::create(&path, vec![plan("a"), plan("b")], &BTreeMap::new()).expect("created");
    writer.values(&[1.0, 2.0]).expect("written");
    assert!(writer.finish().is_err_and(|e| e.to_string().contains("\"b\" has no values")));
    assert_eq!(fs::read_dir(folder.path()).expect("listed").count(), 0);
    assert!(SafetensorsWriter::create(&path, vec![plan("a"), plan("a")], &BTreeMap::new()).is_err());
}

#[test]
fn shards_are_one_checkpoint() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("a file");
    let (a, b) = (tensor(&[2]), tensor(&[3]));
    write_safetensors(&folder.path().join("model-1.safetensors"), [("a", &a)]).expect("written");
    write_safetensors(&folder.path().join("model-2.safetensors"), [("b", &b)]).expect("written");
    let index = "model.safetensors.index.json";
    write(index, r#"{"metadata":{},"weight_map":{"a":"model-1.safetensors","b":"model-2.safetensors"}}"#);
    let checkpoint = Checkpoint::open(folder.path()).expect("opened");
    assert_eq!(checkpoint.files().count(), 2);
    assert_eq!(checkpoint.read("b").expect("read").data(), b.data());
    let refused = |text: &str| {
        write(index, text);
        Checkpoint::open(folder.path()).expect_err("must be refused").to_string()
    };
    assert!(refused(r#"{"weight_map":{"a":"model-2.safetensors"}}"#).contains("and it is not"));
    assert!(refused(r#"{"weight_map":{"a":"model-3.safetensors"}}"#).contains("not beside it"));
    assert!(refused(r#"{"weight_map":{"a":"../model-1.safetensors"}}"#).contains("without folders"));
    assert!(refused(r#"{"a":1}"#).contains("weight_map"));
}

#[test]
fn folders_without_one_choice_say_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let refused = || Checkpoint::open(folder.path()).expect_err("must be refused").to_string();
    assert!(refused().contains("no weights in this folder"));
    let t = tensor(&[1]);
    fs::create_dir(folder.path().join("text")).expect("a folder");
    write_safetensors(&folder.path().join("text/model.safetensors"), [("a", &t)]).expect("written");
    assert!(refused().ends_with("text?"), "{}", refused());
    write_safetensors(&folder.path().join("b.safetensors"), [("a", &t)]).expect("written");
    fs::write(folder.path().join("optimizer.pt"), b"no weights").expect("a file");
    assert!(Checkpoint::open(folder.path()).is_ok());
    write_safetensors(&folder.path().join("a.safetensors"), [("a", &t)]).expect("written");
    assert!(refused().contains("a.safetensors, b.safetensors"));
    assert!(Checkpoint::open(&folder.path().join("none")).is_err_and(|e| e.to_string().contains("cannot be opened")));
}

#[test]
fn broken_headers_are_refused_with_the_reason() {
    let one = |entry: &str, numbers: usize| refusal(&file_of(&format!("{{\"w\":{entry}}}"), &vec![0; numbers]));
    assert!(one(r#"{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#, 7).contains("not whole"));
    assert!(one(r#"{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#, 9).contains("there are 9"));
    assert!(one(r#"{"dtype":"F32","shape":[3],"data_offsets":[0,8]}"#, 8).contains("needs 12 bytes"));
    assert!(one(r#"{"dtype":"F32","shape":[1],"data_offsets":[0,8]}"#, 8).contains("takes 4 bytes, it has 8"));
    assert!(one(r#"{"dtype":"F32","shape":[2],"data_offsets":[8,0]}"#, 8).contains("before it begins"));
    assert!(one(r#"{"dtype":"F8_E4M3","shape":[8],"data_offsets":[0,8]}"#, 8).contains("F8_E4M3 is not known"));
    let large = r#"{"dtype":"F32","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,8]}"#;
    assert!(one(large, 8).contains("larger than its file"));
    assert!(one(r#"{"dtype":"F32","shape":[-1],"data_offsets":[0,8]}"#, 8).contains("header"));
    let two = |a: &str, b: &str, name: &str| {
        let entry = |at: &str| format!(r#"{{"dtype":"U8","shape":[4],"data_offsets":{at}}}"#);
        refusal(&file_of(&format!("{{\"a\":{},\"{name}\":{}}}", entry(a), entry(b)), &[0; 9]))
    };
    assert!(two("[0,4]", "[3,7]", "b").contains("overlaps"));
    assert!(two("[0,4]", "[5,9]", "b").contains("leaves a gap"));
    assert!(two("[0,4]", "[4,8]", "a").contains("twice"));
    let mut endless = u64::MAX.to_le_bytes().to_vec();
    endless.extend(b"{");
    assert!(refusal(&endless).contains("neither"));
    assert!(refusal(&[&1000u64.to_le_bytes()[..], b"{}"].concat()).contains("not whole"));
    assert!(refusal(b"").contains("empty"));
    assert!(refusal(b"version https://git-lfs and more").contains("git lfs pull"));
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = opened("model.safetensors", &bytes);
    }

    /// A whole file with one byte changed opens to tensors that can be read, or not at all.
    #[test]
    fn a_changed_byte_never_panics(at in 0usize..200, to in any::<u8>()) {
        let header = r#"{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"b":{"dtype":"I8","shape":[3],"data_offsets":[16,19]}}"#;
        let mut bytes = file_of(header, &[1; 19]);
        let at = at % bytes.len();
        bytes[at] = to;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x");
        fs::write(&path, &bytes).expect("a file");
        if let Ok(checkpoint) = Checkpoint::open(&path) {
            for name in checkpoint.names() {
                let _ = checkpoint.read(name);
            }
        }
    }
}
