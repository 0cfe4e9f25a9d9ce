//! A connection and what is known of its client: its address and the names in its certificate.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tonic::{
    Extensions,
    transport::server::{Connected, TlsConnectInfo},
};
use x509_cert::{
    Certificate,
    der::{Decode, Tag, Tagged, asn1::ObjectIdentifier},
    ext::pkix::{SubjectAltName, name::GeneralName},
};

/// The attribute `commonName` (X.520).
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// An accepted TCP connection.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    info: ConnectionInfo,
}

/// What each request of a connection shares.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    peer: Option<SocketAddr>,
    /// Parsed at the first request that needs them: parsing costs more than a warm login.
    certificate_names: Arc<OnceLock<Box<[String]>>>,
}

impl Connection {
    pub(super) fn new(stream: TcpStream) -> Self {
        let info = ConnectionInfo { peer: stream.peer_addr().ok(), certificate_names: Arc::default() };
        Self { stream, info }
    }
}

/// The client's address.
pub(super) fn peer(extensions: &Extensions) -> Option<SocketAddr> {
    let plain = extensions.get::<ConnectionInfo>();
    let info = plain.or_else(|| extensions.get::<TlsConnectInfo<ConnectionInfo>>().map(TlsConnectInfo::get_ref));
    info.and_then(|info| info.peer)
}

/// The DNS names and the common name in the client's certificate. None without a certificate.
pub(super) fn certificate_names(extensions: &Extensions) -> &[String] {
    let Some(tls) = extensions.get::<TlsConnectInfo<ConnectionInfo>>() else {
        return &[];
    };
    tls.get_ref().certificate_names.get_or_init(|| {
        let chain = tls.peer_certs();
        chain.as_deref().and_then(|chain| chain.first()).map(|own| names_of(own)).unwrap_or_default().into()
    })
}

/// The DNS names that a certificate is for, then its subject's common name.
fn names_of(certificate: &[u8]) -> Vec<String> {
    let Ok(certificate) = Certificate::from_der(certificate) else {
        return vec![];
    };
    let certificate = certificate.tbs_certificate;
    let alternative = certificate.get::<SubjectAltName>().ok().flatten();
    let alternative = alternative.into_iter().flat_map(|(_, names)| names.0).filter_map(|name| match name {
        GeneralName::DnsName(name) => Some(name.to_string()),
        _ => None,
    });
    let attributes = certificate.subject.0.iter().flat_map(|set| set.0.iter());
    let common = attributes.filter(|attribute| attribute.oid == COMMON_NAME).filter_map(|attribute| {
        let is_text = matches!(attribute.value.tag(), Tag::Utf8String | Tag::PrintableString | Tag::Ia5String);
        is_text.then(|| std::str::from_utf8(attribute.value.value()).ok().map(str::to_owned)).flatten()
    });
    alternative.chain(common).collect()
}

impl Connected for Connection {
    type ConnectInfo = ConnectionInfo;

    fn connect_info(&self) -> ConnectionInfo {
        self.info.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
    use tokio::net::TcpListener;
    use tonic::{
        Request, Status,
        service::interceptor::InterceptedService,
        transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Server, ServerTlsConfig},
    };
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

    use super::*;

    fn certificate(name: &str, common: &str, issuer: &CertifiedIssuer<'_, KeyPair>) -> (rcgen::Certificate, KeyPair) {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, common);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, issuer).unwrap(), key)
    }

    fn authority() -> CertifiedIssuer<'static, KeyPair> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    #[test]
    fn a_certificate_names_its_dns_names_and_its_common_name() {
        let (certificate, _) = certificate("imap.example.com", "Mail host 7", &authority());
        assert_eq!(names_of(certificate.der()), ["imap.example.com", "Mail host 7"]);
        assert!(names_of(&certificate.der()[1..]).is_empty(), "not a certificate");
    }

    #[tokio::test]
    async fn a_connections_certificate_is_parsed_once() {
        let authority = authority();
        // Where each request finds its names: a cell that is filled at most once.
        let seen = Arc::new(Mutex::new(Vec::<Arc<OnceLock<Box<[String]>>>>::new()));
        let (_reporter, health) = tonic_health::server::health_reporter();
        let watched = InterceptedService::new(health, {
            let seen = Arc::clone(&seen);
            move |request: Request<()>| -> Result<Request<()>, Status> {
                assert!(peer(request.extensions()).is_some(), "its address is lost");
                certificate_names(request.extensions());
                let info = request.extensions().get::<TlsConnectInfo<ConnectionInfo>>().unwrap();
                seen.lock().unwrap().push(Arc::clone(&info.get_ref().certificate_names));
                Ok(request)
            }
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let identity = |name: &str| {
            let (certificate, key) = certificate(name, name, &authority);
            Identity::from_pem(certificate.pem(), key.serialize_pem())
        };
        let tls = ServerTlsConfig::new().identity(identity("localhost")).client_ca_root(Certificate::from_pem(authority.pem()));
        let server = Server::builder().tls_config(tls).unwrap().add_service(watched);
        tokio::spawn(server.serve_with_incoming(super::super::server::incoming(listener)));

        let connect = async |name: &str| -> HealthClient<Channel> {
            let tls = ClientTlsConfig::new().identity(identity(name)).domain_name("localhost");
            let tls = tls.ca_certificate(Certificate::from_pem(authority.pem()));
            let endpoint = Endpoint::from_shared(format!("https://{address}")).unwrap().tls_config(tls).unwrap();
            HealthClient::new(endpoint.connect().await.unwrap())
        };
        let (mut imap, mut smtp) = (connect("imap.example.com").await, connect("smtp.example.com").await);
        for client in [&mut imap, &mut smtp] {
            for _ in 0..3 {
                client.check(HealthCheckRequest::default()).await.unwrap();
            }
        }
        let seen = seen.lock().unwrap();
        let (imap, smtp) = seen.split_at(3);
        for (calls, name) in [(imap, "imap.example.com"), (smtp, "smtp.example.com")] {
            assert_eq!(calls[0].get().unwrap()[0], name);
            assert!(calls.iter().all(|cell| Arc::ptr_eq(cell, &calls[0])), "parsed again");
        }
        assert!(!Arc::ptr_eq(&imap[0], &smtp[0]), "another connection's names");
    }
}
