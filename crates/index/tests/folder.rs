//! An index on disk: what is added is found, what is deleted is not, a kill
//! leaves the state before or after, and broken files are refused.

use sensorium_engine::Random;
use sensorium_index::{Entry, Finish, Index, IndexError, Metric, RowSet, Search, Settings, Writer, diverse, taste};
use std::path::Path;

const DIM: usize = 12;

fn settings() -> Settings {
    Settings { dim: DIM, metric: Metric::Cosine, model: "m1".into(), about: serde_json::json!({"space": "空间"}) }
}

fn vector(at: u64) -> Vec<f32> {
    let random = Random::new(5).at_step(at);
    (0..DIM as u64).map(|i| random.normal(i) as f32).collect()
}

fn entry(at: u64) -> Entry {
    let fields = [("kind".to_owned(), if at.is_multiple_of(2) { "偶" } else { "奇" }.to_owned())].into();
    Entry {
        id: format!("行 {at}"),
        column: "text".into(),
        content: format!("{at:x}"),
        source: format!("第 {at} 句"),
        fields,
    }
}

/// Adds these rows and commits.
fn add(writer: &mut Writer, rows: std::ops::Range<u64>) {
    rows.for_each(|at| writer.add(&vector(at), &entry(at)).unwrap());
    writer.commit().unwrap();
}

fn nearest(index: &Index, at: u64) -> String {
    let hits = index.search(&vector(at), &Search { top: 1, ..Search::default() }).unwrap();
    index.entry(hits[0][0].position).unwrap().id
}

fn filled(folder: &Path, rows: u64) -> Writer {
    let mut writer = Writer::open(folder, &settings()).unwrap();
    add(&mut writer, 0..rows / 2);
    add(&mut writer, rows / 2..rows);
    writer
}

#[test]
fn what_is_added_is_found_again() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path(), 300).finish(&Finish::default()).unwrap();
    let index = Index::open(folder.path()).unwrap();
    assert_eq!((index.len(), index.graph_rows()), (300, None));
    assert_eq!(index.manifest().about["space"], "空间");
    for at in [0, 149, 150, 299] {
        assert_eq!(nearest(&index, at), format!("行 {at}"));
    }
    assert_eq!(index.entry(200).unwrap(), entry(200));
    let mut seen = 0;
    index
        .each_entry(|position, found| {
            assert_eq!(found, entry(position as u64));
            seen += 1;
            Ok::<(), IndexError>(())
        })
        .unwrap();
    assert_eq!(seen, 300);
    assert!(matches!(index.entry(300), Err(IndexError::Vector { .. })));
}

#[test]
fn what_is_deleted_is_gone_and_its_place_is_given_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = filled(folder.path(), 100);
    writer.committed().unwrap();
    (0..40).for_each(|at| writer.delete(at));
    writer.finish(&Finish::default()).unwrap();
    drop(writer);
    let index = Index::open(folder.path()).unwrap();
    assert_eq!((index.len(), index.rows()), (60, 100));
    assert_ne!(nearest(&index, 3), "行 3");
    assert_eq!(nearest(&index, 70), "行 70");

    let mut writer = Writer::open(folder.path(), &settings()).unwrap();
    writer.committed().unwrap();
    (40..60).for_each(|at| writer.delete(at));
    writer.finish(&Finish::default()).unwrap();
    let index = Index::open(folder.path()).unwrap();
    assert_eq!((index.len(), index.rows()), (40, 40), "most was deleted: the rest is written anew");
    assert_eq!(nearest(&index, 70), "行 70");
    let files: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|f| f.unwrap().file_name()).collect();
    assert_eq!(files.len(), 3, "{files:?}");
}

#[test]
fn only_some_positions_are_searched_where_they_are_given() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path(), 200);
    let index = Index::open(folder.path()).unwrap();
    let odd: RowSet = (0..200).filter(|p| p % 2 == 1).collect();
    let search = Search { top: 500, only: Some(&odd), ..Search::default() };
    let hits = &index.search(&vector(4), &search).unwrap()[0];
    assert_eq!(hits.len(), 100);
    assert!(hits.iter().all(|hit| hit.position % 2 == 1));
}

#[test]
fn a_graph_answers_for_old_and_new_and_not_for_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let graph = Finish { graph_from: Some(100) };
    filled(folder.path(), 2000).finish(&graph).unwrap();
    let exact = Search { exact: true, ..Search::default() };
    let recall = || {
        let index = Index::open(folder.path()).unwrap();
        let queries: Vec<f32> = (5000..5050).flat_map(vector).collect();
        let truth = index.search(&queries, &exact).unwrap();
        let found = index.search(&queries, &Search::default()).unwrap();
        let pairs = truth.iter().zip(&found);
        let both = pairs.map(|(t, f)| t.iter().filter(|t| f.iter().any(|f| f.position == t.position)).count());
        both.sum::<usize>() as f64 / 500.0
    };
    assert_eq!(Index::open(folder.path()).unwrap().graph_rows(), Some(2000));
    assert!(recall() > 0.95, "{}", recall());

    let mut writer = Writer::open(folder.path(), &settings()).unwrap();
    writer.committed().unwrap();
    (0..200).for_each(|at| writer.delete(at));
    add(&mut writer, 2000..2500);
    drop(writer);
    let index = Index::open(folder.path()).unwrap();
    assert_eq!((index.graph_rows(), index.rows(), index.len()), (Some(2000), 2500, 2300));
    assert_eq!(nearest(&index, 2400), "行 2400", "not yet in the graph");
    assert_ne!(nearest(&index, 100), "行 100");
    assert!(recall() > 0.95, "{}", recall());

    Writer::open(folder.path(), &settings()).unwrap().finish(&graph).unwrap();
    assert_eq!(Index::open(folder.path()).unwrap().graph_rows(), Some(2500));
    assert!(recall() > 0.95, "{}", recall());
}

#[test]
fn a_kill_leaves_what_was_committed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    drop(filled(path, 100));
    // What a killed writer leaves: rows that were not committed, half a
    // segment, a whole one that index.json does not know yet.
    let mut writer = Writer::open(path, &settings()).unwrap();
    writer.add(&vector(100), &entry(100)).unwrap();
    drop(writer);
    let bytes = std::fs::read(path.join("segment-000000.bin")).unwrap();
    std::fs::write(path.join("segment-000002.bin.partial"), &bytes[..100]).unwrap();
    std::fs::write(path.join("segment-000009.bin"), &bytes).unwrap();
    std::fs::write(path.join("index.json.partial"), "{").unwrap();
    assert_eq!(Index::open(path).unwrap().len(), 100);
    let mut writer = Writer::open(path, &settings()).unwrap();
    assert!(!path.join("segment-000009.bin").exists() && !path.join("segment-000002.bin.partial").exists());
    add(&mut writer, 100..120);
    let index = Index::open(path).unwrap();
    assert_eq!(index.len(), 120);
    assert_eq!(nearest(&index, 110), "行 110");
}

#[test]
fn two_writers_do_not_mix() {
    let folder = tempfile::tempdir().unwrap();
    let first = Writer::open(folder.path(), &settings()).unwrap();
    assert!(matches!(Writer::open(folder.path(), &settings()), Err(IndexError::Busy { .. })));
    drop(first);
    Writer::open(folder.path(), &settings()).unwrap();
}

#[test]
fn vectors_of_another_model_or_kind_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    drop(filled(folder.path(), 10));
    for other in [
        Settings { model: "m2".into(), ..settings() },
        Settings { dim: 13, ..settings() },
        Settings { metric: Metric::InnerProduct, ..settings() },
    ] {
        assert!(matches!(Writer::open(folder.path(), &other), Err(IndexError::Mismatch { .. })));
    }
    let mut writer = Writer::open(folder.path(), &settings()).unwrap();
    for bad in [vec![1.0; 11], vec![0.0; 12], vec![f32::NAN; 12], vec![f32::INFINITY; 12]] {
        assert!(matches!(writer.add(&bad, &entry(0)), Err(IndexError::Vector { .. })));
    }
    let index = Index::open(folder.path()).unwrap();
    for bad in [vec![], vec![1.0; 11], vec![0.0; 12], vec![f32::NAN; 12]] {
        assert!(index.search(&bad, &Search::default()).is_err());
    }
    let others = tempfile::tempdir().unwrap();
    std::fs::write(others.path().join("photo.jpg"), "x").unwrap();
    let error = Writer::open(others.path(), &settings()).unwrap_err().to_string();
    assert!(error.contains("photo.jpg"), "{error}");
    assert!(matches!(Index::open(others.path()), Err(IndexError::NoIndex { .. })));
}

#[test]
fn every_damaged_byte_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let mut writer = filled(path, 40);
    writer.committed().unwrap();
    writer.delete(3);
    writer.finish(&Finish { graph_from: Some(1) }).unwrap();
    drop(writer);
    assert_eq!(Index::open(path).unwrap().graph_rows(), Some(40));
    for file in ["segment-000000.bin", "deleted-000002.bin", "graph-000003.bin"] {
        let file = path.join(file);
        let whole = std::fs::read(&file).unwrap();
        for at in (0..whole.len()).step_by(whole.len().div_ceil(50)) {
            let mut broken = whole.clone();
            broken[at] ^= 0x41;
            std::fs::write(&file, &broken).unwrap();
            let error = Index::open(path).expect_err("it is damaged");
            assert!(matches!(error, IndexError::Damaged { .. } | IndexError::Io { .. }), "{error}");
        }
        std::fs::write(&file, &whole[..whole.len() - 1]).unwrap();
        assert!(matches!(Index::open(path), Err(IndexError::Damaged { .. })));
        std::fs::write(&file, &whole).unwrap();
    }
    // What index.json says is believed only as far as there are bytes for it.
    let manifest = path.join("index.json");
    let text = std::fs::read_to_string(&manifest).unwrap();
    for (from, to) in [
        ("\"rows\": 20", "\"rows\": 4000000000"),
        ("\"rows\": 20", "\"rows\": 18446744073709551615"),
        ("\"dim\": 12", "\"dim\": 60000"),
        ("\"dim\": 12", "\"dim\": 0"),
        ("segment-000000.bin", "../index/x.bin"),
        ("\"format\": 1", "\"format\": 2"),
        ("\"cosine\"", "\"cosmic\""),
        ("\"next\"", "\"nexxt\""),
    ] {
        assert!(text.contains(from), "{from}");
        std::fs::write(&manifest, text.replacen(from, to, 1)).unwrap();
        assert!(Index::open(path).is_err(), "{to}");
    }
}

#[test]
fn a_taste_leads_to_its_neighbours_and_variety_spreads_them() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { dim: 3, ..settings() };
    let mut writer = Writer::open(folder.path(), &settings).unwrap();
    let vectors = [[1.0, 0.0, 0.0], [0.99, 0.1, 0.0], [0.98, 0.12, 0.0], [0.7, 0.0, 0.7], [0.0, 1.0, 0.0]];
    for (at, v) in vectors.iter().enumerate() {
        writer.add(v, &entry(at as u64)).unwrap();
    }
    writer.commit().unwrap();
    let index = Index::open(folder.path()).unwrap();
    let of = |at: usize| index.vector(at);
    let direction = taste(3, of(0), of(4)).unwrap();
    assert!(direction[0] > 0.9 && direction[1] < -0.9);
    assert!(taste(3, &[], &[]).is_err() && taste(3, of(1), of(1)).is_err());
    let hits = index.search(&[1.0, 0.05, 0.1], &Search::default()).unwrap().remove(0);
    let near: Vec<f32> = hits.iter().flat_map(|h| of(h.position)).copied().collect();
    let order = |variety| diverse(&hits, &near, 3, variety).into_iter().map(|h| h.position).collect::<Vec<_>>();
    assert_eq!(order(0.0), hits[..3].iter().map(|h| h.position).collect::<Vec<_>>());
    assert_eq!(order(0.5)[1], 3, "the second is unlike the first");
}
