//! Networks in CIDR notation.

use std::net::{IpAddr, Ipv6Addr};

/// A network: the addresses that share so many leading bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    /// Its lowest address.
    pub(super) first: IpAddr,
    pub(super) prefix: u8,
}

impl Cidr {
    /// The network of that size that an address is in.
    pub(super) fn of(address: IpAddr, prefix: u8) -> Self {
        let first = match address {
            IpAddr::V4(address) => {
                let host_bits = 32_u32.saturating_sub(u32::from(prefix));
                let mask = u32::MAX.checked_shl(host_bits).unwrap_or_default();
                IpAddr::V4((address.to_bits() & mask).into())
            }
            IpAddr::V6(address) => {
                let host_bits = 128_u32.saturating_sub(u32::from(prefix));
                let mask = u128::MAX.checked_shl(host_bits).unwrap_or_default();
                IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask))
            }
        };
        Self { first, prefix }
    }

    /// Reads a network in CIDR notation, or a single address. One of IPv4 addresses in IPv6 (`::ffff:10.0.0.0/104`) is that of
    /// the IPv4 addresses.
    ///
    /// # Errors
    /// Says what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || {
            "is not a network; expected one such as `10.0.0.0/8`, `2001:db8::/32` or `192.0.2.7`".to_owned()
        };
        let (address, prefix) = text.split_once('/').map_or((text, None), |(a, prefix)| (a, Some(prefix)));
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            // `+8` and `08` are numbers to the standard library.
            Some(text) => {
                text.parse().ok().filter(|prefix: &u8| *prefix <= longest && prefix.to_string() == text)
            }
            None => Some(longest),
        };
        let prefix = prefix.ok_or_else(wrong)?;
        let network = Self::of(address, prefix);
        if network.first != address {
            return Err(format!("`{text}` has bits behind its prefix; expected `{network}`"));
        }
        Ok(match (address.to_canonical(), prefix.checked_sub(96)) {
            (IpAddr::V4(mapped), Some(prefix)) if address.is_ipv6() => Self::of(mapped.into(), prefix),
            _ => network,
        })
    }

    /// Whether the address, an IPv4 address as such, is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.first.is_ipv4() && Self::of(address, self.prefix).first == self.first
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}
