//! `sensorium index`, `search`, `recommend`, and `predict --labels`

use crate::extract::write_bert;
use crate::scene::{Scene, failure, stdout};
use assert_cmd::Command;
use serde_json::Value;

/// A table of every pair of words that the small model knows.
fn scene() -> Scene {
    let scene = Scene::new(1);
    write_bert(&scene, "bert");
    scene.write("words.csv", &table(|_| true));
    scene
}

fn table(wanted: impl Fn(&str) -> bool) -> String {
    let words = ["a", "b", "c", "甲", "乙"];
    let mut table = String::from("id,text,kind\n");
    for first in words {
        for second in words {
            let id = format!("{first}-{second}");
            let kind = if first.is_ascii() { "latin" } else { "汉字" };
            if wanted(&id) {
                table += &format!("{id},{first} {second} {first},{kind}\n");
            }
        }
    }
    table
}

fn run(scene: &Scene, arguments: &[&str]) -> Command {
    let mut command = scene.program();
    command.args(arguments);
    command
}

const INDEX: [&str; 7] = ["index", "bert", "words.csv", "--column", "text", "--out", "words.index"];

fn index(scene: &Scene) -> Value {
    let text = stdout(run(scene, &INDEX).args(["--id", "id", "--json", "--batch-size", "4"]));
    serde_json::from_str(&text).expect("one JSON object")
}

fn hits(command: &mut Command) -> Vec<(String, f64)> {
    let answer: Value = serde_json::from_str(&stdout(command.arg("--json"))).expect("one JSON object");
    let hit = |h: &Value| (h["id"].as_str().expect("a name").to_owned(), h["score"].as_f64().expect("a score"));
    answer["hits"].as_array().expect("hits").iter().map(hit).collect()
}

#[test]
fn what_is_indexed_is_found_by_its_own_text() {
    let scene = scene();
    let done = index(&scene);
    assert_eq!((&done["vectors"], &done["embedded"]), (&25.into(), &25.into()));
    for (text, id) in [("a b a", "a-b"), ("甲 乙 甲", "甲-乙")] {
        let found = hits(&mut run(&scene, &["search", "words.index", "--text", text, "--top", "3"]));
        assert_eq!(found.len(), 3);
        assert_eq!(found[0].0, id, "{found:?}");
        assert!((found[0].1 - 1.0).abs() < 1e-5 && found[1].1 <= found[0].1, "{found:?}");
    }
    let chosen = ["search", "words.index", "--text", "a b a", "--top", "50", "--where", "kind=汉字"];
    let found = hits(&mut run(&scene, &chosen));
    assert_eq!(found.len(), 10);
    assert!(found.iter().all(|(id, _)| id.starts_with(['甲', '乙'])));
    // The page holds the hits.
    let text = stdout(&mut run(&scene, &["search", "words.index", "--text", "甲 甲", "--html", "hits.html"]));
    assert!(text.ends_with("hits.html\n"), "{text}");
    let page = String::from_utf8(scene.bytes("hits.html")).expect("text");
    assert!(page.contains("<blockquote>甲 甲 甲</blockquote>") && page.matches("<figure>").count() == 10);
}

#[test]
fn only_what_is_new_or_changed_is_embedded() {
    let scene = scene();
    index(&scene);
    let again = index(&scene);
    assert_eq!((&again["embedded"], &again["unchanged"], &again["removed"]), (&0.into(), &25.into(), &0.into()));
    // Two rows go, one changes, one is new, one has another kind only.
    let mut changed = table(|id| !["a-a", "b-b"].contains(&id)).replace("c-c,c c c", "c-c,甲 c 乙 c");
    changed = changed.replace("a-b,a b a,latin", "a-b,a b a,other") + "new,乙 乙 b b,new\n";
    scene.write("words.csv", &changed);
    let done = index(&scene);
    assert_eq!((&done["embedded"], &done["unchanged"], &done["removed"]), (&2.into(), &22.into(), &2.into()));
    assert_eq!(done["vectors"], 24);
    let found = hits(&mut run(&scene, &["search", "words.index", "--text", "a a a", "--top", "99"]));
    assert_eq!(found.len(), 24);
    assert!(found.iter().all(|(id, _)| id != "a-a"));
    let found = hits(&mut run(&scene, &["search", "words.index", "--text", "a b a", "--where", "kind=other"]));
    assert_eq!(found.iter().map(|f| f.0.as_str()).collect::<Vec<_>>(), ["a-b"]);
    // One has another name: nothing is embedded, and nothing has gone.
    scene.write("words.csv", &changed.replace("\nnew,", "\nnewer,"));
    let done = index(&scene);
    assert_eq!((&done["embedded"], &done["unchanged"], &done["removed"]), (&0.into(), &24.into(), &0.into()));
    // Another table into the same index, the rest kept.
    scene.write("words.csv", "id,text,kind\nmore,b c a,x\n");
    let done: Value =
        serde_json::from_str(&stdout(run(&scene, &INDEX).args(["--id", "id", "--keep", "--json"]))).expect("JSON");
    assert_eq!((&done["embedded"], &done["vectors"]), (&1.into(), &25.into()));
}

#[test]
fn recommendations_are_new_and_differ() {
    let scene = scene();
    index(&scene);
    let taste =
        ["recommend", "words.index", "--liked", "a-a,a-b", "--disliked", "甲-甲", "--seen", "a-c", "--top", "5"];
    let found = hits(&mut run(&scene, &taste));
    assert_eq!(found.len(), 5);
    assert!(found.iter().all(|(id, _)| !["a-a", "a-b", "甲-甲", "a-c"].contains(&id.as_str())), "{found:?}");
    let alike = hits(run(&scene, &taste).args(["--variety", "0"]));
    assert!(alike.windows(2).all(|w| w[0].1 >= w[1].1), "by nearness alone: {alike:?}");
    let error = failure(&mut run(&scene, &["recommend", "words.index", "--liked", "a_a"]), 1);
    assert!(error.contains("no row \"a_a\"") && error.contains("a-"), "{error}");
}

#[test]
fn rows_are_sorted_into_classes_by_their_names() {
    let scene = scene();
    let labels = ["predict", "bert", "words.csv", "--column", "text", "--labels", "a,甲", "--template", "{} {} {}"];
    let text = stdout(&mut run(&scene, &labels));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines[0], lines.len()), ("row,label,p(a),p(甲),error", 26));
    let label = |row: usize| lines[row].split(',').nth(1).expect("a label");
    assert_eq!((label(1), label(19)), ("a", "甲"), "{text}");
    let one = stdout(&mut run(
        &scene,
        &["predict", "bert", "--text", "甲 甲 甲", "--labels", "a,甲", "--template", "{} {} {}"],
    ));
    assert!(one.lines().nth(1).is_some_and(|line| line.starts_with("1,甲,")), "{one}");
    let error =
        failure(&mut run(&scene, &["predict", "bert", "words.csv", "--labels", "a,甲", "--template", "none"]), 1);
    assert!(error.contains("{}"), "{error}");
}

#[test]
fn what_cannot_be_done_is_said() {
    let scene = scene();
    index(&scene);
    let error = failure(&mut run(&scene, &["search", "words.index", "--text", "a", "--where", "kinds=x"]), 1);
    assert!(error.contains("did you mean \"kind\"?"), "{error}");
    let error = failure(&mut run(&scene, &["search", "words.index", "--image", "pictures/0.png"]), 1);
    assert!(error.contains("embeds no image; it embeds text"), "{error}");
    let error = failure(&mut run(&scene, &["search", "pictures", "--text", "a"]), 1);
    assert!(error.contains("is not an index"), "{error}");
    // Another model's vectors do not mix.
    let weights = scene.path().join("bert/model.safetensors");
    let mut bytes = std::fs::read(&weights).expect("weights");
    let last = bytes.len() - 2;
    bytes[last] ^= 1;
    std::fs::write(&weights, bytes).expect("weights");
    let error = failure(&mut run(&scene, &["search", "words.index", "--text", "a"]), 1);
    assert!(error.contains("is not the model"), "{error}");
    let error = failure(run(&scene, &INDEX).args(["--id", "id"]), 1);
    assert!(error.contains("another model's"), "{error}");
}

#[cfg(not(feature = "postgres"))]
#[test]
fn a_program_without_postgresql_says_so() {
    let scene = scene();
    let address = "postgres://me:s3cret@localhost/media?index=words";
    for arguments in [&["search", address, "--text", "a"][..], &[&INDEX[..], &["--store", address]].concat()] {
        let error = failure(&mut run(&scene, arguments), 1);
        assert!(error.contains("--features postgres") && !error.contains("s3cret"), "{error}");
    }
}

#[cfg(feature = "postgres")]
#[test]
fn an_index_in_postgresql_answers_as_one_in_a_folder() {
    let Ok(server) = std::env::var("SENSORIUM_TEST_POSTGRES") else {
        eprintln!("skipped: SENSORIUM_TEST_POSTGRES names no server (scripts/postgres.sh starts one)");
        return;
    };
    let scene = scene();
    let name = format!("program_{}", std::process::id());
    let address = format!("{server}&index={name}");
    let index = |more: &[&str]| -> Value {
        let into = ["--id", "id", "--json", "--batch-size", "4", "--out", "there"];
        let command = ["index", "bert", "words.csv", "--column", "text"];
        let text = stdout(run(&scene, &command).args(into).args(more));
        serde_json::from_str(&text).expect("one JSON object")
    };
    self::index(&scene);
    let done = index(&["--store", &address]);
    assert_eq!((&done["embedded"], &done["vectors"]), (&25.into(), &25.into()));
    let ids = |found: Vec<(String, f64)>| found.into_iter().map(|f| f.0).collect::<Vec<_>>();
    for place in ["there", &address] {
        for more in [&["--top", "9"][..], &["--where", "kind=汉字", "--top", "50"]] {
            let query = |place| hits(run(&scene, &["search", place, "--text", "a 乙 a"]).args(more));
            assert_eq!(ids(query(place)), ids(query("words.index")), "{more:?}");
        }
        let taste = |place| ["recommend", place, "--liked", "a-a,a-b", "--disliked", "甲-甲", "--seen", "a-c"];
        assert_eq!(ids(hits(&mut run(&scene, &taste(place)))), ids(hits(&mut run(&scene, &taste("words.index")))));
    }
    // Up to date, by what the folder names: one row goes, one changes, one is new.
    let changed = table(|id| id != "a-a").replace("c-c,c c c", "c-c,甲 c 乙 c") + "new,乙 乙 b b,new\n";
    scene.write("words.csv", &changed);
    let done = index(&[]);
    assert_eq!((&done["embedded"], &done["unchanged"], &done["removed"]), (&2.into(), &23.into(), &1.into()));
    assert!(
        !ids(hits(&mut run(&scene, &["search", "there", "--text", "a a a", "--top", "99"]))).contains(&"a-a".into())
    );
    let error = failure(&mut run(&scene, &["search", "there", "--text", "a", "--where", "kinds=x"]), 1);
    assert!(error.contains("did you mean \"kind\"?"), "{error}");
}

#[test]
fn too_many_bad_rows_stop_and_what_was_done_stays() {
    let scene = scene();
    let good: String = (0..60).map(|i| format!("{i},{},x\n", ["a b", "甲", "c 乙"][i % 3])).collect();
    let bad = "7,b b b,x\n".repeat(40);
    scene.write("words.csv", &format!("id,text,kind\n{good}{bad}"));
    let error = failure(run(&scene, &INDEX).args(["--id", "id", "--batch-size", "10"]), 1);
    assert!(error.contains("--max-bad 0.1") && error.contains("row 61") && error.contains("\"7\""), "{error}");
    assert!(error.contains("column \"id\" does not name rows") && error.contains("stays in the index"), "{error}");
    scene.write("words.csv", &format!("id,text,kind\n{good}"));
    let done = index(&scene);
    assert_eq!((&done["embedded"], &done["unchanged"]), (&0.into(), &60.into()), "nothing is done twice");
}
