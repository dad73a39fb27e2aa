//! The host functions by the names that modules import them under.

use wasmi::{Caller, Engine, ExternType, Linker, Module, Val, ValType};

use crate::guest::{Fault, Guest, Outcome, Status};
use crate::state::State;
use crate::wasi::{Errno, WasiFault, WasiOutcome};
use crate::{calls, http_call, maps, metrics, properties, shared, wasi};

/// What a function returns to the module.
fn returned(outcome: Outcome) -> Result<u32, wasmi::Error> {
    match outcome {
        Ok(()) => Ok(0),
        Err(Fault::Status(status)) => Ok(status as u32),
        Err(Fault::Trap(error)) => Err(error),
    }
}

fn wasi_returned(outcome: WasiOutcome) -> Result<u32, wasmi::Error> {
    match outcome {
        Ok(()) => Ok(0),
        Err(WasiFault::Errno(errno)) => Ok(errno as u32),
        Err(WasiFault::Trap(error)) => Err(error),
    }
}

/// The functions while they are being listed.
struct Functions {
    linker: Linker<State>,
    /// `module.name` of each.
    names: Vec<(&'static str, &'static str)>,
}

/// Lists a function: its name, and what runs with which arguments.
macro_rules! function {
    ($functions:ident, $module:literal, $name:literal, $returned:ident, $run:path, ($($arg:ident: $ty:ty),*)) => {
        $functions.names.push(($module, $name));
        $functions.linker.func_wrap($module, $name, |caller: Caller<'_, State>, $($arg: $ty),*| {
            let run = |$($arg: $ty),*| -> Result<_, _> {
                let mut guest = Guest::new(caller)?;
                $run(&mut guest, $($arg),*)
            };
            $returned(run($($arg),*))
        })?;
    };
}

macro_rules! proxy {
    ($functions:ident, $($name:literal => $run:path, ($($arg:ident: $ty:ty),*);)*) => {
        $(function!($functions, "env", $name, returned, $run, ($($arg: $ty),*));)*
    };
}

macro_rules! wasi {
    ($functions:ident, $($name:literal => $run:path, ($($arg:ident: $ty:ty),*);)*) => {
        $(
            function!($functions, "wasi_snapshot_preview1", $name, wasi_returned, $run, ($($arg: $ty),*));
            function!($functions, "wasi_unstable", $name, wasi_returned, $run, ($($arg: $ty),*));
        )*
    };
}

/// All functions that `module` imports, or what is missing.
pub fn link(engine: &Engine, module: &Module) -> Result<Linker<State>, String> {
    let mut functions = Functions { linker: Linker::new(engine), names: Vec::new() };
    list(&mut functions).map_err(|error| error.to_string())?;
    let mut missing = Vec::new();
    for import in module.imports() {
        let is_listed = functions.names.contains(&(import.module(), import.name()));
        match import.ty() {
            ExternType::Func(ty) if !is_listed => match stub(import.module(), import.name()) {
                Some(stub) => {
                    let stub = move |mut caller: Caller<'_, State>, _: &[Val], results: &mut [Val]| {
                        stub(caller.data_mut(), results)
                    };
                    // An error is no more than the same import a second time.
                    let _ = functions.linker.func_new(import.module(), import.name(), ty.clone(), stub);
                }
                None => missing.push(format!("{}.{}", import.module(), import.name())),
            },
            ExternType::Func(_) => {}
            _ => missing.push(format!("{}.{} (no function)", import.module(), import.name())),
        }
    }
    if missing.is_empty() {
        Ok(functions.linker)
    } else {
        Err(format!("imports what this host does not have: {}", missing.join(", ")))
    }
}

type Stub = fn(&mut State, &mut [Val]) -> Result<(), wasmi::Error>;

/// Gives all results that value.
fn all(results: &mut [Val], value: u32) -> Result<(), wasmi::Error> {
    for result in results {
        if result.ty() == ValType::I32 {
            *result = Val::I32(value as i32);
        }
    }
    Ok(())
}

/// Functions whose signature is the module's to choose: those that ABI 0.1.0 has with and without a result, and those that
/// this host does not offer. Of WASI these are all others, since compilers bind them in whether they are called or not.
fn stub(module: &str, name: &str) -> Option<Stub> {
    match (module, name) {
        ("wasi_snapshot_preview1" | "wasi_unstable", "proc_exit") => {
            Some(|_, _| Err(wasmi::Error::new("the module called proc_exit")))
        }
        // There are no folders. The runtime of Go ends by any other answer.
        ("wasi_snapshot_preview1" | "wasi_unstable", "fd_prestat_get") => {
            Some(|_, results| all(results, Errno::BadFileDescriptor as u32))
        }
        ("wasi_snapshot_preview1" | "wasi_unstable", _) => {
            Some(|_, results| all(results, Errno::NotImplemented as u32))
        }
        ("env", "proxy_continue_request" | "proxy_continue_response") => Some(|state, results| {
            calls::continue_exchange(state);
            all(results, 0)
        }),
        // The route is chosen before plugins run, and stays.
        ("env", "proxy_clear_route_cache") => Some(|_, results| all(results, 0)),
        // An error that the SDKs know, where any other would make them panic.
        ("env", "proxy_grpc_call" | "proxy_grpc_stream") => {
            Some(|_, results| all(results, Status::InternalFailure as u32))
        }
        ("env", "proxy_grpc_send" | "proxy_grpc_cancel" | "proxy_grpc_close") => {
            Some(|_, results| all(results, Status::NotFound as u32))
        }
        ("env", "emscripten_notify_memory_growth") => Some(|_, _| Ok(())),
        _ => None,
    }
}

fn list(f: &mut Functions) -> Result<(), wasmi::Error> {
    proxy! { f,
        "proxy_log" => calls::log, (level: u32, message: u32, len: u32);
        "proxy_get_log_level" => calls::get_log_level, (level_at: u32);
        "proxy_get_current_time_nanoseconds" => calls::get_current_time, (time_at: u32);
        "proxy_set_tick_period_milliseconds" => calls::set_tick_period, (period: u32);
        "proxy_set_effective_context" => calls::set_effective_context, (context: u32);
        "proxy_done" => calls::done, ();
        "proxy_continue_stream" => calls::continue_stream, (stream: u32);
        "proxy_close_stream" => calls::close_stream, (stream: u32);
        "proxy_get_buffer_bytes" => calls::get_buffer, (buffer: u32, start: u32, max_len: u32, data_at: u32, len_at: u32);
        "proxy_get_buffer_status" => calls::get_buffer_status, (buffer: u32, len_at: u32, flags_at: u32);
        "proxy_set_buffer_bytes" => calls::set_buffer, (buffer: u32, start: u32, len: u32, value: u32, value_len: u32);
        "proxy_get_configuration" => calls::get_configuration, (data_at: u32, len_at: u32);
        "proxy_send_local_response" => calls::send_local_response, (status: u32, details: u32, details_len: u32,
            body: u32, body_len: u32, fields: u32, fields_len: u32, grpc_status: u32);
        "proxy_http_call" => http_call::call, (cluster: u32, cluster_len: u32, fields: u32, fields_len: u32,
            body: u32, body_len: u32, trailers: u32, trailers_len: u32, timeout: u32, token_at: u32);
        "proxy_get_status" => calls::get_status, (code_at: u32, data_at: u32, len_at: u32);
        "proxy_call_foreign_function" => calls::call_foreign_function, (name: u32, name_len: u32, arguments: u32,
            arguments_len: u32, data_at: u32, len_at: u32);
        "proxy_get_header_map_size" => maps::size, (map: u32, size_at: u32);
        "proxy_get_header_map_pairs" => maps::pairs, (map: u32, data_at: u32, len_at: u32);
        "proxy_set_header_map_pairs" => maps::set_pairs, (map: u32, data: u32, len: u32);
        "proxy_get_header_map_value" => maps::get, (map: u32, name: u32, name_len: u32, data_at: u32, len_at: u32);
        "proxy_add_header_map_value" => maps::add, (map: u32, name: u32, name_len: u32, value: u32, value_len: u32);
        "proxy_replace_header_map_value" => maps::replace,
            (map: u32, name: u32, name_len: u32, value: u32, value_len: u32);
        "proxy_remove_header_map_value" => maps::remove, (map: u32, name: u32, name_len: u32);
        "proxy_get_property" => properties::get, (path: u32, path_len: u32, data_at: u32, len_at: u32);
        "proxy_set_property" => properties::set, (path: u32, path_len: u32, value: u32, value_len: u32);
        "proxy_get_shared_data" => shared::get, (key: u32, key_len: u32, data_at: u32, len_at: u32, cas_at: u32);
        "proxy_set_shared_data" => shared::set, (key: u32, key_len: u32, value: u32, value_len: u32, cas: u32);
        "proxy_register_shared_queue" => shared::register_queue, (name: u32, name_len: u32, queue_at: u32);
        "proxy_resolve_shared_queue" => shared::resolve_queue,
            (vm_id: u32, vm_id_len: u32, name: u32, name_len: u32, queue_at: u32);
        "proxy_enqueue_shared_queue" => shared::enqueue, (queue: u32, value: u32, value_len: u32);
        "proxy_dequeue_shared_queue" => shared::dequeue, (queue: u32, data_at: u32, len_at: u32);
        "proxy_define_metric" => metrics::define, (kind: u32, name: u32, name_len: u32, id_at: u32);
        "proxy_record_metric" => metrics::record, (id: u32, value: u64);
        "proxy_increment_metric" => metrics::increment, (id: u32, delta: i64);
        "proxy_get_metric" => metrics::get, (id: u32, value_at: u32);
    }
    wasi! { f,
        "fd_write" => wasi::fd_write, (fd: u32, parts: u32, count: u32, written_at: u32);
        "clock_time_get" => wasi::clock_time_get, (clock: u32, precision: u64, time_at: u32);
        "poll_oneoff" => wasi::poll, (wanted: u32, events: u32, count: u32, count_at: u32);
        "random_get" => wasi::random_get, (at: u32, len: u32);
        "environ_sizes_get" => wasi::no_sizes, (count_at: u32, len_at: u32);
        "environ_get" => wasi::nothing, (list: u32, bytes: u32);
        "args_sizes_get" => wasi::no_sizes, (count_at: u32, len_at: u32);
        "args_get" => wasi::nothing, (list: u32, bytes: u32);
    }
    f.names.push(("env", "abort"));
    f.linker.func_wrap(
        "env",
        "abort",
        |caller: Caller<'_, State>, message: u32, file: u32, line: u32, column: u32| {
            let fault = match Guest::new(caller) {
                Ok(mut guest) => calls::abort(&mut guest, message, file, line, column),
                Err(fault) => fault,
            };
            match fault {
                Fault::Trap(error) => Err::<(), _>(error),
                Fault::Status(_) => Err(wasmi::Error::new("abort")),
            }
        },
    )?;
    Ok(())
}
