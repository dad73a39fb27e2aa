//! The client of an entry, on a real socket: it sends everything at once and reads until all is said.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use super::entry::{Entry, Fate};
use super::judge::{Ending, client_parser};
use super::script::PROBE;
use super::strict::{Parser, Whose};

/// Sends the entry and the probe behind it; gives what came back and how it ended. For bytes it waits no longer than
/// `patience`; `whose` says how strict to be with them.
pub fn ask(address: SocketAddr, entry: &Entry, whose: Whose, patience: Duration) -> io::Result<(Parser, Ending)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(patience))?;
    let mut bytes = entry.request.clone();
    bytes.extend_from_slice(PROBE);
    // One that has closed already is found out by reading.
    let _ = stream.write_all(&bytes);
    let mut parser = client_parser(entry, whose);
    let mut ending = Ending::Closed;
    let mut buf = [0; 16 * 1024];
    loop {
        match stream.read(&mut buf) {
            Ok(0) => break,
            Ok(len) => {
                parser.feed(&buf[..len]);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // The socket's time-out.
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                ending = Ending::Open;
                break;
            }
            // A reset ends a connection too.
            Err(_) => break,
        }
        let is_kept = matches!(entry.fate, Fate::Kept | Fate::Tunnel);
        if ending == Ending::Closed && is_kept && parser.unanswered() == 0 && is_whole(&parser) {
            // All is said, and it is open still: what comes now is too much.
            ending = Ending::Open;
            let _ = stream.shutdown(Shutdown::Write);
        }
    }
    parser.finish();
    Ok((parser, ending))
}

fn is_whole(parser: &Parser) -> bool {
    parser.messages.last().is_some_and(|message| message.is_complete)
}
