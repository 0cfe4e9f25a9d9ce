//! A TCP proxy in front of PostgreSQL, one for each replica: cuts connections, holds every byte,
//! refuses new connections, and heals.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    Open,
    /// Connections stay, and nothing moves on them: what a firewall does that has forgotten them.
    Held,
    /// New connections are closed as they come.
    Refusing,
}

#[derive(Clone, Copy, Debug)]
struct State {
    mode: Mode,
    /// Connections of an earlier era are cut.
    era: u64,
    /// Where new connections lead.
    upstream: SocketAddr,
}

pub struct Proxy {
    pub port: u16,
    state: watch::Sender<State>,
}

impl Proxy {
    pub async fn start(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let (state, seen) = watch::channel(State { mode: Mode::Open, era: 0, upstream });
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.expect("it listens");
                if seen.borrow().mode != Mode::Refusing {
                    tokio::spawn(serve(client, seen.clone()));
                }
            }
        });
        Self { port, state }
    }

    pub fn set(&self, mode: Mode) {
        self.state.send_modify(|state| state.mode = mode);
    }

    /// Another server has taken the place of the first.
    pub fn lead_to(&self, upstream: SocketAddr) {
        self.state.send_modify(|state| {
            state.upstream = upstream;
            state.era += 1;
        });
    }

    /// Ends all connections there are.
    pub fn cut(&self) {
        self.state.send_modify(|state| state.era += 1);
    }
}

async fn serve(client: TcpStream, state: watch::Receiver<State>) {
    let era = state.borrow().era;
    let moved = async {
        passes(&mut state.clone()).await;
        let upstream = state.borrow().upstream;
        let Ok(server) = TcpStream::connect(upstream).await else {
            return;
        };
        // A round trip is a small message: Nagle would make each wait.
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        tokio::select! {
            () = pump(from_client, to_server, state.clone()) => (),
            () = pump(from_server, to_client, state.clone()) => (),
        }
    };
    let mut cut = state.clone();
    tokio::select! {
        () = moved => (),
        _ = cut.wait_for(|state| state.era != era) => (),
    }
}

/// Until the bytes may move.
async fn passes(state: &mut watch::Receiver<State>) {
    // The sender goes with the test.
    let _ = state.wait_for(|state| state.mode != Mode::Held).await;
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut state: watch::Receiver<State>) {
    let mut bytes = vec![0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut bytes).await {
        passes(&mut state).await;
        if to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}
