//! Every chart is well-formed SVG without NaN, whatever the data.

use proptest::prelude::*;
use sensorium_eval::plot::{
    Bar, BarChart, ConfusionMap, LineChart, Marker, ReliabilityDiagram, ScatterChart, Series, precision_recall_chart,
    roc_chart,
};
use sensorium_eval::{Interval, Lang, Probabilities, calibration};

/// Numbers as they come from training gone wrong as well as right.
fn number() -> impl Strategy<Value = f64> {
    prop_oneof![
        6 => -10.0..10.0f64,
        2 => any::<f64>(),
        1 => Just(f64::NAN),
        1 => Just(f64::INFINITY),
        1 => Just(0.0),
    ]
}

fn points() -> impl Strategy<Value = Vec<(f64, f64)>> {
    prop::collection::vec((number(), number()), 0..30)
}

fn lang() -> impl Strategy<Value = Lang> {
    prop_oneof![Just(Lang::En), Just(Lang::Zh)]
}

#[track_caller]
fn check(svg: &str) {
    let document = roxmltree::Document::parse(svg).unwrap_or_else(|error| panic!("{error}: {svg}"));
    for element in document.descendants() {
        for attribute in element.attributes() {
            let value = attribute.value();
            let drawn = !matches!(attribute.name(), "aria-label" | "font-family");
            assert!(!drawn || !(value.contains("NaN") || value.contains("inf")), "{attribute:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn line_charts(
        series in prop::collection::vec((".*", points()), 0..18),
        marker in prop::option::of((number(), ".*")),
        (whole_x, lang) in (any::<bool>(), lang()),
        title in ".*",
    ) {
        let series: Vec<_> = series.into_iter().map(|(name, points)| Series { name, points }).collect();
        let marker = marker.map(|(x, label)| Marker { x, label });
        check(&LineChart { title, series, marker, whole_x, lang, ..LineChart::default() }.to_svg());
    }

    #[test]
    fn curves(curves in prop::collection::vec((".*", points()), 0..20), lang in lang()) {
        check(&roc_chart(&curves, lang).to_svg());
        check(&precision_recall_chart(&curves, lang).to_svg());
    }

    #[test]
    fn bars(bars in prop::collection::vec((".*", prop::option::of(number()), number(), number()), 0..12)) {
        let bars = bars.into_iter().enumerate().map(|(at, (name, value, low, high))| Bar {
            name,
            value,
            interval: (at % 2 == 0).then_some(Interval { low, high }),
            highlight: at % 3 == 0,
        });
        let chart = BarChart { bars: bars.collect(), ..BarChart::default() };
        check(&chart.to_svg());
        check(&BarChart { unit: true, ..chart }.to_svg());
    }

    #[test]
    fn confusions(classes in prop::collection::vec((".*", 0u64..100_000), 0..12), lang in lang()) {
        let counts = classes.iter().map(|row| classes.iter().map(|cell| row.1 ^ cell.1).collect()).collect();
        let classes = classes.into_iter().map(|class| class.0).collect();
        check(&ConfusionMap { classes, counts, lang }.to_svg());
    }

    #[test]
    fn scatters(points in points(), title in ".*", lang in lang()) {
        check(&ScatterChart { title, points, lang }.to_svg());
    }

    #[test]
    fn reliability(rows in prop::collection::vec((0.0..=1.0f64, 0usize..2), 1..40), lang in lang()) {
        let truths: Vec<usize> = rows.iter().map(|row| row.1).collect();
        let values = rows.iter().flat_map(|row| [row.0, 1.0 - row.0]).collect();
        let p = Probabilities::new(values, 2).unwrap();
        check(&ReliabilityDiagram { calibration: calibration(&truths, &p, 15).unwrap(), lang }.to_svg());
    }
}
