//! An index in PostgreSQL with pgvector: what holds of a folder holds there.
//!
//! Runs where `SENSORIUM_TEST_POSTGRES` is the address of a server on which
//! databases can be made, as `scripts/postgres.sh` gives it.

use postgres::{Client, NoTls};
use sensorium_engine::Random;
use sensorium_index::store::{self, Store, StoreWriter, Wanted};
use sensorium_index::{Entry, Finish, IndexError, Metric, Settings};
use std::path::Path;

const DIM: usize = 12;

/// A database of its own for each test; None where there is no server.
struct Database {
    /// The server's own database.
    server: String,
    name: String,
}

impl Database {
    fn new(name: &str) -> Option<Self> {
        let Ok(server) = std::env::var("SENSORIUM_TEST_POSTGRES") else {
            eprintln!("skipped: SENSORIUM_TEST_POSTGRES names no server (scripts/postgres.sh starts one)");
            return None;
        };
        let this = Self { server, name: format!("sensorium_test_{name}") };
        this.administer(&format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", this.name));
        this.administer(&format!("CREATE DATABASE {}", this.name));
        Some(this)
    }

    fn administer(&self, sql: &str) {
        Client::connect(&self.server, NoTls).unwrap().batch_execute(sql).unwrap();
    }

    /// The address of the database, with more parameters.
    fn address(&self, more: &str) -> String {
        let (base, query) = self.server.split_once('?').unwrap_or((&self.server, ""));
        let at = base.rfind('/').unwrap();
        format!("{}/{}?{query}&{more}", &base[..at], self.name)
    }

    fn client(&self) -> Client {
        Client::connect(&self.address(""), NoTls).unwrap()
    }

    fn writer(&self, settings: &Settings) -> Box<dyn StoreWriter> {
        let folder = tempfile::tempdir().unwrap();
        store::write(&folder.path().join("words"), Some(&self.address("index=words")), settings).unwrap()
    }

    fn open(&self) -> Box<dyn Store> {
        store::open(Path::new(&self.address("index=words"))).unwrap()
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.administer(&format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name));
        }
    }
}

fn settings() -> Settings {
    Settings { dim: DIM, metric: Metric::Cosine, model: "m1".into(), about: serde_json::json!({"space": "空间"}) }
}

fn vector(at: u64) -> Vec<f32> {
    let random = Random::new(5).at_step(at);
    (0..DIM as u64).map(|i| random.normal(i) as f32).collect()
}

fn entry(at: u64) -> Entry {
    let fields = [
        ("kind".to_owned(), if at.is_multiple_of(2) { "偶" } else { "奇" }.to_owned()),
        ("it's".to_owned(), format!("\"'; DROP TABLE sensorium_words; -- {at}")),
    ];
    Entry {
        id: format!("行 '{at}'"),
        column: if at.is_multiple_of(3) { "title" } else { "text" }.into(),
        content: format!("{at:x}"),
        source: format!("第 {at} 句"),
        fields: fields.into(),
    }
}

fn fill(writer: &mut dyn StoreWriter, rows: std::ops::Range<u64>) {
    rows.for_each(|at| writer.add(&vector(at), &entry(at)).unwrap());
}

const ALL: Wanted<'_> = Wanted { top: 5, exact: false, filters: &[], columns: &[] };

fn names(store: &mut dyn Store, at: u64, wanted: &Wanted<'_>) -> Vec<String> {
    let hits = store.nearest(&vector(at), wanted).unwrap();
    let positions: Vec<usize> = hits.iter().map(|h| h.position).collect();
    store.entries(&positions).unwrap().into_iter().map(|e| e.id).collect()
}

#[test]
fn a_database_answers_as_a_folder_does() {
    let Some(database) = Database::new("answers") else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut remote = database.writer(&settings());
    let mut local = store::write(folder.path(), None, &settings()).unwrap();
    for writer in [&mut remote, &mut local] {
        fill(&mut **writer, 0..300);
        writer.commit().unwrap();
        let done = writer.finish(&Finish::default(), &mut |_, _| {}).unwrap();
        assert_eq!((done.rows, done.graph), (300, None));
    }
    let (mut remote, mut local) = (database.open(), store::open(folder.path()).unwrap());
    assert_eq!((remote.count().unwrap(), remote.dim(), remote.model()), (300, DIM, "m1"));
    assert_eq!(remote.about()["space"], "空间");
    let kind = [("kind".to_owned(), "奇".to_owned())];
    let awkward = [("it's".to_owned(), "\"'; DROP TABLE sensorium_words; -- 7".to_owned())];
    let title = ["title".to_owned()];
    for wanted in [
        ALL,
        Wanted { top: 400, exact: true, ..ALL },
        Wanted { filters: &kind, ..ALL },
        Wanted { filters: &kind, columns: &title, top: 20, ..ALL },
        Wanted { filters: &awkward, ..ALL },
    ] {
        for at in [0, 7, 1000] {
            let found = names(&mut *remote, at, &wanted);
            assert_eq!(found, names(&mut *local, at, &wanted), "{wanted:?}");
            assert!(!found.is_empty());
            let (ours, theirs) =
                (remote.nearest(&vector(at), &wanted).unwrap(), local.nearest(&vector(at), &wanted).unwrap());
            assert!(ours.iter().zip(&theirs).all(|(a, b)| (a.score - b.score).abs() < 1e-6));
        }
    }
    for (filters, columns, expected) in [
        (&[("kinds".to_owned(), "偶".to_owned())][..], &[][..], "it's, kind"),
        (&[], &["titel".to_owned()], "text, title"),
    ] {
        let wanted = Wanted { filters, columns, ..ALL };
        for store in [&mut remote, &mut local] {
            let error = store.nearest(&vector(0), &wanted).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
    // A value that no row has is no mistake.
    let none = [("kind".to_owned(), "中".to_owned())];
    assert!(remote.nearest(&vector(0), &Wanted { filters: &none, ..ALL }).unwrap().is_empty());
    // What recommendations are made of.
    let wanted = ["行 '4'".to_owned(), "行 '299'".to_owned(), "none".to_owned()];
    let found = remote.named(&wanted, &[]).unwrap();
    assert_eq!(found.iter().map(|f| f.1.as_str()).collect::<Vec<_>>(), ["行 '4'", "行 '299'"]);
    assert_eq!(remote.named(&wanted, &title).unwrap().len(), 0);
    let length = vector(4).iter().map(|x| x * x).sum::<f32>().sqrt();
    let near = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b / length).abs() < 1e-6);
    assert!(near(&remote.vectors(&[found[0].0]).unwrap(), &vector(4)));
    assert!(remote.example().unwrap().is_some_and(|id| id.starts_with("行")));
    let error = remote.nearest(&[1.0; DIM + 1], &ALL).unwrap_err().to_string();
    assert!(error.contains("13 numbers") && error.contains("12"), "{error}");
}

#[test]
fn what_was_not_committed_is_lost_and_nothing_else() {
    let Some(database) = Database::new("kill") else { return };
    let mut writer = database.writer(&settings());
    fill(&mut *writer, 0..10);
    writer.commit().unwrap();
    let mut known = Vec::new();
    let mut read = |writer: &mut dyn StoreWriter| {
        known.clear();
        let mut take = |position, entry| {
            known.push((position, entry));
            Ok(())
        };
        writer.known(&mut take).unwrap();
        known.clone()
    };
    let before = read(&mut *writer);
    assert_eq!(before.len(), 10);
    let seventh = before.iter().find(|(_, e)| *e == entry(7)).unwrap().0;
    // A change that was begun: to a search there is the state before.
    writer.delete(seventh);
    fill(&mut *writer, 10..12);
    assert_eq!(names(&mut *database.open(), 7, &Wanted { top: 1, ..ALL }), ["行 '7'"]);
    drop(writer);
    let mut writer = database.writer(&settings());
    assert_eq!(read(&mut *writer).len(), 10, "what a killed writer had pending is not there");
    // Old out and new in at the same moment; the vector stays at hand for a row with the same content.
    writer.delete(seventh);
    fill(&mut *writer, 10..12);
    writer.commit().unwrap();
    let kept = writer.vector(seventh).unwrap();
    assert!(kept.iter().map(|x| x * x).sum::<f32>() > 0.99);
    assert_eq!(database.open().count().unwrap(), 11);
    assert_ne!(names(&mut *database.open(), 7, &Wanted { top: 1, ..ALL }), ["行 '7'"]);
    // The server ends the connection in the middle of things.
    writer.add(&vector(20), &entry(20)).unwrap();
    database.administer(&format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{}' AND pid <> pg_backend_pid()",
        database.name
    ));
    assert!(writer.commit().is_err());
    assert_eq!(database.open().count().unwrap(), 11);
    assert_eq!(read(&mut *database.writer(&settings())).len(), 11, "the lock went with the connection");
}

#[test]
fn large_indexes_are_linked_and_exact_searches_stay_exact() {
    let Some(database) = Database::new("linked") else { return };
    let mut writer = database.writer(&settings());
    fill(&mut *writer, 0..3000);
    let mut seen = Vec::new();
    let done = writer.finish(&Finish { graph_from: Some(2000) }, &mut |done, of| seen.push((done, of))).unwrap();
    assert_eq!((done.graph, seen), (Some(3000), vec![(0, 3000), (3000, 3000)]));
    let mut client = database.client();
    let plan = |client: &mut Client, order: &str| -> String {
        let zeros = format!("[{}]", ["0.1"; DIM].join(","));
        let sql =
            format!("EXPLAIN SELECT position FROM sensorium_words ORDER BY {order} LIMIT 10").replace("$1", &zeros);
        client.query(&sql, &[]).unwrap().iter().map(|row| row.get::<_, String>(0)).collect()
    };
    assert!(plan(&mut client, "vector <#> '$1'").contains("sensorium_words_hnsw"));
    assert!(!plan(&mut client, "(vector <#> '$1') + 0, position").contains("hnsw"));
    let mut store = database.open();
    let mut common = 0;
    for at in 5000..5050 {
        let exact = names(&mut *store, at, &Wanted { exact: true, top: 10, ..ALL });
        let near = names(&mut *store, at, &Wanted { top: 10, ..ALL });
        assert_eq!((exact.len(), near.len()), (10, 10));
        common += near.iter().filter(|id| exact.contains(id)).count();
    }
    assert!(common >= 475, "recall@10 {}", common as f64 / 500.0);
    // More than the graph keeps in view: exact, and all of them.
    assert_eq!(store.nearest(&vector(0), &Wanted { top: 2500, ..ALL }).unwrap().len(), 2500);
    // A small index needs no links.
    drop(writer);
    let done = database.writer(&settings()).finish(&Finish { graph_from: Some(4000) }, &mut |_, _| {}).unwrap();
    assert_eq!(done.graph, None);
    assert!(!plan(&mut client, "vector <#> '$1'").contains("hnsw"));
}

#[test]
fn what_does_not_fit_is_said_without_a_password() {
    let Some(database) = Database::new("errors") else { return };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("words");
    let address = database.address("index=words&password=s3cret");
    let write = |settings: &Settings| store::write(&out, Some(&address), settings).map(|_| ());
    let error = store::open(Path::new(&address)).err().unwrap().to_string();
    assert!(error.contains("no index \"words\"") && !error.contains("s3cret"), "{error}");
    // The folder names the database from here on, without the password.
    let mut writer = store::write(&out, Some(&address), &settings()).unwrap();
    let text = std::fs::read_to_string(out.join("store.json")).unwrap();
    assert!(text.contains("index=words") && !text.contains("s3cret"), "{text}");
    let error = write(&settings()).unwrap_err();
    assert!(matches!(error, IndexError::Busy { .. }) && !error.to_string().contains("s3cret"), "{error}");
    fill(&mut *writer, 0..3);
    writer.finish(&Finish::default(), &mut |_, _| {}).unwrap();
    drop(writer);
    assert_eq!(store::open(&out).unwrap().count().unwrap(), 3);
    for (other, expected) in [
        (Settings { model: "m2".into(), ..settings() }, "another model's"),
        (Settings { dim: 13, ..settings() }, "12 numbers"),
        (Settings { dim: 20_000, ..settings() }, "expected 1 to 16000"),
    ] {
        let error = write(&other).unwrap_err().to_string();
        assert!(error.contains(expected) && !error.contains("s3cret"), "{error}");
    }
    // A table of that name that is not ours.
    database
        .client()
        .batch_execute("CREATE TABLE sensorium_mine (id text); INSERT INTO sensorium_mine VALUES ('x')")
        .unwrap();
    let mine = database.address("index=mine");
    let error = store::write(&folder.path().join("mine"), Some(&mine), &settings()).err().unwrap().to_string();
    assert!(error.contains("no index's"), "{error}");
    assert!(!folder.path().join("mine").exists(), "a folder names only an index that is there");
    // A database without pgvector, and someone who may not add it.
    let mut client = database.client();
    client.batch_execute("DROP EXTENSION vector CASCADE; DROP TABLE sensorium_indexes").unwrap();
    client.batch_execute("DROP ROLE IF EXISTS sensorium_guest; CREATE ROLE sensorium_guest").unwrap();
    let guest = database.address("index=guest&options=-c%20role%3Dsensorium_guest");
    let error = store::write(&folder.path().join("guest"), Some(&guest), &settings()).err().unwrap().to_string();
    assert!(error.contains("CREATE EXTENSION vector"), "{error}");
    client.batch_execute("DROP ROLE sensorium_guest").unwrap();
}

#[test]
fn a_server_that_is_not_there_is_said() {
    let nowhere = "postgres://me:s3cret@127.0.0.1:1/media?index=words&connect_timeout=2";
    let error = store::open(Path::new(nowhere)).err().unwrap().to_string();
    assert!(error.contains("cannot reach postgres://me@127.0.0.1:1/media") && !error.contains("s3cret"), "{error}");
}

/// One table, its rows in two further databases: PostgreSQL's own way of
/// spreading a table over servers, as docs/retrieval.md describes it.
#[test]
fn an_index_can_be_spread_over_several_servers() {
    let Some(database) = Database::new("spread") else { return };
    let shards = [Database::new("shard_0"), Database::new("shard_1")].map(Option::unwrap);
    let mut client = database.client();
    let columns = "position bigint NOT NULL, id text NOT NULL, part text NOT NULL, content text NOT NULL,
        source text NOT NULL, fields jsonb NOT NULL, vector vector(12) NOT NULL";
    client
        .batch_execute(&format!(
            "CREATE EXTENSION vector; CREATE EXTENSION postgres_fdw; CREATE SEQUENCE words_position;
            CREATE TABLE sensorium_words ({columns}) PARTITION BY HASH (id);
            ALTER TABLE sensorium_words ALTER position SET DEFAULT nextval('words_position')"
        ))
        .unwrap();
    let here = client
        .query_one("SELECT current_user::text, split_part(current_setting('unix_socket_directories'), ',', 1), current_setting('port')", &[])
        .unwrap();
    let (user, socket, port): (String, String, String) = (here.get(0), here.get(1), here.get(2));
    for (at, shard) in shards.iter().enumerate() {
        shard
            .client()
            .batch_execute(&format!(
                "CREATE EXTENSION vector; CREATE TABLE words ({columns}); CREATE INDEX ON words (position);
                CREATE INDEX ON words USING hnsw (vector vector_ip_ops)"
            ))
            .unwrap();
        client
            .batch_execute(&format!(
                "CREATE SERVER shard_{at} FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '{socket}', port '{port}',
                    dbname '{}', extensions 'vector', options '-c hnsw.ef_search=200');
                CREATE USER MAPPING FOR CURRENT_USER SERVER shard_{at} OPTIONS (user '{user}');
                CREATE FOREIGN TABLE words_{at} PARTITION OF sensorium_words
                    FOR VALUES WITH (MODULUS 2, REMAINDER {at}) SERVER shard_{at} OPTIONS (table_name 'words')",
                shard.name
            ))
            .unwrap();
    }
    let mut writer = database.writer(&settings());
    fill(&mut *writer, 0..2000);
    let done = writer.finish(&Finish { graph_from: Some(1000) }, &mut |_, _| {}).unwrap();
    assert_eq!((done.rows, done.graph), (2000, Some(2000)));
    for shard in &shards {
        let rows: i64 = shard.client().query_one("SELECT count(*) FROM words", &[]).unwrap().get(0);
        assert!(rows > 900, "{rows} of 2000 rows");
    }
    let folder = tempfile::tempdir().unwrap();
    let mut local = store::write(folder.path(), None, &settings()).unwrap();
    fill(&mut *local, 0..2000);
    local.finish(&Finish { graph_from: None }, &mut |_, _| {}).unwrap();
    let (mut remote, mut local) = (database.open(), store::open(folder.path()).unwrap());
    let kind = [("kind".to_owned(), "奇".to_owned())];
    let mut common = 0;
    for at in 5000..5030 {
        for wanted in [Wanted { exact: true, ..ALL }, Wanted { filters: &kind, ..ALL }] {
            assert_eq!(names(&mut *remote, at, &wanted), names(&mut *local, at, &wanted));
        }
        let exact = names(&mut *local, at, &ALL);
        common += names(&mut *remote, at, &ALL).iter().filter(|id| exact.contains(id)).count();
    }
    assert!(common >= 142, "recall@5 {}", common as f64 / 150.0);
    // Bringing it up to date.
    drop(writer);
    let mut writer = database.writer(&settings());
    let mut seventh = None;
    let mut find = |position, e: Entry| {
        if e == entry(7) {
            seventh = Some(position);
        }
        Ok(())
    };
    writer.known(&mut find).unwrap();
    writer.delete(seventh.unwrap());
    fill(&mut *writer, 3000..3001);
    writer.finish(&Finish { graph_from: Some(1000) }, &mut |_, _| {}).unwrap();
    assert_eq!(names(&mut *remote, 3000, &Wanted { exact: true, top: 1, ..ALL }), ["行 '3000'"]);
    assert_eq!(remote.count().unwrap(), 2000);
    drop((writer, remote, client));
}
