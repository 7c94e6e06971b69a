//! A graph as a file.
//!
//! ```text
//! magic 8 · rows u64 · entry u32 · made u64 · layers u32 · of each layer: members u64
//! of each layer: members u32 [members] · edges u32 [members, SLOTS]
//! edges u32 [rows, SLOTS]
//! ```
//! all little-endian. The first format had no layers: magic, rows, entry and
//! the edges.

use super::{Graph, Layer, NONE, SLOTS};
use crate::files::read_words;
use crate::{IndexError, Result};
use rayon::prelude::*;
use std::io::{Read, Write};
use std::path::Path;

const MAGIC: &[u8; 8] = b"SNSRMGR2";
const FIRST_MAGIC: &[u8; 8] = b"SNSRMGR1";
/// Layers at most: more than there are of 2^32 vectors.
const MAX_LAYERS: u64 = 16;

impl Graph {
    pub(crate) fn write(&self, out: &mut impl Write) -> std::io::Result<()> {
        out.write_all(MAGIC)?;
        out.write_all(&(self.rows as u64).to_le_bytes())?;
        out.write_all(&self.entry.to_le_bytes())?;
        out.write_all(&(self.made as u64).to_le_bytes())?;
        out.write_all(&(self.layers.len() as u32).to_le_bytes())?;
        for layer in &self.layers {
            out.write_all(&(layer.members.len() as u64).to_le_bytes())?;
        }
        let mut words = |words: &[u32]| {
            words.chunks(1 << 14).try_for_each(|words| {
                let bytes: Vec<u8> = words.iter().flat_map(|e| e.to_le_bytes()).collect();
                out.write_all(&bytes)
            })
        };
        for layer in &self.layers {
            words(&layer.members)?;
            words(&layer.edges)?;
        }
        words(&self.edges)
    }

    /// Reads a graph over at most `rows` vectors. Every edge is checked.
    pub(crate) fn read(path: &Path, bytes: &mut impl Read, length: u64, rows: usize) -> Result<Self> {
        let io = IndexError::io("read", path);
        let other = || IndexError::damaged(path, "it is no graph over this index");
        let mut magic = [0; 8];
        bytes.read_exact(&mut magic).map_err(&io)?;
        let mut number = |width: usize| -> std::io::Result<u64> {
            let mut number = [0; 8];
            bytes.read_exact(&mut number[..width])?;
            Ok(u64::from_le_bytes(number))
        };
        let (own, entry) = (number(8).map_err(&io)?, number(4).map_err(&io)? as u32);
        let (made, members) = match &magic {
            FIRST_MAGIC => (own, Vec::new()),
            MAGIC => {
                let (made, layers) = (number(8).map_err(&io)?, number(4).map_err(&io)?);
                if layers > MAX_LAYERS {
                    return Err(other());
                }
                (made, (0..layers).map(|_| number(8)).collect::<std::io::Result<Vec<u64>>>().map_err(&io)?)
            }
            _ => return Err(other()),
        };
        // Of no more than there are vectors, nothing overflows.
        if own > rows as u64 || made > own || members.iter().any(|members| *members > own) {
            return Err(other());
        }
        let head = if magic == *MAGIC { 32 + 8 * members.len() as u64 } else { 20 };
        let words = own * SLOTS as u64 + members.iter().map(|members| members * (SLOTS as u64 + 1)).sum::<u64>();
        if head + 4 * words != length {
            return Err(other());
        }
        let mut layers = Vec::new();
        for members in members {
            let members = read_words(bytes, members as usize).map_err(&io)?;
            let edges = read_words(bytes, members.len() * SLOTS).map_err(&io)?;
            layers.push(Layer { members, edges });
        }
        let edges = read_words(bytes, own as usize * SLOTS).map_err(&io)?;
        let graph = Self { rows: own as usize, made: made as usize, entry, layers, edges };
        if !graph.leads_somewhere() {
            return Err(IndexError::damaged(path, "an edge leads nowhere"));
        }
        Ok(graph)
    }

    /// Whether every walk stays among the vectors, and within a layer among its
    /// members.
    fn leads_somewhere(&self) -> bool {
        let all = |edges: &[u32], there: &(dyn Fn(u32) -> bool + Sync)| {
            edges.par_chunks(SLOTS).all(|slots| {
                let used = slots.iter().take_while(|e| **e != NONE).count();
                slots[..used].iter().all(|e| there(*e)) && slots[used..].iter().all(|e| *e == NONE)
            })
        };
        let own = |at: u32| (at as usize) < self.rows;
        let layer = |layer: &Layer| {
            let member = |at: u32| layer.members.binary_search(&at).is_ok();
            layer.members.is_sorted_by(|a, b| a < b)
                && layer.members.last().is_some_and(|last| own(*last))
                && all(&layer.edges, &member)
        };
        let first = |layer: &Layer| layer.members.binary_search(&self.entry).is_ok();
        (self.rows == 0 || own(self.entry))
            && self.layers.first().is_none_or(first)
            && self.layers.iter().all(layer)
            && all(&self.edges, &own)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::clustered;
    use super::*;

    fn bytes(graph: &Graph) -> Vec<u8> {
        let mut bytes = Vec::new();
        graph.write(&mut bytes).unwrap();
        bytes
    }

    fn read(bytes: &[u8], rows: usize) -> Result<Graph> {
        Graph::read(Path::new("g"), &mut &bytes[..], bytes.len() as u64, rows)
    }

    #[test]
    fn broken_files_are_refused() {
        let vectors = clustered(100, 8);
        let graph = Graph::build(&vectors, 8, &mut |_| {});
        let bytes = bytes(&graph);
        assert_eq!(read(&bytes, 100).unwrap(), graph);
        assert!(read(&bytes, 99).is_err());
        assert!(read(&bytes[..bytes.len() - 4], 100).is_err());
        for (at, value) in
            [(0, 0), (8, 0xff), (15, 0xff), (16, 100), (20, 101), (27, 0xff), (28, 1), (31, 1), (32, 101), (39, 0x7f)]
        {
            let mut broken = bytes.clone();
            broken[at] = value;
            assert!(read(&broken, 100).is_err(), "byte {at}");
        }
    }

    #[test]
    fn broken_layers_are_refused() {
        let vectors = clustered(4200, 8);
        let graph = Graph::build(&vectors, 8, &mut |_| {});
        assert_eq!(graph.layers.len(), 1);
        assert_eq!(read(&bytes(&graph), 4200).unwrap(), graph);
        let absent = (0..4200).find(|at| graph.layers[0].members.binary_search(at).is_err()).unwrap();
        let broken = |break_it: &dyn Fn(&mut Graph)| {
            let mut broken = graph.clone();
            break_it(&mut broken);
            read(&bytes(&broken), 4200).is_err()
        };
        assert!(broken(&|graph| graph.layers[0].edges[0] = absent), "an edge out of the layer");
        assert!(broken(&|graph| graph.layers[0].members[1] = graph.layers[0].members[0]), "a member twice");
        assert!(broken(&|graph| *graph.layers[0].members.last_mut().unwrap() = 4200), "a member beyond the vectors");
        assert!(broken(&|graph| graph.entry = absent), "a walk that begins outside");
        assert!(broken(&|graph| graph.made = 4201), "made of more than there is");
    }

    #[test]
    fn the_first_format_is_read() {
        let vectors = clustered(100, 8);
        let graph = Graph::build(&vectors, 8, &mut |_| {});
        let new = bytes(&graph);
        let old = [FIRST_MAGIC, &new[8..20], &new[32..]].concat();
        assert_eq!(read(&old, 100).unwrap(), graph);
        assert!(read(&old[..old.len() - 4], 100).is_err());
    }
}
