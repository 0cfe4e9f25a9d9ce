//! Floor 1: the sockets of the agent: Unix ones with their mode, TCP ones, and who is at the other
//! end.

use std::{
    fmt, fs, io,
    net::{SocketAddr, ToSocketAddrs},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_util::either::Either;
use tracing::warn;

/// The mode of a Unix socket whose setting names none: its group may connect, nobody else.
pub const DEFAULT_MODE: u32 = 0o660;
/// After a failed accept, for want of file descriptors for example.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// A place to listen on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    Unix { path: PathBuf, mode: u32 },
    Tcp(SocketAddr),
}

/// A place with the options after it: `unix:/run/a,client=postfix,mode=0660`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Spec {
    pub place: Place,
    /// Those that are not about the socket, in their order.
    pub options: Vec<(String, String)>,
}

/// A bound socket.
#[derive(Debug)]
pub enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// A connection of either kind.
pub type Stream = Either<UnixStream, TcpStream>;

/// The process at the other end of a Unix socket, as the kernel says (`SO_PEERCRED`). Unknown over
/// TCP, and for a process of another pid namespace.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PeerProcess {
    pub pid: i32,
    pub uid: u32,
}

impl Spec {
    /// Parses `unix:/path` or `tcp:host:port`, with options after commas.
    pub fn parse(text: &str) -> Result<Self, String> {
        const FORM: &str = "must be like unix:/run/latchkey/sasl,client=postfix or tcp:127.0.0.1:12345,client=exim";
        let mut parts = text.split(',');
        let place = parts.next().unwrap_or_default();
        let mut mode = None;
        let mut options = Vec::new();
        for option in parts {
            match option.split_once('=') {
                Some(("mode", digits)) => {
                    let number = u32::from_str_radix(digits, 8).ok().filter(|number| *number <= 0o777);
                    mode = Some(number.ok_or("mode must be an octal number from 0 to 0777")?);
                }
                Some((name, value)) => options.push((name.to_owned(), value.to_owned())),
                None => return Err(format!("option `{option}`: {FORM}")),
            }
        }
        let place = if let Some(path) = place.strip_prefix("unix:") {
            if !path.starts_with('/') {
                return Err(format!("a Unix socket's path must be absolute: {FORM}"));
            }
            Place::Unix { path: path.into(), mode: mode.unwrap_or(DEFAULT_MODE) }
        } else if let Some(address) = place.strip_prefix("tcp:") {
            if mode.is_some() {
                return Err("mode is for Unix sockets".to_owned());
            }
            let mut addresses = address.to_socket_addrs().map_err(|cause| format!("{address}: {cause}"))?;
            Place::Tcp(addresses.next().ok_or_else(|| format!("{address}: no such host"))?)
        } else {
            return Err(FORM.to_owned());
        };
        Ok(Self { place, options })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix { path, .. } => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}

impl Listener {
    /// Binds. A socket file that nobody answers on is of a process that has gone, and is replaced
    /// in one step, so that a client finds either the old one or the new one. Must be called within
    /// the runtime.
    pub async fn bind(place: &Place) -> io::Result<Self> {
        match place {
            Place::Tcp(address) => TcpListener::bind(address).await.map(Self::Tcp),
            Place::Unix { path, mode } => {
                if UnixStream::connect(path).await.is_ok() {
                    return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there"));
                }
                bind_unix(path, *mode).map(Self::Unix)
            }
        }
    }

    /// The next connection, and the process at its other end. Failures are logged and tried again.
    pub async fn accept(&self) -> (Stream, Option<PeerProcess>) {
        loop {
            let accepted = match self {
                Self::Unix(listener) => listener.accept().await.map(|(stream, _)| {
                    let peer = peer_of(&stream);
                    (Either::Left(stream), peer)
                }),
                Self::Tcp(listener) => listener.accept().await.map(|(stream, _)| {
                    // Without it an answer may wait for the client's acknowledgement of the
                    // handshake.
                    let _ = stream.set_nodelay(true);
                    (Either::Right(stream), None)
                }),
            };
            match accepted {
                Ok(accepted) => return accepted,
                Err(cause) => {
                    warn!(%cause, "a connection cannot be accepted; it is tried again");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    /// Where it listens, for TCP.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }
}

/// Who is at the other end of a Unix socket.
pub fn peer_of(stream: &UnixStream) -> Option<PeerProcess> {
    let credentials = stream.peer_cred().ok()?;
    // 0: a process of a pid namespace that this one cannot see.
    let pid = credentials.pid().filter(|pid| *pid > 0)?;
    Some(PeerProcess { pid, uid: credentials.uid() })
}

fn bind_unix(path: &Path, mode: u32) -> io::Result<UnixListener> {
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let new = path.with_file_name(name);
    let _ = fs::remove_file(&new);
    let listener = UnixListener::bind(&new)?;
    let moved = fs::set_permissions(&new, fs::Permissions::from_mode(mode)).and_then(|()| fs::rename(&new, path));
    if let Err(cause) = moved {
        let _ = fs::remove_file(&new);
        return Err(cause);
    }
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_parsed_with_its_options_or_refused_with_the_form() {
        let spec = Spec::parse("unix:/run/a,client=postfix,mode=0600").unwrap();
        assert_eq!(spec.place, Place::Unix { path: "/run/a".into(), mode: 0o600 });
        assert_eq!(spec.options, [("client".to_owned(), "postfix".to_owned())]);
        assert_eq!(Spec::parse("tcp:127.0.0.1:7").unwrap().place, Place::Tcp(SocketAddr::from(([127, 0, 0, 1], 7))));
        for (wrong, words) in [
            ("", "must be like"),
            ("/run/a", "must be like"),
            ("unix:run/a", "absolute"),
            ("tcp:127.0.0.1", "127.0.0.1"),
            ("tcp:127.0.0.1:7,mode=0600", "Unix sockets"),
            ("unix:/run/a,mode=999", "octal"),
            ("unix:/run/a,client", "option `client`"),
        ] {
            let refusal = Spec::parse(wrong).unwrap_err();
            assert!(refusal.contains(words), "{wrong}: {refusal}");
        }
    }

    #[tokio::test]
    async fn a_socket_of_a_process_that_has_gone_is_replaced_and_one_in_use_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::Unix { path: folder.path().join("socket"), mode: 0o600 };
        drop(Listener::bind(&place).await.unwrap());
        let listener = Listener::bind(&place).await.unwrap();
        assert_eq!(Listener::bind(&place).await.unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let Place::Unix { path, .. } = &place else { unreachable!() };
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        let client = UnixStream::connect(path).await.unwrap();
        let (_, peer) = listener.accept().await;
        // The listener's own probe came first.
        let (_, peer) = if peer.is_some() { (0, peer) } else { (0, listener.accept().await.1) };
        assert_eq!(peer.unwrap().pid.cast_unsigned(), std::process::id());
        drop(client);
    }
}
