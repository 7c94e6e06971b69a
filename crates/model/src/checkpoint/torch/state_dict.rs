//! From the value of a pickle to named tensors.
//!
//! Dictionaries in dictionaries become dotted names. Where the top level is a
//! training script's (`{"model": …, "optimizer": …}`) and one of its entries
//! is plainly the weights, those alone are taken, under their own names.

use super::pickle::Pickle;
use super::value::{Id, Tensor, Value};
use super::{Contents, Result};
use crate::checkpoint::place::TensorInfo;
use std::collections::HashSet;

/// Under which names training scripts keep weights.
const WEIGHTS: [&str; 5] = ["state_dict", "model_state_dict", "model", "module", "weights"];
/// How deep dictionaries may lie in one another.
const DEEPEST: usize = 32;
/// How many values may be visited; sharing lets few bytes describe many.
const MOST_VISITS: usize = 4_000_000;
/// The longest name of a tensor, in bytes.
const LONGEST_NAME: usize = 4096;
/// How much is kept of what is no tensor.
const MOST_METADATA: usize = 1000;
const LONGEST_METADATA: usize = 1000;
/// How many names a note lists.
const NAMED: usize = 5;

/// Names the tensors of a pickle; `locate` says where one lies.
pub(super) fn read(pickle: &Pickle<'_>, locate: impl FnMut(&Tensor<'_>) -> Result<TensorInfo>) -> Result<Contents> {
    let mut reader = Reader {
        pickle,
        locate,
        contents: Contents::default(),
        names: HashSet::new(),
        left_out: Vec::new(),
        visits: 0,
    };
    let top = match &pickle.values[pickle.top] {
        Value::Dict(_) | Value::Opaque { .. } => pickle.top,
        Value::Tensor(tensor) => {
            reader.tensor("tensor", tensor)?;
            return Ok(reader.contents);
        }
        _ => return Err("it holds no dictionary of tensors".into()),
    };
    match reader.weights_within(top)? {
        Some((name, weights)) => {
            let rest = reader.entries(top).filter(|(_, id)| *id != weights).collect::<Vec<_>>();
            reader.visit("", weights, 0)?;
            reader.contents.notes.push(format!("the weights are the entry {name:?} of the file"));
            reader.beside(&rest)?;
        }
        None => reader.visit("", top, 0)?,
    }
    if reader.contents.tensors.is_empty() {
        return Err(match &pickle.values[pickle.top] {
            Value::Opaque { class, .. } => format!("it holds an object ({class}) in which no tensors are found"),
            _ => "it holds no tensors".into(),
        });
    }
    if !reader.left_out.is_empty() {
        let (named, more) = (reader.left_out.len().min(NAMED), reader.left_out.len().saturating_sub(NAMED));
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let note = format!("left out, since only code could make them: {}{more}", reader.left_out[..named].join(", "));
        reader.contents.notes.push(note);
    }
    Ok(reader.contents)
}

struct Reader<'a, 'p, L> {
    pickle: &'a Pickle<'p>,
    locate: L,
    contents: Contents,
    names: HashSet<String>,
    /// What was passed over: its name and class.
    left_out: Vec<String>,
    visits: usize,
}

impl<'a, 'p, L: FnMut(&Tensor<'_>) -> Result<TensorInfo>> Reader<'a, 'p, L> {
    /// The entries of a dictionary that have names.
    fn entries(&self, id: Id) -> impl Iterator<Item = (String, Id)> + use<'a, 'p, L> {
        let values = &self.pickle.values;
        let pairs: &[(Id, Id)] = match &values[id] {
            Value::Dict(pairs) => pairs,
            _ => &[],
        };
        pairs.iter().filter_map(|(key, value)| match &values[*key] {
            Value::Text(text) => Some((text.clone().into_owned(), *value)),
            Value::Int(n) => Some((n.to_string(), *value)),
            _ => None,
        })
    }

    /// The one entry of the top level that is plainly the weights.
    fn weights_within(&self, top: Id) -> Result<Option<(String, Id)>> {
        if self.entries(top).any(|(_, id)| matches!(self.pickle.values[id], Value::Tensor(_))) {
            return Ok(None);
        }
        let mut found = Vec::new();
        for (name, id) in self.entries(top) {
            let mut visits = 0;
            if WEIGHTS.contains(&name.as_str()) && self.has_tensors(id, 0, &mut visits)? {
                found.push((name, id));
            }
        }
        Ok(if found.len() == 1 { found.pop() } else { None })
    }

    fn has_tensors(&self, id: Id, depth: usize, visits: &mut usize) -> Result<bool> {
        *visits += 1;
        if depth > DEEPEST || *visits > MOST_VISITS {
            return Err("its dictionaries lie in one another without end".into());
        }
        match &self.pickle.values[id] {
            Value::Tensor(_) => Ok(true),
            Value::Opaque { state: Some(state), .. } => self.has_tensors(*state, depth + 1, visits),
            _ => {
                for (_, id) in self.entries(id) {
                    if self.has_tensors(id, depth + 1, visits)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
        }
    }

    /// Takes the tensors below a value, whose name so far is `name`.
    fn visit(&mut self, name: &str, id: Id, depth: usize) -> Result<()> {
        self.visits += 1;
        if depth > DEEPEST || self.visits > MOST_VISITS {
            return Err("its dictionaries lie in one another without end".into());
        }
        if name.len() > LONGEST_NAME {
            return Err(format!("a name in it is longer than {LONGEST_NAME} bytes"));
        }
        let pickle = self.pickle;
        match &pickle.values[id] {
            Value::Tensor(tensor) => self.tensor(name, tensor),
            Value::Dict(_) => {
                for (key, value) in self.entries(id) {
                    self.visit(&below(name, &key), value, depth + 1)?;
                }
                Ok(())
            }
            Value::List(items) | Value::Tuple(items) => {
                for (i, value) in items.iter().enumerate() {
                    self.visit(&below(name, &i.to_string()), *value, depth + 1)?;
                }
                Ok(())
            }
            Value::Opaque { class, state } => {
                if let Some(state) = state
                    && self.module(name, *state, depth)?
                {
                    return Ok(());
                }
                self.left_out.push(format!("{name} ({class})"));
                Ok(())
            }
            Value::Text(text) => self.metadata(name, text),
            Value::Int(n) => self.metadata(name, &n.to_string()),
            Value::Float(x) => self.metadata(name, &x.to_string()),
            Value::Bool(b) => self.metadata(name, &b.to_string()),
            Value::None | Value::Long(_) | Value::Bytes | Value::Global(_) | Value::Storage(_) => Ok(()),
        }
    }

    /// A pickled `torch.nn.Module`: its parameters, its buffers, its modules.
    /// False where the state is not that of one.
    fn module(&mut self, name: &str, state: Id, depth: usize) -> Result<bool> {
        let mut is_module = false;
        for (key, value) in self.entries(state) {
            if matches!(key.as_str(), "_parameters" | "_buffers" | "_modules") {
                is_module = true;
                self.visit(name, value, depth + 1)?;
            }
        }
        Ok(is_module)
    }

    fn tensor(&mut self, name: &str, tensor: &Tensor<'_>) -> Result<()> {
        let info = (self.locate)(tensor).map_err(|problem| format!("tensor {name:?}: {problem}"))?;
        if !self.names.insert(name.to_owned()) {
            return Err(format!("two tensors are named {name:?}"));
        }
        self.contents.tensors.push((name.to_owned(), info));
        Ok(())
    }

    fn metadata(&mut self, name: &str, text: &str) -> Result<()> {
        if self.contents.metadata.len() < MOST_METADATA && text.len() <= LONGEST_METADATA {
            self.contents.metadata.insert(name.to_owned(), text.to_owned());
        }
        Ok(())
    }

    /// What lies beside the weights: settings are kept, tensors only counted.
    fn beside(&mut self, rest: &[(String, Id)]) -> Result<()> {
        let weights = std::mem::take(&mut self.contents.tensors);
        let names = std::mem::take(&mut self.names);
        let mut passed_over = Vec::new();
        for (name, id) in rest {
            self.visit(name, *id, 1)?;
            if !self.contents.tensors.is_empty() {
                passed_over.push(format!("{name:?} ({} tensors)", self.contents.tensors.len()));
                self.contents.tensors.clear();
            }
        }
        if !passed_over.is_empty() {
            self.contents.notes.push(format!("other entries are left out: {}", passed_over.join(", ")));
        }
        (self.contents.tensors, self.names) = (weights, names);
        Ok(())
    }
}

fn below(name: &str, key: &str) -> String {
    if name.is_empty() { key.to_owned() } else { format!("{name}.{key}") }
}
