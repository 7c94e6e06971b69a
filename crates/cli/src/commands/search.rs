//! `sensorium search`, and how hits are shown.

use crate::arguments::{HitArguments, SearchArguments};
use crate::follow::Download;
use sensorium::search::{FindOptions, Finder, Found, Query, sheet};
use sensorium::{Error, Modality};
use serde_json::json;
use std::path::Path;
use std::process::ExitCode;

pub fn run(arguments: &SearchArguments) -> anyhow::Result<ExitCode> {
    let mut finder = Finder::open(&arguments.index)?;
    if let Some(model) = &arguments.model {
        let model = sensorium::hub::resolve(model, &mut Download::default().follow())?;
        finder.open_model(Some(&model))?;
    }
    let given = [
        (&arguments.text, Modality::Text),
        (&arguments.image, Modality::Image),
        (&arguments.audio, Modality::Audio),
        (&arguments.video, Modality::Video),
    ];
    let queries: Vec<Query> = given
        .into_iter()
        .flat_map(|(values, modality)| values.iter().map(move |value| Query { modality, value: value.clone() }))
        .collect();
    let found = finder.find(&queries, &options(&arguments.hits))?;
    let title = queries.iter().map(|q| q.value.as_str()).collect::<Vec<_>>().join(" + ");
    show(&title, &mut finder, &found, &arguments.hits)?;
    Ok(ExitCode::SUCCESS)
}

pub fn options(arguments: &HitArguments) -> FindOptions {
    FindOptions {
        top: arguments.top.get(),
        filters: arguments.filters.iter().map(|f| (f.column.clone(), f.value.clone())).collect(),
        columns: arguments.column.clone(),
        exact: arguments.exact,
    }
}

/// Prints hits, and writes the page.
pub fn show(title: &str, finder: &mut Finder, found: &[Found], arguments: &HitArguments) -> anyhow::Result<()> {
    if let Some(path) = &arguments.html {
        let about = format!("{} of {} vectors in {}", found.len(), finder.count()?, finder.place());
        write(path, &sheet::to_html(title, &about, found))?;
    }
    if arguments.json {
        let hits: Vec<_> = found
            .iter()
            .map(|hit| {
                let entry = &hit.entry;
                json!({"id": entry.id, "score": hit.score, "column": entry.column, "source": entry.source, "fields": entry.fields,
                       "media": hit.media.iter().map(|(_, path)| path).collect::<Vec<_>>()})
            })
            .collect();
        println!("{}", json!({"hits": hits}));
        return Ok(());
    }
    if found.is_empty() {
        println!("nothing was found");
    }
    for hit in found {
        let source = &hit.entry.source;
        let source: String = source.chars().take(100).map(|c| if c.is_control() { ' ' } else { c }).collect();
        let media: String = hit.media.iter().map(|(_, path)| format!("  {path}")).collect();
        println!("{:.4}  {}  {source}{media}", hit.score, hit.entry.id);
    }
    if let Some(path) = &arguments.html {
        println!("{}", path.display());
    }
    Ok(())
}

/// A file appears whole or not at all.
fn write(path: &Path, text: &str) -> Result<(), Error> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let io = |source| Error::Io { action: "write", path: path.to_owned(), source };
    std::fs::write(&partial, text).map_err(io)?;
    std::fs::rename(&partial, path).map_err(io)
}
