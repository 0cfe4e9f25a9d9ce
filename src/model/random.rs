//! The one source of random bytes: the operating system's. Nothing else makes them (`clippy.toml` holds that).

/// `N` random bytes, fit for keys.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    #[expect(
        clippy::expect_used,
        clippy::disallowed_methods,
        reason = "this is the one source; Linux's getrandom fails only before the kernel has entropy; nothing safe can be done without it"
    )]
    getrandom::fill(&mut bytes).expect("the operating system gives no random bytes");
    bytes
}

/// A random number, never 0.
pub fn nonce() -> i64 {
    (i64::from_be_bytes(bytes()) & i64::MAX).max(1)
}
