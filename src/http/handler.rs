//! One request: which it is, whether it may ask, and its answer.

use std::{fmt::Write, net::IpAddr, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use subtle::ConstantTimeEq;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::{Login, Settings, form::Form, log_in as ask, nginx};
use crate::authority::{Authority, Standing};
use latchkey_core::model::{address::Address, protocol::Protocol, secret::Secret, verdict::Attempt};

/// The header that carries the secret.
const KEY: &str = "latchkey-key";
const MAX_BODY_BYTES: usize = 16 << 10;
/// For a body that was announced.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_PASSWORD_BYTES: usize = 1_024;
const MAX_ADMISSION_BYTES: usize = 1_024;

pub(super) type Answer = Response<Full<Bytes>>;

/// A request that can't be asked, and why.
struct Refusal(StatusCode, String);

impl From<Refusal> for Answer {
    fn from(Refusal(status, why): Refusal) -> Self {
        later(status, &why)
    }
}

pub(super) async fn answer(request: Request<Incoming>, settings: &Settings, authority: &dyn Authority) -> Answer {
    let (head, body) = request.into_parts();
    let is_known = has_key(&head.headers, settings.secret.as_ref());
    if !is_known && !matches!(head.uri.path(), "/health" | "/ready") {
        warn!(path = head.uri.path(), "an HTTP request without the right Latchkey-Key is refused");
    }
    match (head.uri.path(), &head.method) {
        ("/health", &Method::GET | &Method::HEAD) => plain(StatusCode::OK, "alive\n"),
        ("/ready", &Method::GET | &Method::HEAD) => match (settings.is_ready)() {
            true => plain(StatusCode::OK, "ready\n"),
            false => plain(StatusCode::SERVICE_UNAVAILABLE, "not ready: no replica is followed and no lease runs\n"),
        },
        ("/nginx", &Method::GET) => {
            let mut answer = plain(StatusCode::OK, "");
            answer.headers_mut().extend(nginx::answer(&head.headers, is_known, settings, authority).await);
            answer
        }
        ("/login" | "/check", &Method::POST) if !is_known => later(StatusCode::FORBIDDEN, "the header Latchkey-Key is not right"),
        ("/login", &Method::POST) => match read(body).await {
            Ok(form) => log_in(&form, settings, authority).await,
            Err(refusal) => refusal.into(),
        },
        ("/check", &Method::POST) => match read(body).await {
            Ok(form) => check(&form, authority).await,
            Err(refusal) => refusal.into(),
        },
        ("/nginx", _) => not_allowed("GET"),
        ("/login" | "/check", _) => not_allowed("POST"),
        ("/health" | "/ready", _) => not_allowed("GET, HEAD"),
        _ => later(StatusCode::NOT_FOUND, "there are /nginx, /login, /check, /health and /ready"),
    }
}

async fn log_in(form: &Form, settings: &Settings, authority: &dyn Authority) -> Answer {
    let Some(protocol) = form.text("protocol").and_then(|name| protocol(settings, name)) else {
        return later(
            StatusCode::BAD_REQUEST,
            "protocol: must be imap, pop3, smtp, submission, sieve, caldav, carddav, jmap, activesync or webdav",
        );
    };
    let (Some(user), Some(password)) = (form.get("user"), form.get("password")) else {
        return match (form.has("user"), form.has("password")) {
            // The client left one of them empty.
            (true, true) => denied("malformed"),
            _ => later(StatusCode::BAD_REQUEST, "user and password: must be given"),
        };
    };
    // No mailbox has such a name, and no device such a password, so this is certain.
    let Some(address) = user.expose_text().and_then(|user| Address::parse("user", user).ok()) else { return denied("malformed") };
    if password.expose().len() > MAX_PASSWORD_BYTES {
        return denied("malformed");
    }
    let client_ip = match client_ip(form) {
        Ok(ip) => ip,
        Err(refusal) => return refusal.into(),
    };
    let attempt =
        Attempt { address, password: password.clone(), protocol, client_ip, frontend: settings.frontend.clone().into() };
    let login = ask(authority, &attempt).await;
    debug!(address = %attempt.address, session = form.text("session").unwrap_or_default(), ?login, "a login over HTTP");
    match login {
        Login::Allowed { user, device_id, admission } => {
            lines(&[("result", "ok"), ("user", user.as_str()), ("device", &device_id.to_string()), ("admission", &admission)])
        }
        Login::Denied(reason) => denied(reason.label()),
        Login::TryLater => later(StatusCode::OK, ""),
    }
}

async fn check(form: &Form, authority: &dyn Authority) -> Answer {
    let admission = form.text("admission").filter(|admission| admission.len() <= MAX_ADMISSION_BYTES);
    let Some(admission) = admission else {
        return later(StatusCode::BAD_REQUEST, "admission: must be what /login answered, at most 1,024 bytes");
    };
    let Some(admission) = authority.decode(admission) else {
        return later(StatusCode::BAD_REQUEST, "admission: must be what /login answered, unchanged");
    };
    match authority.judge(&admission).await {
        Ok(Standing::Valid) => lines(&[("result", "ok")]),
        Ok(Standing::Ended(reason)) => lines(&[("result", "ended"), ("reason", reason.label())]),
        Err(error) => {
            debug!(%error, "a session can't be judged");
            later(StatusCode::OK, "")
        }
    }
}

fn protocol(settings: &Settings, name: &str) -> Option<Protocol> {
    (settings.service)(name).or_else(|| Protocol::parse("protocol", name).ok())
}

fn client_ip(form: &Form) -> Result<Option<IpAddr>, Refusal> {
    let Some(text) = form.get("rip") else { return Ok(None) };
    let ip = text.expose_text().and_then(|text| text.parse().ok());
    ip.map(Some).ok_or_else(|| Refusal(StatusCode::BAD_REQUEST, "rip: must be an IP address, or absent".to_owned()))
}

/// A body, within its bounds.
async fn read(body: Incoming) -> Result<Form, Refusal> {
    let refuse = |status, why: &str| Err(Refusal(status, why.to_owned()));
    let bytes = match timeout(BODY_TIMEOUT, Limited::new(body, MAX_BODY_BYTES).collect()).await {
        Ok(Ok(body)) => Secret::new(body.to_bytes().into()),
        Ok(Err(_)) => return refuse(StatusCode::PAYLOAD_TOO_LARGE, "the body must be at most 16,384 bytes, and end"),
        Err(_) => return refuse(StatusCode::REQUEST_TIMEOUT, "the body must come within 10 seconds"),
    };
    Form::parse(bytes.expose()).map_err(|error| Refusal(StatusCode::BAD_REQUEST, format!("the body is no form: {error}")))
}

/// Compares all bytes, whatever the first difference: the time says nothing but the length.
fn has_key(headers: &HeaderMap, secret: Option<&Secret>) -> bool {
    let Some(secret) = secret else { return true };
    headers.get(KEY).is_some_and(|key| bool::from(key.as_bytes().ct_eq(secret.expose())))
}

fn denied(reason: &str) -> Answer {
    lines(&[("result", "denied"), ("reason", reason)])
}

/// No answer to what was asked. With a status other than 200, whoever set this up has to look.
fn later(status: StatusCode, why: &str) -> Answer {
    let mut body = String::from("result=later\n");
    if !why.is_empty() {
        warn!(status = status.as_u16(), why, "an HTTP request is refused");
        let _ = writeln!(body, "error={why}");
    }
    plain(status, &body)
}

fn lines(fields: &[(&str, &str)]) -> Answer {
    let mut body = String::new();
    for (name, value) in fields {
        // An address, an identifier, a word of ours: none can hold one. If one did, it would be
        // another's line.
        if value.chars().any(char::is_control) {
            return later(StatusCode::INTERNAL_SERVER_ERROR, "an answer that can't be written");
        }
        let _ = writeln!(body, "{name}={value}");
    }
    plain(StatusCode::OK, &body)
}

fn not_allowed(methods: &'static str) -> Answer {
    let mut answer = later(StatusCode::METHOD_NOT_ALLOWED, "another method is needed");
    answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static(methods));
    answer
}

fn plain(status: StatusCode, body: &str) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::copy_from_slice(body.as_bytes())));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
