//! libvirt's errors as kinds of failure, by what follows from them.

use std::fmt::Display;

use virt::error::Error;
use virt::sys;

use crate::hypervisor::{FaultKind, HypervisorError};

/// A failed call: what the caller of the host gets, and libvirt's own code for who can do better.
#[derive(Clone, Debug)]
pub struct Fault {
    /// libvirt's code (`virErrorNumber`).
    pub code: u32,
    /// What the host's caller gets.
    pub error: HypervisorError,
}

impl From<Fault> for HypervisorError {
    fn from(fault: Fault) -> Self {
        fault.error
    }
}

impl Fault {
    /// What libvirt said while `doing`; `alive` is whether the connection outlived it.
    pub fn new(doing: impl Display, error: &Error, alive: bool) -> Self {
        let code = error.code().to_raw();
        let message = tidy(error.message());
        let kind = if alive {
            kind(code, error.domain().to_raw(), &message)
        } else {
            FaultKind::Unreachable
        };
        Self {
            code,
            error: HypervisorError::new(kind, doing.to_string(), message),
        }
    }

    /// Whether libvirt gave this code.
    pub fn is(&self, code: u32) -> bool {
        self.code == code
    }

    /// Whether it only says that something isn't there.
    pub fn is_absence(&self) -> bool {
        matches!(
            self.code,
            sys::VIR_ERR_NO_DOMAIN
                | sys::VIR_ERR_NO_DOMAIN_METADATA
                | sys::VIR_ERR_NO_NETWORK
                | sys::VIR_ERR_NO_STORAGE_POOL
                | sys::VIR_ERR_NO_STORAGE_VOL
        )
    }

    /// Whether this driver or version lacks the call or one of its flags.
    pub fn unsupported(&self) -> bool {
        matches!(
            self.code,
            sys::VIR_ERR_NO_SUPPORT
                | sys::VIR_ERR_INVALID_ARG
                | sys::VIR_ERR_ARGUMENT_UNSUPPORTED
                | sys::VIR_ERR_OPERATION_UNSUPPORTED
                | sys::VIR_ERR_CONFIG_UNSUPPORTED
        )
    }
}

/// `Ok(None)` where libvirt says that the thing isn't there.
pub fn optional<T>(result: Result<T, Fault>, missing: u32) -> Result<Option<T>, HypervisorError> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(fault) if fault.is(missing) => Ok(None),
        Err(fault) => Err(fault.error),
    }
}

/// Whether the failure is that a volume's pool has gone or was stopped.
pub fn no_pool(error: &HypervisorError) -> bool {
    let says = |text| error.message.contains(text);
    // The last is what is left of libvirt's message where it gives no detail.
    error.kind == FaultKind::Missing
        && (says("no storage pool with matching ")
            || (says("storage pool ") && says(" is not active"))
            || says("Storage pool not found"))
}

/// What the message tells more exactly than the code, then the code.
fn kind(code: u32, domain: u32, message: &str) -> FaultKind {
    let says = |texts: &[&str]| texts.iter().any(|t| message.contains(t));
    if says(&["No space left on device", "Disk quota exceeded"]) || (says(&["ot enough"]) && says(&["space"]))
    {
        return FaultKind::NoSpace;
    }
    if says(&["already exists with uuid"]) {
        return FaultKind::NotOurs;
    }
    if says(&[
        "Permission denied",
        "Operation not permitted",
        "Host key verification failed",
        "verify the session host key",
    ]) {
        return FaultKind::Denied;
    }
    let remote = matches!(
        domain,
        sys::VIR_FROM_RPC | sys::VIR_FROM_REMOTE | sys::VIR_FROM_SSH
    );
    match code {
        sys::VIR_ERR_AUTH_FAILED
        | sys::VIR_ERR_AUTH_UNAVAILABLE
        | sys::VIR_ERR_AUTH_CANCELLED
        | sys::VIR_ERR_ACCESS_DENIED
        | sys::VIR_ERR_OPERATION_DENIED => FaultKind::Denied,
        sys::VIR_ERR_NO_CONNECT
        | sys::VIR_ERR_INVALID_CONN
        | sys::VIR_ERR_RPC
        | sys::VIR_ERR_UNKNOWN_HOST
        | sys::VIR_ERR_SSH
        | sys::VIR_ERR_LIBSSH
        | sys::VIR_ERR_GNUTLS_ERROR => FaultKind::Unreachable,
        sys::VIR_ERR_SYSTEM_ERROR | sys::VIR_ERR_INTERNAL_ERROR
            if remote || says(&["client socket is closed", "keepalive timeout"]) =>
        {
            FaultKind::Unreachable
        }
        sys::VIR_ERR_NO_STORAGE_POOL
        | sys::VIR_ERR_NO_STORAGE_VOL
        | sys::VIR_ERR_NO_NETWORK
        | sys::VIR_ERR_NO_INTERFACE
        | sys::VIR_ERR_NO_DOMAIN => FaultKind::Missing,
        _ if says(&[
            "No such device",
            "No such file or directory",
            "is not active",
            "no network with matching name",
        ]) =>
        {
            FaultKind::Missing
        }
        sys::VIR_ERR_NO_SUPPORT
        | sys::VIR_ERR_CONFIG_UNSUPPORTED
        | sys::VIR_ERR_OPERATION_UNSUPPORTED
        | sys::VIR_ERR_ARGUMENT_UNSUPPORTED
        | sys::VIR_ERR_CPU_INCOMPATIBLE => FaultKind::Unsupported,
        sys::VIR_ERR_OPERATION_TIMEOUT => FaultKind::TimedOut,
        _ => FaultKind::Other,
    }
}

/// The message on one line, without the class of error that libvirt puts first.
fn tidy(message: &str) -> String {
    let mut text = message.trim();
    for noise in [
        "internal error: ",
        "Requested operation is not valid: ",
        "operation failed: ",
        "unsupported configuration: ",
        "invalid argument: ",
        "authentication failed: ",
        "Storage pool not found: ",
        "Storage volume not found: ",
        "Network not found: ",
        "Domain not found: ",
    ] {
        text = text.strip_prefix(noise).unwrap_or(text);
    }
    let lines: Vec<_> = text.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    lines.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_follow_from_code_domain_and_message() {
        let (storage, rpc) = (sys::VIR_FROM_STORAGE, sys::VIR_FROM_RPC);
        for (code, domain, message, expected) in [
            (
                sys::VIR_ERR_SYSTEM_ERROR,
                rpc,
                "Cannot recv data: Connection reset by peer",
                FaultKind::Unreachable,
            ),
            (
                sys::VIR_ERR_SYSTEM_ERROR,
                rpc,
                "Failed to connect socket to '/run/x': Permission denied",
                FaultKind::Denied,
            ),
            (
                sys::VIR_ERR_INTERNAL_ERROR,
                rpc,
                "client socket is closed",
                FaultKind::Unreachable,
            ),
            (
                sys::VIR_ERR_SYSTEM_ERROR,
                storage,
                "cannot fill file '/x': No space left on device",
                FaultKind::NoSpace,
            ),
            (
                sys::VIR_ERR_INTERNAL_ERROR,
                sys::VIR_FROM_TEST,
                "Not enough free space in pool for volume 'x'",
                FaultKind::NoSpace,
            ),
            (
                sys::VIR_ERR_NO_STORAGE_POOL,
                storage,
                "Storage pool not found",
                FaultKind::Missing,
            ),
            (
                sys::VIR_ERR_SYSTEM_ERROR,
                sys::VIR_FROM_QEMU,
                "Cannot get interface MTU on 'br7': No such device",
                FaultKind::Missing,
            ),
            (
                sys::VIR_ERR_OPERATION_INVALID,
                storage,
                "storage pool 'x' is not active",
                FaultKind::Missing,
            ),
            (
                sys::VIR_ERR_AUTH_UNAVAILABLE,
                rpc,
                "no polkit agent available",
                FaultKind::Denied,
            ),
            (
                sys::VIR_ERR_NO_SUPPORT,
                sys::VIR_FROM_TEST,
                "not supported",
                FaultKind::Unsupported,
            ),
            (
                sys::VIR_ERR_OPERATION_FAILED,
                sys::VIR_FROM_QEMU,
                "something else",
                FaultKind::Other,
            ),
        ] {
            assert_eq!(kind(code, domain, message), expected, "{message}");
        }
    }

    #[test]
    fn a_pool_that_has_gone_is_told_from_a_volume_that_has() {
        let (gone, volume, invalid) = (
            sys::VIR_ERR_NO_STORAGE_POOL,
            sys::VIR_ERR_NO_STORAGE_VOL,
            sys::VIR_ERR_OPERATION_INVALID,
        );
        for (code, message, expected) in [
            (
                gone,
                "Storage pool not found: no storage pool with matching name 'x'",
                true,
            ),
            (
                gone,
                "Storage pool not found: no storage pool with matching uuid '5' (x)",
                true,
            ),
            (gone, "Storage pool not found", true),
            (
                invalid,
                "Requested operation is not valid: storage pool 'x' is not active",
                true,
            ),
            (
                volume,
                "Storage volume not found: no storage vol with matching name 'y'",
                false,
            ),
            (
                invalid,
                "Requested operation is not valid: network 'n' is not active",
                false,
            ),
        ] {
            let message = tidy(message);
            let kind = kind(code, sys::VIR_FROM_STORAGE, &message);
            let error = HypervisorError::new(kind, "reading volume y in pool x", &message);
            assert_eq!(no_pool(&error), expected, "{message}");
        }
    }

    #[test]
    fn messages_are_one_line_without_noise() {
        assert_eq!(
            tidy("internal error: process exited:\n  qemu: x\n\n"),
            "process exited:; qemu: x"
        );
    }
}
