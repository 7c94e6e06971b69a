use std::io::Write;
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;

fn write(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join(name);
    File::create(&path).expect("create").write_all(bytes).expect("write");
    (folder, path)
}

fn open(name: &str, bytes: &[u8]) -> Result<(tempfile::TempDir, Table)> {
    let (folder, path) = write(name, bytes);
    Ok((folder, Table::open(path, &TableOptions::default())?))
}

fn texts(table: &Table, row: u64) -> Vec<Option<String>> {
    table.row(row).expect("row").values.iter().map(Value::as_text).collect()
}

fn some(cells: &[&str]) -> Vec<Option<String>> {
    cells.iter().map(|cell| Some(cell.to_string())).collect()
}

#[test]
fn csv_with_quotes_line_breaks_and_a_byte_order_mark() {
    let (_folder, table) =
        open("t.csv", "\u{FEFF}text,label\r\n\"a, \"\"b\"\"\nsecond line\",x\r\n\r\n中文,NA\n".as_bytes())
            .expect("table");
    assert_eq!(table.columns(), ["text", "label"]);
    assert_eq!(table.len(), 2);
    assert_eq!(texts(&table, 0), some(&["a, \"b\"\nsecond line", "x"]));
    assert_eq!(texts(&table, 1), [Some("中文".to_string()), None]);
    assert!(matches!(table.row(2), Err(DataError::RowOutOfRange { row: 3, len: 2, .. })));
}

#[test]
fn delimiters_are_sniffed() {
    for (name, delimiter) in [("t.tsv", "\t"), ("t.csv", ";"), ("t.txt", "|"), ("t.csv", ",")] {
        let text = format!("a{delimiter}b\n1{delimiter}2\n3{delimiter}4\n");
        let (_folder, table) = open(name, text.as_bytes()).expect("table");
        assert_eq!(table.columns(), ["a", "b"], "{delimiter:?}");
        assert_eq!(texts(&table, 1), some(&["3", "4"]));
    }
    let error = open("t.csv", b"text\none, two\nthree\n").expect_err("ragged");
    assert!(matches!(error, DataError::Ragged { row: 1, expected: 1, found: 2, .. }), "{error}");
}

#[test]
fn tab_separated_text_with_unclosed_quotes_is_text() {
    let (_folder, table) = open("t.tsv", b"text\tlabel\n\"so it begins\t1\nfine\t0\n").expect("table");
    assert_eq!(texts(&table, 0), some(&["\"so it begins", "1"]));
    assert_eq!(table.notes().len(), 1);
    let (_folder, table) = open("t.tsv", b"text\tlabel\n\"a\tb\"\t1\nfine\t0\n").expect("table");
    assert_eq!(texts(&table, 0), some(&["a\tb", "1"]));
}

#[test]
fn a_ragged_row_is_named() {
    let error = open("t.csv", b"a,b\n1,2\n\"x\ny\",2\n1,2,3\n").expect_err("ragged");
    let DataError::Ragged { row, line, expected, found, .. } = error else { panic!("{error}") };
    assert_eq!((row, line, expected, found), (3, 5, 2, 3));
}

#[test]
fn an_unclosed_quote_meets_the_row_limit() {
    let mut text = b"a,b\n1,\"2\n".to_vec();
    text.extend(std::iter::repeat_n(b"x,y\n", 100_000).flatten());
    let (_folder, path) = write("t.csv", &text);
    let options = TableOptions { max_row_bytes: 100_000, ..Default::default() };
    let message = Table::open(path, &options).expect_err("too long").to_string();
    assert!(message.contains("row 1 ") && message.contains("never closed"), "{message}");
}

#[test]
fn chinese_in_gb18030_is_converted_and_latin_1_is_refused_by_place() {
    let (bytes, _, _) = encoding_rs::GB18030.encode("文本,标签\n房间很干净，服务也好,好\n太吵,差\n");
    let (_folder, table) = open("t.csv", &bytes).expect("table");
    assert_eq!(table.columns(), ["文本", "标签"]);
    assert_eq!(texts(&table, 0), some(&["房间很干净，服务也好", "好"]));
    assert!(table.notes()[0].contains("GB18030"));

    let (_folder, path) = write("t.csv", b"text,label\nok,1\ncaf\xE9 r\xE9sum\xE9,2\n");
    let error = Table::open(&path, &TableOptions::default()).expect_err("latin 1");
    let DataError::Encoding { row, byte, value, .. } = error else { panic!("{error}") };
    assert_eq!((row, byte, value), (2, 19, 0xE9));
    let options = TableOptions { encoding: Some("windows-1252".into()), ..Default::default() };
    let table = Table::open(&path, &options).expect("named encoding");
    assert_eq!(texts(&table, 1), some(&["café résumé", "2"]));
    let options = TableOptions { encoding: Some("klingon".into()), ..Default::default() };
    assert!(matches!(Table::open(&path, &options), Err(DataError::EncodingChoice { .. })));
}

#[test]
fn utf_16_with_a_mark_is_converted() {
    let bytes: Vec<u8> = "\u{FEFF}a\tb\n中\t2\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let (_folder, table) = open("t.txt", &bytes).expect("table");
    assert_eq!(texts(&table, 0), some(&["中", "2"]));
}

#[test]
fn long_utf_8_across_chunks_is_utf_8() {
    let text = format!("a,b\n1,x{}\n", "中".repeat(100_000));
    let (_folder, table) = open("t.csv", text.as_bytes()).expect("table");
    assert_eq!(texts(&table, 0)[1].as_ref().map(|t| t.chars().count()), Some(100_001));
}

#[test]
fn json_lines_take_the_union_of_keys() {
    let (_folder, table) =
        open("t.jsonl", "{\"a\":1,\"b\":\"x\"}\n\n{\"c\":[1.5,2],\"a\":null}\n".as_bytes()).expect("table");
    assert_eq!(table.columns(), ["a", "b", "c"]);
    assert_eq!(table.len(), 2);
    let row = table.row(1).expect("row");
    assert_eq!(row.values[0], Value::Missing);
    assert_eq!(row.values[1], Value::Missing);
    assert!(matches!(&row.values[2], Value::Features(m) if m.data == [1.5, 2.0]));
    let error = open("t.jsonl", b"{\"a\":1}\n{\"a\":\n").expect_err("broken").to_string();
    assert!(error.contains("row 2 (line 2)"), "{error}");
}

#[test]
fn json_arrays_are_tables_too() {
    let (_folder, table) = open("t.json", b"[{\"a\": 1, \"b\": \"x\"},\n {\"a\": 2, \"b\": \"y\"}]").expect("table");
    assert_eq!(table.len(), 2);
    assert_eq!(texts(&table, 1), some(&["2", "y"]));
    let error = open("t.json", b"{\"data\": []}").expect_err("object").to_string();
    assert!(error.contains("array of objects"), "{error}");
}

#[test]
fn parquet_keeps_text_numbers_lists_and_bytes() {
    use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, FloatType};
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;
    let schema = "message m { required binary text (UTF8); optional double n; \
        required group v (LIST) { repeated group list { required float element; } } \
        required group image { optional binary bytes; optional binary path (UTF8); } }";
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("t.parquet");
    let schema = std::sync::Arc::new(parse_message_type(schema).expect("schema"));
    let mut writer =
        SerializedFileWriter::new(File::create(&path).expect("file"), schema, Default::default()).expect("writer");
    let mut group = writer.next_row_group().expect("group");
    let bytes = |texts: [&[u8]; 2]| texts.map(|t| ByteArray::from(t.to_vec()));
    let mut c = group.next_column().expect("column").expect("text");
    c.typed::<ByteArrayType>().write_batch(&bytes(["好".as_bytes(), b"b"]), None, None).expect("write");
    c.close().expect("close");
    let mut c = group.next_column().expect("column").expect("n");
    c.typed::<DoubleType>().write_batch(&[2.5], Some(&[1, 0]), None).expect("write");
    c.close().expect("close");
    let mut c = group.next_column().expect("column").expect("v");
    c.typed::<FloatType>().write_batch(&[1.0, 2.0, 3.0, 4.0], Some(&[1; 4]), Some(&[0, 1, 0, 1])).expect("write");
    c.close().expect("close");
    let mut c = group.next_column().expect("column").expect("bytes");
    c.typed::<ByteArrayType>()
        .write_batch(&bytes([b"\x89PNG\xFF".as_slice(), b"\xFF\xD8"]), Some(&[1, 1]), None)
        .expect("write");
    c.close().expect("close");
    let mut c = group.next_column().expect("column").expect("path");
    c.typed::<ByteArrayType>().write_batch(&[], Some(&[0, 0]), None).expect("write");
    c.close().expect("close");
    group.close().expect("close group");
    writer.close().expect("close file");

    let table = Table::open(&path, &TableOptions::default()).expect("table");
    assert_eq!(table.columns(), ["text", "n", "v", "image"]);
    let row = table.row(0).expect("row");
    assert_eq!(row.values[0], Value::Text("好".into()));
    assert_eq!(row.values[1], Value::Number(2.5));
    assert!(matches!(&row.values[2], Value::Features(m) if m.data == [1.0, 2.0]));
    assert!(matches!(&row.values[3], Value::Text(t) if t.starts_with("data:;base64,")));
    assert!(table.row(1).expect("row").values[1].is_missing());

    let error = open("t.parquet", b"PAR1 not really").expect_err("broken");
    assert!(matches!(error, DataError::Parquet { .. }));
}

#[test]
fn a_table_is_told_apart_from_a_folder_and_a_stranger() {
    assert!(matches!(open("t.xlsx", b"x"), Err(DataError::UnknownFormat { .. })));
    assert!(matches!(open("t.csv", b""), Err(DataError::NoColumns { .. })));
    assert!(matches!(open("t.csv", b"a,a\n"), Err(DataError::DuplicateColumn { .. })));
    let (_folder, table) = open("t.csv", b",text\n0,x\n").expect("table");
    assert_eq!(table.columns(), ["column_1", "text"]);
    assert!(table.notes().is_empty());
    let (_folder, headless) = open("t.csv", b"so good,1\nso bad,0\n").expect("table");
    assert!(headless.notes()[0].contains("if that line is data"), "{:?}", headless.notes());
    let error = table.column_index("txet").expect_err("unknown");
    assert!(matches!(error, DataError::UnknownColumn { suggestion: Some(near), .. } if near == "text"));
}

#[test]
fn sampled_rows_are_even_and_distinct() {
    let text = format!("a,b\n{}", "1,2\n".repeat(10));
    let (_folder, table) = open("t.csv", text.as_bytes()).expect("table");
    assert_eq!(table.sample_rows(5), [0, 2, 4, 6, 8]);
    assert_eq!(table.sample_rows(100).len(), 10);
}

proptest! {
    /// Reading rows in any order gives what the csv crate gives reading from the start.
    #[test]
    fn random_access_agrees_with_the_csv_crate(
        cells in proptest::collection::vec(
            proptest::collection::vec("[ab中\", \n\r\t;]{0,6}", 3), 0..20),
        line_feed in any::<bool>(),
    ) {
        let mut writer = csv::WriterBuilder::new()
            .terminator(if line_feed { csv::Terminator::Any(b'\n') } else { csv::Terminator::CRLF })
            .from_writer(Vec::new());
        writer.write_record(["a", "b", "c"]).expect("header");
        for row in &cells {
            writer.write_record(row).expect("row");
        }
        let bytes = writer.into_inner().expect("bytes");
        let expected: Vec<Vec<Value>> = csv::Reader::from_reader(bytes.as_slice())
            .records()
            .map(|record| record.expect("record").iter().map(Value::from_text).collect())
            .collect();
        let (_folder, path) = write("t.csv", &bytes);
        let options = TableOptions { delimiter: Some(','), ..Default::default() };
        let table = Table::open(path, &options).expect("table");
        prop_assert_eq!(table.len(), expected.len() as u64);
        for row in (0..table.len()).rev() {
            prop_assert_eq!(&table.row(row).expect("row").values, &expected[row as usize]);
        }
    }

    /// No bytes, however broken, bring the reader down.
    #[test]
    fn arbitrary_bytes_never_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        name in prop_oneof![Just("t.csv"), Just("t.tsv"), Just("t.jsonl"), Just("t.json"), Just("t.parquet")],
    ) {
        if let Ok((_folder, table)) = open(name, &bytes) {
            for row in table.rows() {
                prop_assert!(row.is_ok());
            }
        }
    }
}
