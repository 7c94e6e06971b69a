//! The metrics of retrieval against ranx and scikit-learn (values by tools/retrieval_golden.py).

use sensorium_eval::{Retrieval, RetrievalMetrics};
use serde_json::Value;

#[test]
fn both_directions_match_the_reference_tools() {
    let golden: Value = serde_json::from_str(include_str!("golden/retrieval.json")).unwrap();
    let cases = golden.as_array().unwrap();
    assert!(cases.len() >= 3);
    for case in cases {
        let name = &case["name"];
        let scores: Vec<Vec<f64>> = serde_json::from_value(case["scores"].clone()).unwrap();
        let relevant: Vec<Vec<usize>> = serde_json::from_value(case["relevant"].clone()).unwrap();
        let (forward, back) = Retrieval::both_ways(&scores.concat(), scores[0].len(), &relevant).unwrap();
        for (way, got) in [("forward", forward.metrics()), ("back", back.metrics())] {
            let RetrievalMetrics { recall_at_1, recall_at_5, recall_at_10, median_rank, mrr, ndcg_at_10, map, .. } =
                got;
            for (what, got) in [
                ("recall_at_1", recall_at_1),
                ("recall_at_5", recall_at_5),
                ("recall_at_10", recall_at_10),
                ("median_rank", median_rank),
                ("mrr", mrr),
                ("ndcg_at_10", ndcg_at_10),
                ("map", map),
            ] {
                let want = case[way][what].as_f64().unwrap();
                assert!((got - want).abs() < 1e-9, "{name}, {way}, {what}: got {got}, expected {want}");
            }
        }
    }
}
