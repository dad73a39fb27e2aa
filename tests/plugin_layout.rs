//! Row 18 of the interface's test table: the C header and `abi.rs` agree on every size, offset and number.

use std::mem::{offset_of, size_of};
use std::process::Command;

use mini_rproxy_plugin::abi;

#[path = "plugins/common.rs"]
mod common;

#[test]
fn r18_the_c_header_and_the_rust_types_have_one_layout() {
    let program = common::folder("r18").join("layout");
    let source = common::root().join("tests/plugins/layout.c");
    let args = [
        "-std=c99",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-pedantic",
        "-o",
        program.to_str().unwrap(),
        source.to_str().unwrap(),
    ];
    if common::cc(&args).is_none() {
        return;
    }
    let mut expected = String::new();
    let mut row = |name: &str, value: i64| expected.push_str(&format!("{name} {value}\n"));
    macro_rules! size {
        ($($c:literal $rust:ty),*) => { $(row($c, size_of::<$rust>() as i64);)* };
    }
    macro_rules! at {
        ($($c:literal $rust:ty: $($member:ident)*;)*) => {
            $($(row(&format!("{}.{}", $c, stringify!($member)), offset_of!($rust, $member) as i64);)*)*
        };
    }
    macro_rules! value {
        ($($name:ident)*) => { $(row(concat!("MRP_", stringify!($name)), i64::from(abi::$name));)* };
    }
    size!("mrp_str" abi::Str, "mrp_field" abi::Field, "mrp_host" abi::Host, "mrp_plugin" abi::Plugin);
    at! {
        "mrp_str" abi::Str: ptr len;
        "mrp_field" abi::Field: name value;
        "mrp_host" abi::Host: struct_size abi_major abi_minor log_enabled log attr_get attr_set field_count field_at
            field_get field_set field_add field_remove value_get value_set respond body_get body_set want config_get metric_define
            metric_add resume log_exchange access_add want_body pause;
        "mrp_plugin" abi::Plugin: magic abi_major abi_minor struct_size min_host_minor reserved0 flags reserved1 name
            version create on_request on_response on_done destroy on_request_body
            on_response_body on_resume;
    }
    value! {
        MAGIC ABI_MAJOR ABI_MINOR OK NOT_FOUND INVALID WRONG_PHASE LIMIT UNSUPPORTED DENIED CONTINUE RESPOND FAIL PAUSE
        REQUEST RESPONSE METHOD TARGET AUTHORITY STATUS CLIENT_ADDR ROUTE_PREFIX UPSTREAM ORIGINAL_TARGET
        SCHEME PROTOCOL TLS_VERSION TLS_SERVER_NAME CLIENT_PORT LOCAL_ADDR CLIENT_HOST
        HAS_REQUEST_BODY HAS_RESPONSE_BODY ELAPSED_US RESPONSE_SOURCE CAUSE PLUGIN_NAME FINAL_STATUS
        BYTES_IN BYTES_OUT TIME_HEAD_US TIME_CONNECT_US TIME_FIRST_BYTE_US TIME_TOTAL_US UPSTREAM_ADDR
        RETRIES UPSTREAM_REUSED TICKET
        WANT_REQUEST_BODY WANT_RESPONSE_BODY BODY_OPTIONAL METRIC_COUNTER METRIC_GAUGE LOG_ERROR LOG_WARN LOG_INFO LOG_DEBUG
    }
    let output = Command::new(&program).output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(printed, expected);
}
