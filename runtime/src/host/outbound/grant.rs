//! What is granted, and the certificates that are trusted.

use std::time::Duration;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::rule::HttpRule;

/// Outbound HTTP as the operator grants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpGrant {
    /// The hosts that may be asked.
    pub rules: Vec<HttpRule>,
    /// Certificates of the authorities that are trusted, DER.
    /// [`HttpGrant::load_roots`] fills it.
    pub roots: Vec<Vec<u8>>,
    /// For a connection: resolving the name, TCP and TLS together.
    pub connect_timeout: Duration,
    /// From having a connection, or from sending the last piece of the body, to
    /// the head of the response.
    pub first_byte_timeout: Duration,
    /// Longest silence within the body of a response.
    pub between_bytes_timeout: Duration,
    /// How long an unused connection is kept. None is if it is zero.
    pub keep_alive: Duration,
    /// Requests that one incoming request may send.
    pub requests: u32,
    /// Requests in flight in a process, until their responses have been read.
    pub concurrency: u32,
}

impl Default for HttpGrant {
    /// Grants nothing, under the default limits.
    fn default() -> Self {
        Self {
            rules: Vec::new(),
            roots: Vec::new(),
            connect_timeout: Duration::from_secs(10),
            first_byte_timeout: Duration::from_secs(60),
            between_bytes_timeout: Duration::from_secs(60),
            keep_alive: Duration::from_secs(30),
            requests: 100,
            concurrency: 512,
        }
    }
}

/// Why there are no certificates to trust.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// A file that cannot be read as PEM.
    #[error("it is not PEM: {0}")]
    Pem(String),
    /// There are none in the file.
    #[error("there is no certificate in it (-----BEGIN CERTIFICATE-----)")]
    None,
    /// One of the file cannot be used.
    #[error("certificate {number} in it cannot be used: {problem}")]
    Certificate {
        /// Which one, from 1.
        number: usize,
        /// Why not.
        problem: String,
    },
    /// There are none on this machine either.
    #[error("no certificate authority is known to this machine: {0}")]
    System(String),
}

impl HttpGrant {
    /// Reads the certificate authorities that this machine trusts, and adds those
    /// of `extra`, the contents of a PEM file. Reads nothing of the system if no
    /// rule covers an `https` URL.
    ///
    /// Reads files only, so it may be called before a fork. The environment
    /// variables `SSL_CERT_FILE` and `SSL_CERT_DIR` name other places than the
    /// usual ones.
    ///
    /// # Errors
    ///
    /// If `extra` has a certificate that cannot be used, or none; or if a rule is
    /// for `https` and there is no certificate at all.
    pub fn load_roots(&mut self, extra: Option<&[u8]>) -> Result<(), TrustError> {
        let needed = self.rules.iter().any(HttpRule::asks_for_tls);
        self.roots = match self.rules.iter().any(HttpRule::covers_tls) {
            true => roots(extra, needed)?,
            false => extra.map(from_pem).transpose()?.unwrap_or_default(),
        };
        Ok(())
    }
}

/// The authorities that this machine trusts and those of `extra`, a PEM file's
/// contents, as [`HttpGrant::load_roots`] describes. An error if there are none
/// and some are `needed`.
///
/// # Errors
///
/// As of [`HttpGrant::load_roots`].
pub fn roots(extra: Option<&[u8]>, needed: bool) -> Result<Vec<Vec<u8>>, TrustError> {
    let mut roots = extra.map(from_pem).transpose()?.unwrap_or_default();
    let found = rustls_native_certs::load_native_certs();
    roots.extend(found.certs.iter().map(|root| root.as_ref().to_vec()));
    if roots.is_empty() && needed {
        let errors: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
        return Err(TrustError::System(match errors.is_empty() {
            true => "install the CA certificates, or name a file of some".to_owned(),
            false => errors.join(", "),
        }));
    }
    Ok(roots)
}

pub(super) fn from_pem(pem: &[u8]) -> Result<Vec<Vec<u8>>, TrustError> {
    let mut roots = Vec::new();
    for (number, certificate) in (1..).zip(CertificateDer::pem_slice_iter(pem)) {
        let certificate = certificate.map_err(|e| TrustError::Pem(e.to_string()))?;
        let bad = |e: rustls::Error| TrustError::Certificate {
            number,
            problem: e.to_string(),
        };
        RootCertStore::empty()
            .add(certificate.clone())
            .map_err(bad)?;
        roots.push(certificate.as_ref().to_vec());
    }
    if roots.is_empty() {
        return Err(TrustError::None);
    }
    Ok(roots)
}
