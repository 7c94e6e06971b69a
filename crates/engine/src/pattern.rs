//! Patterns over dotted parameter names.

/// Whether a pattern names a parameter: `*` stands for any run of characters, dots
/// included, `?` for one; a pattern without them also names all that lies below it, so
/// `text` and `text.*` both name `text.encoder.layer.0.weight`.
pub fn matches(pattern: &str, name: &str) -> bool {
    glob(pattern.as_bytes(), name.as_bytes())
        || (name.len() > pattern.len() && name.as_bytes()[pattern.len()] == b'.' && name.starts_with(pattern))
}

fn glob(pattern: &[u8], name: &[u8]) -> bool {
    // Greedy with one point of return: the last star seen.
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == b'?' || *c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => {
                let Some((at, from)) = star else { return false };
                star = Some((at, from + 1));
                p = at + 1;
                n = from + 1;
            }
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

/// The three names or parts of names nearest to a pattern that matches none,
/// for its error.
pub fn near<'a>(pattern: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let wanted = pattern.replace(['*', '?'], "");
    let wanted = wanted.trim_matches('.');
    let mut candidates: Vec<&str> = names
        .flat_map(|name| {
            let ends = name.match_indices('.').map(|(at, _)| at).chain([name.len()]);
            ends.map(|end| &name[..end]).collect::<Vec<_>>()
        })
        .collect();
    candidates.sort_unstable();
    candidates.dedup();
    let mut scored: Vec<_> = candidates.into_iter().map(|c| (strsim::normalized_levenshtein(wanted, c), c)).collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    scored.into_iter().take(3).map(|(_, c)| c.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_name_what_they_say() {
        let name = "text.encoder.layer.0.weight";
        for pattern in ["*", "text.*", "text", "text.encoder", "*.weight", "*layer.?.weight", "te*0*t", name] {
            assert!(matches(pattern, name), "{pattern}");
        }
        for pattern in ["tex", "text.encoder.layer.00.*", "*.bias", "", "text.encoder.layer.0.weight.x", "?"] {
            assert!(!matches(pattern, name), "{pattern}");
        }
        assert!(matches("文本.*", "文本.weight"));
    }

    #[test]
    fn near_names_are_found() {
        let names = ["text.encoder.weight", "image.encoder.weight", "head.bias"];
        assert_eq!(near("txt.*", names.into_iter())[0], "text");
        assert_eq!(near("head.bais", names.into_iter())[0], "head.bias");
    }
}
