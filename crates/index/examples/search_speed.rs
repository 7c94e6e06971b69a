//! Times an index over vectors of a file, for `bench/search.py`.
//!
//!     search_speed VECTORS QUERIES DIM FOLDER [GRAPH_FROM]
//!
//! Both files hold f32, little-endian, row after row. Prints one JSON object:
//! seconds, the hits of all queries (exact, and through the graph), and the
//! milliseconds of each single query.

use sensorium_index::{Entry, Finish, Hit, Index, Metric, Search, Settings, Writer};
use serde_json::json;
use std::path::Path;
use std::time::Instant;

fn floats(path: &str) -> std::io::Result<Vec<f32>> {
    let bytes = std::fs::read(path)?;
    Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [vectors, queries, dim, folder, graph_from @ ..] = &arguments[..] else {
        return Err("expected VECTORS QUERIES DIM FOLDER [GRAPH_FROM]".into());
    };
    let (vectors, queries, dim): (Vec<f32>, Vec<f32>, usize) = (floats(vectors)?, floats(queries)?, dim.parse()?);
    let folder = Path::new(folder);
    let settings = Settings { dim, metric: Metric::Cosine, model: "bench".into(), about: serde_json::Value::Null };

    let start = Instant::now();
    let mut writer = Writer::open(folder, &settings)?;
    for (at, vector) in vectors.chunks_exact(dim).enumerate() {
        writer.add(vector, &Entry { id: at.to_string(), ..Entry::default() })?;
    }
    writer.commit()?;
    let add_seconds = start.elapsed().as_secs_f64();
    let start = Instant::now();
    writer.finish(&Finish { graph_from: graph_from.first().map(|n| n.parse()).transpose()? })?;
    let graph_seconds = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let index = Index::open(folder)?;
    let open_seconds = start.elapsed().as_secs_f64();

    let mut found = Vec::new();
    for exact in [true, false] {
        let search = Search { exact, ..Search::default() };
        index.search(&queries[..dim], &search)?;
        let mut milliseconds = Vec::new();
        for query in queries.chunks_exact(dim) {
            let start = Instant::now();
            index.search(query, &search)?;
            milliseconds.push(start.elapsed().as_secs_f64() * 1e3);
        }
        let start = Instant::now();
        let hits = index.search(&queries, &search)?;
        let seconds = start.elapsed().as_secs_f64();
        let positions = |hits: &Vec<Hit>| hits.iter().map(|h| h.position).collect::<Vec<_>>();
        let hits: Vec<_> = hits.iter().map(positions).collect();
        found.push(json!({"exact": exact, "milliseconds": milliseconds, "batch_seconds": seconds, "hits": hits}));
    }
    let graph = index.graph_rows();
    let seconds = json!({"add": add_seconds, "graph": graph_seconds, "open": open_seconds});
    println!("{}", json!({"seconds": seconds, "graph": graph, "searches": found}));
    Ok(())
}
