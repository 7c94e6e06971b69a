//! `sensorium index`

use crate::arguments::IndexArguments;
use crate::follow::{Download, Rows};
use sensorium::Modality;
use sensorium::search::{IndexOptions, IndexStep, index};
use std::process::ExitCode;

pub fn run(arguments: &IndexArguments) -> anyhow::Result<ExitCode> {
    let options = IndexOptions {
        out: arguments.out.clone(),
        store: arguments.store.clone(),
        columns: arguments.column.clone(),
        id: arguments.id.clone(),
        types: arguments.types.iter().map(|t| (t.column.clone(), t.kind)).collect(),
        batch_size: arguments.batch_size.get(),
        keep: arguments.keep,
        graph_from: (arguments.graph_from > 0).then_some(arguments.graph_from),
        max_bad: arguments.max_bad,
    };
    let model = sensorium::hub::resolve(&arguments.model, &mut Download::default().follow())?;
    let mut progress = Rows::stderr();
    let (mut total, mut linking) = (0, false);
    let done = index(&model, &arguments.source, &options, &mut |step| match step {
        IndexStep::Begin { rows, known, columns } => {
            progress.say(&format!("embedding {}", columns.join("; ")));
            if known > 0 {
                progress.say(&format!("the index has {known} vectors"));
            }
            total = rows;
            progress.begin(0, rows);
        }
        IndexStep::Rows(done) => {
            progress.at(done);
            if done == total {
                progress.end();
            }
        }
        IndexStep::Graph(done, of) => {
            if !linking {
                progress = Rows::stderr();
                progress.say("linking neighbours");
                progress.begin(0, of as u64);
                linking = true;
            }
            progress.at(done as u64);
            if done == of {
                progress.end();
            }
        }
    })?;
    for problem in &done.problems {
        eprintln!("{problem}");
    }
    let unsaid = done.bad - done.problems.len() as u64;
    if unsaid > 0 {
        eprintln!("… and {unsaid} rows more");
    }
    if done.bad > 0 {
        eprintln!("{} rows could not be indexed, or not whole", done.bad);
    }
    let folder = arguments.out.display();
    if arguments.json {
        let json = serde_json::json!({
            "index": arguments.out, "vectors": done.total, "embedded": done.embedded, "unchanged": done.unchanged,
            "removed": done.removed, "bad_rows": done.bad, "graph": done.graph,
        });
        println!("{json}");
        return Ok(ExitCode::SUCCESS);
    }
    println!("{} embedded, {} unchanged, {} removed", done.embedded, done.unchanged, done.removed);
    match done.graph {
        Some(rows) => println!("{folder}: {} vectors, searched through a graph over {rows}", done.total),
        None => println!("{folder}: {} vectors, searched exactly", done.total),
    }
    let by = match done.queries.first() {
        Some(first) if !done.queries.contains(&Modality::Text) => format!("--{} FILE", first.name()),
        _ => "--text \"…\"".into(),
    };
    println!("search it: sensorium search {folder} {by}");
    Ok(ExitCode::SUCCESS)
}
