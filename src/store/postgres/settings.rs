//! How a store is told to reach its database.

use std::{fmt, path::PathBuf};

/// How to reach the database.
#[derive(Clone)]
pub struct PostgresSettings {
    /// `postgres://user:password@host:port,host2:port2/database?sslmode=…`. Several hosts: the one
    /// that takes writes is used. `sslmode`: disable, prefer (the default), require, or
    /// verify-full, which checks the server's certificate; `sslrootcert` names the CA's file.
    pub url: String,
    /// The CA that the server's certificate must come from; then it is always verified.
    pub ca: Option<PathBuf>,
    /// Connections at a time.
    pub connections: usize,
}

impl fmt::Debug for PostgresSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL may hold a password.
        f.debug_struct("PostgresSettings").field("ca", &self.ca).field("connections", &self.connections).finish_non_exhaustive()
    }
}
