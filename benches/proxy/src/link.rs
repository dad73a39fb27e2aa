//! A TCP connection with or without TLS: one `read` and one `write` for both.

use std::io::{self, Read, Write};

use mio::net::TcpStream;
use rustls::{ClientConnection, ServerConnection};

/// A connection of the load generator or of the origin.
#[derive(Debug)]
pub struct Link {
    /// The socket.
    pub stream: TcpStream,
    tls: Option<Box<rustls::Connection>>,
}

impl Link {
    /// Plain TCP.
    pub fn plain(stream: TcpStream) -> Link {
        Link { stream, tls: None }
    }

    /// TLS as a client.
    pub fn client(stream: TcpStream, tls: ClientConnection) -> Link {
        Link { stream, tls: Some(Box::new(tls.into())) }
    }

    /// TLS as a server.
    pub fn server(stream: TcpStream, tls: ServerConnection) -> Link {
        Link { stream, tls: Some(Box::new(tls.into())) }
    }

    /// Whether bytes may be left when a read was short: a TLS record is handed out in pieces.
    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Sends what TLS has to say by itself, such as its handshake. Call it for each event.
    pub fn settle(&mut self) -> io::Result<()> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        while tls.wants_write() {
            match tls.write_tls(&mut self.stream) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Read for Link {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.stream.read(buf) };
        loop {
            match tls.reader().read(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
            if tls.read_tls(&mut self.stream)? == 0 {
                return Ok(0);
            }
            tls.process_new_packets().map_err(io::Error::other)?;
            if tls.wants_write() {
                self.settle()?;
                return self.read(buf);
            }
        }
    }
}

impl Write for Link {
    /// Takes what fits into TLS's own buffer; sends nothing more while that is not empty.
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.stream.write(buf) };
        if tls.is_handshaking() {
            self.settle()?;
            return Err(io::ErrorKind::WouldBlock.into());
        }
        while tls.wants_write() {
            tls.write_tls(&mut self.stream)?;
        }
        let taken = tls.writer().write(buf)?;
        // What does not leave now leaves with the next write or event.
        self.settle()?;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.settle()
    }
}
