//! Everything in the file that is one value and neither a number nor a plugin's configuration.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Serialize, Serializer};

use super::error::quoted;
use super::found::{Fault, List};
use super::read::{Entry, expected};
use super::url::{check_host, parse_port, split_port};
use super::{HostPolicy, ListenAddr, LogFormat, Rewrite, Scheme, UpstreamUrl, prefix};

/// `true` or `false`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub(super) struct Flag(pub bool);

impl Entry for Flag {
    const EXPECTED: &'static str = "true or false";

    fn from_bool(value: bool) -> Result<Self, String> {
        Ok(Flag(value))
    }

    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "true" | "false" => Err(format!("expected true or false, found a text: write {text} without quotes")),
            _ => Err(expected::<Self>(quoted(text))),
        }
    }
}

/// A text that is not empty.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub(super) struct Text(pub String);

impl Entry for Text {
    const EXPECTED: &'static str = "a text (put numbers and words like true in quotes)";

    fn from_text(text: &str) -> Result<Self, String> {
        if text.is_empty() { Self::from_nothing() } else { Ok(Text(text.to_owned())) }
    }
}

/// One listening address, or a list of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub(super) struct Listen(pub Vec<Address>);

impl Entry for Listen {
    const EXPECTED: &'static str = "a listening address such as \":8080\", or a list of them";

    fn from_number(value: u64) -> Result<Self, String> {
        Address::from_number(value).map(|address| Listen(vec![address]))
    }

    fn from_text(text: &str) -> Result<Self, String> {
        Address::from_text(text).map(|address| Listen(vec![address]))
    }

    fn from_list(list: &mut dyn List) -> Result<Self, Fault> {
        Vec::from_list(list).map(Listen)
    }

    fn check(&self) -> Result<(), String> {
        if self.0.is_empty() {
            return Err("the list of listening addresses is empty: write \":8080\", or remove the key".to_owned());
        }
        for (index, Address(address)) in self.0.iter().enumerate() {
            let Some(other) = self.0[..index].iter().find(|Address(other)| other.overlaps(address)) else { continue };
            let (shown, other) = (quoted(&address.to_string()), quoted(&other.0.to_string()));
            return Err(if shown == other || matches!(address, ListenAddr::Unix { .. }) {
                format!("the listening address {shown} stands twice: remove one")
            } else {
                format!("the listening addresses {other} and {shown} overlap: remove one, or choose another port")
            });
        }
        Ok(())
    }
}

/// One listening address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Address(pub ListenAddr);

impl Entry for Address {
    const EXPECTED: &'static str = "a listening address such as \":8080\" or 127.0.0.1:8080";

    fn from_number(value: u64) -> Result<Self, String> {
        Self::from_text(&value.to_string())
    }

    fn from_text(text: &str) -> Result<Self, String> {
        ListenAddr::parse(text).map(Address).map_err(|error| format!("{}: {error}", quoted(text)))
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// The path prefix of a route.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub(super) struct Prefix(pub String);

impl Entry for Prefix {
    const EXPECTED: &'static str = "a path prefix such as /api";

    fn from_text(text: &str) -> Result<Self, String> {
        match prefix::check(text) {
            Ok(()) => Ok(Prefix(text.to_owned())),
            Err(error) => Err(format!("{}: {error}", quoted(text))),
        }
    }
}

/// Where a route leads.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Upstream(pub UpstreamUrl);

impl Entry for Upstream {
    const EXPECTED: &'static str = "an upstream URL such as http://127.0.0.1:9001/base";

    fn from_text(text: &str) -> Result<Self, String> {
        // The text is not shown: there may be a password in it.
        let url = UpstreamUrl::parse(text).map_err(|error| error.to_string())?;
        if url.scheme == Scheme::Https && !cfg!(feature = "tls") {
            let message =
                "this build cannot speak TLS to an upstream: use http://, or build it with the feature \"tls\"";
            return Err(message.to_owned());
        }
        Ok(Upstream(url))
    }

    fn from_list(_: &mut dyn List) -> Result<Self, Fault> {
        Err("expected one upstream URL, found a list: several are written as \"upstreams:\"".into())
    }
}

/// Without credentials.
impl Serialize for Upstream {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.to_public_string())
    }
}

/// Which Host the upstream sees.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Host(pub HostPolicy);

impl Entry for Host {
    const EXPECTED: &'static str = "upstream, client or a host name";

    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "upstream" => Ok(Host(HostPolicy::Upstream)),
            "client" => Ok(Host(HostPolicy::Client)),
            _ => {
                let is_authority = split_port(text).is_ok_and(|(host, port)| {
                    check_host(host).is_ok() && port.is_none_or(|port| parse_port(port).is_ok())
                });
                if is_authority {
                    Ok(Host(HostPolicy::Fixed(text.to_owned())))
                } else {
                    Err(expected::<Self>(quoted(text)))
                }
            }
        }
    }
}

impl Serialize for Host {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(match &self.0 {
            HostPolicy::Upstream => "upstream",
            HostPolicy::Client => "client",
            HostPolicy::Fixed(name) => name,
        })
    }
}

/// Whether something in responses is mapped back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Rewriting(pub Rewrite);

impl Entry for Rewriting {
    const EXPECTED: &'static str = "auto or off";

    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Rewriting(Rewrite::Auto)),
            "off" => Ok(Rewriting(Rewrite::Off)),
            _ => Err(expected::<Self>(quoted(text))),
        }
    }
}

impl Serialize for Rewriting {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(match self.0 {
            Rewrite::Auto => "auto",
            Rewrite::Off => "off",
        })
    }
}

/// The name that an upstream's certificate has to be for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub(super) struct ServerName(pub String);

impl Entry for ServerName {
    const EXPECTED: &'static str = "a host name, or an address without brackets";

    fn from_text(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(ServerName(address.to_string()));
        }
        check_host(text).map(ServerName).map_err(|_| expected::<Self>(quoted(text)))
    }
}

/// A protocol to upgrade to, in lower case (RFC 9110 section 7.8).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub(super) struct Protocol(pub String);

impl Entry for Protocol {
    const EXPECTED: &'static str = "the name of a protocol such as websocket";

    fn from_text(text: &str) -> Result<Self, String> {
        let is_tchar = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~/".contains(&b);
        if text.is_empty() || text.len() > 64 || !text.bytes().all(is_tchar) {
            return Err(expected::<Self>(quoted(text)));
        }
        if text.eq_ignore_ascii_case("h2c") {
            return Err("upgrading to h2c is never allowed: requests in it would pass unseen (rule G14)".to_owned());
        }
        Ok(Protocol(text.to_ascii_lowercase()))
    }
}

/// A range of addresses, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Network(pub IpNet);

impl Entry for Network {
    const EXPECTED: &'static str = "an address or a range such as 10.0.0.0/8";

    fn from_text(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Network(IpNet::from(address)));
        }
        let network: IpNet = text.parse().map_err(|_| expected::<Self>(quoted(text)))?;
        if network != network.trunc() {
            return Err(format!("{network} is an address inside a range: write {} for the range", network.trunc()));
        }
        Ok(Network(network))
    }
}

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// How a log line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Format(pub LogFormat);

impl Entry for Format {
    const EXPECTED: &'static str = "text or json";

    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Format(LogFormat::Text)),
            "json" => Ok(Format(LogFormat::Json)),
            _ => Err(expected::<Self>(quoted(text))),
        }
    }
}

impl Serialize for Format {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(match self.0 {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        })
    }
}
