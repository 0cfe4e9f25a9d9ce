//! How a connection of the Dovecot authentication protocol begins. Pure.
//!
//! The server speaks first and says everything at once: Exim sends nothing before it has read
//! `DONE`, and Radicale reads once, at most 1,024 bytes. Postfix and Exim take a socket whose
//! `SPID` comes before any `MECH` for another one.

use std::fmt::Write;

/// Radicale reads the whole handshake with one `recv` of so many bytes.
pub const MAX_BYTES: usize = 1_024;
/// Major and minor version. The major one has to be the client's.
pub const VERSION: (u32, u32) = (1, 2);

/// What a connection is called by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ServerHandshake {
    /// This process.
    pub process: u32,
    /// This connection, unique in this process.
    pub connection: u64,
    /// Proves to the master socket that a request was made on this connection.
    pub cookie: [u8; 16],
}

impl ServerHandshake {
    pub fn text(&self) -> String {
        let (major, minor) = VERSION;
        let mut text = format!("VERSION\t{major}\t{minor}\nMECH\tPLAIN\tplaintext\nMECH\tLOGIN\tplaintext\n");
        // A String takes whatever is written to it.
        let _ = write!(text, "SPID\t{}\nCUID\t{}\nCOOKIE\t", self.process, self.connection);
        for byte in self.cookie {
            let _ = write!(text, "{byte:02x}");
        }
        text.push_str("\nDONE\n");
        text
    }
}

/// What the client has said of itself so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ClientHandshake {
    has_version: bool,
    /// Its process, as it says. TCP clients' ids clash, so nothing is proven by it.
    pub process: Option<u32>,
}

/// A client that begins wrongly. Its connection ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HandshakeError {
    #[error("the client speaks version {0} of the protocol, not {major}", major = VERSION.0)]
    Version(u32),
    #[error("VERSION must come first, and once")]
    Order,
    #[error("CPID must come after VERSION, and once")]
    Process,
    #[error("VERSION and CPID must come before any request")]
    Incomplete,
}

impl ClientHandshake {
    pub fn version(&mut self, major: u32) -> Result<(), HandshakeError> {
        if major != VERSION.0 {
            return Err(HandshakeError::Version(major));
        }
        if self.has_version {
            return Err(HandshakeError::Order);
        }
        self.has_version = true;
        Ok(())
    }

    pub fn process(&mut self, process: u32) -> Result<(), HandshakeError> {
        if !self.has_version || self.process.is_some() {
            return Err(HandshakeError::Process);
        }
        self.process = Some(process);
        Ok(())
    }

    /// Whether requests may follow.
    pub fn is_complete(&self) -> bool {
        self.process.is_some()
    }

    pub fn check_complete(&self) -> Result<(), HandshakeError> {
        if self.is_complete() { Ok(()) } else { Err(HandshakeError::Incomplete) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_handshake_is_what_each_client_expects() {
        let text = ServerHandshake { process: u32::MAX, connection: u64::MAX, cookie: [0xab; 16] }.text();
        assert!(text.len() < MAX_BYTES, "{} bytes", text.len());
        let names: Vec<&str> = text.lines().map(|line| line.split('\t').next().unwrap()).collect();
        assert_eq!(names, ["VERSION", "MECH", "MECH", "SPID", "CUID", "COOKIE", "DONE"]);
        assert!(text.contains(&format!("COOKIE\t{}\n", "ab".repeat(16))));
        assert!(text.ends_with("DONE\n"));
    }

    #[test]
    fn a_client_says_its_version_and_its_process_once_and_in_order() {
        let mut client = ClientHandshake::default();
        assert_eq!(client.process(7), Err(HandshakeError::Process));
        assert_eq!(client.version(2), Err(HandshakeError::Version(2)));
        assert_eq!(client.version(1), Ok(()));
        assert_eq!(client.version(1), Err(HandshakeError::Order));
        assert_eq!(client.check_complete(), Err(HandshakeError::Incomplete));
        assert_eq!(client.process(7), Ok(()));
        assert_eq!(client.process(7), Err(HandshakeError::Process));
        assert_eq!(client.check_complete(), Ok(()));
    }
}
