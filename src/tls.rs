//! What a failure of TLS means: the libraries say "transport error", and the cause is somewhere
//! behind it.

use std::{error::Error, io};

/// Why client and server do not understand each other.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum Mistake {
    #[error("the server does not speak TLS on this port")]
    HttpsToPlaintext,
    #[error("the server does not speak plaintext HTTP/2 on this port: it may expect TLS")]
    PlaintextToHttps,
    #[error("the server's certificate is not accepted: {0}")]
    Untrusted(String),
}

impl Mistake {
    pub(crate) fn advice(&self) -> &'static str {
        match self {
            Self::HttpsToPlaintext => "Write http:// in --server, or name the port that speaks TLS.",
            Self::PlaintextToHttps => "Write https:// in --server, or name the port that speaks plaintext.",
            Self::Untrusted(_) => "Name its CA with --ca, and in --server a name that stands in the certificate.",
        }
    }
}

/// What is behind a failed connection, if it is one of these.
pub(crate) fn mistake(error: &(dyn Error + 'static)) -> Option<Mistake> {
    causes(error).find_map(|cause| match rustls_error(cause) {
        Some(rustls::Error::InvalidMessage(_)) => Some(Mistake::HttpsToPlaintext),
        Some(rustls::Error::InvalidCertificate(why)) => Some(Mistake::Untrusted(why.to_string())),
        // A TLS alert, read as a frame of HTTP/2, says that it is longer than any may be.
        None if cause.to_string().contains("frame with invalid size") => Some(Mistake::PlaintextToHttps),
        _ => None,
    })
}

/// Whether a private key was given with a certificate of another one.
pub(crate) fn is_key_of_another(error: &(dyn Error + 'static)) -> bool {
    causes(error).any(|cause| matches!(rustls_error(cause), Some(rustls::Error::InconsistentKeys(_))))
}

/// The innermost cause.
pub(crate) fn root(error: &(dyn Error + 'static)) -> String {
    causes(error).last().map_or_else(String::new, ToString::to_string)
}

/// An I/O error carries another one without naming it as its source.
fn rustls_error<'a>(cause: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let carried = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    carried.and_then(|error| error.downcast_ref()).or_else(|| cause.downcast_ref())
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |cause: &&'a (dyn Error + 'static)| {
        let cause: &'a (dyn Error + 'static) = *cause;
        cause.source()
    })
}
