//! A contact sheet: hits as one page that needs nothing else.
//!
//! Pictures are shown small, sounds can be played, texts are read; everything
//! is in the page itself. No script, nothing from elsewhere.

use super::Found;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sensorium_data::Modality;
use sensorium_media::Limits;
use sensorium_media::image::{self, Filter};
use std::fmt::Write;
use std::io::Read;

/// The longer side of a small picture, in pixels; twice what it is shown at,
/// for fine screens.
const SIDE: usize = 400;
/// The longest sound that goes into the page, in bytes.
const MAX_SOUND: u64 = 2 << 20;
/// The most of a text that is shown, in characters.
const MAX_TEXT: usize = 600;

pub(crate) const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1c1f23;--dim:#636b74;--paper:#fafafa;--card:#fff;--line:#dfe3e7;--mark:#2563a8}\
@media(prefers-color-scheme:dark){:root{--ink:#e6e8ea;--dim:#9aa3ac;--paper:#15181b;--card:#1e2226;--line:#333a41;--mark:#7db3ec}}\
body{margin:0 auto;max-width:76rem;padding:1.5rem;background:var(--paper);color:var(--ink);font:15px/1.45 system-ui,'Noto Sans','Noto Sans CJK SC',sans-serif}\
h1{font-size:1.3rem;margin:0 0 .2rem}header p{margin:0 0 1.2rem;color:var(--dim)}\
main{display:grid;grid-template-columns:repeat(auto-fill,minmax(13rem,1fr));gap:1rem}\
figure{margin:0;background:var(--card);border:1px solid var(--line);border-radius:.5rem;overflow:hidden;display:flex;flex-direction:column;break-inside:avoid}\
figure img{width:100%;height:11rem;object-fit:contain;background:var(--line)}\
figure audio{width:calc(100% - 1rem);margin:.7rem .5rem 0}\
blockquote{margin:0;padding:.9rem .9rem 0;font-size:1.05rem;overflow-wrap:anywhere;white-space:pre-wrap}\
figcaption{padding:.6rem .9rem .8rem;font-size:.85rem;color:var(--dim);overflow-wrap:anywhere}\
figcaption b{color:var(--ink);font-weight:600}.score{float:right;color:var(--mark);font-variant-numeric:tabular-nums}\
.bar{height:3px;background:var(--mark)}.gone{padding:.9rem .9rem 0;color:var(--dim);font-style:italic}\
dl{margin:.4rem 0 0;display:grid;grid-template-columns:auto 1fr;gap:0 .6rem}dt{color:var(--dim)}dd{margin:0;color:var(--ink)}";

/// The page. `title` says what was searched for; files that can no longer be
/// read are said to be so.
pub fn to_html(title: &str, about: &str, hits: &[Found]) -> String {
    let mut page = format!(
        "<!DOCTYPE html>\n<html>\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; media-src data:; \
         style-src 'unsafe-inline'\">\n<title>{0}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n\
         <header><h1>{0}</h1><p>{1}</p></header>\n<main>\n",
        escape(title),
        escape(about)
    );
    for (at, hit) in hits.iter().enumerate() {
        let width = (f64::from(hit.score).clamp(0.0, 1.0) * 100.0).round();
        let mut card = String::new();
        if hit.modality == Some(Modality::Text) {
            card.extend(hit.media.iter().map(|(modality, path)| shown(Some(*modality), path)));
        }
        card += &shown(hit.modality, &hit.entry.source);
        let mut facts = String::new();
        for (name, value) in hit.entry.fields.iter().filter(|(_, value)| !repeats(hit, value)) {
            // Writing to a string cannot fail.
            let _ = write!(facts, "<dt>{}</dt><dd>{}</dd>", escape(name), escape(&cut(value, 160)));
        }
        let _ = writeln!(
            page,
            "<figure><div class=\"bar\" style=\"width:{width}%\"></div>{card}<figcaption>\
             <span class=\"score\">{:.4}</span><b>{}. {}</b>{}</figcaption></figure>",
            hit.score,
            at + 1,
            escape(&hit.entry.id),
            if facts.is_empty() { facts } else { format!("<dl>{facts}</dl>") }
        );
    }
    page += "</main>\n</body>\n</html>\n";
    page
}

/// Whether a field only says what the card shows anyway.
fn repeats(hit: &Found, value: &str) -> bool {
    let entry = &hit.entry;
    value == entry.source
        || value == entry.id
        || (hit.modality != Some(Modality::Text) && entry.source.ends_with(value))
        || hit.media.iter().any(|(_, path)| path.ends_with(value))
}

/// A picture small, a sound to play, a text, as HTML; what cannot be read is
/// said to be gone.
pub(crate) fn shown(modality: Option<Modality>, source: &str) -> String {
    let name = source.rsplit(['/', '\\']).next().unwrap_or(source);
    let gone = |why: &str| format!("<div class=\"gone\">{}: {}</div>", escape(name), escape(why));
    match modality {
        Some(Modality::Image) => match thumbnail(source) {
            Ok(jpeg) => {
                format!("<img alt=\"{}\" src=\"data:image/jpeg;base64,{}\">", escape(name), STANDARD.encode(jpeg))
            }
            Err(why) => gone(&why),
        },
        Some(Modality::Audio) => match sound(source) {
            Ok((kind, bytes)) => {
                format!("<audio controls src=\"data:{kind};base64,{}\"></audio>", STANDARD.encode(bytes))
            }
            Err(why) => gone(&why),
        },
        Some(Modality::Video) => gone("a video; open the file to see it"),
        _ => format!("<blockquote>{}</blockquote>", escape(&cut(source, MAX_TEXT))),
    }
}

/// A small picture of a file, as JPEG.
fn thumbnail(path: &str) -> Result<Vec<u8>, String> {
    let limits = Limits::default();
    let bytes = read(path, limits.max_bytes)?;
    let picture = image::decode(&bytes, path, &limits).map_err(|_| "it can no longer be read".to_owned())?;
    let longer = picture.width.max(picture.height);
    let small = match longer > SIDE {
        false => picture,
        true => {
            let side = |n: usize| (n * SIDE / longer).max(1);
            image::resize(&picture, side(picture.width), side(picture.height), Filter::Bilinear)
        }
    };
    image::to_jpeg(&small, 82).map_err(|e| e.to_string())
}

/// A sound's type and bytes.
fn sound(path: &str) -> Result<(&'static str, Vec<u8>), String> {
    let bytes = read(path, MAX_SOUND)?;
    let kind = match path.rsplit('.').next().map(str::to_ascii_lowercase).as_deref() {
        Some("wav") => "audio/wav",
        Some("flac") => "audio/flac",
        Some("mp3") => "audio/mpeg",
        Some("ogg" | "oga" | "opus") => "audio/ogg",
        Some("m4a" | "aac") => "audio/mp4",
        _ => return Err("a sound that browsers do not play".into()),
    };
    Ok((kind, bytes))
}

fn read(path: &str, most: u64) -> Result<Vec<u8>, String> {
    let file = std::fs::File::open(path).map_err(|_| "the file is no longer there".to_owned())?;
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if bytes.len() as u64 > most { Err("it is too long to be shown here".into()) } else { Ok(bytes) }
}

fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use sensorium_index::Entry;

    fn found(modality: Modality, source: &str) -> Found {
        let fields = [("标签".to_owned(), "<狗>".to_owned())].into();
        let entry = Entry { id: "行 1".into(), source: source.into(), fields, ..Entry::default() };
        Found { score: 0.5, modality: Some(modality), entry, media: Vec::new() }
    }

    #[test]
    fn everything_is_in_the_page_and_nothing_gets_out() {
        let folder = tempfile::tempdir().expect("a folder");
        let picture = folder.path().join("a.jpg").display().to_string();
        let image = image::Image::filled(900, 300, [10, 200, 10]);
        std::fs::write(&picture, image::to_jpeg(&image, 90).expect("a JPEG")).expect("a file");
        let hits = [
            found(Modality::Image, &picture),
            found(Modality::Image, "/nowhere/b.jpg"),
            found(Modality::Text, "<script>alert(1)</script> 一只狗"),
        ];
        let mut caption = found(Modality::Text, "a green field");
        caption.media.push((Modality::Image, picture.clone()));
        let hits = hits.into_iter().chain([caption]).collect::<Vec<_>>();
        let page = to_html("\"狗\" & dogs", "4 hits", &hits);
        // The picture that was found, and the one of the caption that was.
        assert_eq!(page.matches("<img").count(), 2, "{page}");
        assert!(page.contains("&quot;狗&quot; &amp; dogs") && page.contains("&lt;狗&gt;"));
        assert!(page.contains("src=\"data:image/jpeg;base64,") && page.contains("no longer there"));
        assert!(!page.contains("<script") && !page.contains("http://") && !page.contains("https://"));
        let jpeg = page.split("base64,").nth(1).and_then(|s| s.split('"').next()).expect("a picture");
        let jpeg = STANDARD.decode(jpeg).expect("base64");
        let small = image::decode(&jpeg, "x", &Limits::default()).expect("a picture");
        assert_eq!((small.width, small.height), (400, 133));
    }
}
