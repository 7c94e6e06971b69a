//! What the JPEG decoder forgives and a data set should not: files cut short.

use crate::error::{MediaError, Result};

/// Errors when a JPEG ends before its picture does.
///
/// The decoder fills what is missing with grey and says nothing, so half-downloaded pictures would
/// slip into the data. Inside the compressed scans a byte 0xFF is always followed by 0 or by a
/// marker, so a whole file has an end marker after its first scan begins.
pub(super) fn check_complete(bytes: &[u8], source: &str) -> Result<()> {
    const END_OF_IMAGE: u8 = 0xD9;
    let complete =
        first_scan(bytes).is_some_and(|start| bytes[start..].windows(2).any(|pair| pair == [0xFF, END_OF_IMAGE]));
    if complete {
        return Ok(());
    }
    let problem = format!("no end-of-image marker within its {} bytes", bytes.len());
    Err(MediaError::broken(source, "JPEG", problem))
}

/// Where the compressed data begins: the offset of the first start-of-scan marker.
fn first_scan(bytes: &[u8]) -> Option<usize> {
    const START_OF_SCAN: u8 = 0xDA;
    let mut at = 2;
    loop {
        let marker = at + bytes.get(at..)?.iter().position(|&byte| byte == 0xFF)?;
        match *bytes.get(marker + 1)? {
            START_OF_SCAN => return Some(marker),
            // Fill bytes and markers that stand alone carry no length.
            0xFF => at = marker + 1,
            0x00 | 0x01 | 0xD0..=0xD9 => at = marker + 2,
            _ => {
                let length = bytes.get(marker + 2..marker + 4)?;
                at = marker + 2 + usize::from(u16::from_be_bytes([length[0], length[1]]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_marker_inside_a_thumbnail_does_not_count() {
        let thumbnail = [0xFF, 0xD8, 0xFF, 0xE1, 0, 6, 0xFF, 0xD9, 0, 0];
        let cut = [&thumbnail[..], &[0xFF, 0xDA, 0, 2, 1, 2, 3]].concat();
        assert!(check_complete(&cut, "a").is_err());
        assert!(check_complete(&[&cut[..], &[0xFF, 0xD9]].concat(), "a").is_ok());
        assert!(check_complete(&[0xFF, 0xD8, 0xFF], "a").is_err());
    }
}
