use super::*;

const TEXTS: [&str; 8] = [
    "The hotel is clean, the service is good.",
    "房间很干净，服务也很好！",
    "The HOTEL was noisy; the service was slow.",
    "房间太吵，服务很差。",
    "Ｆｕｌｌ－ｗｉｄｔｈ letters and ligatures: ﬁne",
    "lowest lower newest newer widest wider low new wide",
    "今天天气很好 and the weather is good 123 456",
    "cafés and naïve résumés; Привет, мир! привет",
];

fn train(kind: TokenizerKind) -> Tokenizer {
    let options = TokenizerOptions { kind, ..Default::default() };
    Tokenizer::train(TEXTS.map(|text| Ok(text.to_string())), &options).expect("train")
}

fn pieces(tokenizer: &Tokenizer, text: &str) -> Vec<String> {
    let ids = tokenizer.encode(text, 256).expect("encode").ids;
    ids.into_iter().map(|id| tokenizer.token(id).expect("token")).collect()
}

#[test]
fn learning_gives_the_same_bytes_each_time_and_in_any_order() {
    for kind in [TokenizerKind::WordPiece, TokenizerKind::Bpe] {
        let first = train(kind);
        for _ in 0..5 {
            assert_eq!(train(kind).json, first.json);
        }
        let options = TokenizerOptions { kind, ..Default::default() };
        let mut backwards = TEXTS.map(|text| Ok(text.to_string()));
        backwards.reverse();
        assert_eq!(Tokenizer::train(backwards, &options).expect("train").json, first.json);
        let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("pool");
        assert_eq!(one.install(|| train(kind)).json, first.json);
    }
}

#[test]
fn chinese_characters_are_tokens_and_words_are_pieces() {
    let tokenizer = train(TokenizerKind::WordPiece);
    assert_eq!(pieces(&tokenizer, "服务很好"), ["[CLS]", "服", "务", "很", "好", "[SEP]"]);
    assert_eq!(pieces(&tokenizer, "Ｈotel"), pieces(&tokenizer, "hotel"));
    assert_eq!(pieces(&tokenizer, "龘"), ["[CLS]", "[UNK]", "[SEP]"]);
    let words = pieces(&tokenizer, "the lowest cafés");
    assert!(!words.contains(&"[UNK]".to_string()), "{words:?}");
    assert!(words.contains(&"the".to_string()), "{words:?}");
    assert_eq!(tokenizer.token_id("[PAD]"), Some(0));
    assert_eq!(tokenizer.token_id("[MASK]"), Some(4));
}

#[test]
fn byte_pieces_restore_every_text() {
    let options = TokenizerOptions { kind: TokenizerKind::Bpe, lowercase: false, ..Default::default() };
    let tokenizer = Tokenizer::train(TEXTS.map(|t| Ok(t.to_string())), &options).expect("train");
    for text in ["The service is good", "龘龘 unseen 漢字 🙂 tabs\tand\nlines", "服务很好"] {
        let ids = tokenizer.encode(text, 256).expect("encode").ids;
        assert_eq!(tokenizer.decode(&ids).expect("decode"), text);
    }
}

#[test]
fn long_texts_lose_their_end_and_keep_the_special_tokens() {
    let tokenizer = train(TokenizerKind::WordPiece);
    let tokens = tokenizer.encode("很好很好很好", 5).expect("encode");
    assert_eq!(tokens.ids.len(), 5);
    assert!(tokens.truncated);
    assert_eq!(tokens.ids.last().copied(), tokenizer.token_id("[SEP]"));
    assert!(!tokenizer.encode("很好", 5).expect("encode").truncated);
    let huge = "a ".repeat(1_000_000);
    assert!(tokenizer.encode(&huge, 5).expect("encode").truncated);
}

#[test]
fn special_tokens_in_a_text_are_text() {
    let tokenizer = train(TokenizerKind::WordPiece);
    let ids = tokenizer.encode("[SEP] good", 64).expect("encode").ids;
    let separators = ids.iter().filter(|id| Some(**id) == tokenizer.token_id("[SEP]")).count();
    assert_eq!(separators, 1);
}

#[test]
fn saved_tokenizers_load_and_strangers_are_refused() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("tokenizer.json");
    let tokenizer = train(TokenizerKind::Bpe);
    tokenizer.save(&path).expect("save");
    let loaded = Tokenizer::load(&path).expect("load");
    assert_eq!(loaded, tokenizer);
    assert_eq!(loaded.vocab_size(), tokenizer.vocab_size());
    std::fs::write(&path, "{}").expect("write");
    assert!(matches!(Tokenizer::load(&path), Err(DataError::Tokenizer(_))));
    assert!(matches!(
        Tokenizer::train([Ok("  ".to_string())], &TokenizerOptions::default()),
        Err(DataError::Tokenizer(_))
    ));
}

#[test]
fn vocabulary_size_is_respected() {
    let options = TokenizerOptions { vocab_size: Some(150), ..Default::default() };
    let tokenizer = Tokenizer::train(TEXTS.map(|t| Ok(t.to_string())), &options).expect("train");
    let characters = train(TokenizerKind::WordPiece);
    assert!(tokenizer.vocab_size() <= 150.max(characters.vocab_size()), "{}", tokenizer.vocab_size());
}
