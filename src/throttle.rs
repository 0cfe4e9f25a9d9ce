//! Floor 2: keeps guessers from spending our argon2. Counts wrong guesses by where they come from,
//! in a table of fixed size: cost and memory are flat however many there are, and nobody can lock
//! out somebody else's address.

use std::{
    fmt,
    hash::BuildHasher,
    net::IpAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use latchkey_core::model::{address::MailboxKey, clock::BootTime};

/// Two sources that share a cell share its count. 2^16 cells are 512 KiB.
const CELLS: usize = 1 << 16;

/// So many wrong guesses at once, then one each interval.
#[derive(Clone, Copy, Debug)]
struct Rate {
    burst: u32,
    interval: Duration,
}

/// One source guessing at one mailbox.
const AT_ONE_MAILBOX: Rate = Rate { burst: 10, interval: Duration::from_secs(10) };
/// One source guessing at all: an office behind one address has many phones.
const AT_ALL: Rate = Rate { burst: 100, interval: Duration::from_secs(1) };

/// Counts in the manner of the generic cell rate algorithm (ITU-T I.371): a cell holds the time at
/// which its guesses are paid off.
pub struct Throttle {
    cells: Box<[AtomicU64]>,
    hasher: hashbrown::DefaultHashBuilder,
}

impl Throttle {
    #[expect(clippy::new_without_default, reason = "a table with a random key is not a plain value")]
    pub fn new() -> Self {
        Self { cells: (0..CELLS).map(|_| AtomicU64::new(0)).collect(), hasher: hashbrown::DefaultHashBuilder::default() }
    }

    /// How long guesses from there have to wait; `None`: not at all.
    pub fn wait(&self, source: Option<IpAddr>, mailbox: MailboxKey, now: BootTime) -> Option<Duration> {
        let wait = self
            .sources(source, mailbox)
            .map(|(cell, rate)| {
                let paid_off = BootTime(cell.load(Ordering::Relaxed));
                (paid_off - now).saturating_sub(rate.interval * (rate.burst - 1))
            })
            .max()?;
        (!wait.is_zero()).then_some(wait)
    }

    /// Notes a wrong guess; at a mailbox, if it has cost an argon2. The others cost next to
    /// nothing, and counted there they would fill the whole table under a flood.
    pub fn count(&self, source: Option<IpAddr>, mailbox: Option<MailboxKey>, now: BootTime) {
        let network = source.map(network);
        let at_mailbox = mailbox.map(|mailbox| (self.cell(&(network, Some(mailbox))), AT_ONE_MAILBOX));
        // Without an address all such callers would share one count, and one of them could spend it
        // for all.
        let at_all = network.map(|network| (self.cell(&(Some(network), None)), AT_ALL));
        for (cell, rate) in at_mailbox.into_iter().chain(at_all) {
            let debt_limit = now + rate.interval * (rate.burst * 2);
            // Relaxed is enough: a count lost to a race is one more guess.
            let _ = cell.try_update(Ordering::Relaxed, Ordering::Relaxed, |paid_off| {
                Some((BootTime(paid_off.max(now.0)) + rate.interval).min(debt_limit).0)
            });
        }
    }

    fn sources(&self, source: Option<IpAddr>, mailbox: MailboxKey) -> impl Iterator<Item = (&AtomicU64, Rate)> {
        let network = source.map(network);
        let at_mailbox = (self.cell(&(network, Some(mailbox))), AT_ONE_MAILBOX);
        let at_all = network.map(|network| (self.cell(&(Some(network), None)), AT_ALL));
        [at_mailbox].into_iter().chain(at_all)
    }

    fn cell(&self, key: &(Option<u128>, Option<MailboxKey>)) -> &AtomicU64 {
        let hash = self.hasher.hash_one(key);
        &self.cells[usize::try_from(hash % CELLS as u64).unwrap_or(0)]
    }
}

/// One host of IPv4; a /64 of IPv6, which is what one customer gets at least (RFC 6177).
fn network(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits() >> 64 << 64,
    }
}

impl fmt::Debug for Throttle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Throttle")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAILBOX: MailboxKey = MailboxKey([7; 16]);
    const OTHER: MailboxKey = MailboxKey([8; 16]);

    fn ip(text: &str) -> Option<IpAddr> {
        text.parse().ok()
    }

    #[test]
    fn a_guesser_waits_and_nobody_else_does() {
        let throttle = Throttle::new();
        let now = BootTime(1_000_000_000_000);
        for guess in 0..AT_ONE_MAILBOX.burst {
            assert_eq!(throttle.wait(ip("192.0.2.1"), MAILBOX, now), None, "guess {guess} is within the burst");
            throttle.count(ip("192.0.2.1"), Some(MAILBOX), now);
        }
        let wait = throttle.wait(ip("192.0.2.1"), MAILBOX, now).expect("the burst is spent");
        assert!(wait <= AT_ONE_MAILBOX.interval);
        assert_eq!(throttle.wait(ip("192.0.2.1"), MAILBOX, now + wait), None, "as long as said, and no longer");
        assert_eq!(throttle.wait(ip("192.0.2.2"), MAILBOX, now), None, "another source");
        assert_eq!(throttle.wait(ip("192.0.2.1"), OTHER, now), None, "another mailbox");
    }

    #[test]
    fn without_an_address_only_the_mailbox_counts() {
        let throttle = Throttle::new();
        let now = BootTime(1_000_000_000_000);
        for mailbox in 0..=u8::MAX {
            throttle.count(None, Some(MailboxKey([mailbox; 16])), now);
            throttle.count(None, None, now);
        }
        assert_eq!(throttle.wait(None, MailboxKey([9; 16]), now), None, "other mailboxes' guesses are not its own");
        for _ in 0..AT_ONE_MAILBOX.burst {
            throttle.count(None, Some(MAILBOX), now);
        }
        assert!(throttle.wait(None, MAILBOX, now).is_some(), "its own are");
    }

    #[test]
    fn a_customer_of_ipv6_is_one_source() {
        let throttle = Throttle::new();
        let now = BootTime(1_000_000_000_000);
        for host in 0..AT_ONE_MAILBOX.burst {
            throttle.count(ip(&format!("2001:db8::{host:x}")), Some(MAILBOX), now);
        }
        assert!(throttle.wait(ip("2001:db8::ffff"), MAILBOX, now).is_some());
        assert_eq!(throttle.wait(ip("2001:db8:0:1::1"), MAILBOX, now), None);
    }

    #[test]
    fn a_flood_from_everywhere_at_everybody_keeps_nobody_out() {
        let throttle = Throttle::new();
        let begin = BootTime(1_000_000_000_000);
        // 10,000 guesses a second for ten minutes, of which one in 256 costs an argon2.
        for guess in 0..6_000_000_u64 {
            let (from, at) =
                (IpAddr::from(u32::try_from(guess % 1_000_003).unwrap().to_be_bytes()), (guess % 99_991).to_be_bytes());
            let mut mailbox = [0; 16];
            mailbox[..8].copy_from_slice(&at);
            throttle.count(
                Some(from),
                (guess % 256 == 0).then_some(MailboxKey(mailbox)),
                begin + Duration::from_micros(guess * 100),
            );
        }
        let now = begin + Duration::from_secs(600);
        let kept_out = (0..=255).filter(|host| throttle.wait(Some([198, 51, 100, *host].into()), MAILBOX, now).is_some()).count();
        assert_eq!(kept_out, 0);
    }

    #[test]
    fn a_long_attack_leaves_no_endless_wait() {
        let throttle = Throttle::new();
        let now = BootTime(1_000_000_000_000);
        for _ in 0..1_000_000 {
            throttle.count(None, Some(MAILBOX), now);
        }
        assert!(throttle.wait(None, MAILBOX, now).expect("throttled") <= AT_ALL.interval * AT_ALL.burst * 2);
    }
}
