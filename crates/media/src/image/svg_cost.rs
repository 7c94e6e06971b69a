//! What a drawing would cost, found before it is drawn.
//!
//! A few lines of SVG can ask for endless work: a `use` of two `use` of two `use`, a filter that
//! looks at every pixel from every pixel. The costs are counted on the document and refused.

use std::collections::HashMap;

use resvg::usvg::roxmltree::{Document, Node};

use super::svg::broken;
use crate::error::Result;

/// Depth of nested elements, and of references that lead to references; drawing programs stay below
/// a hundred.
const MAX_DEPTH: usize = 512;
/// Elements that may be drawn once every reference is followed.
const MAX_ELEMENTS: u64 = 500_000;
/// Steps of work on single pixels that filters may take, about a minute if all cover everything.
const MAX_FILTER_STEPS: f64 = 2e10;

/// Errors when elements are nested deeper than the parser may recurse.
///
/// Counts tags without parsing: comments and quoted text can only raise the count, and no real
/// drawing comes near the limit.
pub(super) fn check_depth(text: &str, source: &str) -> Result<()> {
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
            return Err(broken(source, format!("elements nested deeper than {MAX_DEPTH}")));
        }
    }
    Ok(())
}

/// Errors when following every reference draws more elements than allowed.
///
/// A few lines of `use` that each name the line before twice double the drawing with every line.
pub(super) fn check_elements(document: &Document<'_>, source: &str) -> Result<()> {
    let elements = Costs::new(document, |_| 1).of(document.root_element(), 0);
    if elements <= MAX_ELEMENTS {
        return Ok(());
    }
    let problem =
        format!("it would draw {elements} elements once references are followed, expected at most {MAX_ELEMENTS}");
    Err(broken(source, problem))
}

/// Errors when the filters would take more steps than allowed on a picture of so many pixels, drawn
/// at `scale` times its own size.
pub(super) fn check_filters(document: &Document<'_>, scale: f64, pixels: f64, source: &str) -> Result<()> {
    let steps = Costs::new(document, |node| steps_per_pixel(node, scale)).of(document.root_element(), 0);
    if steps as f64 * pixels <= MAX_FILTER_STEPS {
        return Ok(());
    }
    let problem = format!("its filters would take {steps} steps for each of {pixels} pixels, which is too long");
    Err(broken(source, problem))
}

/// Steps that a filter primitive takes for each pixel, as measured; 0 for anything else.
fn steps_per_pixel(node: Node<'_, '_>, scale: f64) -> u64 {
    // An attribute may hold one number or two, and nonsense counts as nothing: the drawing ignores it.
    let largest = |name: &str| {
        let numbers = node.attribute(name).unwrap_or("").split([' ', ',']);
        numbers.filter_map(|number| number.trim().parse::<f64>().ok()).fold(0.0, f64::max)
    };
    let steps = match node.tag_name().name() {
        "feMorphology" => (2.0 * largest("radius") * scale + 1.0).powi(2),
        "feConvolveMatrix" => 2.0 * largest("order").max(3.0).powi(2),
        "feTurbulence" => 16.0 * largest("numOctaves").max(1.0),
        "feDiffuseLighting" | "feSpecularLighting" | "feGaussianBlur" | "feDropShadow" => 32.0,
        name if name.starts_with("fe") => 8.0,
        _ => 0.0,
    };
    steps as u64
}

/// Costs of elements with everything inside them and everything they refer to.
struct Costs<'d, F> {
    by_id: HashMap<&'d str, Node<'d, 'd>>,
    own_cost: F,
    /// `None` marks an element whose cost is being counted.
    known: HashMap<Node<'d, 'd>, Option<u64>>,
}

impl<'d, F: Fn(Node<'d, 'd>) -> u64> Costs<'d, F> {
    fn new(document: &'d Document<'_>, own_cost: F) -> Self {
        let by_id = document.descendants().filter_map(|node| Some((node.attribute("id")?, node)));
        Self { by_id: by_id.collect(), own_cost, known: HashMap::new() }
    }

    /// The cost of an element; the largest number when references lead on too long.
    fn of(&mut self, node: Node<'d, 'd>, depth: usize) -> u64 {
        if depth > 4 * MAX_DEPTH {
            return u64::MAX;
        }
        if let Some(cost) = self.known.get(&node) {
            // A circle: the drawing library breaks it, so it adds nothing.
            return cost.unwrap_or(0);
        }
        self.known.insert(node, None);
        let mut cost = (self.own_cost)(node);
        for child in node.children().filter(Node::is_element) {
            cost = cost.saturating_add(self.of(child, depth + 1));
        }
        for target in self.referenced(node) {
            cost = cost.saturating_add(self.of(target, depth + 1));
        }
        self.known.insert(node, Some(cost));
        cost
    }

    /// The elements that an element names by `#id`, in an attribute or inside `url()`: what it uses,
    /// and its fill, mask, marker and filter.
    fn referenced(&self, node: Node<'d, 'd>) -> Vec<Node<'d, 'd>> {
        let mut targets = Vec::new();
        for attribute in node.attributes() {
            let value = attribute.value();
            let whole = value.strip_prefix('#').into_iter();
            let inside = value.split("url(").skip(1).filter_map(|rest| {
                let rest = rest.trim_start_matches(['"', '\'', ' ']).strip_prefix('#')?;
                rest.split([')', '"', '\'']).next()
            });
            targets.extend(whole.chain(inside).filter_map(|id| self.by_id.get(id.trim()).copied()));
        }
        targets
    }
}
