//! A connection to a mail server: lines with limits, in the clear or over TLS.

use std::{io, sync::Arc};

use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

/// A line of a server; more is no mail server. (RFC 9051 §4 and RFC 5321 §4.5.3.1.5 stay far
/// below.)
pub(super) const MAX_LINE_BYTES: usize = 16 << 10;

/// Why a conversation can't go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error("no connection: {0}")]
    Connect(io::Error),
    #[error("TLS: {0}")]
    Tls(io::Error),
    #[error("the server sent more before TLS began: somebody may be in between")]
    DataBeforeTls,
    #[error("the connection broke: {0}")]
    Broken(io::Error),
    #[error("the server closed the connection")]
    Closed,
    #[error("a line of the server is longer than {MAX_LINE_BYTES} bytes")]
    LineTooLong,
    #[error("an answer of the server has more than {0} lines")]
    TooManyLines(usize),
    #[error("no answer within the time that --timeout gives")]
    TimedOut,
    #[error("expected {expected}, and the server said: {got}")]
    Unexpected { expected: &'static str, got: String },
    #[error("the server offers {0}")]
    NotOffered(&'static str),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // Many servers end a TLS connection without close_notify.
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::Broken(error),
        }
    }
}

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// Lines with a server. A call that is dropped while it reads loses nothing: what was read stays
/// for the next.
pub(super) struct Conversation {
    stream: BufReader<Box<dyn Io>>,
    /// The line that is being read.
    partial: Vec<u8>,
    is_encrypted: bool,
}

impl Conversation {
    pub(super) async fn connect(host: &str, port: u16) -> Result<Self, Trouble> {
        let stream = TcpStream::connect((host, port)).await.map_err(Trouble::Connect)?;
        stream.set_nodelay(true).map_err(Trouble::Connect)?;
        Ok(Self::over(stream))
    }

    /// Over any stream.
    pub(super) fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        Self { stream: BufReader::new(Box::new(stream)), partial: Vec::new(), is_encrypted: false }
    }

    /// Goes on over TLS. What the server sent in the clear and was not read yet is an attack
    /// (CVE-2011-0411).
    pub(super) async fn encrypt(self, config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<Self, Trouble> {
        if !self.stream.buffer().is_empty() || !self.partial.is_empty() {
            return Err(Trouble::DataBeforeTls);
        }
        let stream = TlsConnector::from(config).connect(name, self.stream.into_inner()).await.map_err(Trouble::Tls)?;
        Ok(Self { is_encrypted: true, ..Self::over(stream) })
    }

    pub(super) fn is_encrypted(&self) -> bool {
        self.is_encrypted
    }

    /// A line, without its end; what is not UTF-8 is replaced.
    pub(super) async fn line(&mut self) -> Result<String, Trouble> {
        loop {
            let read = self.stream.fill_buf().await?;
            if read.is_empty() {
                return Err(Trouble::Closed);
            }
            let end = read.iter().position(|byte| *byte == b'\n');
            let taken = end.map_or(read.len(), |end| end + 1);
            if self.partial.len() + taken > MAX_LINE_BYTES {
                return Err(Trouble::LineTooLong);
            }
            self.partial.extend_from_slice(&read[..taken]);
            self.stream.consume(taken);
            if end.is_some() {
                let line = std::mem::take(&mut self.partial);
                let line = line.strip_suffix(b"\n").unwrap_or(&line);
                return Ok(String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line)).into_owned());
            }
        }
    }

    /// Sends a command; the line's end is added.
    pub(super) async fn send(&mut self, command: &[u8]) -> Result<(), Trouble> {
        let line = zeroize::Zeroizing::new([command, b"\r\n"].concat());
        self.stream.write_all(&line).await?;
        Ok(self.stream.flush().await?)
    }
}
