//! What can go wrong between a file and an array, and how to mend it.

use thiserror::Error;

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, MediaError>;

/// An error about one piece of media; `origin` is the label of where it came from, such as a path.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MediaError {
    /// The file could not be opened or read.
    #[error("{origin}: cannot read the file: {error}; check that the path exists and is readable")]
    Read {
        /// Path of the file.
        origin: String,
        /// The operating system's reason.
        #[source]
        error: std::io::Error,
    },
    /// A temporary file could not be written.
    #[error("{origin}: cannot write a temporary copy: {error}; free some space or set TMPDIR")]
    Spool {
        /// Where the bytes came from.
        origin: String,
        /// The operating system's reason.
        #[source]
        error: std::io::Error,
    },
    /// The media is larger than a limit allows.
    #[error(
        "{origin}: {got} {unit} is more than the limit of {limit}; \
         raise `{field}` in the media limits if the file is meant to be this large"
    )]
    OverLimit {
        /// Where the bytes came from.
        origin: String,
        /// Size found (or the least that it would be).
        got: String,
        /// Unit of `got` and `limit`, in the plural.
        unit: &'static str,
        /// The limit in force.
        limit: String,
        /// Name of the field of [`Limits`](crate::Limits) to raise.
        field: &'static str,
    },
    /// The bytes are no format that is known here.
    #[error(
        "{origin}: not a known {kind} format: expected {expected}, got {got}; \
         convert the file to one of these or correct the column's type"
    )]
    UnknownFormat {
        /// Where the bytes came from.
        origin: String,
        /// `image`, `audio` or `video`.
        kind: &'static str,
        /// The formats that would do.
        expected: &'static str,
        /// How the bytes begin.
        got: String,
    },
    /// The format is known but this file is damaged, cut short or breaks the format's rules.
    #[error(
        "{origin}: the {format} data is damaged or cut short: {problem}; \
         fetch or export the file again"
    )]
    Broken {
        /// Where the bytes came from.
        origin: String,
        /// Name of the format.
        format: String,
        /// What the decoder found.
        problem: String,
    },
    /// The format is known but this variant of it cannot be decoded.
    #[error("{origin}: this variant of {format} cannot be decoded: {problem}; convert it to {instead}")]
    Unsupported {
        /// Where the bytes came from.
        origin: String,
        /// Name of the format.
        format: String,
        /// What is not supported.
        problem: String,
        /// A format that works.
        instead: &'static str,
    },
    /// The file has no stream of the kind asked for.
    #[error("{origin}: expected {expected}, got a file with {got}; check the column's type")]
    NoStream {
        /// Where the bytes came from.
        origin: String,
        /// The stream asked for.
        expected: &'static str,
        /// What the file holds instead.
        got: String,
    },
    /// FFmpeg is needed and not there.
    #[error(
        "{origin}: `{program}` is needed to decode this file and cannot be started: {error}; \
         install FFmpeg (Debian and Ubuntu: `apt install ffmpeg`; Fedora: `dnf install ffmpeg-free`; \
         macOS: `brew install ffmpeg`; Windows: `winget install ffmpeg`) or set the variable \
         {variable} to the program's path"
    )]
    FfmpegMissing {
        /// Where the bytes came from.
        origin: String,
        /// The program that was tried.
        program: String,
        /// Environment variable that names the program.
        variable: &'static str,
        /// The operating system's reason.
        #[source]
        error: std::io::Error,
    },
    /// FFmpeg ran and refused the file.
    #[error(
        "{origin}: `{program}` cannot decode the file: {message}; check that it plays, or convert it to MP4 or WAV"
    )]
    Ffmpeg {
        /// Where the bytes came from.
        origin: String,
        /// The program that failed.
        program: String,
        /// The end of what it said.
        message: String,
    },
    /// A decoder took longer than allowed and was given up.
    #[error(
        "{origin}: `{program}` was given up after {limit} seconds; \
         raise `max_decode_seconds` in the media limits if the file is meant to take this long"
    )]
    TimedOut {
        /// Where the bytes came from.
        origin: String,
        /// The program or library that was given up.
        program: String,
        /// Seconds allowed.
        limit: f64,
    },
    /// A caller's parameter makes no sense.
    #[error("{what}: expected {expected}, got {got}")]
    Parameter {
        /// Name of the parameter.
        what: &'static str,
        /// What would do.
        expected: String,
        /// What was given.
        got: String,
    },
}

impl MediaError {
    /// A damaged file.
    pub(crate) fn broken(origin: &str, format: &str, problem: impl ToString) -> Self {
        Self::Broken { origin: origin.to_owned(), format: format.to_owned(), problem: problem.to_string() }
    }

    /// A parameter outside its range.
    pub(crate) fn parameter(what: &'static str, expected: impl Into<String>, got: impl ToString) -> Self {
        Self::Parameter { what, expected: expected.into(), got: got.to_string() }
    }
}

/// Runs a third-party decoder so that a panic inside it becomes a [`MediaError::Broken`].
///
/// The decoders are meant not to panic; crafted files find the places where they do. Everything a
/// decoder touches is dropped with it, so nothing half-written is ever seen afterwards.
pub(crate) fn guard<T>(origin: &str, format: &str, decode: impl FnOnce() -> Result<T>) -> Result<T> {
    quiet_panics::install();
    let outcome = quiet_panics::silently(std::panic::AssertUnwindSafe(decode));
    outcome.unwrap_or_else(|panic| {
        let message = panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "no message".to_owned());
        Err(MediaError::broken(origin, format, format!("the decoder gave up ({message})")))
    })
}

/// Keeps a caught panic from printing: the error says it all, once.
mod quiet_panics {
    use std::any::Any;
    use std::cell::Cell;
    use std::panic::{self, UnwindSafe};
    use std::sync::Once;

    thread_local! {
        static SILENT: Cell<bool> = const { Cell::new(false) };
    }

    /// Puts a hook in front of the present one that is silent inside [`silently`] only.
    pub fn install() {
        static INSTALL: Once = Once::new();
        INSTALL.call_once(|| {
            let earlier = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                if !SILENT.get() {
                    earlier(info);
                }
            }));
        });
    }

    /// Runs `work`, returning its panic instead of printing it.
    pub fn silently<T>(work: impl FnOnce() -> T + UnwindSafe) -> Result<T, Box<dyn Any + Send>> {
        let before = SILENT.replace(true);
        let outcome = panic::catch_unwind(work);
        SILENT.set(before);
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panicking_decoder_becomes_an_error_with_its_message() {
        let outcome: Result<()> = guard("a.png", "PNG", || panic!("index {} out of range", 7));
        let message = outcome.unwrap_err().to_string();
        assert!(message.contains("a.png"), "{message}");
        assert!(message.contains("index 7 out of range"), "{message}");
    }
}
