//! The SDK for native plugins of mini-rproxy.
