//! `sensorium predict`

use crate::arguments::{Format, LanguageName, PredictArguments};
use crate::follow::Download;
use sensorium::predict::{Counts, Prediction, only_column, predict_table, predict_values};
use sensorium::search::{Language, Query, ZeroShotOptions, classify_table, classify_values};
use sensorium::{Error, Modality, Model, Value};
use serde_json::{Map, json};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;

pub fn run(arguments: &PredictArguments) -> anyhow::Result<ExitCode> {
    if !arguments.labels.is_empty() {
        return by_name(arguments);
    }
    let mut model = Model::load(&arguments.model)?;
    if let Some(adapter) = &arguments.adapter {
        for note in model.load_adapter(adapter)? {
            eprintln!("{note}");
        }
    }
    model.merge_adapter()?;
    let classes = model.learner.objective.label.classes.clone();
    answering(arguments, classes, |each| match &arguments.table {
        Some(table) => predict_table(&model, table, arguments.on_error.into(), each).map(Some),
        None => each(predict_values(&model, &values(&model, arguments)?, Path::new("."))?).map(|()| None),
    })
}

/// Sorts into classes that are known by name only.
fn by_name(arguments: &PredictArguments) -> anyhow::Result<ExitCode> {
    let options = ZeroShotOptions {
        labels: arguments.labels.clone(),
        templates: arguments.template.clone(),
        language: arguments.language.map(|language| match language {
            LanguageName::En => Language::English,
            LanguageName::Zh => Language::Chinese,
        }),
    };
    let folder = sensorium::hub::resolve(&arguments.model.to_string_lossy(), &mut Download::default().follow())?;
    let classes = arguments.labels.iter().map(|l| l.trim().to_owned()).filter(|l| !l.is_empty()).collect();
    answering(arguments, classes, |each| match &arguments.table {
        Some(table) => {
            let column = arguments.column.as_deref();
            classify_table(&folder, table, column, &options, arguments.on_error.into(), each).map(Some)
        }
        None => each(classify_values(&folder, &query(arguments)?, &options)?).map(|()| None),
    })
}

/// The one thing that was given on the command line.
fn query(a: &PredictArguments) -> Result<Query, Error> {
    let given = [
        (&a.text, Modality::Text),
        (&a.image, Modality::Image),
        (&a.audio, Modality::Audio),
        (&a.video, Modality::Video),
    ];
    let mut given = given.into_iter().filter_map(|(v, modality)| Some(Query { modality, value: v.clone()? }));
    match (given.next(), given.next()) {
        (Some(one), None) => Ok(one),
        _ => Err(Error::Request("with --labels, give one of --text, --image, --audio and --video, or a table".into())),
    }
}

/// Where answers go, one by one.
type Each<'a> = dyn FnMut(Prediction) -> Result<(), Error> + 'a;

/// Writes the answers of `work` where they are wanted; what it gives back, for
/// a table, is told to the person.
fn answering(
    arguments: &PredictArguments,
    classes: Vec<String>,
    work: impl FnOnce(&mut Each<'_>) -> Result<Option<Counts>, Error>,
) -> anyhow::Result<ExitCode> {
    let format = match arguments.out.as_deref().and_then(Path::extension).and_then(|e| e.to_str()) {
        Some("jsonl" | "json" | "ndjson") => Format::Jsonl,
        Some("csv") => Format::Csv,
        _ => arguments.format,
    };
    // A file appears whole or not at all.
    let partial = arguments.out.as_ref().map(|path| {
        let mut name = path.as_os_str().to_owned();
        name.push(".partial");
        std::path::PathBuf::from(name)
    });
    let sink: Box<dyn Write> = match &partial {
        Some(path) => Box::new(std::fs::File::create(path).map_err(|source| Error::Io {
            action: "write",
            path: path.clone(),
            source,
        })?),
        None => Box::new(std::io::stdout().lock()),
    };
    let mut writer = Answers::new(BufWriter::new(sink), format, classes);
    let mut failure = None;
    let counts = work(&mut |p| {
        writer.write(&p).map_err(|e| {
            failure = Some(e);
            Error::Request("the answers cannot be written".into())
        })
    });
    if let Some(e) = failure {
        return Err(e);
    }
    if let Some(counts) = counts? {
        for column in &counts.absent {
            eprintln!("the table has no column {column:?}: predicted without it");
        }
        for problem in &counts.problems {
            eprintln!("{problem}");
        }
        if counts.bad > 0 {
            eprintln!("{} rows answered, {} could not be read", counts.answered, counts.bad);
        }
    }
    let sink = writer.finish()?;
    drop(sink);
    if let (Some(partial), Some(path)) = (partial, &arguments.out) {
        std::fs::File::open(&partial)?.sync_all()?;
        std::fs::rename(&partial, path)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The sample given on the command line, by the model's columns.
fn values(model: &Model, a: &PredictArguments) -> Result<Vec<(String, Value)>, Error> {
    let mut values = Vec::new();
    for (value, modality) in [
        (&a.text, Modality::Text),
        (&a.image, Modality::Image),
        (&a.audio, Modality::Audio),
        (&a.video, Modality::Video),
    ] {
        if let Some(value) = value {
            values.push((only_column(model, modality)?, Value::Text(value.clone())));
        }
    }
    for input in &a.input {
        let (column, value) = input.split_once('=').ok_or_else(|| {
            Error::Request(format!("--input {input}: expected COLUMN=VALUE, as caption=\"a red fox\""))
        })?;
        values.push((column.to_owned(), Value::from_text(value)));
    }
    Ok(values)
}

/// Writes answers as CSV or JSON lines.
struct Answers<W: Write> {
    form: Form<W>,
    classes: Vec<String>,
    /// Whether the names of the columns are written: with the first answer, so
    /// that what fails before it prints nothing.
    begun: bool,
}

enum Form<W: Write> {
    Csv(Box<csv::Writer<W>>),
    Jsonl(W),
}

impl<W: Write> Answers<W> {
    fn new(sink: W, format: Format, classes: Vec<String>) -> Self {
        let form = match format {
            Format::Jsonl => Form::Jsonl(sink),
            Format::Csv => Form::Csv(Box::new(csv::Writer::from_writer(sink))),
        };
        Self { form, classes, begun: false }
    }

    /// Writes the names of the columns, once.
    fn begin(&mut self) -> anyhow::Result<()> {
        if let (Form::Csv(writer), false) = (&mut self.form, self.begun) {
            let classes = self.classes.iter().map(|c| format!("p({c})"));
            let header = ["row".to_owned(), "label".to_owned()].into_iter().chain(classes);
            writer.write_record(header.chain(["error".to_owned()]))?;
        }
        self.begun = true;
        Ok(())
    }

    /// Rows count from 1, as in messages.
    fn write(&mut self, p: &Prediction) -> anyhow::Result<()> {
        self.begin()?;
        let probabilities = p.decision.as_ref().and_then(|d| d.probabilities());
        match &mut self.form {
            Form::Csv(writer) => {
                let mut record = vec![(p.row + 1).to_string(), p.label.clone().unwrap_or_default()];
                match probabilities {
                    Some(p) => record.extend(p.iter().map(|p| format!("{p:.6}"))),
                    None => record.extend(std::iter::repeat_n(String::new(), self.classes.len())),
                }
                record.push(p.problem.clone().unwrap_or_default());
                writer.write_record(&record)?;
            }
            Form::Jsonl(sink) => {
                let label = match &p.decision {
                    Some(sensorium::Decision::Value(v)) => json!(v),
                    Some(sensorium::Decision::Labels(l)) => {
                        json!(
                            self.classes.iter().zip(l).filter(|(_, p)| **p >= 0.5).map(|(c, _)| c).collect::<Vec<_>>()
                        )
                    }
                    _ => json!(p.label),
                };
                let mut object = Map::new();
                object.insert("row".into(), json!(p.row + 1));
                object.insert("label".into(), label);
                if let Some(probabilities) = probabilities {
                    let by_class: Map<_, _> =
                        self.classes.iter().zip(probabilities).map(|(c, p)| (c.clone(), json!(p))).collect();
                    object.insert("probabilities".into(), by_class.into());
                }
                if let Some(problem) = &p.problem {
                    object.insert("error".into(), json!(problem));
                }
                writeln!(sink, "{}", serde_json::Value::Object(object))?;
            }
        }
        Ok(())
    }

    fn finish(mut self) -> anyhow::Result<W> {
        self.begin()?;
        match self.form {
            Form::Csv(writer) => Ok(writer.into_inner().map_err(|e| e.into_error())?),
            Form::Jsonl(mut sink) => {
                sink.flush()?;
                Ok(sink)
            }
        }
    }
}
