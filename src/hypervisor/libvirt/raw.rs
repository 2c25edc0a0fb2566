//! What the `virt` crate lacks or does wrong, called directly. The only unsafe code of vmss.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::ptr;

use uuid::Uuid;
use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::Error;
use virt::stream::Stream;
use virt::sys;

/// What a sparse download gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// So many bytes, now in the buffer.
    Data(usize),
    /// So many zeroes that weren't sent.
    Hole(u64),
    /// The end.
    End,
}

/// Tells the other side to skip `length` bytes.
pub fn send_hole(stream: &Stream, length: u64) -> Result<(), Error> {
    let length = i64::try_from(length).unwrap_or(i64::MAX);
    // SAFETY: the stream's pointer is valid for as long as `stream` is borrowed.
    match unsafe { sys::virStreamSendHole(stream.as_ptr(), length, 0) } {
        0 => Ok(()),
        _ => Err(Error::last_error()),
    }
}

/// Receives bytes or the length of a hole.
pub fn receive(stream: &Stream, buffer: &mut [u8]) -> Result<Received, Error> {
    // SAFETY: the stream is valid as above; at most `buffer.len()` bytes are written to `buffer`.
    let got = unsafe {
        sys::virStreamRecvFlags(
            stream.as_ptr(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            sys::VIR_STREAM_RECV_STOP_AT_HOLE,
        )
    };
    match got {
        0 => Ok(Received::End),
        -3 => {
            let mut length = 0;
            // SAFETY: the stream is valid as above; `length` outlives the call.
            match unsafe { sys::virStreamRecvHole(stream.as_ptr(), &mut length, 0) } {
                0 => Ok(Received::Hole(u64::try_from(length).unwrap_or(0))),
                _ => Err(Error::last_error()),
            }
        }
        n => usize::try_from(n)
            .map(Received::Data)
            .map_err(|_| Error::last_error()),
    }
}

/// Sets how long libvirt waits for the guest agent's answers, in seconds. Before libvirt 5.10 there is no such call
/// and its own five seconds hold.
pub fn set_agent_timeout(domain: &Domain, seconds: i32) -> Result<(), Error> {
    // SAFETY: the domain's pointer is valid for as long as `domain` is borrowed.
    match unsafe { sys::virDomainAgentSetResponseTimeout(domain.as_ptr(), seconds, 0) } {
        0 => Ok(()),
        _ => Err(Error::last_error()),
    }
}

/// How far a job on a running domain is (a migration, say), in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Memory and disks that were sent.
    pub done: u64,
    /// What there is to send, as far as is known; grows as the guest writes.
    pub total: u64,
}

/// The job that goes on on a running domain, if one does. The crate's own call reads a structure that has gone.
pub fn job(domain: &Domain) -> Result<Option<Progress>, Error> {
    let mut info = MaybeUninit::<sys::virDomainJobInfo>::zeroed();
    // SAFETY: the domain's pointer is valid for as long as `domain` is borrowed; `info` is a structure of the type that
    // the call fills in, and outlives it.
    let got = unsafe { sys::virDomainGetJobInfo(domain.as_ptr(), info.as_mut_ptr()) };
    if got < 0 {
        return Err(Error::last_error());
    }
    // SAFETY: it holds integers only, for which zeroes are a value, so that it is initialised whatever was filled in.
    let info = unsafe { info.assume_init() };
    let goes_on = u32::try_from(info.type_)
        .is_ok_and(|t| matches!(t, sys::VIR_DOMAIN_JOB_BOUNDED | sys::VIR_DOMAIN_JOB_UNBOUNDED));
    Ok(goes_on.then_some(Progress {
        done: info.dataProcessed,
        total: info.dataTotal,
    }))
}

/// Asks libvirt to break off the job on a running domain.
pub fn abort_job(domain: &Domain) -> Result<(), Error> {
    // SAFETY: the domain's pointer is valid for as long as `domain` is borrowed.
    match unsafe { sys::virDomainAbortJob(domain.as_ptr()) } {
        0 => Ok(()),
        _ => Err(Error::last_error()),
    }
}

/// A network card with what it is addressed by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    /// Its MAC, as its source writes it; a loopback device may have none.
    pub mac: Option<String>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// A domain's addresses by one source (agent, lease, ARP). The crate's own call leaks what libvirt returns.
pub fn interface_addresses(domain: &Domain, source: u32) -> Result<Vec<Card>, Error> {
    let mut list: *mut sys::virDomainInterfacePtr = ptr::null_mut();
    // SAFETY: the domain is valid as above; libvirt sets `list` to an array of as many pointers as it returns.
    let count = unsafe { sys::virDomainInterfaceAddresses(domain.as_ptr(), &mut list, source, 0) };
    let Ok(count) = usize::try_from(count) else {
        return Err(Error::last_error());
    };
    let mut cards = Vec::with_capacity(count);
    for n in 0..count {
        // SAFETY: n is below the count returned; each entry is a valid structure until it is freed, once, here.
        unsafe {
            let card = *list.add(n);
            cards.push(read_card(card));
            sys::virDomainInterfaceFree(card);
        }
    }
    // SAFETY: the array itself is the caller's to free; free accepts null.
    unsafe { libc::free(list.cast()) };
    Ok(cards)
}

/// # Safety
/// `card` is a valid structure as libvirt returns it.
unsafe fn read_card(card: sys::virDomainInterfacePtr) -> Card {
    // SAFETY: the caller's promise; `addrs` is an array of `naddrs` structures, their strings end in NUL or are null.
    unsafe {
        let count = usize::try_from((*card).naddrs).unwrap_or(0);
        let addresses = (0..count)
            .filter_map(|n| text((*(*card).addrs.add(n)).addr)?.parse().ok())
            .collect();
        Card {
            mac: text((*card).hwaddr),
            addresses,
        }
    }
}

/// What libvirt measures of a domain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// The domain's UUID.
    pub uuid: Uuid,
    /// Counters and sizes by libvirt's names for them: "cpu.time".
    pub numbers: BTreeMap<String, u64>,
    /// Names and paths, by libvirt's names for them: "block.0.path".
    pub texts: BTreeMap<String, String>,
}

/// What libvirt measures of the domains that `flags` choose, in the groups `VIR_DOMAIN_STATS_…`; 0 would mean all of them.
/// The crate's own call leaks the records and gives no way to read them.
pub fn all_domain_stats(connect: &Connect, groups: u32, flags: u32) -> Result<Vec<Measured>, Error> {
    let mut list: *mut sys::virDomainStatsRecordPtr = ptr::null_mut();
    // SAFETY: the connection's pointer is valid for as long as `connect` is borrowed; libvirt sets `list` to an array of as
    // many pointers as it returns, with a null behind them.
    let count = unsafe { sys::virConnectGetAllDomainStats(connect.as_ptr(), groups, &mut list, flags) };
    let Ok(count) = usize::try_from(count) else {
        return Err(Error::last_error());
    };
    let mut all = Vec::with_capacity(count);
    for n in 0..count {
        // SAFETY: n is below the count returned; each entry is a valid record until the list is freed.
        all.extend(unsafe { read_record(*list.add(n)) });
    }
    // SAFETY: the list is the caller's to free, once, with its records and their domains; nothing read from it points there.
    unsafe { sys::virDomainStatsRecordListFree(list) };
    Ok(all)
}

/// # Safety
/// `record` is a valid record as libvirt returns it.
unsafe fn read_record(record: sys::virDomainStatsRecordPtr) -> Option<Measured> {
    let mut uuid = [0; 16];
    // SAFETY: the caller's promise: its domain is valid, `params` is an array of `nparams` structures. A UUID is 16 bytes.
    let (known, count) = unsafe {
        let known = sys::virDomainGetUUID((*record).dom, uuid.as_mut_ptr());
        (known, usize::try_from((*record).nparams).unwrap_or(0))
    };
    if known != 0 {
        return None;
    }
    let mut measured = Measured {
        uuid: Uuid::from_bytes(uuid),
        ..Measured::default()
    };
    for n in 0..count {
        // SAFETY: n is below the number of structures; a field's name ends in NUL, and `type_` tells which member of the
        // union was written, a string's being one that ends in NUL or null.
        unsafe {
            let param = &*(*record).params.add(n);
            let Some(name) = text(param.field.as_ptr()) else {
                continue;
            };
            let number = match u32::try_from(param.type_).unwrap_or(0) {
                sys::VIR_TYPED_PARAM_INT => u64::try_from(param.value.i).ok(),
                sys::VIR_TYPED_PARAM_UINT => Some(param.value.ui.into()),
                sys::VIR_TYPED_PARAM_LLONG => u64::try_from(param.value.l).ok(),
                sys::VIR_TYPED_PARAM_ULLONG => Some(param.value.ul),
                sys::VIR_TYPED_PARAM_STRING => {
                    measured.texts.extend(text(param.value.s).map(|t| (name, t)));
                    continue;
                }
                _ => None,
            };
            measured.numbers.extend(number.map(|number| (name, number)));
        }
    }
    Some(measured)
}

/// # Safety
/// `pointer` is null or a string that ends in NUL.
unsafe fn text(pointer: *const std::ffi::c_char) -> Option<String> {
    if pointer.is_null() {
        return None;
    }
    // SAFETY: the caller's promise.
    Some(unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned())
}
