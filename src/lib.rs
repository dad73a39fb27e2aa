//! A small HTTP/1.1 reverse proxy on raw TCP.
#![deny(unsafe_code)]
pub mod bytes;
pub mod config;
pub mod http;
pub mod proxy;
pub mod plugin;
