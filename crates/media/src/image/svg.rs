//! SVG drawings: parsed and drawn by resvg, without access to files or the network.
//!
//! A drawing is code, so it gets limits of its own: bytes of text, depth of nesting, elements after
//! `use` is followed. References to files and addresses and SVG inside SVG are left out; embedded
//! PNG, JPEG, GIF and WebP pictures are drawn when their headers are within the limits.

use std::io::Cursor;
use std::sync::{Arc, OnceLock};

use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{self, ImageHrefResolver, ImageKind, Options, Tree, fontdb};

use super::Image;
use super::decode::DecodeOptions;
use crate::Limits;
use crate::error::{MediaError, Result, guard};

/// Bytes of one SVG: far above any drawing by hand, far below what stalls the parser.
const MAX_SVG_BYTES: usize = 32 << 20;
/// Depth of nested elements that is parsed; drawing programs stay below a hundred.
const MAX_DEPTH: usize = 512;
/// Elements that may be drawn once every `use` is followed.
const MAX_ELEMENTS: u64 = 500_000;
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
    // A thread of its own: a deep drawing must not overflow the small stack of a worker.
    std::thread::scope(|scope| {
        let worker = std::thread::Builder::new()
            .name("svg".to_owned())
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, || guard(source, "SVG", || draw(text, source, limits, options)))
            .map_err(|error| broken(source, format!("cannot start a thread to draw it: {error}")))?;
        worker.join().unwrap_or_else(|_| Err(broken(source, "the drawing thread ended early")))
    })
}

fn broken(source: &str, problem: impl ToString) -> MediaError {
    MediaError::broken(source, "SVG", problem)
}

fn draw(text: &str, source: &str, limits: &Limits, options: &DecodeOptions) -> Result<Image> {
    check_depth(text, source)?;
    let xml_options = usvg::roxmltree::ParsingOptions { allow_dtd: true, nodes_limit: 2_000_000, ..Default::default() };
    let document =
        usvg::roxmltree::Document::parse_with_options(text, xml_options).map_err(|error| broken(source, error))?;
    check_uses(&document, source)?;
    let tree = Tree::from_xmltree(&document, &parser_options(limits)).map_err(|error| broken(source, error))?;

    let size = tree.size();
    let shorter = f64::from(size.width().min(size.height()));
    let scale = (options.svg_shorter_side as f64 / shorter).max(1.0);
    let pixels_of = |length: f32| (f64::from(length) * scale).round().max(1.0);
    let (width, height) = (pixels_of(size.width()), pixels_of(size.height()));
    limits.check_pixels(source, "SVG", width as u64, height as u64)?;

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

/// Errors when elements are nested deeper than the parser may recurse.
///
/// Counts tags without parsing: comments and quoted text can only raise the count, and no real
/// drawing comes near the limit.
fn check_depth(text: &str, source: &str) -> Result<()> {
    let mut depth = 0usize;
    for (at, _) in text.match_indices('<') {
        let rest = &text.as_bytes()[at + 1..];
        match rest.first() {
            Some(b'/') => depth = depth.saturating_sub(1),
            Some(b'!' | b'?') | None => {}
            Some(_) => {
                let end = rest.iter().position(|&byte| byte == b'>').unwrap_or(0);
                if end == 0 || rest[end - 1] != b'/' {
                    depth += 1;
                }
            }
        }
        if depth > MAX_DEPTH {
            let problem = format!("elements nested deeper than {MAX_DEPTH}");
            return Err(broken(source, problem));
        }
    }
    Ok(())
}

/// Errors when following every `use` draws more elements than allowed or never ends.
///
/// A few lines of `use` that each name the line before twice double the drawing with every line.
fn check_uses(document: &usvg::roxmltree::Document<'_>, source: &str) -> Result<()> {
    use std::collections::HashMap;
    use usvg::roxmltree::Node;

    fn referenced<'d>(node: Node<'d, 'd>, by_id: &HashMap<&str, Node<'d, 'd>>) -> Vec<Node<'d, 'd>> {
        // Paint servers, masks, filters and markers are followed too: all name their target by
        // `#id`, in an attribute or in a style.
        let mut targets = Vec::new();
        for attribute in node.attributes() {
            let value = attribute.value();
            let whole = value.strip_prefix('#').into_iter();
            let inside = value.split("url(").skip(1).filter_map(|rest| {
                let rest = rest.trim_start_matches(['"', '\'', ' ']).strip_prefix('#')?;
                rest.split([')', '"', '\'']).next()
            });
            targets.extend(whole.chain(inside).filter_map(|id| by_id.get(id.trim()).copied()));
        }
        targets
    }

    /// Elements drawn by `node`; `None` marks one whose count is under way, a cycle.
    fn weight<'d>(
        node: Node<'d, 'd>,
        by_id: &HashMap<&str, Node<'d, 'd>>,
        known: &mut HashMap<usize, Option<u64>>,
    ) -> u64 {
        let key = node.id().get_usize();
        if let Some(count) = known.get(&key) {
            // usvg breaks cycles itself, so one adds nothing.
            return count.unwrap_or(0);
        }
        known.insert(key, None);
        let mut count = 1u64;
        for child in node.children().filter(Node::is_element) {
            count = count.saturating_add(weight(child, by_id, known));
        }
        for target in referenced(node, by_id) {
            count = count.saturating_add(weight(target, by_id, known));
        }
        known.insert(key, Some(count));
        count
    }

    let by_id: HashMap<&str, _> =
        document.descendants().filter_map(|node| Some((node.attribute("id")?, node))).collect();
    let elements = weight(document.root_element(), &by_id, &mut HashMap::new());
    if elements > MAX_ELEMENTS {
        let problem =
            format!("it would draw {elements} elements once references are followed, expected at most {MAX_ELEMENTS}");
        return Err(broken(source, problem));
    }
    Ok(())
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
