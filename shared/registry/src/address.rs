//! Which addresses a registry may send us to.
//!
//! A redirect, an upload `Location` or a token realm is a registry's claim. It must not make transship talk to the network
//! that transship happens to run in: to a metadata service, to a database, to itself. Addresses are checked where a
//! connection is made, so that a name which resolves differently the second time gains nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

/// How near to us an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Class {
    /// Anywhere on the internet.
    Public,
    /// A private network: RFC 1918, RFC 4193, RFC 6598 (carrier-grade NAT), RFC 2544 (benchmarks; overlay networks use it).
    Private,
    /// This host.
    Loopback,
    /// This link: RFC 3927, RFC 4291.
    LinkLocal,
    /// No registry's address: metadata services, multicast, reserved ranges.
    Never,
}

impl Class {
    pub(crate) fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::of_v4(v4),
            IpAddr::V6(v6) => Self::of_v6(v6),
        }
    }

    fn of_v4(address: Ipv4Addr) -> Self {
        match address.octets() {
            // AWS, Google, Azure and others; Alibaba; Oracle.
            [169, 254, 169, 254 | 253 | 123] | [169, 254, 170, 2 | 23] | [100, 100, 100, 200] | [192, 0, 0, 192] => Self::Never,
            // Azure's host endpoint, which is a public address to everyone else and no registry to anyone.
            [168, 63, 129, 16] => Self::Never,
            [127, ..] => Self::Loopback,
            [169, 254, ..] => Self::LinkLocal,
            [10, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] | [198, 18..=19, ..] => Self::Private,
            [0 | 224..=255, ..] | [192, 0, 0, _] => Self::Never,
            _ => Self::Public,
        }
    }

    fn of_v6(address: Ipv6Addr) -> Self {
        if let Some(v4) = embedded(address) {
            return Self::of_v4(v4);
        }
        match address.segments() {
            // AWS: metadata, and the credentials of pods.
            [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254 | 0x23] => Self::Never,
            [0, 0, 0, 0, 0, 0, 0, 1] => Self::Loopback,
            // The second is a network's own NAT64 (RFC 8215), in which any IPv4 address may be hidden.
            [0xfc00..=0xfdff, ..] | [0x64, 0xff9b, 1, ..] => Self::Private,
            [0xfe80..=0xfebf, ..] => Self::LinkLocal,
            // Teredo hides an IPv4 address too (RFC 4380); it is dead.
            [0 | 0xfec0..=0xffff, ..] | [0x2001, 0, ..] | [0x100, 0, 0, 0, ..] => Self::Never,
            _ => Self::Public,
        }
    }
}

/// The IPv4 address that an IPv6 address stands for: mapped (RFC 4291), NAT64 (RFC 6052) or 6to4 (RFC 3056).
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let pair = |a: u16, b: u16| Ipv4Addr::from((u32::from(a) << 16) | u32::from(b));
    match address.segments() {
        [0, 0, 0, 0, 0, 0xffff, a, b] | [0x64, 0xff9b, 0, 0, 0, 0, a, b] | [0x2002, a, b, ..] => Some(pair(a, b)),
        _ => None,
    }
}

/// How far an instance may send us: wherever it is itself, and outwards from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Reach(Class);

impl Reach {
    /// Public addresses only.
    pub(crate) const PUBLIC: Self = Self(Class::Public);
    /// Private networks and this host as well: wherever a host may be that an operator has named. The addresses of a link are none of
    /// them: on every cloud, metadata services are there, and a name may be anybody's.
    pub(crate) const NEAR: Self = Self(Class::Loopback);

    /// The reach of an instance whose endpoint is at these addresses. One public address among them makes it public: that is
    /// the smaller reach.
    pub(crate) fn of(addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        let mut classes = addresses.into_iter().map(Class::of);
        let Some(first) = classes.next() else { return Self::PUBLIC };
        Self(classes.fold(first, |class, next| if class == next { class } else { Class::Public }))
    }

    /// The reach of an endpoint. A name that can't be resolved has the smallest.
    pub(crate) async fn of_endpoint(endpoint: &Url) -> Self {
        match endpoint.host() {
            Some(Host::Ipv4(address)) => Self::of([address.into()]),
            Some(Host::Ipv6(address)) => Self::of([address.into()]),
            Some(Host::Domain(name)) => match lookup(name).await {
                Ok(addresses) => Self::of(addresses.iter().map(SocketAddr::ip)),
                Err(_) => Self::PUBLIC,
            },
            None => Self::PUBLIC,
        }
    }

    pub(crate) fn allows(self, address: IpAddr) -> bool {
        match Class::of(address) {
            Class::Public => true,
            Class::Private => matches!(self.0, Class::Private | Class::Loopback),
            Class::Loopback => self.0 == Class::Loopback,
            Class::LinkLocal | Class::Never => false,
        }
    }
}

/// The address that a URL's host is, if it is written out: such a one never meets the resolver.
pub(crate) fn written_out(url: &Url) -> Option<IpAddr> {
    match url.host() {
        Some(Host::Ipv4(address)) => Some(address.into()),
        Some(Host::Ipv6(address)) => Some(address.into()),
        _ => None,
    }
}

/// A name or address that we may not be sent to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Forbidden {
    /// A registry does not lead inwards.
    #[error("{0} is a private, loopback or link-local address, and the registry itself is not there")]
    Inwards(String),
    /// Nobody leads there.
    #[error(
        "{0} resolves to a link-local address or to one of a metadata service, where no registry is: have the name lead to a host in a network"
    )]
    Link(String),
}

impl Forbidden {
    /// The name or address.
    pub(crate) fn host(&self) -> &str {
        match self {
            Self::Inwards(host) | Self::Link(host) => host,
        }
    }
}

/// Resolves names as the system does and leaves out what is out of reach.
pub(crate) struct Guard {
    pub(crate) reach: Reach,
    /// Hosts of the proxies that the environment names: the operator's choice, wherever they are. Behind a proxy it is the
    /// proxy that resolves and refuses.
    pub(crate) proxies: Vec<String>,
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = self.reach;
        let exempt = self.proxies.iter().any(|proxy| proxy.eq_ignore_ascii_case(name.as_str()));
        Box::pin(async move {
            let found = lookup(name.as_str()).await?;
            let allowed: Vec<SocketAddr> = found.iter().filter(|a| exempt || reach.allows(a.ip())).copied().collect();
            if allowed.is_empty() && !found.is_empty() {
                let name = name.as_str().to_owned();
                return Err(if reach == Reach::NEAR { Forbidden::Link(name) } else { Forbidden::Inwards(name) }.into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

/// The addresses of a name.
#[cfg(not(test))]
async fn lookup(name: &str) -> std::io::Result<Vec<SocketAddr>> {
    Ok(tokio::net::lookup_host((name, 0)).await?.collect())
}

/// The same, with names that a test can rely on: `169-254-1-1.at.test` is at 169.254.1.1, `fe80--1.at.test` at fe80::1.
#[cfg(test)]
async fn lookup(name: &str) -> std::io::Result<Vec<SocketAddr>> {
    let written = |text: &str| text.replace('-', ".").parse().or_else(|_| text.replace('-', ":").parse::<IpAddr>()).ok();
    match name.strip_suffix(".at.test").and_then(written) {
        Some(address) => Ok(vec![SocketAddr::new(address, 0)]),
        None => Ok(tokio::net::lookup_host((name, 0)).await?.collect()),
    }
}

/// The hosts of the proxies in the environment variables that every HTTP client knows.
pub(crate) fn proxies() -> Vec<String> {
    ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"]
        .iter()
        .filter_map(|name| std::env::var(name).ok())
        .filter_map(|text| Url::parse(&text).or_else(|_| Url::parse(&format!("http://{text}"))).ok())
        .filter_map(|url| url.host_str().map(str::to_owned))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_range_has_its_class() {
        for (text, class) in [
            ("8.8.8.8", Class::Public),
            ("2606:4700::1", Class::Public),
            ("10.1.2.3", Class::Private),
            ("172.31.0.1", Class::Private),
            ("172.32.0.1", Class::Public),
            ("192.168.1.1", Class::Private),
            ("100.64.0.1", Class::Private),
            ("198.19.0.1", Class::Private),
            ("fd12::1", Class::Private),
            ("fc00::1", Class::Private),
            ("64:ff9b:1::1", Class::Private),
            ("172.16.0.1", Class::Private),
            ("172.15.255.255", Class::Public),
            ("127.0.0.1", Class::Loopback),
            ("::1", Class::Loopback),
            ("169.254.1.1", Class::LinkLocal),
            ("fe80::1", Class::LinkLocal),
            ("169.254.169.254", Class::Never),
            ("169.254.170.2", Class::Never),
            ("100.100.100.200", Class::Never),
            ("fd00:ec2::254", Class::Never),
            ("0.0.0.0", Class::Never),
            ("::", Class::Never),
            ("224.0.0.1", Class::Never),
            ("255.255.255.255", Class::Never),
            ("::ffff:127.0.0.1", Class::Loopback),
            ("::ffff:169.254.169.254", Class::Never),
            ("64:ff9b::10.0.0.1", Class::Private),
            ("2002:7f00:1::", Class::Loopback),
            ("ff02::1", Class::Never),
            ("::10.0.0.1", Class::Never),
            ("2001::1", Class::Never),
            ("169.254.169.253", Class::Never),
            ("168.63.129.16", Class::Never),
        ] {
            assert_eq!(Class::of(text.parse().unwrap()), class, "{text}");
        }
    }

    #[test]
    fn nobody_is_sent_further_inwards_than_the_instance_is() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let (public, private, loopback) =
            (Reach::of([ip("8.8.8.8")]), Reach::of([ip("10.0.0.1")]), Reach::of([ip("127.0.0.1")]));
        assert!(public.allows(ip("1.1.1.1")) && private.allows(ip("1.1.1.1")) && loopback.allows(ip("1.1.1.1")));
        assert!(!public.allows(ip("10.0.0.2")) && private.allows(ip("10.0.0.2")) && loopback.allows(ip("10.0.0.2")));
        assert!(!public.allows(ip("127.0.0.1")) && !private.allows(ip("127.0.0.1")) && loopback.allows(ip("127.0.0.1")));
        for reach in [public, private, loopback] {
            assert!(!reach.allows(ip("169.254.169.254")) && !reach.allows(ip("fe80::1")));
        }
        assert_eq!(Reach::of([ip("10.0.0.1"), ip("8.8.8.8")]), Reach::PUBLIC);
        assert_eq!(Reach::of([]), Reach::PUBLIC);
    }

    #[tokio::test]
    async fn a_name_is_judged_by_what_it_resolves_to() {
        let resolve = async |reach, proxies: &[&str]| {
            let guard = Guard { reach, proxies: proxies.iter().map(ToString::to_string).collect() };
            guard.resolve("localhost".parse().unwrap()).await.map(|addresses| addresses.count() > 0)
        };
        let refused = resolve(Reach::PUBLIC, &[]).await.unwrap_err();
        assert!(matches!(refused.downcast_ref(), Some(Forbidden::Inwards(_))), "{refused}");
        assert!(resolve(Reach::of([IpAddr::from([127, 0, 0, 1])]), &[]).await.unwrap());
        assert!(resolve(Reach::PUBLIC, &["localhost"]).await.unwrap());
    }
}
