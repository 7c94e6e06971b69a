//! Addresses of indexes in a database.

use crate::store::{Named, STORE_FILE};
use crate::{IndexError, Result, files};
use postgres::config::{Config, Host};
use postgres::{Client, NoTls};
use std::fmt::Write;
use std::path::Path;

/// Where an index is, and how to get there.
pub(super) struct Address {
    config: Config,
    /// The name of the index within the database.
    pub name: String,
    /// Without the password.
    pub place: String,
}

/// Names are part of the names of tables, and of nothing that needs quotes.
const MAX_NAME: usize = 40;

impl Address {
    /// Reads `postgres://USER:PASSWORD@HOST:PORT/DATABASE?index=NAME` and the
    /// further parameters of PostgreSQL's own addresses. Without a name the
    /// index is called as `folder` is.
    pub(super) fn parse(text: &str, folder: Option<&Path>) -> Result<Self> {
        let (base, query) = text.split_once('?').unwrap_or((text, ""));
        let (ours, theirs): (Vec<&str>, Vec<&str>) =
            query.split('&').filter(|p| !p.is_empty()).partition(|p| p.starts_with("index="));
        let url = if theirs.is_empty() { base.to_owned() } else { format!("{base}?{}", theirs.join("&")) };
        // What the parser says could hold a part of a password.
        let mut config: Config =
            url.parse().map_err(|_| IndexError::address("the address of the database cannot be read"))?;
        let name = match (ours.first(), folder.and_then(Path::file_stem)) {
            (Some(given), _) => given["index=".len()..].to_owned(),
            (None, Some(stem)) => stem.to_string_lossy().to_lowercase().replace(['-', ' ', '.'], "_"),
            (None, None) => return Err(IndexError::address("the address names no index of the database")),
        };
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        // The list of all indexes has this name.
        if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(plain) || name == "indexes" {
            return Err(IndexError::address(format!("{name:?} cannot be the name of an index in a database")));
        }
        if config.get_password().is_none()
            && let Ok(password) = std::env::var("PGPASSWORD")
        {
            config.password(password);
        }
        let place = place(&config, &name);
        Ok(Self { config, name, place })
    }

    pub(super) fn connect(&self) -> Result<Client> {
        self.config.connect(NoTls).map_err(|e| self.error("reach", &e))
    }

    /// What the database said.
    pub(super) fn error(&self, action: &'static str, error: &postgres::Error) -> IndexError {
        let problem = match error.as_db_error() {
            Some(said) => {
                let more = [said.detail(), said.hint()].into_iter().flatten();
                more.fold(said.message().to_owned(), |all, part| all + "; " + part)
            }
            None => {
                let mut problem = error.to_string();
                let mut source = std::error::Error::source(error);
                while let Some(cause) = source {
                    let _ = write!(problem, ": {cause}");
                    source = cause.source();
                }
                problem
            }
        };
        self.problem(action, problem)
    }

    pub(super) fn problem(&self, action: &'static str, problem: impl Into<String>) -> IndexError {
        IndexError::Database { action, place: self.place.clone(), problem: problem.into() }
    }

    /// Makes a folder name this index.
    pub(super) fn keep(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(IndexError::io("create", folder))?;
        let named = Named { format: 1, store: self.place.clone() };
        let json = serde_json::to_vec_pretty(&named).map_err(|e| IndexError::io("write", folder)(e.into()))?;
        files::write(folder, STORE_FILE, 0, |out| out.write_all(&json)).map(|_| ())
    }
}

/// An address without the password.
fn place(config: &Config, name: &str) -> String {
    let mut text = String::from("postgres://");
    if let Some(user) = config.get_user() {
        text += &(escaped(user) + "@");
    }
    let mut parameters = vec![format!("index={name}")];
    let ports = config.get_ports();
    for (at, host) in config.get_hosts().iter().enumerate() {
        let port = ports.get(at).or_else(|| ports.first()).copied().unwrap_or(5432);
        let host = match host {
            Host::Tcp(host) if host.contains(':') => format!("[{host}]"),
            Host::Tcp(host) => escaped(host),
            #[cfg(unix)]
            Host::Unix(path) => escaped(&path.to_string_lossy()),
        };
        let _ = write!(text, "{}{host}:{port}", if at > 0 { "," } else { "" });
    }
    text += "/";
    text += &config.get_dbname().map(escaped).unwrap_or_default();
    if let Some(options) = config.get_options() {
        parameters.push(format!("options={}", escaped(options)));
    }
    text + "?" + &parameters.join("&")
}

/// Percent-encoded, but for what needs no encoding anywhere in an address.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => out.push(char::from(byte)),
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_its_password_and_reads_back() {
        for (given, shown) in [
            (
                "postgres://me:s3cret@db.example.org/media?index=photos",
                "postgres://me@db.example.org:5432/media?index=photos",
            ),
            (
                "postgresql://%E6%88%91:s3cret@[::1]:6000/a%2Fb?index=x_1&options=-c%20search_path%3Dm",
                "postgres://%E6%88%91@[::1]:6000/a%2Fb?index=x_1&options=-c%20search_path%3Dm",
            ),
            ("postgres://me@%2Ftmp%2Fs/media?password=s3cret&index=p", "postgres://me@%2Ftmp%2Fs:5432/media?index=p"),
        ] {
            let address = Address::parse(given, None).unwrap();
            assert_eq!(address.place, shown);
            let again = Address::parse(&address.place, None).unwrap();
            assert_eq!((again.place, again.config.get_dbname()), (address.place, address.config.get_dbname()));
            assert_eq!(again.config.get_hosts(), address.config.get_hosts());
        }
    }

    #[test]
    fn a_folder_gives_the_name_and_names_need_no_quotes() {
        let named = |folder: &str| Address::parse("postgres://h/d", Some(Path::new(folder))).map(|a| a.name);
        assert_eq!(named("runs/Flickr-8k.index").unwrap(), "flickr_8k");
        for bad in ["照片", "a\"; drop table x", "indexes", &"n".repeat(41)] {
            assert!(named(bad).is_err(), "{bad}");
        }
        assert!(Address::parse("postgres://h/d", None).is_err());
        let error = Address::parse("postgres://me:s3c?ret@h/d", None).err().unwrap().to_string();
        assert!(!error.contains("ret@"), "{error}");
    }
}
