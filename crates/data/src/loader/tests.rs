use std::sync::Arc;

use super::*;
use crate::segment::{Segment, SegmentKind};
use crate::test_support::Fixture;

fn loader(fixture: &Fixture, options: LoaderOptions) -> Loader {
    let table = fixture.table();
    let rows = (0..table.len()).collect();
    Loader::new(table, fixture.plan(), rows, None, options).expect("loader")
}

fn packs(loader: &Loader, epoch: u64, start: usize) -> Vec<Pack> {
    loader.epoch(epoch, start).map(|pack| pack.expect("pack")).collect()
}

fn shuffled(workers: usize, batch_size: BatchSize) -> LoaderOptions {
    LoaderOptions {
        batch_size,
        shuffle: true,
        seed: 7,
        bucket_window: 3,
        workers,
        prefetch: 1 + workers % 3,
        augmentation: Some(Augmentation::standard()),
        ..Default::default()
    }
}

#[test]
fn packs_are_the_same_for_any_number_of_threads_and_any_start() {
    let fixture = Fixture::new(40);
    for size in [BatchSize::Samples(7), BatchSize::Tokens(150)] {
        let first = loader(&fixture, shuffled(1, size));
        let expected = packs(&first, 3, 0);
        assert_eq!(expected.len(), first.batches(3));
        assert_eq!(expected.iter().map(Pack::len).sum::<usize>(), 40);
        for workers in [2, 4, 9] {
            assert!(packs(&loader(&fixture, shuffled(workers, size)), 3, 0) == expected, "{workers}");
        }
        for start in [1, 3, expected.len() - 1, expected.len(), 99] {
            let rest = &expected[start.min(expected.len())..];
            assert!(packs(&first, 3, start) == rest, "from {start}");
        }
        assert!(packs(&first, 4, 0) != expected);
    }
}

#[test]
fn the_cache_changes_no_bit() {
    let fixture = Fixture::new(25);
    let table = fixture.table();
    let plan = fixture.plan();
    let folder = tempfile::tempdir().expect("folder");
    let cache = Arc::new(Cache::open(folder.path(), 1 << 30).expect("cache"));
    let rows: Vec<u64> = (0..table.len()).collect();
    for augmentation in [None, Some(Augmentation::standard())] {
        let options = LoaderOptions { augmentation, ..Default::default() };
        let with = |cache| {
            let loader = Loader::new(table.clone(), plan.clone(), rows.clone(), cache, options.clone());
            packs(&loader.expect("loader"), 0, 0)
        };
        let plain = with(None);
        assert!(with(Some(cache.clone())) == plain);
        let (hits, _) = cache.hits_and_misses();
        assert!(with(Some(cache.clone())) == plain);
        assert!(cache.hits_and_misses().0 > hits + 20);
    }
}

#[test]
fn packs_hold_what_the_samples_hold() {
    let fixture = Fixture::new(40);
    let loader = loader(&fixture, LoaderOptions { batch_size: BatchSize::Samples(40), ..Default::default() });
    let pack = &packs(&loader, 0, 0)[0];
    assert_eq!(pack.rows, (0..40).collect::<Vec<u64>>());
    for (i, column) in pack.columns.iter().enumerate() {
        assert_eq!(column.column, i);
        assert_eq!(column.offsets.len(), column.segments() + 1);
        assert!(column.sample_of.is_sorted() && column.offsets.is_sorted());
        let per_unit = match column.kind {
            SegmentKind::Tokens | SegmentKind::Category => {
                assert_eq!(column.ids.len(), column.total());
                0
            }
            SegmentKind::Image | SegmentKind::Video => 3 * column.height * column.width,
            SegmentKind::Audio | SegmentKind::Features => column.dim,
            SegmentKind::Number => 1,
        };
        assert_eq!(column.values.len(), column.total() * per_unit);
    }
    let column = |name: &str| &pack.columns[loader.plan().column(name).expect(name)];
    // Rows 3, 13, 23, 33 have two pictures; every fifth row has none.
    assert_eq!(column("picture").segments(), 40 - 8 + 4);
    assert_eq!(pack.present(loader.plan().column("picture").expect("picture")).iter().filter(|p| **p).count(), 32);
    assert_eq!(column("sound").segments(), 30);
    assert!(column("sound").offsets.windows(2).all(|pair| pair[1] - pair[0] <= 25));
    for (i, row) in pack.rows.iter().enumerate() {
        let sample = loader.load_row(*row).expect("sample");
        assert_eq!(sample.target, pack.targets[i]);
        for (at, segment) in &sample.segments {
            let column = &pack.columns[*at];
            let mine: Vec<usize> = (0..column.segments()).filter(|s| column.sample_of[*s] as usize == i).collect();
            let same = mine.iter().any(|s| {
                let range = column.offsets[*s] as usize..column.offsets[*s + 1] as usize;
                match segment {
                    Segment::Tokens(ids) => column.ids[range] == ids[..],
                    Segment::Category(id) => column.ids[range] == [*id],
                    Segment::Number(x) => column.values[range] == [*x],
                    Segment::Image { data, .. } => column.values[range.start * data.len()..][..data.len()] == data[..],
                    Segment::Video { .. } => false,
                    Segment::Audio { mels: dim, data, .. } | Segment::Features { dim, data, .. } => {
                        column.values[range.start * dim..range.end * dim] == data[..]
                    }
                }
            });
            assert!(same, "row {row}, column {at}");
        }
    }
}

#[test]
fn bad_rows_follow_the_policy() {
    let fixture = Fixture::new(30);
    let plan = fixture.plan();
    for broken in ["0.bmp", "7.bmp"] {
        fixture.write(broken, b"not a picture");
    }
    let with = |on_bad, max_bad_fraction| {
        let table = fixture.table();
        let rows = (0..table.len()).collect();
        let options =
            LoaderOptions { on_bad, max_bad_fraction, batch_size: BatchSize::Samples(10), ..Default::default() };
        let loader = Loader::new(table, plan.clone(), rows, None, options).expect("loader");
        let packs: Vec<Result<Pack>> = loader.epoch(0, 0).collect();
        (loader.statistics(), packs)
    };
    let (statistics, packs) = with(OnBad::Null, 0.1);
    assert_eq!((statistics.samples, statistics.bad, statistics.skipped), (30, 2, 0));
    let first = packs[0].as_ref().expect("pack");
    let picture = plan.column("picture").expect("picture");
    assert!(!first.present(picture)[0] && first.present(picture)[1]);

    let (statistics, packs) = with(OnBad::Skip, 0.1);
    assert_eq!((statistics.samples, statistics.bad, statistics.skipped), (28, 2, 2));
    assert_eq!(packs[0].as_ref().expect("pack").rows, (1..10).filter(|r| *r != 7).collect::<Vec<u64>>());

    let (_, packs) = with(OnBad::Fail, 0.1);
    assert!(matches!(&packs[..], [Err(DataError::Cell { row: 1, column, .. })] if column == "picture"));

    let (_, packs) = with(OnBad::Null, 0.05);
    let error = packs.into_iter().find_map(Result::err).expect("too many").to_string();
    assert!(error.contains("2 of the 10 rows") && error.contains("row 8, column \"picture\""), "{error}");
}

#[test]
fn rows_without_a_target_or_anything_else_are_left_out() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("t.csv");
    std::fs::write(&path, "text,label\na b,x\n,y\nc d,\ne f,new\ng h,y\n").expect("write");
    let table = Arc::new(Table::open(&path, &Default::default()).expect("table"));
    let schema = crate::Schema::infer(&table, &Default::default()).expect("schema");
    let plan = DataPlan::fit(&table, &schema, &[0, 1, 4], &Default::default()).expect("plan");
    let options = LoaderOptions { require_target: true, max_bad_fraction: 1.0, ..Default::default() };
    let plan = Arc::new(plan);
    let loader =
        |options| Loader::new(table.clone(), Arc::clone(&plan), (0..5).collect(), None, options).expect("loader");
    let kept = packs(&loader(LoaderOptions { keep_empty: true, ..options.clone() }), 0, 0).remove(0);
    // Row 1 has a label and no text, row 2 the other way round.
    assert_eq!((kept.rows.as_slice(), kept.skipped), (&[0u64, 1, 4][..], 2));
    assert_eq!(kept.columns[0].sample_of, [0, 2]);
    let loader = loader(options);
    let pack = &packs(&loader, 0, 0)[0];
    assert_eq!((pack.rows.as_slice(), pack.skipped), (&[0u64, 4][..], 3));
    // The unseen class is a problem; the missing cells are not.
    assert_eq!(loader.statistics().bad, 1);
}

#[test]
fn waiting_is_measured_and_dropping_stops() {
    let fixture = Fixture::new(40);
    let loader =
        loader(&fixture, LoaderOptions { batch_size: BatchSize::Samples(2), workers: 3, ..Default::default() });
    let mut epoch = loader.epoch(0, 0);
    assert_eq!(epoch.batches(), 20);
    for _ in 0..3 {
        epoch.next().expect("batch").expect("pack");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(epoch.next_batch(), 3);
    drop(epoch);
    let statistics = loader.statistics();
    assert_eq!(statistics.samples, 6);
    assert!(statistics.elapsed >= Duration::from_millis(10));
    assert!((0.0..=1.0).contains(&statistics.wait_fraction()));
    assert!(statistics.text_tokens > 0);
}

#[test]
fn senseless_options_are_refused() {
    let fixture = Fixture::new(12);
    let (table, plan) = (fixture.table(), fixture.plan());
    let new = |rows, options| Loader::new(table.clone(), plan.clone(), rows, None, options);
    assert!(new(vec![99], LoaderOptions::default()).is_err());
    assert!(new(vec![0], LoaderOptions { batch_size: BatchSize::Samples(0), ..Default::default() }).is_err());
    assert!(new(vec![0], LoaderOptions { max_bad_fraction: 2.0, ..Default::default() }).is_err());
    assert_eq!(new(vec![], LoaderOptions::default()).expect("empty").epoch(0, 0).count(), 0);
}
