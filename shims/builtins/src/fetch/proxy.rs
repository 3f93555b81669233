//! Proxies, as the environment names them (curl(1), "ENVIRONMENT"): `http_proxy`,
//! `https_proxy`, `all_proxy` and `no_proxy`, in capital letters too, but for the first, which
//! a CGI program's client could set.

use std::net::IpAddr;

use super::failure::{Code, Fault};
use super::url::{Scheme, Url};

/// curl's.
const DEFAULT_PORT: u16 = 1080;

/// An HTTP proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    pub host: String,
    pub port: u16,
    pub user: Option<(String, Option<String>)>,
}

/// The proxy for a URL, if there is to be one.
pub fn find(url: &Url, variable: impl Fn(&str) -> Option<String>) -> Result<Option<Proxy>, Fault> {
    let first = |names: &[&str]| {
        let mut values = names.iter().filter_map(|name| variable(name));
        values.find(|value| !value.is_empty())
    };
    let names: &[&str] = match url.scheme {
        Scheme::Https => &["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"],
        _ => &["http_proxy", "all_proxy", "ALL_PROXY"],
    };
    let Some(text) = first(names) else {
        return Ok(None);
    };
    let without = first(&["no_proxy", "NO_PROXY"]).unwrap_or_default();
    if is_excepted(&url.host, &without) {
        return Ok(None);
    }
    parse(&text).map(Some)
}

fn parse(text: &str) -> Result<Proxy, Fault> {
    // Not its text: there may be a password in it.
    let unsupported = |what: &str| Fault::new(Code::NoProxy, format!("Unsupported proxy {what}"));
    let rest = match text.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
        Some((scheme, _)) => return Err(unsupported(&format!("scheme '{scheme}'"))),
        None => text,
    };
    // A URL has all that a proxy may have, but for the port that it has if it names none.
    let has_port = {
        let place = rest.split('/').next().unwrap_or_default();
        let place = place.rsplit_once('@').map_or(place, |(_, place)| place);
        place
            .rsplit_once(']')
            .map_or(place, |(_, port)| port)
            .contains(':')
    };
    let url = Url::parse(&format!("http://{rest}")).map_err(|_| unsupported("syntax"))?;
    Ok(Proxy {
        host: url.host,
        port: if has_port { url.port } else { DEFAULT_PORT },
        user: url.user,
    })
}

/// Whether a host is in the list of those that are reached directly: `*`, names with all
/// below them, addresses, networks.
fn is_excepted(host: &str, list: &str) -> bool {
    let address = host.parse::<IpAddr>().ok();
    list.split([',', ' '])
        .filter(|entry| !entry.is_empty())
        .any(|entry| {
            if entry == "*" {
                return true;
            }
            if let Some(address) = address {
                let entry = entry.trim_start_matches('[').trim_end_matches(']');
                return match entry.split_once('/') {
                    Some((network, bits)) => is_in_network(address, network, bits),
                    None => entry.parse() == Ok(address),
                };
            }
            let entry = entry.trim_start_matches('.').to_ascii_lowercase();
            let host = host.trim_end_matches('.');
            match host.strip_suffix(entry.trim_end_matches('.')) {
                Some(rest) => rest.is_empty() || rest.ends_with('.'),
                None => false,
            }
        })
}

fn is_in_network(address: IpAddr, network: &str, bits: &str) -> bool {
    let Ok(bits) = bits.parse::<u32>() else {
        return false;
    };
    match (address, network.parse()) {
        (IpAddr::V4(address), Ok(IpAddr::V4(network))) => {
            let difference = u32::from(address) ^ u32::from(network);
            bits <= 32 && difference.checked_shr(32 - bits).unwrap_or(0) == 0
        }
        (IpAddr::V6(address), Ok(IpAddr::V6(network))) => {
            let difference = u128::from(address) ^ u128::from(network);
            bits <= 128 && difference.checked_shr(128 - bits).unwrap_or(0) == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(url: &str, variables: &[(&str, &str)]) -> Option<String> {
        let url = Url::parse(url).unwrap();
        let variable = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        find(&url, variable)
            .unwrap()
            .map(|proxy| format!("{}:{}", proxy.host, proxy.port))
    }

    #[test]
    fn each_scheme_has_its_variables() {
        let all = [
            ("http_proxy", "http://h:1"),
            ("HTTPS_PROXY", "s"),
            ("all_proxy", "a:3/"),
        ];
        assert_eq!(found("http://x/", &all).unwrap(), "h:1");
        assert_eq!(found("https://x/", &all).unwrap(), "s:1080");
        assert_eq!(found("https://x/", &all[2..]).unwrap(), "a:3");
        assert_eq!(found("http://x/", &[("HTTP_PROXY", "evil")]), None);
        assert_eq!(found("http://x/", &[("http_proxy", "")]), None);
    }

    #[rstest::rstest]
    #[case::all("*", true)]
    #[case::itself("other, a.example.org", true)]
    #[case::domain("example.org", true)]
    #[case::domain_with_a_point(".Example.org", true)]
    #[case::another("ample.org", false)]
    #[case::below("b.a.example.org", false)]
    fn names_are_excepted_with_all_below_them(#[case] list: &str, #[case] expected: bool) {
        assert_eq!(is_excepted("a.example.org", list), expected);
    }

    #[rstest::rstest]
    #[case("10.1.2.3", "10.1.2.3", true)]
    #[case("10.1.2.3", "10.0.0.0/8", true)]
    #[case("11.1.2.3", "10.0.0.0/8", false)]
    #[case("10.1.2.3", "0.0.0.0/0", true)]
    #[case("10.1.2.3", "10.1.2.3/33", false)]
    #[case("::1", "[::1]", true)]
    #[case("fd00::1", "fd00::/8", true)]
    #[case("10.1.2.3", "3", false)]
    fn addresses_are_excepted_by_themselves_and_by_network(
        #[case] host: &str,
        #[case] list: &str,
        #[case] expected: bool,
    ) {
        assert_eq!(is_excepted(host, list), expected);
    }

    #[test]
    fn proxies_of_other_kinds_are_refused() {
        let url = Url::parse("http://x/").unwrap();
        let error = find(&url, |_| Some("socks5://u:p@h".to_owned())).unwrap_err();
        assert_eq!(
            error.to_string(),
            "Could not resolve proxy name (5) Unsupported proxy scheme 'socks5'"
        );
        let proxy = parse("http://u:p%21@h").unwrap();
        assert_eq!(proxy.user, Some(("u".into(), Some("p!".into()))));
    }
}
