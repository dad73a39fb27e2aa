//! The configuration: one YAML file, checked as a whole before anything starts.
//!
//! This folder is the only place that knows the YAML library. It binds, resolves and opens nothing but the file itself, and asks of
//! plugins only whether two names are one file.
//!
//! | file | one job |
//! |---|---|
//! | `error` | what is wrong, as one sentence with its place |
//! | `scalar` | values that are one text or number: durations, sizes, counts, words |
//! | [`prefix`], `url`, `listen` | values with a grammar of their own |
//! | `headers`, `log_keys`, `tls_keys` | changes to field lines; the log; TLS on both sides |
//! | `keys` | **the keys, their defaults and ranges**: the structs of the file are the configuration |
//! | `validate` | what no value alone can tell: checks, and defaults that depend on other keys |
//! | `load` | from the file, or from `-listen` and `-route`, to a [`Config`] |
//! | `diff` | back to YAML, and what is different between two configurations |

mod error;
mod scalar;
pub mod prefix;
mod url;
mod listen;
mod headers;
mod log_keys;
mod tls_keys;
mod keys;
mod validate;
mod load;
mod diff;

pub use diff::{Difference, FullConfig};
pub use error::did_you_mean;
pub use headers::HeaderEdits;
pub use keys::{
    AdminConfig, Config, ConfigzAccess, ConnectTimeout, DnsConfig, ForwardedPolicy, Health, Limits, MAX_UPSTREAMS,
    PluginConfig, PoolLimits, ProxyProtocol, Redirect, Rewrite, RouteConfig, RouteOptions, RouteTarget, Timeouts,
};
pub use listen::ListenAddr;
pub use load::{MAX_FILE_BYTES, STDIN, place_of, read_file};
pub use log_keys::{LogConfig, LogFields, LogFormat};
pub use scalar::{ErrorClass, print_size};
pub use tls_keys::{CertificateFiles, ClientAuth, TlsListen, TlsVersion, UpstreamTls};
pub use url::{Endpoint, HostPolicy, Scheme, UpstreamUrl};
