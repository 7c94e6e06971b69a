//! Feature extractors of pretrained audio models against the reference library.

use sensorium_data::processor::{AudioProcessor, Processor};
use sensorium_data::{ColumnPlan, DataPlan, Modality, Sampler, Segment, Value};
use serde::Deserialize;
use std::sync::Arc;

/// What tools/parity/audio_processors.py wrote.
#[derive(Deserialize)]
struct Case {
    name: String,
    /// The extractor's configuration.
    config: serde_json::Value,
    shape: [usize; 2],
    /// Of the values every so many are written.
    step: usize,
    values: Vec<f32>,
}

/// The same sound as there, as a WAV file of so many samples a second.
fn sound(rate: u32) -> Vec<u8> {
    let samples = (0..20_000i64).flat_map(|i| {
        let triangle = ((i * 37) % 2000 - 1000).abs() * 20 - 10_000;
        let noise = (i * 7919 + (i * i) % 104_729) % 2001 - 1000;
        (((triangle * (i % 4000)).div_euclid(4000) + noise) as i16).to_le_bytes()
    });
    let samples: Vec<u8> = samples.collect();
    let mut wav = b"RIFF".to_vec();
    wav.extend((36 + samples.len() as u32).to_le_bytes());
    wav.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    wav.extend(rate.to_le_bytes());
    wav.extend((2 * rate).to_le_bytes());
    wav.extend(b"\x02\0\x10\0data");
    wav.extend((samples.len() as u32).to_le_bytes());
    wav.extend(samples);
    wav
}

fn plan(processor: AudioProcessor) -> DataPlan {
    let column = ColumnPlan {
        name: "sound".into(),
        source: "sound".into(),
        modality: Modality::Audio,
        processor: Processor::Audio(processor),
        sound_track: false,
    };
    DataPlan { version: 1, columns: vec![column], label: None, limits: Default::default(), tokenizer: None }
}

#[test]
fn extractors_give_what_the_reference_gives() {
    let golden = include_str!("golden/audio_processors.json");
    let cases: Vec<Case> = serde_json::from_str(golden).expect("cases");
    let folder = tempfile::tempdir().expect("folder");
    for case in cases {
        let name = &case.name;
        let rate = case.config["sampling_rate"].as_u64().expect("a rate") as u32;
        std::fs::write(folder.path().join("sound.wav"), sound(rate)).expect("written");
        std::fs::write(folder.path().join("preprocessor_config.json"), case.config.to_string()).expect("written");
        let processor = AudioProcessor::from_folder(folder.path()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let processor = processor.expect("there is a file");
        let sampler = Sampler::new(Arc::new(plan(processor)), folder.path(), None);
        let row = [("sound".to_owned(), Value::Text("sound.wav".into()))];
        let sample = sampler.from_values(0, &row).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(sample.problems.is_empty(), "{name}: {:?}", sample.problems);
        let Segment::Audio { frames, mels, data } = &sample.segments[0].1 else { panic!("{name}: not a sound") };
        assert_eq!([*frames, *mels], case.shape, "{name}");
        let ours: Vec<f32> = data.iter().copied().step_by(case.step).collect();
        assert_eq!(ours.len(), case.values.len(), "{name}");
        let worst = ours.iter().zip(&case.values).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        println!("{name}: differs by {worst:.1e}");
        assert!(worst <= 1e-4, "{name}: differs by {worst:e}");
    }
}

#[test]
fn a_folder_may_keep_its_extractor_in_a_joint_file_or_have_none() {
    let folder = tempfile::tempdir().expect("folder");
    assert_eq!(AudioProcessor::from_folder(folder.path()).expect("nothing to read"), None);
    let joint = r#"{"feature_extractor": {"feature_extractor_type": "Wav2Vec2FeatureExtractor"}, "tokenizer": {}}"#;
    std::fs::write(folder.path().join("processor_config.json"), joint).expect("written");
    let processor = AudioProcessor::from_folder(folder.path()).expect("read").expect("found");
    assert!(processor.normalize && processor.mels == 1);
    std::fs::write(folder.path().join("processor_config.json"), "{").expect("written");
    let error = AudioProcessor::from_folder(folder.path()).expect_err("broken").to_string();
    assert!(error.contains("processor_config.json"), "{error}");
}
