//! The thread that writes lines.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::sync::mpsc::Receiver;

use mini_rproxy_plugin::{Counter, Error, Logger};

/// Where the lines go.
pub(crate) struct Writer {
    /// Its path; `None`: to standard error.
    path: Option<String>,
    /// `None` where it cannot be opened now.
    file: Option<File>,
    log: Logger,
    written: Counter,
    dropped: Counter,
    /// Whether only a part of the last line was written.
    is_torn: bool,
    /// Whether the last lines could not be written: that is told once.
    is_failing: bool,
}

fn open(path: &str) -> io::Result<File> {
    File::options().append(true).create(true).open(path)
}

/// Writes lines, behind the end of one that is torn.
fn write_lines(to: &mut impl Write, mut lines: &[u8], is_torn: &mut bool) -> io::Result<()> {
    if *is_torn {
        to.write_all(b"\n")?;
        *is_torn = false;
    }
    while !lines.is_empty() {
        match to.write(lines) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                *is_torn = lines[count - 1] != b'\n';
                lines = &lines[count..];
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl Writer {
    pub(crate) fn open(path: Option<String>, log: Logger, written: Counter, dropped: Counter) -> Result<Writer, Error> {
        let file = path.as_deref().map(|path| open(path).map_err(|error| Error::new(format!("{path}: {error}"))));
        Ok(Writer { file: file.transpose()?, path, log, written, dropped, is_torn: false, is_failing: false })
    }

    /// Writes until nobody sends any more.
    pub(crate) fn run(mut self, lines: &Receiver<Vec<u8>>) {
        const MAX_BATCH: usize = 64 * 1024;
        while let Ok(mut batch) = lines.recv() {
            let mut count = 1;
            while batch.len() < MAX_BATCH
                && let Ok(line) = lines.try_recv()
            {
                batch.extend_from_slice(&line);
                count += 1;
            }
            match self.write(&batch) {
                Ok(()) => {
                    self.written.add(count);
                    self.is_failing = false;
                }
                Err(error) => {
                    self.dropped.add(count);
                    if !std::mem::replace(&mut self.is_failing, true) {
                        let path = self.path.as_deref().unwrap_or("standard error");
                        self.log.error(format_args!("{path}: {error}; lines are lost until it works again"));
                    }
                }
            }
        }
    }

    fn write(&mut self, batch: &[u8]) -> io::Result<()> {
        let Some(path) = &self.path else { return write_lines(&mut io::stderr(), batch, &mut self.is_torn) };
        let place = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        // Renamed or removed: the next lines belong to a new one.
        let named = fs::metadata(path).ok().map(place);
        let file = match self.file.take() {
            Some(file) if named.is_some() && file.metadata().ok().map(place) == named => file,
            Some(_) | None => {
                let file = open(path)?;
                self.is_torn = false;
                file
            }
        };
        write_lines(self.file.insert(file), batch, &mut self.is_torn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mini_rproxy_plugin::testing::Instance;
    use mini_rproxy_plugin::{Plugin, Setup};
    use std::sync::Mutex;

    /// Lends a writer to the test, with its metrics.
    struct Lender;
    static PATH: Mutex<Option<String>> = Mutex::new(None);
    static WRITER: Mutex<Option<Writer>> = Mutex::new(None);

    impl Plugin for Lender {
        const NAME: &'static str = "lender";
        fn create(setup: &Setup, _: &[u8]) -> Result<Self, Error> {
            let (written, dropped) = (setup.counter("written", "")?, setup.counter("dropped", "")?);
            let path = PATH.lock().unwrap().take();
            *WRITER.lock().unwrap() = Some(Writer::open(path, setup.logger(), written, dropped)?);
            Ok(Lender)
        }
    }

    #[test]
    fn a_line_that_is_torn_by_a_full_disk_costs_none_of_the_next_ones() {
        /// Has room for so many bytes.
        struct Disk(Vec<u8>, usize);
        impl Write for Disk {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let count = bytes.len().min(self.1 - self.0.len());
                self.0.extend_from_slice(&bytes[..count]);
                if count == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(count) }
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        for (room, expected) in [(6, "one\ntw\nnext\n"), (4, "one\nnext\n"), (0, "next\n")] {
            let (mut disk, mut is_torn) = (Disk(Vec::new(), room), false);
            assert!(write_lines(&mut disk, b"one\ntwo\n", &mut is_torn).is_err());
            assert!(write_lines(&mut disk, b"lost\n", &mut is_torn).is_err());
            disk.1 = 100;
            write_lines(&mut disk, b"next\n", &mut is_torn).unwrap();
            assert_eq!(String::from_utf8(disk.0).unwrap(), expected);
        }
    }

    #[test]
    fn a_file_that_was_renamed_or_removed_is_opened_anew() {
        let folder = std::env::temp_dir().join(format!("mini-rproxy-writer-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (path, old) = (folder.join("log"), folder.join("log.1"));
        *PATH.lock().unwrap() = Some(path.to_str().unwrap().to_owned());
        let plugin = Instance::<Lender>::new("").unwrap();
        let mut writer = WRITER.lock().unwrap().take().unwrap();
        writer.write(b"1\n").unwrap();
        fs::rename(&path, &old).unwrap();
        writer.write(b"2\n").unwrap();
        writer.write(b"3\n").unwrap();
        assert_eq!((fs::read(&old).unwrap(), fs::read(&path).unwrap()), (b"1\n".to_vec(), b"2\n3\n".to_vec()));
        // Where it cannot be written the lines are lost, one message tells, and later it works again.
        let elsewhere = folder.with_extension("elsewhere");
        let (lines, receiver) = std::sync::mpsc::channel();
        fs::rename(&folder, &elsewhere).unwrap();
        assert!(writer.write(b"4\n").is_err());
        for line in ["5\n", "6\n"] {
            lines.send(line.as_bytes().to_vec()).unwrap();
        }
        drop(lines);
        writer.run(&receiver);
        assert_eq!((plugin.metric("written"), plugin.metric("dropped")), (Some(0), Some(2)));
        let errors: Vec<_> = plugin.log().into_iter().filter(|(_, text)| text.contains("lines are lost")).collect();
        assert_eq!(errors.len(), 1, "{errors:?}");
        fs::remove_dir_all(elsewhere).unwrap();
    }
}
