use super::*;
use crate::table::TableOptions;
use crate::test_support::Fixture;

fn inspect_csv(csv: &str, options: &InspectOptions) -> Inspection {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("t.csv");
    std::fs::write(&path, csv).expect("write");
    inspect(&Table::open(&path, &TableOptions::default()).expect("table"), options).expect("inspect")
}

#[test]
fn media_is_decoded_and_faults_are_named() {
    let fixture = Fixture::new(40);
    fixture.write("0.bmp", b"BM but not really");
    std::fs::remove_file(fixture.folder.path().join("1.wav")).expect("remove");
    let copy = std::fs::read(fixture.folder.path().join("2.bmp")).expect("read");
    fixture.write("5.bmp", &copy);
    let inspection = inspect(&fixture.table(), &InspectOptions::default()).expect("inspect");
    let media = |name: &str| {
        let column = inspection.columns.iter().find(|column| column.name == name).expect(name);
        column.media.as_ref().expect("media")
    };
    let pictures = media("picture");
    assert_eq!((pictures.checked_rows, pictures.present_rows, pictures.files), (40, 32, 35));
    assert_eq!((pictures.unreadable, pictures.unreadable_examples[0].row), (1, 0));
    assert_eq!(pictures.shorter_side.map(|r| (r.min, r.max)), Some((16.0, 19.0)));
    assert_eq!(media("sound").unreadable, 1);
    assert!(media("sound").unreadable_examples[0].message.contains("1.wav"));
    let same = inspection.duplicates.iter().find(|r| r.what.contains("picture")).expect("duplicates");
    assert!(same.examples.iter().any(|rows| rows.contains(&6)), "{same:?}");
    assert_eq!(inspection.label.as_ref().map(|label| label.counts.len()), Some(2));
    let text = inspection.render();
    for part in ["40 rows, 7 columns", "picture  image", "row 1: ", "2 classes in 40 rows", "sensorium fit"] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

#[test]
fn sampling_of_media_is_said() {
    let fixture = Fixture::new(30);
    let options = InspectOptions { max_media_rows: 10, ..Default::default() };
    let inspection = inspect(&fixture.table(), &options).expect("inspect");
    let column = inspection.columns.iter().find(|column| column.name == "picture").expect("picture");
    assert_eq!(column.media.as_ref().map(|media| media.checked_rows), Some(10));
    assert!(inspection.render().contains("a sample of 10 of 30 rows"));
}

#[test]
fn leakage_duplicates_and_conflicts_are_found() {
    let mut csv = String::from("text,size,split,label\n");
    for i in 0..40 {
        csv += &format!("句子 number {i},{i}.5,{},{}\n", ["train", "test"][usize::from(i >= 30)], ["a", "b"][i % 2]);
    }
    csv += "句子  NUMBER 0,7.25,test,a\n";
    csv += "句子 number 1,1.5,train,a\n";
    let inspection = inspect_csv(&csv, &InspectOptions::default());
    let leak = &inspection.leakage[0];
    assert_eq!((leak.groups, leak.rows, &leak.examples[0]), (1, 2, &vec![1, 41]));
    assert!(leak.what.contains("test") && leak.what.contains("train"), "{}", leak.what);
    let rows = inspection.duplicates.iter().find(|r| r.what.contains("all inputs")).expect("rows");
    assert_eq!(rows.examples, [vec![2, 42]]);
    assert_eq!(inspection.conflicts.as_ref().map(|repeat| repeat.rows), Some(2));
    assert!(inspection.suggestions.iter().any(|s| s.contains("data.group = \"text\"")), "{:?}", inspection.suggestions);
    assert_eq!((inspection.splits.test, inspection.splits.how.contains("given by column")), (11, true));
    let json = serde_json::to_value(&inspection).expect("json");
    assert_eq!(json["columns"][0]["type"], "text");
    assert_eq!(json["leakage"][0]["rows"], 2);
}

#[test]
fn a_clean_table_has_nothing_to_mend() {
    let mut csv = String::from("text,label\n");
    (0..200).for_each(|i| csv += &format!("sentence number {i} of many,{}\n", ["a", "b"][i % 2]));
    let inspection = inspect_csv(&csv, &InspectOptions::default());
    assert!(inspection.duplicates.is_empty() && inspection.leakage.is_empty());
    assert_eq!(inspection.suggestions.len(), 1, "{:?}", inspection.suggestions);
    assert!(inspection.suggestions[0].contains("--label label"));
}

#[test]
fn numbers_that_are_none_are_listed() {
    let mut csv = String::from("size,vector,score\n");
    for i in 0..50 {
        let (size, vector) = match i {
            7 => ("big".to_string(), "[1, 2]".to_string()),
            _ => (format!("{i}.5"), format!("[{i}, 2, 3]")),
        };
        csv += &format!("{size},\"{vector}\",{}\n", f64::from(i) / 7.0);
    }
    let types = [("size".to_string(), ColumnType::Number)].into();
    let schema = SchemaOptions { label: Some("score".into()), types, ..Default::default() };
    let inspection = inspect_csv(&csv, &InspectOptions { schema, ..Default::default() });
    assert_eq!(inspection.columns[0].unusable_examples[0].row, 7);
    assert_eq!(inspection.columns[1].unusable, 1);
    let label = inspection.label.as_ref().expect("label");
    assert!(label.counts.is_empty() && label.numbers.is_some());
    assert!(inspection.render().contains("a number, 0 to 7"), "{}", inspection.render());
}
