//! Fetching by HTTP, for people who are not trusted with our network position.
//!
//! A tenant's URL must not become a way to reach what only this host can reach: metadata services, the management network,
//! loopback. Addresses are judged *after* name resolution, by the resolver the connection itself uses, so a name cannot
//! change its mind in between; redirects are followed by us, each judged anew; no proxy is used.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures::TryStreamExt;
use hull_types::error::{Error, ErrorKind, Result};
use reqwest::{
    Certificate, Client, Response, StatusCode,
    dns::{Addrs, Name, Resolve, Resolving},
    header::LOCATION,
    redirect::Policy,
};
use url::{Host, Url};

use crate::{ImportOptions, Limits, import::Pieces};

const MAX_REDIRECTS: usize = 5;
const CONNECT: Duration = Duration::from_secs(20);

/// A body on its way.
pub(crate) struct Body {
    pub(crate) pieces: Pieces,
    pub(crate) size: Option<u64>,
}

/// Asks for `url` and follows its redirects.
///
/// # Errors
/// `Forbidden` for addresses that are not public, `NotFound`, `Unavailable`, `TooLarge` by the server's own word.
pub(crate) async fn get(url: &Url, options: &ImportOptions, limits: &Limits) -> Result<Body> {
    let client = client(options, limits)?;
    let mut url = url.clone();
    for _ in 0..=MAX_REDIRECTS {
        require_allowed(&url, options.allow_private)?;
        let response = client.get(url.clone()).send().await.map_err(|e| unreachable_source(&url, &e))?;
        match next_hop(&url, &response)? {
            Some(next) => url = next,
            None => return body(&url, response, limits),
        }
    }
    Err(Error::invalid(format!("{url}: more than {MAX_REDIRECTS} redirects")))
}

fn client(options: &ImportOptions, limits: &Limits) -> Result<Client> {
    // Whoever installs a provider first wins, and it is the same one everywhere.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut roots = Vec::new();
    for pem in &options.extra_roots {
        roots.extend(
            Certificate::from_pem_bundle(pem).map_err(|e| Error::invalid(format!("a trusted root is not PEM: {e}")))?,
        );
    }
    let builder = Client::builder()
        .redirect(Policy::none())
        .no_proxy()
        .connect_timeout(CONNECT)
        .read_timeout(limits.idle)
        .user_agent(concat!("hull/", env!("CARGO_PKG_VERSION")))
        .tls_certs_merge(roots)
        .dns_resolver(Arc::new(JudgingResolver { allow_private: options.allow_private }));
    builder.build().map_err(|e| Error::internal(format!("cannot make an HTTP client: {e}")))
}

fn next_hop(url: &Url, response: &Response) -> Result<Option<Url>> {
    if !response.status().is_redirection() {
        return Ok(None);
    }
    let target = response.headers().get(LOCATION).and_then(|v| v.to_str().ok()).and_then(|to| url.join(to).ok());
    let next = target.ok_or_else(|| Error::unavailable(format!("{url}: redirects to nowhere")))?;
    if url.scheme() == "https" && next.scheme() != "https" {
        return Err(Error::forbidden(format!(
            "{url} redirects to {next}, which is not encrypted; use that address if you trust it"
        )));
    }
    Ok(Some(next))
}

fn body(url: &Url, response: Response, limits: &Limits) -> Result<Body> {
    let status = response.status();
    if status != StatusCode::OK {
        let kind = match status {
            StatusCode::NOT_FOUND | StatusCode::GONE => ErrorKind::NotFound,
            _ => ErrorKind::Unavailable,
        };
        return Err(Error::new(kind, format!("{url}: the server answers {status}")));
    }
    let size = response.content_length();
    if let Some(size) = size.filter(|size| *size > limits.source.0) {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!("{url} is {size} bytes, more than the {} allowed", limits.source),
        ));
    }
    Ok(Body { pieces: Box::pin(response.bytes_stream().map_err(std::io::Error::other)), size })
}

fn unreachable_source(url: &Url, error: &reqwest::Error) -> Error {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        if let Some(forbidden) = source.downcast_ref::<Error>() {
            return forbidden.clone();
        }
        cause = source;
    }
    Error::unavailable(format!("cannot fetch {url}: {cause}"))
}

fn require_allowed(url: &Url, allow_private: bool) -> Result<()> {
    if !matches!(url.scheme(), "http" | "https") {
        return Err(Error::invalid(format!("{url}: only http and https addresses can be imported")));
    }
    let literal = match url.host() {
        Some(Host::Ipv4(ip)) => Some(IpAddr::V4(ip)),
        Some(Host::Ipv6(ip)) => Some(IpAddr::V6(ip)),
        Some(Host::Domain(_)) => None,
        None => return Err(Error::invalid(format!("{url}: the address names no host"))),
    };
    match literal.filter(|ip| !allow_private && !is_public(*ip)) {
        Some(ip) => Err(not_public(url.host_str().unwrap_or_default(), ip)),
        None => Ok(()),
    }
}

fn not_public(host: &str, ip: IpAddr) -> Error {
    Error::forbidden(format!(
        "{host} is {ip}, which is not a public address; images are fetched from public addresses only: upload the file instead"
    ))
}

/// Resolves like the system does, then drops what must not be reached.
struct JudgingResolver {
    allow_private: bool,
}

impl Resolve for JudgingResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let allow_private = self.allow_private;
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let found: Vec<SocketAddr> = tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
            match found.iter().find(|addr| !allow_private && !is_public(addr.ip())) {
                Some(addr) => Err(not_public(&host, addr.ip()).into()),
                None => Ok(Box::new(found.into_iter()) as Addrs),
            }
        })
    }
}

/// Whether an address belongs to the public internet, after IANA's special-purpose registries.
pub(crate) fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let special = match ip.octets() {
        [0 | 10 | 127 | 224..=255, ..] | [169, 254, ..] | [192, 168, ..] => true,
        [100, b, ..] => (64..128).contains(&b),
        [172, b, ..] => (16..32).contains(&b),
        [192, 0, c, _] => matches!(c, 0 | 2),
        [198, b, c, _] => matches!(b, 18 | 19) || (b == 51 && c == 100),
        [203, 0, 113, _] => true,
        _ => false,
    };
    !special
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    let s = ip.segments();
    let embedded = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match s {
        // Ways to write an IPv4 address: mapped, NAT64, 6to4.
        [0, 0, 0, 0, 0, 0xffff, a, b] | [0x64, 0xff9b, 0, 0, 0, 0, a, b] => is_public_v4(embedded(a, b)),
        [0x2002, a, b, ..] => is_public_v4(embedded(a, b)),
        // Of the rest only global unicast (2000::/3) is public, without documentation and Teredo.
        [first, second, ..] => first & 0xe000 == 0x2000 && !(first == 0x2001 && matches!(second, 0 | 0xdb8)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_are_public() {
        for ip in [
            "127.0.0.1",
            "10.1.2.3",
            "169.254.169.254",
            "172.31.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "::",
            "::1",
            "fe80::1",
            "fd00:ec2::254",
            "::ffff:127.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "2002:7f00:1::",
            "ff02::1",
            "2001:db8::1",
        ] {
            assert!(!is_public(ip.parse().unwrap()), "{ip}");
        }
        for ip in ["1.1.1.1", "151.101.2.132", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "::ffff:1.1.1.1"] {
            assert!(is_public(ip.parse().unwrap()), "{ip}");
        }
    }

    #[test]
    fn literal_addresses_and_other_schemes_are_judged_before_any_connection() {
        for (url, kind) in [
            ("http://169.254.169.254/latest/meta-data", ErrorKind::Forbidden),
            ("http://0x7f000001/", ErrorKind::Forbidden),
            ("http://2130706433/", ErrorKind::Forbidden),
            ("https://[::1]/", ErrorKind::Forbidden),
            ("file:///etc/shadow", ErrorKind::Invalid),
            ("ftp://example.org/disk", ErrorKind::Invalid),
        ] {
            assert_eq!(require_allowed(&url.parse().unwrap(), false).unwrap_err().kind, kind, "{url}");
        }
        assert_eq!(require_allowed(&"http://127.0.0.1/".parse().unwrap(), true), Ok(()));
    }
}
