//! One process of this machine, held by a pidfd: its end is seen, and a signal reaches it or
//! nobody, whatever its number is used for later.

use std::{fs, io, time::Duration};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fd::{AsFd, OwnedFd},
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
    time::Timespec,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    net::UnixStream,
};

/// See the module.
#[derive(Debug)]
pub struct Process {
    id: ProcessId,
    pidfd: AsyncFd<OwnedFd>,
}

/// Names a process for as long as the machine runs: its number alone is used again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProcessId {
    pub pid: i32,
    /// In clock ticks since the machine booted, as `/proc/PID/stat` has it.
    pub start_time: u64,
}

/// Why a process cannot be held.
#[derive(Debug, thiserror::Error)]
pub enum NoProcess {
    #[error("the kernel does not say which process is at the other end: it is in another pid namespace")]
    Hidden,
    #[error("the process has ended")]
    Ended,
    #[error("the process {0} has another number here: it is in another pid namespace")]
    OtherNumber(u32),
    #[error(transparent)]
    System(#[from] io::Error),
}

impl Process {
    /// The process at the other end of a Unix socket. It is proven: the socket is still open after
    /// the pidfd was taken, so the number was not used again in between.
    pub fn of_peer(stream: &UnixStream) -> Result<Self, NoProcess> {
        let pid = stream.peer_cred()?.pid().filter(|pid| *pid > 0).ok_or(NoProcess::Hidden)?;
        let process = Self::open(pid)?;
        let mut peer = [PollFd::new(stream, PollFlags::empty())];
        poll(&mut peer, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).map_err(io::Error::from)?;
        if peer[0].revents().intersects(PollFlags::HUP | PollFlags::ERR) {
            return Err(NoProcess::Ended);
        }
        Ok(process)
    }

    /// The process that was remembered, if it is the same one.
    pub fn reopen(id: ProcessId) -> Result<Self, NoProcess> {
        let process = Self::open(id.pid)?;
        if process.id == id { Ok(process) } else { Err(NoProcess::Ended) }
    }

    pub(crate) fn open(pid: i32) -> Result<Self, NoProcess> {
        let number = Pid::from_raw(pid).ok_or(NoProcess::Hidden)?;
        let pidfd = pidfd_open(number, PidfdFlags::NONBLOCK).map_err(|cause| match cause {
            Errno::SRCH => NoProcess::Ended,
            cause => NoProcess::System(cause.into()),
        })?;
        // Read after the pidfd was taken: of this process, or of none.
        let start_time = start_time(pid)?;
        #[expect(deprecated, reason = "an OwnedFd stays the same descriptor until it is dropped; what replaces this is unsafe")]
        let pidfd = AsyncFd::with_interest(pidfd, Interest::READABLE)?;
        Ok(Self { id: ProcessId { pid, start_time }, pidfd })
    }

    pub fn id(&self) -> ProcessId {
        self.id
    }

    /// Returns when the process has ended.
    pub async fn ended(&self) {
        // A pidfd becomes readable when its process ends, and stays so. An error here would be the
        // runtime's end.
        if self.pidfd.readable().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Whether the process ends within a time.
    pub async fn ends_within(&self, time: Duration) -> bool {
        tokio::time::timeout(time, self.ended()).await.is_ok()
    }

    /// Asks the process to end.
    pub fn terminate(&self) -> io::Result<()> {
        self.signal(Signal::TERM)
    }

    /// Ends the process.
    pub fn kill(&self) -> io::Result<()> {
        self.signal(Signal::KILL)
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(self.pidfd.as_fd(), signal) {
            // It has ended by itself.
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(cause) => Err(cause.into()),
        }
    }
}

/// This boot of the machine: process ids and start times of another one mean nothing.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

fn start_time(pid: i32) -> Result<u64, NoProcess> {
    let stat = match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat,
        // The file goes with the process; a read of it that has begun fails with ESRCH.
        Err(cause) if cause.kind() == io::ErrorKind::NotFound || cause.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => {
            return Err(NoProcess::Ended);
        }
        Err(cause) => return Err(cause.into()),
    };
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat has another form"));
    Ok(parse_start_time(&stat).ok_or_else(malformed)?)
}

/// Field 22. The second one is the command in parentheses, which may hold spaces and parentheses of
/// its own.
fn parse_start_time(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    fn sleeper() -> Child {
        Command::new("sleep").arg("600").spawn().unwrap()
    }

    #[test]
    fn the_start_time_is_found_behind_any_command() {
        let rest = "S 1 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 11 12";
        for command in ["imap", "a b", ") S 1 (", ""] {
            assert_eq!(parse_start_time(&format!("42 ({command}) {rest}")), Some(987_654), "{command}");
        }
        for wrong in ["", "42", "42 (imap)", "42 (imap) S 1", "42 (imap) S 1 1 1 0 -1 4 1 2 3 4 5 6 7 8 20 0 1 0 x 11"] {
            assert_eq!(parse_start_time(wrong), None, "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_process_is_held_until_its_end_is_seen() {
        let mut child = sleeper();
        let pid = child.id().cast_signed();
        let process = Process::open(pid).unwrap();
        assert!(!process.ends_within(Duration::from_millis(20)).await);
        process.terminate().unwrap();
        assert!(process.ends_within(SOON).await);
        child.wait().unwrap();
        // Its number may be anybody's by now: nobody is signalled.
        process.kill().unwrap();
        assert!(matches!(Process::reopen(process.id()), Err(NoProcess::Ended)));
    }

    #[tokio::test]
    async fn a_process_with_the_number_of_another_is_not_taken_for_it() {
        let mut child = sleeper();
        let id = Process::open(child.id().cast_signed()).unwrap().id();
        assert!(Process::reopen(id).is_ok());
        assert!(matches!(Process::reopen(ProcessId { start_time: id.start_time + 1, ..id }), Err(NoProcess::Ended)));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[tokio::test]
    async fn the_peer_of_a_socket_is_proven_only_while_the_socket_is_open() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        assert_eq!(Process::of_peer(&ours).unwrap().id().pid.cast_unsigned(), std::process::id());
        drop(theirs);
        assert!(matches!(Process::of_peer(&ours), Err(NoProcess::Ended)));
    }
}
