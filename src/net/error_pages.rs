//! The files of `error_pages`: read at the start and by each reload, so that an error costs no look at a disk.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use crate::config::Config;
use crate::proxy::runtime::ErrorPage;
use crate::start_error::StartError;

const MAX_BYTES: u64 = 64 * 1024;

/// Reads all of them.
pub fn load(config: &Config) -> Result<Arc<[ErrorPage]>, StartError> {
    let pages = config.error_pages.iter().map(|(class, path)| {
        let refused = |problem| StartError::about(path, format!("the error page {}: {problem}", path.display()));
        let media_type = match path.extension().unwrap_or_default().to_str() {
            Some("html" | "htm") => "text/html; charset=utf-8",
            Some("txt") => "text/plain; charset=utf-8",
            Some("json") => "application/json",
            Some("xml") => "application/xml; charset=utf-8",
            _ => {
                return Err(refused("what it is is seen from its ending: .html, .htm, .txt, .json or .xml".to_owned()));
            }
        };
        let text = read(path).map_err(|error| refused(error.to_string()))?;
        Ok(ErrorPage { class: class.clone(), media_type, text: Arc::new(text.into()) })
    });
    pages.collect()
}

fn read(path: &Path) -> io::Result<String> {
    // Whatever else it may be, a pipe for example, may block for ever.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("this is no regular file"));
    }
    let mut text = String::new();
    // The library says what is no UTF-8.
    File::open(path)?.take(MAX_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(io::Error::other("it is larger than 64KiB, and all of them stay in memory"));
    }
    Ok(text)
}
