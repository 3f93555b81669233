//! TLS: there is no way to do without its checks.

use std::io;
use std::net::TcpStream;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CertificateError, ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::failure::{Code, Fault, plain};

/// The certificates of those who are trusted, where the executor has put them.
const CA_FILE: &str = "ca-certificates.crt";

/// A connection that is what it says.
pub type TlsStream = StreamOwned<ClientConnection, TcpStream>;

/// Who is trusted; read when it is asked for.
#[derive(Default)]
pub struct Trust(OnceLock<Result<Arc<ClientConfig>, Fault>>);

impl Trust {
    /// Shakes hands on a connection to the host of this name.
    pub fn connect(&self, stream: TcpStream, host: &str) -> Result<TlsStream, Fault> {
        let config = self.0.get_or_init(|| config(Path::new(CA_FILE))).clone()?;
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| Fault::new(Code::Tls, format!("'{host}' is no name of a server")))?;
        let connection = ClientConnection::new(config, name)
            .map_err(|error| Fault::new(Code::Tls, error.to_string()))?;
        let mut stream = StreamOwned::new(connection, stream);
        while stream.conn.is_handshaking() {
            if let Err(error) = stream.conn.complete_io(&mut stream.sock) {
                return Err(handshake_fault(&error, host));
            }
        }
        Ok(stream)
    }
}

fn config(file: &Path) -> Result<Arc<ClientConfig>, Fault> {
    let mut roots = RootCertStore::empty();
    if let Ok(certificates) = CertificateDer::pem_file_iter(file) {
        // One that cannot be read is trusted by nobody.
        roots.add_parsable_certificates(certificates.flatten());
    }
    if roots.is_empty() {
        let why = format!("error adding trust anchors from file: {CA_FILE}");
        return Err(Fault::new(Code::CaFile, why));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Fault::new(Code::Tls, error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Whom nobody vouches for is told from what went wrong otherwise, in curl's words.
fn handshake_fault(error: &io::Error, host: &str) -> Fault {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    match inner {
        Some(rustls::Error::InvalidCertificate(why)) => {
            let why = match why {
                CertificateError::UnknownIssuer => {
                    "SSL certificate problem: unable to get local issuer certificate".to_owned()
                }
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    "SSL certificate problem: certificate has expired".to_owned()
                }
                CertificateError::NotValidForName
                | CertificateError::NotValidForNameContext { .. } => format!(
                    "SSL: no alternative certificate subject name matches target host name '{host}'"
                ),
                other => format!("SSL certificate problem: {other}"),
            };
            Fault::new(Code::Certificate, why)
        }
        Some(error) => Fault::new(Code::Tls, format!("TLS connect error: {error}")),
        None => match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                Fault::new(Code::TimedOut, "SSL connection timeout")
            }
            _ => Fault::new(Code::Tls, format!("TLS connect error: {}", plain(error))),
        },
    }
}
