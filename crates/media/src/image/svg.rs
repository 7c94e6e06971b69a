//! SVG drawings: parsed and drawn by resvg, without access to files or the network.
//!
//! A drawing is code, so it gets limits of its own: bytes of text, depth of nesting, elements once
//! references are followed, work of its filters, and seconds. References to files and addresses and SVG inside SVG are left out; embedded
//! PNG, JPEG, GIF and WebP pictures are drawn when their headers are within the limits.

use std::io::Cursor;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{self, ImageHrefResolver, ImageKind, Options, Tree, fontdb};

use super::Image;
use super::decode::DecodeOptions;
use super::svg_cost::{check_depth, check_elements, check_filters};
use crate::Limits;
use crate::error::{MediaError, Result, guard};

/// Bytes of one SVG: far above any drawing by hand, far below what stalls the parser.
const MAX_SVG_BYTES: usize = 32 << 20;
/// Seconds after which a drawing is given up, if the limits allow that long.
const MAX_SECONDS: f64 = 60.0;
/// Stack of the thread that parses and draws, both of which recurse over the nesting.
const STACK_BYTES: usize = 64 << 20;

/// Whether the bytes are XML text with an `svg` element near the beginning.
pub(super) fn looks_like_svg(bytes: &[u8]) -> bool {
    let start = &bytes[..bytes.len().min(64 << 10)];
    let start = start.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(start);
    let first = start.iter().find(|byte| !byte.is_ascii_whitespace());
    first == Some(&b'<') && start.windows(4).any(|window| window == b"<svg" || window == b":svg")
}

/// Draws an SVG over the background, as large as it says it is and with a shorter side of at least
/// `options.svg_shorter_side`.
pub(super) fn decode(bytes: &[u8], source: &str, limits: &Limits, options: &DecodeOptions) -> Result<Image> {
    let text = std::str::from_utf8(bytes).map_err(|error| broken(source, format!("expected UTF-8 text, {error}")))?;
    if bytes.len() > MAX_SVG_BYTES {
        let problem = format!("{} bytes of text, expected at most {MAX_SVG_BYTES}", bytes.len());
        return Err(broken(source, problem));
    }
    // A thread of its own: a deep drawing must not overflow the small stack of a worker, and one
    // that takes too long can be left behind.
    let (sender, receiver) = sync_channel(1);
    let seconds = limits.max_decode_seconds.clamp(0.0, MAX_SECONDS);
    let task = (text.to_owned(), source.to_owned(), limits.clone(), options.clone());
    let work = move || {
        let (text, source, limits, options) = task;
        let outcome = guard(&source, "SVG", || draw(&text, &source, &limits, &options));
        // Nobody waits any more when the time is over.
        let _ = sender.send(outcome);
    };
    std::thread::Builder::new()
        .name("svg".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(work)
        .map_err(|error| broken(source, format!("cannot start a thread to draw it: {error}")))?;
    match receiver.recv_timeout(Duration::from_secs_f64(seconds)) {
        Ok(outcome) => outcome,
        Err(RecvTimeoutError::Disconnected) => Err(broken(source, "the drawing thread ended early")),
        Err(RecvTimeoutError::Timeout) => {
            Err(MediaError::TimedOut { origin: source.to_owned(), program: "resvg".to_owned(), limit: seconds })
        }
    }
}

pub(super) fn broken(source: &str, problem: impl ToString) -> MediaError {
    MediaError::broken(source, "SVG", problem)
}

fn draw(text: &str, source: &str, limits: &Limits, options: &DecodeOptions) -> Result<Image> {
    check_depth(text, source)?;
    let xml_options = usvg::roxmltree::ParsingOptions { allow_dtd: true, nodes_limit: 2_000_000, ..Default::default() };
    let document =
        usvg::roxmltree::Document::parse_with_options(text, xml_options).map_err(|error| broken(source, error))?;
    check_elements(&document, source)?;
    let tree = Tree::from_xmltree(&document, &parser_options(limits)).map_err(|error| broken(source, error))?;

    let size = tree.size();
    let shorter = f64::from(size.width().min(size.height()));
    let scale = (options.svg_shorter_side as f64 / shorter).max(1.0);
    let pixels_of = |length: f32| (f64::from(length) * scale).round().max(1.0);
    let (width, height) = (pixels_of(size.width()), pixels_of(size.height()));
    limits.check_pixels(source, "SVG", width as u64, height as u64)?;
    check_filters(&document, scale, width * height, source)?;

    let mut pixmap = Pixmap::new(width as u32, height as u32)
        .ok_or_else(|| broken(source, format!("its size of {width} x {height} cannot be drawn")))?;
    let [red, green, blue] = options.background;
    pixmap.fill(resvg::tiny_skia::Color::from_rgba8(red, green, blue, 255));
    let stretch =
        Transform::from_scale((width / f64::from(size.width())) as f32, (height / f64::from(size.height())) as f32);
    resvg::render(&tree, stretch, &mut pixmap.as_mut());
    // The background is opaque, so every pixel is and premultiplied colours are the plain ones.
    let rgb = pixmap.data().chunks_exact(4).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]);
    Image::new(width as usize, height as usize, rgb.collect())
}

/// Fonts of the system for drawings with text, looked up once; without any, text is left out.
fn system_fonts() -> Arc<fontdb::Database> {
    static FONTS: OnceLock<Arc<fontdb::Database>> = OnceLock::new();
    let load = || {
        let mut fonts = fontdb::Database::new();
        fonts.load_system_fonts();
        let families: Vec<String> =
            fonts.faces().filter_map(|face| face.families.first().map(|(name, _)| name.clone())).collect();
        let present = |name: &&str| families.iter().any(|family| family == name);
        // The library's own stand-in, Times New Roman, is on few systems; any font beats no text.
        let stand_in = ["Times New Roman", "Liberation Serif", "DejaVu Serif", "Noto Serif", "DejaVu Sans"];
        if let Some(name) = stand_in.iter().find(|name| present(name)).copied().or(families.first().map(String::as_str))
        {
            fonts.set_serif_family(name);
        }
        Arc::new(fonts)
    };
    Arc::clone(FONTS.get_or_init(load))
}

fn parser_options(limits: &Limits) -> Options<'static> {
    let limits = limits.clone();
    let embedded = move |_mime: &str, data: Arc<Vec<u8>>, _: &Options<'_>| {
        let format = image::guess_format(&data).ok()?;
        let kind = match format {
            image::ImageFormat::Png => ImageKind::PNG(Arc::clone(&data)),
            image::ImageFormat::Jpeg => ImageKind::JPEG(Arc::clone(&data)),
            image::ImageFormat::Gif => ImageKind::GIF(Arc::clone(&data)),
            image::ImageFormat::WebP => ImageKind::WEBP(Arc::clone(&data)),
            _ => return None,
        };
        let reader = image::ImageReader::with_format(Cursor::new(data.as_slice()), format);
        let (width, height) = reader.into_dimensions().ok()?;
        limits.check_pixels("", "", width.into(), height.into()).ok()?;
        Some(kind)
    };
    Options {
        image_href_resolver: ImageHrefResolver {
            resolve_data: Box::new(embedded),
            resolve_string: Box::new(|_, _| None),
        },
        fontdb: system_fonts(),
        ..Options::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw_text(text: &str) -> Result<Image> {
        decode(text.as_bytes(), "test.svg", &Limits::default(), &DecodeOptions::default())
    }

    #[test]
    fn a_drawing_is_scaled_to_the_shorter_side_over_the_background() {
        let svg = r##"<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 20 10">
            <rect width="10" height="10" fill="#ff0000"/></svg>"##;
        assert!(looks_like_svg(svg.as_bytes()));
        let image = draw_text(svg).unwrap();
        assert_eq!((image.width, image.height), (512, 256));
        assert_eq!(image.pixel(100, 100), [255, 0, 0]);
        assert_eq!(image.pixel(400, 100), [255, 255, 255]);
    }

    #[test]
    fn a_large_drawing_keeps_its_size_and_meets_the_limit() {
        let svg = r#"<svg xmlns="http://www.w3.org/2000/svg" width="300" height="400"/>"#;
        let image = draw_text(svg).unwrap();
        assert_eq!((image.width, image.height), (300, 400));
        let huge = r#"<svg xmlns="http://www.w3.org/2000/svg" width="1e6" height="1e6"/>"#;
        assert!(matches!(draw_text(huge), Err(MediaError::OverLimit { .. })));
    }

    #[test]
    fn files_are_not_read_from_a_drawing() {
        let file = tempfile::Builder::new().suffix(".png").tempfile().unwrap();
        image::RgbImage::new(2, 2).save(file.path()).unwrap();
        let svg = format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" width="300" height="300">
               <image href="{}" width="300" height="300"/></svg>"#,
            file.path().display()
        );
        let image = draw_text(&svg).unwrap();
        assert!(image.data.iter().all(|&value| value == 255), "the file was drawn");
    }

    #[test]
    fn drawings_that_double_themselves_are_refused() {
        let mut svg = String::from(
            r#"<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><g id="a0"><rect width="1" height="1"/></g>"#,
        );
        for level in 1..40 {
            let use_before = format!(r##"<use href="#a{}"/>"##, level - 1);
            svg += &format!(r#"<g id="a{level}">{use_before}{use_before}</g>"#);
        }
        svg += "</svg>";
        let message = draw_text(&svg).unwrap_err().to_string();
        assert!(message.contains("once references are followed"), "{message}");
    }

    #[test]
    fn deep_nesting_and_cycles_end_in_an_answer() {
        let open = "<g>".repeat(100_000);
        let deep = format!(r#"<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9">{open}"#);
        assert!(draw_text(&deep).unwrap_err().to_string().contains("nested deeper"));
        let cycle = r##"<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><g id="a"><use href="#b"/></g>
            <g id="b"><use href="#a"/></g><use href="#a"/></svg>"##;
        // Either outcome is fine; hanging or overflowing the stack is not.
        let _ = draw_text(cycle);
    }

    #[test]
    fn filters_that_would_take_minutes_are_refused() {
        let filters = [
            r#"<feMorphology operator="dilate" radius="300"/>"#.to_owned(),
            format!(r#"<feConvolveMatrix order="400" kernelMatrix="{}"/>"#, "1 ".repeat(160_000)),
            r#"<feGaussianBlur stdDeviation="50"/>"#.repeat(8000),
            r#"<feTurbulence baseFrequency="0.05" numOctaves="2000000000"/>"#.to_owned(),
        ];
        for filter in filters {
            let svg = format!(
                r##"<svg xmlns="http://www.w3.org/2000/svg" width="300" height="300"><filter id="f">{filter}</filter>
                <rect width="300" height="300" fill="red" filter="url(#f)"/></svg>"##
            );
            let message = draw_text(&svg).unwrap_err().to_string();
            assert!(message.contains("filters"), "{message}");
        }
    }

    #[test]
    fn an_ordinary_filter_is_drawn() {
        let svg = r##"<svg xmlns="http://www.w3.org/2000/svg" width="300" height="300"><filter id="f">
            <feGaussianBlur stdDeviation="5"/></filter><rect width="150" height="300" filter="url(#f)"/></svg>"##;
        let image = draw_text(svg).unwrap();
        assert_eq!(image.pixel(75, 150), [0, 0, 0]);
        assert!((60..200).contains(&image.pixel(150, 150)[0]));
    }

    #[test]
    fn a_drawing_that_takes_too_long_is_given_up() {
        let limits = Limits { max_decode_seconds: 0.0, ..Limits::default() };
        let svg = br#"<svg xmlns="http://www.w3.org/2000/svg" width="2000" height="2000"/>"#;
        let outcome = decode(svg, "slow.svg", &limits, &DecodeOptions::default());
        assert!(matches!(outcome, Err(MediaError::TimedOut { .. })), "{outcome:?}");
    }

    #[test]
    fn a_long_chain_of_references_is_refused() {
        let mut svg = String::from(r#"<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9">"#);
        for link in 0..100_000 {
            svg += &format!(r##"<g id="a{link}"><use href="#a{}"/></g>"##, link + 1);
        }
        assert!(draw_text(&(svg + "</svg>")).is_err());
    }

    #[test]
    fn entity_bombs_are_refused() {
        let mut svg = String::from("<!DOCTYPE svg [<!ENTITY e0 \"<rect width='1' height='1'/>\">");
        for level in 1..30 {
            let before = format!("&e{};", level - 1).repeat(10);
            svg += &format!("<!ENTITY e{level} \"{before}\">");
        }
        svg += r#"]><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9">&e29;</svg>"#;
        assert!(draw_text(&svg).is_err());
    }
}
