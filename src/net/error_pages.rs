//! The files of `error_pages`: read at the start and by each reload, so that an error costs no look at a disk.

use std::sync::Arc;

use crate::config::{Config, read_file};
use crate::proxy::runtime::ErrorPage;
use crate::start_error::StartError;

/// All of them stay in memory.
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
        let text = read_file(path, MAX_BYTES).map_err(|error| refused(error.to_string()))?;
        let text = String::from_utf8(text).map_err(|_| refused("save it as UTF-8 text".to_owned()))?;
        Ok(ErrorPage { class: class.clone(), media_type, text: Arc::new(text.into()) })
    });
    pages.collect()
}
