//! The reports for people, as they appear in a terminal.

use indexmap::IndexMap;
use sensorium_eval::{
    Bootstrap, Classification, Comparison, Evaluation, Options, Probabilities, Regressed, compare_models,
};

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn options() -> Options<'static> {
    Options { bootstrap: Some(Bootstrap::default()), ..Options::default() }
}

fn example(predicted: &[usize]) -> Classification {
    let truths = [0, 0, 1, 1, 1, 2, 2, 2, 2, 2];
    Classification::from_labels(&names(&["猫科动物", "dog", "fish"]), &truths, predicted).unwrap()
}

#[test]
fn a_classification_report() {
    let judged = example(&[0, 1, 1, 1, 1, 2, 2, 2, 1, 2]);
    let mut evaluation = Evaluation::new(&judged, &Options::default()).unwrap();
    evaluation.gates.insert("文本".into(), 0.75);
    evaluation.gates.insert("image".into(), 0.25);
    let expected = "\
class     precision  recall      F1  support
────────  ─────────  ──────  ──────  ───────
猫科动物     1.0000  0.5000  0.6667        2
dog          0.6000  1.0000  0.7500        3
fish         1.0000  0.8000  0.8889        5

macro        0.8667  0.7667  0.7685       10
weighted     0.8800  0.8000  0.8028       10

true ╲ predicted  猫科动物  dog  fish
────────────────  ────────  ───  ────
猫科动物                 1    1     ·
dog                      ·    3     ·
fish                     ·    1     4

modality  mean weight
────────  ───────────  ───────────────
文本           0.7500  ███████████████
image          0.2500  █████
";
    let text = evaluation.to_text();
    assert!(text.ends_with(expected), "{text}");
    assert!(text.starts_with("10 rows "), "{text}");
}

#[test]
fn an_undefined_value_is_marked_and_explained() {
    let judged = example(&[1, 1, 1, 1, 1, 2, 2, 2, 1, 2]);
    let evaluation = Evaluation::new(&judged, &Options::default()).unwrap();
    let text = evaluation.classes_table();
    assert!(text.contains("*0.0000  0.0000  0.0000"), "{text}");
    assert!(text.ends_with("* undefined for want of rows, counted as 0\n"));
}

#[test]
fn columns_of_long_names_are_numbered() {
    let classes: Vec<String> = (0..8).map(|c| format!("很长的类别名称 {c}")).collect();
    let judged = Classification::from_labels(&classes, &[0, 7, 7], &[0, 7, 2]).unwrap();
    let text = Evaluation::new(&judged, &Options::default()).unwrap();
    let text = text.confusion_text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "true ╲ predicted    1  2  3  4  5  6  7  8");
    assert_eq!(lines[9], "8 很长的类别名称 7  ·  ·  1  ·  ·  ·  ·  1");
}

#[test]
fn many_classes_are_told_in_words() {
    let classes: Vec<String> = (0..21).map(|c| format!("class {c}")).collect();
    let truths: Vec<usize> = (0..42).map(|row| row % 21).collect();
    let predicted: Vec<usize> = truths.iter().map(|&t| if t == 3 { 4 } else { t }).collect();
    let judged = Classification::from_labels(&classes, &truths, &predicted).unwrap();
    let evaluation = Evaluation::new(&judged, &Options::default()).unwrap();
    let expected = "what was taken for what\n  class 3 → class 4: 2\n";
    assert_eq!(evaluation.confusion_text(), expected);
}

#[test]
fn before_against_after() {
    let before = example(&[0, 1, 1, 0, 1, 2, 2, 2, 1, 2]);
    let after = example(&[0, 0, 1, 2, 1, 2, 2, 2, 2, 2]);
    let comparison = Comparison::new(&before, &after, &options()).unwrap();
    let text = comparison.to_text(None);
    let accuracy = text.lines().find(|line| line.starts_with("Accuracy")).unwrap();
    assert!(accuracy.contains("0.7000") && accuracy.contains("0.9000"));
    assert!(accuracy.contains("+0.2000"), "{accuracy}");
    let expected = "
right only before: 0, right only after: 2 (McNemar's exact test: p = 0.500)

3 rows changed: 2 better, 0 worse
row  truth     before    after
───  ────────  ────────  ────────  ───────────
  2  猫科动物  dog       猫科动物  better
  4  dog       猫科动物  fish      still wrong
  9  fish      dog       fish      better
";
    assert!(text.ends_with(expected), "{text}");
    let ids = names(&["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"]);
    assert!(comparison.to_text(Some(&ids)).contains("\n  b  猫科动物"));
    let same = Comparison::new(&before, &before, &options()).unwrap();
    assert!(same.to_text(None).ends_with("\nno row changed its answer\n"));
}

#[test]
fn several_models_on_one_table() {
    let mut models = IndexMap::new();
    for (name, predicted) in
        [("image only", [0, 1, 1, 0, 1, 2, 2, 2, 1, 2]), ("图文融合", [0, 0, 1, 2, 1, 2, 2, 2, 2, 2])]
    {
        let evaluation = Evaluation::new(&example(&predicted), &options()).unwrap();
        models.insert(name.to_owned(), evaluation);
    }
    let markdown = compare_models(&models, &["accuracy", "macro_f1"], true);
    let lines: Vec<&str> = markdown.lines().collect();
    assert_eq!(lines[0], "| model | rows | Accuracy [95 %] | Macro F1 [95 %] |");
    assert!(lines[2].starts_with("| image only | 10 | 0.7000 [0."), "{markdown}");
    assert!(lines[3].starts_with("| 图文融合 | 10 | **0.9000** [0."), "{markdown}");
    let text = compare_models(&models, &["accuracy"], false);
    assert!(text.contains("图文融合      10  0.9000* ["), "{text}");
    assert!(text.contains("image only    10  0.7000  ["), "{text}");
}

#[test]
fn a_lower_error_is_the_better_one() {
    let mut models = IndexMap::new();
    for (name, predicted) in [("a", [1.5, 2.5]), ("b", [1.1, 2.1])] {
        let judged = Regressed::new(&[1.0, 2.0], &predicted).unwrap();
        let evaluation = Evaluation::new(&judged, &Options::default()).unwrap();
        models.insert(name.to_owned(), evaluation);
    }
    let markdown = compare_models(&models, &["mae"], true);
    assert!(markdown.contains("| b | 2 | **0.1000** |"), "{markdown}");
}

#[test]
fn the_subsets_stand_beside_the_whole() {
    let p = vec![0.9, 0.1, 0.2, 0.8, 0.6, 0.4];
    let p = Probabilities::new(p, 2).unwrap();
    let judged = Classification::new(&names(&["否", "是"]), &[0, 1, 1], p).unwrap();
    let modalities = names(&["text+image", "text", "text+image"]);
    let options = Options { modalities: Some(&modalities), ..Options::default() };
    let evaluation = Evaluation::new(&judged, &options).unwrap();
    let text = evaluation.subsets_table();
    let rows: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(rows[2], ["all", "3", "0.6667", "0.6667"]);
    assert_eq!(rows[3], ["text+image", "2", "0.5000", "0.3333"]);
    assert_eq!(rows[4], ["text", "1", "1.0000", "1.0000"]);
}
