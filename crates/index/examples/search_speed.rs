//! Times an index over vectors of a file, for `bench/search.py`.
//!
//!     search_speed VECTORS QUERIES DIM FOLDER GRAPH_FROM EXACT_SINGLES BATCHES
//!
//! Both files hold f32, little-endian, row after row. Prints one JSON object:
//! seconds, processor seconds, the hits of all queries (exact, and through the
//! graph), the milliseconds of each single query (exact ones at most
//! EXACT_SINGLES), and the seconds of all in a batch, BATCHES times.

use sensorium_index::{Entry, Finish, Hit, Index, Metric, Search, Settings, Writer};
use serde_json::json;
use std::path::Path;
use std::time::Instant;

fn floats(path: &str) -> std::io::Result<Vec<f32>> {
    let bytes = std::fs::read(path)?;
    Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}

/// Seconds that all threads have computed so far; none where the system does
/// not say.
fn processor_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // Behind the name, which stands in brackets; in hundredths of a second.
    let ticks = stat.rsplit_once(')')?.1.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
    Some(ticks.sum::<Result<f64, _>>().ok()? / 100.0)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [vectors, queries, dim, folder, graph_from, exact_singles, batches] = &arguments[..] else {
        return Err("expected VECTORS QUERIES DIM FOLDER GRAPH_FROM EXACT_SINGLES BATCHES".into());
    };
    let (graph_from, exact_singles, batches): (usize, usize, usize) =
        (graph_from.parse()?, exact_singles.parse()?, batches.parse()?);
    let (vectors, queries, dim): (Vec<f32>, Vec<f32>, usize) = (floats(vectors)?, floats(queries)?, dim.parse()?);
    let folder = Path::new(folder);
    let settings = Settings { dim, metric: Metric::Cosine, model: "bench".into(), about: serde_json::Value::Null };

    let (start, busy) = (Instant::now(), processor_seconds());
    let mut writer = Writer::open(folder, &settings)?;
    for (at, vector) in vectors.chunks_exact(dim).enumerate() {
        writer.add(vector, &Entry { id: at.to_string(), ..Entry::default() })?;
    }
    writer.commit()?;
    drop(vectors);
    let add_seconds = start.elapsed().as_secs_f64();
    let (start, added) = (Instant::now(), processor_seconds());
    writer.finish(&Finish { graph_from: Some(graph_from) })?;
    let linked = processor_seconds();
    let graph_seconds = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let index = Index::open(folder)?;
    let open_seconds = start.elapsed().as_secs_f64();

    let mut found = Vec::new();
    for exact in [true, false] {
        let search = Search { exact, ..Search::default() };
        index.search(&queries[..dim], &search)?;
        let mut milliseconds = Vec::new();
        for query in queries.chunks_exact(dim).take(if exact { exact_singles } else { usize::MAX }) {
            let start = Instant::now();
            index.search(query, &search)?;
            milliseconds.push(start.elapsed().as_secs_f64() * 1e3);
        }
        let (mut seconds, mut hits) = (Vec::new(), Vec::new());
        for _ in 0..batches {
            let start = Instant::now();
            hits = index.search(&queries, &search)?;
            seconds.push(start.elapsed().as_secs_f64());
        }
        let positions = |hits: &Vec<Hit>| hits.iter().map(|h| h.position).collect::<Vec<_>>();
        let hits: Vec<_> = hits.iter().map(positions).collect();
        found.push(json!({"exact": exact, "milliseconds": milliseconds, "batch_seconds": seconds, "hits": hits}));
    }
    let graph = index.graph_rows();
    let seconds = json!({"add": add_seconds, "graph": graph_seconds, "open": open_seconds});
    let between = |from: Option<f64>, to: Option<f64>| Some(to? - from?);
    let processor = json!({"add": between(busy, added), "graph": between(added, linked)});
    println!("{}", json!({"seconds": seconds, "processor": processor, "graph": graph, "searches": found}));
    Ok(())
}
