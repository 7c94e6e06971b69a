//! What the calls of a pickle mean, without calling.
//!
//! The few functions that a state dict is written with are known by name and
//! give values; all others give [`Value::Opaque`]. Names that serve to run code
//! are refused, since no training script writes them.

use super::Result;
use super::pickle::{Machine, pairs};
use super::value::{Id, Name, Storage, Tensor, Value};
use crate::checkpoint::DType;

/// The most dimensions of a tensor.
const MOST_DIMENSIONS: usize = 16;
/// Modules from which no training script stores anything.
const RUNNING_MODULES: [&str; 24] = [
    "os",
    "posix",
    "nt",
    "subprocess",
    "sys",
    "importlib",
    "runpy",
    "pty",
    "socket",
    "shutil",
    "ctypes",
    "webbrowser",
    "code",
    "codeop",
    "commands",
    "pdb",
    "timeit",
    "platform",
    "multiprocessing",
    "asyncio",
    "urllib",
    "http",
    "pickle",
    "torch.hub",
];
/// Functions of `builtins` that run code or open files.
const RUNNING_BUILTINS: [&str; 7] = ["eval", "exec", "execfile", "compile", "open", "__import__", "breakpoint"];

impl<'p> Machine<'p> {
    /// What a reference to something outside the pickle means:
    /// `("storage", class, key, device, length[, view])`, or in the legacy form
    /// `("module", class, …)` for a class.
    pub(super) fn referred(&mut self, described: Id) -> Result<Id> {
        if let Value::Tuple(parts) = &self.values[described]
            && let [tag, class, ..] = parts.as_slice()
            && matches!(&self.values[*tag], Value::Text(tag) if tag == "module")
        {
            return Ok(*class);
        }
        let storage = self.storage(described)?;
        self.add(storage)
    }

    fn storage(&self, described: Id) -> Result<Value<'p>> {
        let wrong = || "it describes numbers in a way that is not PyTorch's".to_owned();
        let Value::Tuple(parts) = &self.values[described] else { return Err(wrong()) };
        let [tag, class, key, _, len, rest @ ..] = parts.as_slice() else { return Err(wrong()) };
        if self.text(*tag)? != "storage" {
            return Err(wrong());
        }
        let Value::Global(class) = &self.values[*class] else { return Err(wrong()) };
        let dtype = match storage_class(&class.name) {
            Some(dtype) => Some(dtype),
            None if class.name == "UntypedStorage" => None,
            None => return Ok(Value::Opaque { class: class.to_string(), state: None }),
        };
        let (key, len) = (self.text(*key)?, self.size(*len)?);
        let mut view = None;
        if let Some(part) = rest.first()
            && let Value::Tuple(part) = &self.values[*part]
        {
            let [_, offset, _] = part.as_slice() else { return Err(wrong()) };
            // The key is that of the whole, whose numbers are in the file.
            view = Some(self.size(*offset)?);
        }
        Ok(Value::Storage(Storage { key, dtype, len, view }))
    }

    /// The value of a call; `depth` bounds calls described by calls.
    pub(super) fn call(&mut self, function: Id, arguments: Id, depth: usize) -> Result<Id> {
        let Value::Global(name) = &self.values[function] else {
            let class = "an object made by an object".to_owned();
            return self.add(Value::Opaque { class, state: None });
        };
        let name = name.clone();
        let Value::Tuple(arguments) = &self.values[arguments] else {
            return self.add(Value::Opaque { class: name.to_string(), state: None });
        };
        let arguments = arguments.clone();
        match (&*name.module, &*name.name, arguments.as_slice()) {
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2", [storage, offset, dims, strides, ..]) => {
                let tensor = self.tensor(*storage, *offset, *dims, *strides, None)?;
                self.add(tensor)
            }
            ("torch._utils", "_rebuild_tensor_v3", [storage, offset, dims, strides, _, _, dtype, ..]) => {
                let tensor = self.tensor(*storage, *offset, *dims, *strides, Some(*dtype))?;
                self.add(tensor)
            }
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state", [data, ..]) => Ok(*data),
            ("torch._tensor", "_rebuild_from_type_v2", [function, _, arguments, ..]) if depth < 4 => {
                self.call(*function, *arguments, depth + 1)
            }
            ("torch", "Size", [dims]) => Ok(*dims),
            ("collections", "OrderedDict", []) | ("collections", "defaultdict", _) | ("builtins", "dict", []) => {
                self.add(Value::Dict(Vec::new()))
            }
            ("collections", "OrderedDict", [items]) => {
                let Value::List(items) = &self.values[*items] else {
                    return Err("a dictionary in it has no items".into());
                };
                let mut dict = Vec::with_capacity(items.len());
                for item in items {
                    let (Value::List(pair) | Value::Tuple(pair)) = &self.values[*item] else {
                        return Err("an item of a dictionary in it is no pair".into());
                    };
                    dict.extend(pairs(pair)?);
                }
                self.add(Value::Dict(dict))
            }
            ("copyreg" | "copy_reg", "_reconstructor", [class, ..]) => {
                let class = match &self.values[*class] {
                    Value::Global(name) => name.to_string(),
                    _ => name.to_string(),
                };
                self.add(Value::Opaque { class, state: None })
            }
            _ => self.add(Value::Opaque { class: name.to_string(), state: None }),
        }
    }

    fn tensor(&self, storage: Id, offset: Id, dims: Id, strides: Id, dtype: Option<Id>) -> Result<Value<'p>> {
        let storage = match &self.values[storage] {
            Value::Storage(storage) => storage.clone(),
            Value::Opaque { class, .. } => {
                return Ok(Value::Opaque { class: format!("a tensor of {class}"), state: None });
            }
            _ => return Err("a tensor in it has no numbers".into()),
        };
        let dtype = match dtype.map(|id| &self.values[id]) {
            None => storage.dtype,
            Some(Value::Global(name)) => match dtype_name(&name.name) {
                Some(dtype) => Some(dtype),
                None => return Ok(Value::Opaque { class: format!("a tensor of {name}"), state: None }),
            },
            Some(_) => None,
        };
        let dtype = dtype.ok_or("a tensor in it does not say what its numbers are")?;
        let (dims, strides) = (self.sizes(dims)?, self.sizes(strides)?);
        if dims.len() != strides.len() || dims.len() > MOST_DIMENSIONS {
            return Err(format!("a tensor in it has {} dimensions and {} strides", dims.len(), strides.len()));
        }
        Ok(Value::Tensor(Tensor { storage, dtype, offset: self.size(offset)?, dims, strides }))
    }

    fn size(&self, id: Id) -> Result<usize> {
        match &self.values[id] {
            Value::Int(n) => usize::try_from(*n).map_err(|_| format!("a size in it is {n}")),
            _ => Err("a size in it is not a whole number".into()),
        }
    }

    fn sizes(&self, id: Id) -> Result<Vec<usize>> {
        match &self.values[id] {
            Value::Tuple(sizes) | Value::List(sizes) => sizes.iter().map(|id| self.size(*id)).collect(),
            _ => Err("the dimensions of a tensor in it are no tuple".into()),
        }
    }
}

/// A name, unless it serves to run code.
pub(super) fn global(name: Name<'_>) -> Result<Value<'_>> {
    let module =
        |m: &&str| name.module == **m || name.module.strip_prefix(*m).is_some_and(|rest| rest.starts_with('.'));
    let builtin = matches!(&*name.module, "builtins" | "__builtin__") && RUNNING_BUILTINS.contains(&&*name.name);
    if builtin || RUNNING_MODULES.iter().any(module) {
        return Err(format!(
            "it asks to run code ({name}), which is never done here and has no place in weights: do not load this file \
             with other tools either"
        ));
    }
    Ok(Value::Global(name))
}

/// The number format of `torch.FloatStorage` and its like.
fn storage_class(name: &str) -> Option<DType> {
    Some(match name {
        "DoubleStorage" => DType::F64,
        "FloatStorage" => DType::F32,
        "HalfStorage" => DType::F16,
        "BFloat16Storage" => DType::BF16,
        "LongStorage" => DType::I64,
        "IntStorage" => DType::I32,
        "ShortStorage" => DType::I16,
        "CharStorage" => DType::I8,
        "ByteStorage" => DType::U8,
        "BoolStorage" => DType::Bool,
        _ => return None,
    })
}

/// The number format of `torch.float32` and its like.
fn dtype_name(name: &str) -> Option<DType> {
    Some(match name {
        "float64" => DType::F64,
        "float32" => DType::F32,
        "float16" => DType::F16,
        "bfloat16" => DType::BF16,
        "int64" => DType::I64,
        "int32" => DType::I32,
        "int16" => DType::I16,
        "int8" => DType::I8,
        "uint64" => DType::U64,
        "uint32" => DType::U32,
        "uint16" => DType::U16,
        "uint8" => DType::U8,
        "bool" => DType::Bool,
        _ => return None,
    })
}
