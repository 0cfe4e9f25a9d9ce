//! The networks that a device may log in from.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Invalid;

pub const MAX_NETWORKS: usize = 32;

/// Networks in CIDR form. Empty means everywhere.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Networks(pub Box<[IpNet]>);

impl Networks {
    /// Each a network (`192.0.2.0/24`) or a single address; at most [`MAX_NETWORKS`].
    pub fn parse<S: AsRef<str>>(field: &'static str, texts: &[S]) -> Result<Self, Invalid> {
        if texts.len() > MAX_NETWORKS {
            return Err(Invalid::new(field, "must hold at most 32 networks"));
        }
        texts
            .iter()
            .map(|text| {
                let text = text.as_ref();
                text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).map(|network| network.trunc()).map_err(
                    |_| Invalid::new(field, "must hold networks like 192.0.2.0/24 or 2001:db8::/32, or single addresses"),
                )
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    pub fn allow(&self, client: Option<IpAddr>) -> bool {
        self.0.is_empty()
            || client.is_some_and(|ip| {
                let ip = ip.to_canonical();
                self.0.iter().any(|network| network.contains(&ip))
            })
    }

    /// As a store keeps it: separated by commas.
    pub fn to_text(&self) -> String {
        self.0.iter().map(IpNet::to_string).collect::<Vec<_>>().join(",")
    }

    pub fn from_store(stored: &str) -> Option<Self> {
        stored.split(',').filter(|part| !part.is_empty()).map(|part| part.parse().ok()).collect::<Option<_>>().map(Self)
    }
}

/// Parses `client_ip`: empty means unknown.
pub fn parse_client_ip(field: &'static str, text: &str) -> Result<Option<IpAddr>, Invalid> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse::<IpAddr>()
        .map(|ip| Some(ip.to_canonical()))
        .map_err(|_| Invalid::new(field, "must be an IPv4 or IPv6 address without a port, or empty"))
}
