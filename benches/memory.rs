//! Memory of a cached device, measured at a million devices: what the process grows by while it
//! caches them.
//!
//! `cargo bench --bench memory`

#![allow(clippy::expect_used, clippy::cast_precision_loss, reason = "a benchmark fails by panicking, and counts in floats")]

use latchkey::random::NewId as _;
use latchkey::{clock::SystemClock, random};
use latchkey_core::{
    cache::{mailboxes::MailboxCache, memos::Memos},
    model::{
        address::Address,
        change::{Revision, ServiceKey},
        clock::Clock,
        device::{DeviceKind, KeyId, Tag},
        id::{DeviceId, MailboxId},
        record::{Credential, MailboxRead, MailboxRecord},
    },
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const DEVICES: usize = 1_000_000;

fn main() {
    // Each in a process of its own: memory that was freed is not always given back.
    if let Ok(what) = std::env::var("LATCHKEY_BENCH") {
        let (kind, each) = what.split_once(' ').expect("two words");
        let kind = if kind == "1" { DeviceKind::Generated } else { DeviceKind::Chosen };
        print!("{:.0}", measure(kind, each.parse().expect("a number")));
        return;
    }
    println!("{:<48} {:>16}", "", "bytes a device");
    for (kind, each) in [(DeviceKind::Generated, 1), (DeviceKind::Generated, 4), (DeviceKind::Chosen, 1), (DeviceKind::Chosen, 4)]
    {
        let this = std::env::current_exe().expect("this program");
        let output = std::process::Command::new(this).env("LATCHKEY_BENCH", format!("{} {each}", kind as u8)).output();
        let bytes = String::from_utf8(output.expect("it runs").stdout).expect("a number");
        println!("{:<48} {bytes:>16}", format!("{kind:?}, {each} a mailbox"));
    }
}

fn measure(kind: DeviceKind, each: usize) -> f64 {
    let cache = MailboxCache::with_capacity(4 * DEVICES);
    let memos = Memos::with_capacity(4 * DEVICES, &random::bytes());
    let before = resident_bytes();
    for number in 0..DEVICES / each {
        let key = Address::parse("address", &format!("user{number}@example.com")).expect("good").key();
        let now = SystemClock.wall();
        let active: Vec<_> = (0..each)
            .map(|_| {
                let tag = match kind {
                    DeviceKind::Generated => Tag::Proof(random::bytes()),
                    _ => Tag::Index { salt: 0, value: random::bytes::<1>()[0] },
                };
                Credential {
                    device_id: DeviceId::new(now),
                    generation: 1,
                    tag,
                    key: KeyId(1),
                    kind,
                    user_suspended: false,
                    limits: None,
                }
            })
            .collect();
        if kind == DeviceKind::Chosen {
            for device in &active {
                memos.insert(memos.of(device.device_id, 1, b"violet-anchor-breeze-47"));
            }
        }
        let mailbox = MailboxRecord {
            mailbox_id: MailboxId::new(now),
            service: ServiceKey(1),
            suspended: false,
            generic_login: true,
            active: active.into(),
            ended: Box::new([]),
        };
        cache.begin_load(key).finish(MailboxRead { revision: Revision(1), mailbox: Some(mailbox) });
    }
    assert_eq!(cache.len(), DEVICES / each);
    (resident_bytes() - before) as f64 / DEVICES as f64
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: usize = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("pages");
    pages * 4_096
}
