//! The stack machine of pickles, protocols 0 to 5, for values only.
//!
//! Nothing is imported, nothing called: what the pickle wants called is
//! described by [`super::rebuild`]. Work and memory are linear in the length of
//! the pickle.

use super::Result;
use super::rebuild::global;
use super::value::{Id, Name, Value};
use std::borrow::Cow;
use std::collections::HashMap;

/// The most values of one pickle.
const MOST_VALUES: usize = 4_000_000;

/// A pickle that was read.
pub(super) struct Pickle<'p> {
    pub(super) values: Vec<Value<'p>>,
    pub(super) top: Id,
    /// The bytes that it took.
    pub(super) length: usize,
}

/// Whether reading failed because the bytes ended.
pub(super) const ENDED: &str = "it ends in the middle";

/// Reads the pickle at the beginning of `bytes`.
pub(super) fn read(bytes: &[u8]) -> Result<Pickle<'_>> {
    let mut machine =
        Machine { bytes, at: 0, values: Vec::new(), stack: Vec::new(), marks: Vec::new(), memo: HashMap::new() };
    let top = machine.run()?;
    Ok(Pickle { values: machine.values, top, length: machine.at })
}

pub(super) struct Machine<'p> {
    bytes: &'p [u8],
    at: usize,
    pub(super) values: Vec<Value<'p>>,
    stack: Vec<Id>,
    /// The heights of the stack at the open marks.
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
}

impl<'p> Machine<'p> {
    fn run(&mut self) -> Result<Id> {
        loop {
            let op = self.byte()?;
            match op {
                b'.' => return self.pop(),
                0x80 => {
                    let protocol = self.byte()?;
                    if protocol > 5 {
                        return Err(format!("its protocol is {protocol}; 0 to 5 are read"));
                    }
                }
                0x95 => {
                    self.take(8)?;
                }
                b'(' => self.marks.push(self.stack.len()),
                b'0' => {
                    self.pop()?;
                }
                b'1' => {
                    self.since_mark()?;
                }
                b'2' => {
                    let top = self.top()?;
                    self.stack.push(top);
                }
                b'N' => self.push(Value::None)?,
                0x88 => self.push(Value::Bool(true))?,
                0x89 => self.push(Value::Bool(false))?,
                b'I' => self.decimal()?,
                b'L' => self.decimal()?,
                b'J' => {
                    let n = i32::from_le_bytes(self.array()?);
                    self.push(Value::Int(n.into()))?;
                }
                b'K' => {
                    let n = self.byte()?;
                    self.push(Value::Int(n.into()))?;
                }
                b'M' => {
                    let n = u16::from_le_bytes(self.array()?);
                    self.push(Value::Int(n.into()))?;
                }
                0x8a => {
                    let length = self.byte()?.into();
                    self.long(length)?;
                }
                0x8b => {
                    let length = u32::from_le_bytes(self.array()?) as usize;
                    self.long(length)?;
                }
                b'F' => {
                    let line = self.line()?;
                    let x = std::str::from_utf8(line).ok().and_then(|t| t.trim().parse().ok());
                    self.push(Value::Float(x.ok_or("a number in it is not one")?))?;
                }
                b'G' => {
                    let x = f64::from_be_bytes(self.array()?);
                    self.push(Value::Float(x))?;
                }
                b'S' | b'V' => {
                    let line = self.line()?;
                    let quoted = |q: u8| line.len() > 1 && line.first() == Some(&q) && line.last() == Some(&q);
                    let inside =
                        if op == b'S' && (quoted(b'\'') || quoted(b'"')) { &line[1..line.len() - 1] } else { line };
                    self.push(Value::Text(String::from_utf8_lossy(inside)))?;
                }
                b'X' | b'T' => self.text_of::<4>()?,
                0x8c | b'U' => self.text_of::<1>()?,
                0x8d => self.text_of::<8>()?,
                b'B' => self.bytes_of::<4>()?,
                b'C' => self.bytes_of::<1>()?,
                0x8e | 0x96 => self.bytes_of::<8>()?,
                b')' => self.push(Value::Tuple(Vec::new()))?,
                b']' | 0x8f => self.push(Value::List(Vec::new()))?,
                b'}' => self.push(Value::Dict(Vec::new()))?,
                0x85..=0x87 => {
                    let n = usize::from(op - 0x84);
                    let from = self.stack.len().checked_sub(n).ok_or("a tuple has too few items")?;
                    self.above_mark(from)?;
                    let items = self.stack.split_off(from);
                    self.push(Value::Tuple(items))?;
                }
                b't' => {
                    let items = self.since_mark()?;
                    self.push(Value::Tuple(items))?;
                }
                b'l' | 0x91 => {
                    let items = self.since_mark()?;
                    self.push(Value::List(items))?;
                }
                b'd' => {
                    let items = self.since_mark()?;
                    let pairs = pairs(&items)?;
                    self.push(Value::Dict(pairs))?;
                }
                b'a' => {
                    let item = self.pop()?;
                    self.extend(&[item])?;
                }
                b'e' | 0x90 => {
                    let items = self.since_mark()?;
                    self.extend(&items)?;
                }
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.insert(&[key, value])?;
                }
                b'u' => {
                    let items = self.since_mark()?;
                    self.insert(&items)?;
                }
                b'p' | b'g' => {
                    let line = self.line()?;
                    let index = std::str::from_utf8(line).ok().and_then(|t| t.trim().parse().ok());
                    let index = index.ok_or("a place in its memory is not a number")?;
                    if op == b'p' { self.put(index)? } else { self.get(index)? }
                }
                b'q' => {
                    let index = self.byte()?.into();
                    self.put(index)?;
                }
                b'r' => {
                    let index = u32::from_le_bytes(self.array()?).into();
                    self.put(index)?;
                }
                0x94 => self.put(self.memo.len() as u64)?,
                b'h' => {
                    let index = self.byte()?.into();
                    self.get(index)?;
                }
                b'j' => {
                    let index = u32::from_le_bytes(self.array()?).into();
                    self.get(index)?;
                }
                b'c' => {
                    let global = self.global_lines()?;
                    self.push(global)?;
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    let name = Name { module: self.text(module)?, name: self.text(name)? };
                    self.push(global(name)?)?;
                }
                b'Q' => {
                    let described = self.pop()?;
                    let referred = self.referred(described)?;
                    self.stack.push(referred);
                }
                b'P' => return Err("it names its numbers in the way of protocol 0, which PyTorch does not use".into()),
                b'R' => {
                    let (arguments, function) = (self.pop()?, self.pop()?);
                    let made = self.call(function, arguments, 0)?;
                    self.stack.push(made);
                }
                0x81 => {
                    let (arguments, class) = (self.pop()?, self.pop()?);
                    let made = self.call(class, arguments, 0)?;
                    self.stack.push(made);
                }
                0x92 => {
                    let (_, arguments, class) = (self.pop()?, self.pop()?, self.pop()?);
                    let made = self.call(class, arguments, 0)?;
                    self.stack.push(made);
                }
                b'i' => {
                    let class = self.global_lines()?;
                    let class = self.add(class)?;
                    let arguments = self.since_mark()?;
                    let arguments = self.add(Value::Tuple(arguments))?;
                    let made = self.call(class, arguments, 0)?;
                    self.stack.push(made);
                }
                b'o' => {
                    let items = self.since_mark()?;
                    let (class, arguments) = items.split_first().ok_or("an object has no class")?;
                    let arguments = self.add(Value::Tuple(arguments.to_vec()))?;
                    let made = self.call(*class, arguments, 0)?;
                    self.stack.push(made);
                }
                b'b' => {
                    let state = self.pop()?;
                    let object = self.top()?;
                    // The state of an ordered dictionary is not among its items.
                    if let Value::Opaque { state: at, .. } = &mut self.values[object] {
                        *at = Some(state);
                    }
                }
                0x82..=0x84 => {
                    return Err("it uses the extension registry of Python, which has no place in weights".into());
                }
                0x97 | 0x98 => return Err("it refers to buffers outside of it".into()),
                other => return Err(format!("byte {} ({other:#04x}) is no instruction of a pickle", self.at - 1)),
            }
        }
    }

    // Bytes

    fn take(&mut self, n: usize) -> Result<&'p [u8]> {
        let end = self.at.checked_add(n).filter(|end| *end <= self.bytes.len()).ok_or(ENDED)?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.take(N)?.try_into().map_err(|_| ENDED.into())
    }

    fn line(&mut self) -> Result<&'p [u8]> {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|b| *b == b'\n').ok_or(ENDED)?;
        self.at += length + 1;
        Ok(&rest[..length])
    }

    /// Bytes after their number, which takes `N` bytes itself.
    fn counted<const N: usize>(&mut self) -> Result<&'p [u8]> {
        let mut length = [0; 8];
        length[..N].copy_from_slice(self.take(N)?);
        let length = usize::try_from(u64::from_le_bytes(length)).map_err(|_| ENDED)?;
        self.take(length)
    }

    // Values and the stack

    pub(super) fn add(&mut self, value: Value<'p>) -> Result<Id> {
        if self.values.len() == MOST_VALUES {
            return Err(format!("it has more than {MOST_VALUES} values"));
        }
        self.values.push(value);
        Ok(self.values.len() - 1)
    }

    fn push(&mut self, value: Value<'p>) -> Result<()> {
        let id = self.add(value)?;
        self.stack.push(id);
        Ok(())
    }

    fn text_of<const N: usize>(&mut self) -> Result<()> {
        let text = String::from_utf8_lossy(self.counted::<N>()?);
        self.push(Value::Text(text))
    }

    fn bytes_of<const N: usize>(&mut self) -> Result<()> {
        self.counted::<N>()?;
        self.push(Value::Bytes)
    }

    fn decimal(&mut self) -> Result<()> {
        let line = self.line()?;
        let text = std::str::from_utf8(line).map_err(|_| "a number in it is not one")?.trim();
        let value = match text.trim_end_matches('L') {
            "00" => Value::Bool(false),
            "01" => Value::Bool(true),
            digits => Value::Int(digits.parse().map_err(|_| "a number in it is not one, or too long")?),
        };
        self.push(value)
    }

    fn long(&mut self, length: usize) -> Result<()> {
        let bytes = self.take(length)?;
        let value = if length > 8 {
            Value::Long(bytes)
        } else {
            let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
            let mut all = [if negative { 0xff } else { 0 }; 8];
            all[..length].copy_from_slice(bytes);
            Value::Int(i64::from_le_bytes(all))
        };
        self.push(value)
    }

    fn above_mark(&self, height: usize) -> Result<()> {
        if self.marks.last().is_some_and(|mark| height < *mark) { Err("its stack does not fit".into()) } else { Ok(()) }
    }

    fn pop(&mut self) -> Result<Id> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn top(&self) -> Result<Id> {
        let top = *self.stack.last().ok_or("its stack runs empty")?;
        self.above_mark(self.stack.len() - 1)?;
        Ok(top)
    }

    fn since_mark(&mut self) -> Result<Vec<Id>> {
        let mark = self.marks.pop().ok_or("it closes what it did not open")?;
        // Nothing is taken from below an open mark, so the stack reaches it.
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn put(&mut self, index: u64) -> Result<()> {
        let top = self.top()?;
        self.memo.insert(index, top);
        Ok(())
    }

    fn get(&mut self, index: u64) -> Result<()> {
        let id = *self.memo.get(&index).ok_or("it recalls what it did not remember")?;
        self.stack.push(id);
        Ok(())
    }

    fn extend(&mut self, items: &[Id]) -> Result<()> {
        let list = self.top()?;
        match &mut self.values[list] {
            Value::List(all) => all.extend(items),
            // A list of a class of its own.
            Value::Opaque { .. } => {}
            _ => return Err("it appends to what is no list".into()),
        }
        Ok(())
    }

    fn insert(&mut self, items: &[Id]) -> Result<()> {
        let pairs = pairs(items)?;
        let dict = self.top()?;
        match &mut self.values[dict] {
            Value::Dict(all) => all.extend(pairs),
            Value::Opaque { .. } => {}
            _ => return Err("it sets items of what is no dictionary".into()),
        }
        Ok(())
    }

    pub(super) fn text(&self, id: Id) -> Result<Cow<'p, str>> {
        match &self.values[id] {
            Value::Text(text) => Ok(text.clone()),
            _ => Err("a name in it is not text".into()),
        }
    }

    fn global_lines(&mut self) -> Result<Value<'p>> {
        let module = String::from_utf8_lossy(self.line()?);
        let name = String::from_utf8_lossy(self.line()?);
        global(Name { module, name })
    }
}

/// Keys and values that follow one another.
pub(super) fn pairs(items: &[Id]) -> Result<Vec<(Id, Id)>> {
    let (pairs, []) = items.as_chunks::<2>() else { return Err("a dictionary in it has a key without a value".into()) };
    Ok(pairs.iter().map(|[key, value]| (*key, *value)).collect())
}
