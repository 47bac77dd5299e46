//! What the worker was told, in the words of the rest of the runtime.

use burrow_abi::{burrow_apache, burrow_str, InterpreterOptions};
use burrow_daemon::config::{self, Interpreter};

use super::{log, worker};
use crate::host::Host;

pub fn host() -> Host {
    let config = &worker().config;
    Host {
        log: log::from_runtime,
        paths: config.paths.clone(),
        multiprocess: config.multiprocess,
        run_once: config.run_once,
        processes: config.processes,
        threads: config.threads,
        process_group: config.group.clone().into_bytes(),
        switch_interval: config.switch_interval,
        options,
        apache: config
            .apache
            .as_ref()
            .map_or(std::ptr::null(), |apache| Box::leak(Box::new(c_apache(apache)))),
    }
}

fn c_apache(apache: &'static config::Apache) -> burrow_apache {
    let text = |text: &'static String| burrow_str::new(text.as_bytes());
    burrow_apache {
        version: apache.version,
        description: text(&apache.description),
        mpm_name: text(&apache.mpm_name),
        build_date: text(&apache.build_date),
        httpd: std::ptr::null(),
    }
}

/// [`burrow_abi::HostApi::options`].
unsafe extern "C" fn options(group: burrow_str) -> InterpreterOptions {
    let config = &worker().config;
    // SAFETY: it is there for the length of the call.
    let mut group = unsafe { group.bytes() };
    if let ([app], true) = (&config.apps[..], config.main_interpreter) {
        group = &app.application_group;
    }
    let of = |group: Option<&[u8]>| {
        config.interpreters.iter().find(|each| each.application_group.as_deref() == group)
    };
    let unrestricted = Interpreter::default();
    let found = of(Some(group)).or_else(|| of(None)).unwrap_or(&unrestricted);
    // Asked for once for each interpreter.
    let paths = found.paths.iter().map(|path| burrow_str::new(path)).collect::<Vec<_>>().leak();
    InterpreterOptions {
        paths: paths.as_ptr(),
        n_paths: paths.len(),
        restrict_stdin: found.restrict_stdin.into(),
        restrict_stdout: found.restrict_stdout.into(),
        restrict_signal: found.restrict_signal.into(),
        interface: found.interface,
        event_loop: found.event_loop,
        websocket: (&found.websocket).into(),
        own_gil: found.own_gil.into(),
    }
}
