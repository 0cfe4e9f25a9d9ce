//! The parsers, against whatever a server may send.

use tokio::io::AsyncWriteExt;

use super::{
    conversation::{Conversation, MAX_LINE_BYTES, Trouble},
    imap, pop3, smtp,
    target::{Protocol, Server, Target},
};

#[test]
fn a_url_names_protocol_host_and_port_or_says_what_is_wrong() {
    let parsed = |url: &str| Server::parse(url).map(|server| (server.protocol, server.is_implicit_tls, server.to_string()));
    assert_eq!(parsed("imaps://mail.example.com").unwrap(), (Protocol::Imap, true, "imaps://mail.example.com:993".to_owned()));
    assert_eq!(parsed("SMTP://127.0.0.1:10025/").unwrap(), (Protocol::Smtp, false, "smtp://127.0.0.1:10025".to_owned()));
    assert_eq!(parsed("pop3://[::1]").unwrap(), (Protocol::Pop3, false, "pop3://[::1]:110".to_owned()));
    for (wrong, words) in [
        ("mail.example.com", "imaps://"),
        ("http://mail.example.com", "must begin with"),
        ("imap://", "host"),
        ("imap://alice@example.com", "without a user"),
        ("imap://example.com/INBOX", "without a user or a path"),
        ("imap://example.com:0", "1 to 65535"),
        ("imap://example.com:99999", "1 to 65535"),
        ("imap://[::1", "]"),
        ("imap://[::1]x", "only a port"),
    ] {
        assert!(parsed(wrong).unwrap_err().contains(words), "{wrong}: {:?}", parsed(wrong));
    }
}

/// A conversation with a server that has sent these bytes and left.
async fn conversation(sent: &[u8]) -> Conversation {
    let (mut server, client) = tokio::io::duplex(1 << 20);
    server.write_all(sent).await.unwrap();
    Conversation::over(client)
}

#[tokio::test]
async fn a_line_has_a_limit_and_an_answer_too() {
    let line = [&vec![b'a'; MAX_LINE_BYTES - 1][..], b"\n"].concat();
    assert_eq!(conversation(&line).await.line().await.unwrap().len(), MAX_LINE_BYTES - 1);
    let line = [&vec![b'a'; MAX_LINE_BYTES][..], b"\n"].concat();
    assert!(matches!(conversation(&line).await.line().await, Err(Trouble::LineTooLong)));
    let endless = vec![b'a'; MAX_LINE_BYTES * 4];
    assert!(matches!(conversation(&endless).await.line().await, Err(Trouble::LineTooLong)));
    let lines = "250-x\r\n".repeat(1_000);
    assert!(matches!(smtp::reply(&mut conversation(lines.as_bytes()).await).await, Err(Trouble::TooManyLines(_))));
    let lines = "* OK x\r\n".repeat(1_000);
    assert!(matches!(imap::answer(&mut conversation(lines.as_bytes()).await, "a", false).await, Err(Trouble::TooManyLines(_))));
    assert!(matches!(conversation(b"half a line").await.line().await, Err(Trouble::Closed)));
}

#[tokio::test]
async fn a_password_goes_over_the_network_only_inside_tls_unless_it_is_permitted() {
    let conversation = conversation(b"").await;
    let target = |may_be_clear| Target {
        server: Server::parse("imap://192.0.2.7").unwrap(),
        tls: std::sync::Arc::new(super::tls(None).unwrap()),
        tls_name: "mail.example.com".try_into().unwrap(),
        may_be_clear,
    };
    let refused = target(false).check_secrecy(&conversation).unwrap_err().to_string();
    assert!(refused.contains("in the clear") && refused.contains("--allow-cleartext"), "{refused}");
    assert!(target(true).check_secrecy(&conversation).is_ok());
    for (url, is_loopback) in
        [("imap://127.0.0.1", true), ("imap://[::1]", true), ("imap://localhost", true), ("imap://192.0.2.7", false)]
    {
        assert_eq!(Server::parse(url).unwrap().is_loopback(), is_loopback, "{url}");
    }
}

/// SplitMix64: the same bytes in every run.
struct Seeded(u64);

impl Seeded {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}

#[tokio::test]
async fn whatever_a_server_sends_is_an_answer_or_an_error() {
    let mut seeded = Seeded(11);
    let words =
        ["a", "*", "+", " ", "OK", "NO", "BAD", "BYE", "[", "]", "250", "-", "+OK", "-ERR", "\r\n", "\n", "\0", "é", "\u{fffd}"];
    for _ in 0..5_000 {
        let mut sent: Vec<u8> = Vec::new();
        for _ in 0..seeded.below(30) {
            match seeded.below(5) {
                0 => sent.push(seeded.below(256) as u8),
                _ => sent.extend(words[seeded.below(words.len())].as_bytes()),
            }
        }
        let text = String::from_utf8_lossy(&sent).into_owned();
        let _ = (imap::parse(&text, "a"), smtp::parse(&text), pop3::status(&text), Server::parse(&text));
        // Each ends: the server has left.
        let _ = imap::answer(&mut conversation(&sent).await, "a", true).await;
        let _ = imap::capabilities(&mut conversation(&sent).await).await;
        let _ = smtp::reply(&mut conversation(&sent).await).await;
        let _ = pop3::command(&mut conversation(&sent).await, b"NOOP").await;
    }
}
