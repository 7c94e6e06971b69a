//! The edit list of an MP4 file: which part of its sound is meant to be heard.
//!
//! AAC begins with about a thousand samples of silence that the encoder needs; an edit list says
//! how many to leave out. The demuxer used here does not read it, so this does: boxes of a 32-bit
//! length, four letters and a content, nested `moov/trak/edts/elst` (ISO/IEC 14496-12).

/// The part to play.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Edit {
    /// Seconds left out at the start.
    pub start_s: f64,
    /// Seconds played; `None` to the end.
    pub length_s: Option<f64>,
}

/// The edit of the first sound track, when the file has a plain one: a single span.
pub(super) fn sound_edit(file: &[u8]) -> Option<Edit> {
    let movie = child(file, b"moov")?;
    let movie_scale = timescale(child(movie, b"mvhd")?)?;
    let is_sound = |track: &&[u8]| {
        let handler = child(track, b"mdia").and_then(|media| child(media, b"hdlr"));
        handler.and_then(|handler| handler.get(8..12)) == Some(b"soun")
    };
    let track = children(movie, b"trak").find(is_sound)?;
    let media_scale = timescale(child(child(track, b"mdia")?, b"mdhd")?)?;
    let list = child(child(track, b"edts")?, b"elst")?;
    let (length, start) = single_edit(list)?;
    let length_s = length as f64 / movie_scale;
    Some(Edit { start_s: start as f64 / media_scale, length_s: (length > 0).then_some(length_s) })
}

/// Length in the movie's time and start in the track's of the only edit in a list.
fn single_edit(list: &[u8]) -> Option<(u64, u64)> {
    let wide = *list.first()? == 1;
    if u32_at(list, 4)? != 1 {
        return None;
    }
    let (length, start) = if wide {
        (u64_at(list, 8)?, u64_at(list, 16)? as i64)
    } else {
        (u32_at(list, 8)?.into(), i64::from(u32_at(list, 12)? as i32))
    };
    // A start of -1 is a pause.
    Some((length, u64::try_from(start).ok()?))
}

/// Ticks per second of a `mvhd` or `mdhd` box.
fn timescale(header: &[u8]) -> Option<f64> {
    let at = if *header.first()? == 1 { 20 } else { 12 };
    let ticks = u32_at(header, at)?;
    (ticks > 0).then_some(f64::from(ticks))
}

fn child<'a>(parent: &'a [u8], kind: &'a [u8; 4]) -> Option<&'a [u8]> {
    children(parent, kind).next()
}

/// The contents of the boxes of one kind directly inside `parent`; a box that does not fit ends them.
fn children<'a>(parent: &'a [u8], kind: &'a [u8; 4]) -> impl Iterator<Item = &'a [u8]> {
    let mut rest = parent;
    let boxes = std::iter::from_fn(move || {
        let name = rest.get(4..8)?;
        let (header, length) = match u32_at(rest, 0)? {
            0 => (8, rest.len()),
            1 => (16, usize::try_from(u64_at(rest, 8)?).ok()?),
            length => (8, length as usize),
        };
        let content = rest.get(header..length)?;
        rest = &rest[length..];
        Some((name, content))
    });
    boxes.filter(move |(name, _)| name == kind).map(|(_, content)| content)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boxed(kind: &[u8; 4], content: &[u8]) -> Vec<u8> {
        [&(content.len() as u32 + 8).to_be_bytes()[..], kind, content].concat()
    }

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_be_bytes()).collect()
    }

    fn file(start: u32) -> Vec<u8> {
        let edits = boxed(b"edts", &boxed(b"elst", &words(&[0, 1, 250, start, 0x10000])));
        let handler = [&words(&[0, 0])[..], b"soun"].concat();
        let media = [boxed(b"mdhd", &words(&[0, 0, 0, 8000])), boxed(b"hdlr", &handler)].concat();
        let track = [edits, boxed(b"mdia", &media)].concat();
        let movie = [boxed(b"mvhd", &words(&[0, 0, 0, 1000])), boxed(b"trak", &track)].concat();
        [boxed(b"ftyp", b"M4A "), boxed(b"moov", &movie)].concat()
    }

    #[test]
    fn a_single_edit_is_read_in_seconds() {
        let edit = sound_edit(&file(1024)).unwrap();
        assert_eq!(edit, Edit { start_s: 0.128, length_s: Some(0.25) });
        assert_eq!(sound_edit(&file(u32::MAX)), None);
    }

    #[test]
    fn files_cut_anywhere_give_none_or_the_edit() {
        let whole = file(1024);
        for length in 0..whole.len() {
            assert_eq!(sound_edit(&whole[..length]), None);
        }
        assert_eq!(sound_edit(&[0, 0, 0, 1, b'm', b'o', b'o', b'v', 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0]), None);
    }
}
