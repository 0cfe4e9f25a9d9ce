//! How long a client of the Dovecot authentication protocol may take.

use std::time::Duration;

/// How long a client may take.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// From accept to the client's VERSION and CPID.
    pub handshake: Duration,
    /// From a read that ends within a line to the rest of it.
    pub half_line: Duration,
    /// From a mechanism's question to its answer: a mail program may take its time, within its
    /// server's own limits.
    pub question: Duration,
    /// For our answer to a login. Postfix gives up after 10 s.
    pub answer: Duration,
    /// For the client to take what is written.
    pub write: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(30),
            half_line: Duration::from_secs(10),
            question: Duration::from_secs(150),
            answer: Duration::from_secs(9),
            write: Duration::from_secs(5),
        }
    }
}
