//! Debug logging behind the feature `log`; without it the macro is nothing.

#[cfg(feature = "log")]
pub(crate) use aya_log_ebpf::debug;

#[cfg(not(feature = "log"))]
macro_rules! debug {
    ($ctx:expr, $($argument:tt)*) => {
        let _ = $ctx;
    };
}
#[cfg(not(feature = "log"))]
pub(crate) use debug;
