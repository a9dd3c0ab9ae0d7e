//! Addresses that nothing is delivered to unless `--allow-private`: those of this machine and its networks,
//! of clouds' metadata services, and those that lead to nobody (the registries of RFC 6890).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Returns what is special about an address that is not a public one.
pub(super) fn special(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => special_v4(address),
        IpAddr::V6(address) => special_v6(address),
    }
}

/// Blocks of IPv4: the first address, the length of the prefix, and what is special.
const V4: [(Ipv4Addr, u32, &str); 19] = [
    (Ipv4Addr::UNSPECIFIED, 8, "unspecified"),
    (Ipv4Addr::new(10, 0, 0, 0), 8, "private"),
    (Ipv4Addr::new(100, 64, 0, 0), 10, "shared (carrier-grade NAT)"),
    (Ipv4Addr::new(127, 0, 0, 0), 8, "loopback"),
    (Ipv4Addr::new(168, 63, 129, 16), 32, "a metadata service's"),
    (Ipv4Addr::new(169, 254, 0, 0), 16, "link-local"),
    (Ipv4Addr::new(172, 16, 0, 0), 12, "private"),
    (Ipv4Addr::new(192, 0, 0, 0), 24, "of protocols"),
    (Ipv4Addr::new(192, 0, 2, 0), 24, "of documentation"),
    (Ipv4Addr::new(192, 31, 196, 0), 24, "of protocols"),
    (Ipv4Addr::new(192, 52, 193, 0), 24, "of protocols"),
    (Ipv4Addr::new(192, 88, 99, 0), 24, "of 6to4"),
    (Ipv4Addr::new(192, 168, 0, 0), 16, "private"),
    (Ipv4Addr::new(192, 175, 48, 0), 24, "of protocols"),
    (Ipv4Addr::new(198, 18, 0, 0), 15, "of benchmarks"),
    (Ipv4Addr::new(198, 51, 100, 0), 24, "of documentation"),
    (Ipv4Addr::new(203, 0, 113, 0), 24, "of documentation"),
    (Ipv4Addr::new(224, 0, 0, 0), 4, "multicast"),
    (Ipv4Addr::new(240, 0, 0, 0), 4, "reserved or broadcast"),
];

fn special_v4(address: Ipv4Addr) -> Option<&'static str> {
    let is_in = |first: Ipv4Addr, bits: u32| {
        (address.to_bits() ^ first.to_bits()).checked_shr(32 - bits).unwrap_or_default() == 0
    };
    V4.into_iter().find(|(first, bits, _)| is_in(*first, *bits)).map(|(_, _, what)| what)
}

/// Blocks of IPv6 within `2000::/3`, which has all public addresses.
const V6: [(Ipv6Addr, u32, &str); 4] = [
    // Teredo (2001::/32) and benchmarks (2001:2::/48) too.
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23, "of protocols"),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32, "of documentation"),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16, "of 6to4"),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20, "of documentation"),
];

fn special_v6(address: Ipv6Addr) -> Option<&'static str> {
    if let Some(mapped) = address.to_ipv4_mapped() {
        return special_v4(mapped);
    }
    let segments = address.segments();
    let [.., high, low] = segments;
    let embedded = Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match segments {
        [0, 0, 0, 0, 0, 0, 0, 0] => Some("unspecified"),
        [0, 0, 0, 0, 0, 0, 0, 1] => Some("loopback"),
        [0, 0, 0, 0, 0, 0, ..] => Some("IPv4-compatible"),
        // NAT64 (RFC 6052): a gateway connects to the IPv4 address.
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => special_v4(embedded),
        [0xfc00..=0xfdff, ..] => Some("unique local"),
        [0xfe80..=0xfebf, ..] => Some("link-local"),
        [0xfec0..=0xfeff, ..] => Some("site-local"),
        [0xff00..=0xffff, ..] => Some("multicast"),
        // ISATAP (RFC 5214): an interface may connect to the IPv4 address.
        [_, _, _, _, 0 | 0x200, 0x5efe, ..] => Some("of ISATAP"),
        [0x2000..=0x3fff, ..] => {
            let is_in = |first: Ipv6Addr, bits: u32| {
                (address.to_bits() ^ first.to_bits()).checked_shr(128 - bits).unwrap_or_default()
                    == 0
            };
            V6.into_iter().find(|(first, bits, _)| is_in(*first, *bits)).map(|(_, _, what)| what)
        }
        _ => Some("reserved"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_addresses_are_recognized() {
        for (what, addresses) in [
            ("unspecified", "0.0.0.0 0.1.2.3 :: ::ffff:0.0.0.0"),
            ("private", "10.0.0.0 10.255.255.255 172.16.0.1 172.31.255.255 192.168.1.1"),
            ("private", "::ffff:10.0.0.1 ::ffff:c0a8:101 64:ff9b::10.0.0.1 64:ff9b::c0a8:101"),
            ("loopback", "127.0.0.1 127.255.255.254 ::1 ::ffff:127.0.0.1 64:ff9b::7f00:1"),
            ("shared", "100.64.0.0 100.127.255.255 100.100.100.200 ::ffff:100.64.0.1"),
            ("link-local", "169.254.169.254 ::ffff:169.254.169.254 fe80::1 febf:ffff::1"),
            ("metadata", "168.63.129.16 ::ffff:168.63.129.16 64:ff9b::168.63.129.16"),
            ("protocols", "192.0.0.1 192.0.0.192 2001::1 2001:0:102:304::1 2001:2::1 2001:1ff::1"),
            ("documentation", "192.0.2.1 198.51.100.1 203.0.113.255 2001:db8::1 3fff:fff::1"),
            ("6to4", "192.88.99.1 2002:7f00:1::1 2002:808:808::1"),
            ("benchmarks", "198.18.0.1 198.19.255.255"),
            ("multicast", "224.0.0.1 239.255.255.255 ff02::1 ff0e::1"),
            ("reserved", "240.0.0.1 255.255.255.255 100::1 64:ff9b:1::1 5f00::1 4000::1 1::1"),
            ("unique local", "fc00::1 fd00:ec2::254 fdff:ffff::1"),
            ("site-local", "fec0::1 feff::1"),
            ("IPv4-compatible", "::2 ::127.0.0.1 ::8.8.8.8 ::ffff"),
            ("ISATAP", "2001:4860::5efe:7f00:1 2a00::200:5efe:a00:1"),
        ] {
            for address in addresses.split(' ') {
                let found = special(address.parse().unwrap());
                assert!(found.is_some_and(|found| found.contains(what)), "{address} {found:?}");
            }
        }
    }

    #[test]
    fn public_addresses_are_not_special() {
        for address in "1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.0.0.1 \
                        128.0.0.1 168.63.129.15 168.63.129.17 169.253.0.1 172.15.255.255 172.32.0.0 \
                        192.0.1.0 192.167.1.1 192.169.0.0 198.17.255.255 198.20.0.0 223.255.255.255 \
                        ::ffff:8.8.8.8 64:ff9b::8.8.8.8 2000::1 2001:200::1 2001:4860:4860::8888 \
                        2001:db7::1 2001:db9::1 2003::1 2606:4700::1111 2a00::1 3ffe::1 3fff:1000::1"
            .split_whitespace()
        {
            assert_eq!(special(address.parse().unwrap()), None, "{address}");
        }
    }
}
