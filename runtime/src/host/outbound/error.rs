//! What guests are told of failures.

use std::error::Error as _;
use std::io;

use rustls::Error as TlsError;
use wasmtime_wasi_http::Error;

use crate::host::dns::ResolveError;

/// Of a name that has no addresses.
pub(super) fn from_resolve(error: ResolveError) -> Error {
    let rcode = match error {
        ResolveError::Timeout => return Error::DnsTimeout,
        ResolveError::Refused(code) => code.to_owned(),
        other => other.to_string(),
    };
    Error::DnsError {
        rcode: Some(rcode),
        info_code: None,
    }
}

/// Of a TCP connection that cannot be made.
pub(super) fn from_connect(error: &io::Error) -> Error {
    use io::ErrorKind as Kind;
    if is_out_of_descriptors(error) {
        return Error::ConnectionLimitReached;
    }
    match error.kind() {
        Kind::ConnectionRefused => Error::ConnectionRefused,
        Kind::TimedOut => Error::ConnectionTimeout,
        Kind::ConnectionReset | Kind::ConnectionAborted => Error::ConnectionTerminated,
        Kind::NetworkUnreachable | Kind::HostUnreachable | Kind::AddrNotAvailable => {
            Error::DestinationIpUnroutable
        }
        _ => Error::DestinationUnavailable,
    }
}

pub(super) fn is_out_of_descriptors(error: &io::Error) -> bool {
    let errno = error.raw_os_error();
    [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE]
        .iter()
        .any(|e| errno == Some(e.raw_os_error()))
}

/// What rustls has to say, if a TLS handshake failed for that.
pub(super) fn tls_cause(error: &io::Error) -> Option<&TlsError> {
    error.get_ref()?.downcast_ref()
}

/// Of a TLS handshake that failed.
pub(super) fn from_tls(error: &io::Error) -> Error {
    match tls_cause(error) {
        Some(TlsError::InvalidCertificate(_) | TlsError::NoCertificatesPresented) => {
            Error::TlsCertificateError
        }
        Some(TlsError::AlertReceived(alert)) => Error::TlsAlertReceived {
            alert_id: Some(u8::from(*alert)),
            alert_message: Some(format!("{alert:?}")),
        },
        Some(_) => Error::TlsProtocolError,
        None if error.kind() == io::ErrorKind::InvalidData => Error::TlsProtocolError,
        None => Error::ConnectionTerminated,
    }
}

/// Of a request that got no response.
pub(super) fn from_request(error: &hyper::Error) -> Error {
    if let Some(error) = own(error) {
        return error;
    }
    if error.is_parse_too_large() {
        return Error::HttpResponseHeaderSectionSize(None);
    }
    if error.is_timeout() {
        return Error::HttpResponseTimeout;
    }
    if error.is_incomplete_message()
        || error.is_canceled()
        || error.is_closed()
        || io_cause(error).is_some()
    {
        return Error::ConnectionTerminated;
    }
    Error::HttpProtocolError
}

/// Of the body of a response, which cannot be completed.
pub(super) fn from_body(error: &hyper::Error) -> Error {
    if let Some(error) = own(error) {
        return error;
    }
    // What is no body is told like what was cut off, but for the cause.
    let malformed = [io::ErrorKind::InvalidInput, io::ErrorKind::InvalidData];
    if error.is_parse() || io_cause(error).is_some_and(|io| malformed.contains(&io.kind())) {
        return Error::HttpProtocolError;
    }
    Error::HttpResponseIncomplete
}

/// What the body of the request failed with.
fn own(error: &hyper::Error) -> Option<Error> {
    match error.source()?.downcast_ref::<Error>()? {
        Error::HttpRequestBodySize(size) => Some(Error::HttpRequestBodySize(*size)),
        _ => Some(Error::HttpProtocolError),
    }
}

fn io_cause(error: &hyper::Error) -> Option<&io::Error> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref() {
            return Some(io);
        }
        cause = error.source();
    }
    None
}
