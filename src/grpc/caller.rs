//! Who calls: by a bearer token or a client certificate. And for whom: the metadata
//! `latchkey-actor`.

use std::{collections::HashMap, fmt, fs, path::Path, sync::Arc};

use serde::Deserialize;
use sha2::{Digest, Sha256};
use tonic::{Extensions, Request, Status, metadata::MetadataMap, service::Interceptor};

use super::{connection, refusals, status};
use crate::manage::devices::MayAwait;
use latchkey_core::model::{
    Invalid,
    caller::{Requester, Roles},
    id::UserId,
};

pub const ACTOR: &str = "latchkey-actor";
const MAX_FILE_BYTES: u64 = 1 << 20;

/// A program that calls.
#[derive(Debug)]
pub struct Identity {
    name: Box<str>,
    roles: Roles,
}

/// Who may call. Cheap to clone: one a service.
#[derive(Clone)]
pub struct CallerPolicy(Arc<Callers>);

enum Callers {
    /// Everyone, as the operator `local`: for a loopback address only.
    Local(Arc<Identity>),
    Known {
        /// By the SHA-256 of the token: the time of a lookup by digest reveals nothing of the
        /// token.
        by_token: HashMap<[u8; 32], Arc<Identity>>,
        by_certificate: HashMap<String, Arc<Identity>>,
    },
}

/// What is wrong with the callers file.
#[derive(Debug, thiserror::Error)]
#[error("the callers file {file}: {problem}")]
pub struct CallersFileError {
    file: String,
    problem: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CallersFile {
    #[serde(default)]
    caller: Vec<CallerEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CallerEntry {
    name: String,
    roles: Vec<String>,
    token_sha256: Option<String>,
    certificate_name: Option<String>,
}

impl CallerPolicy {
    /// Everyone is the operator `local`.
    pub fn local() -> Self {
        let roles = Roles::FRONTEND.with(Roles::MANAGER).with(Roles::OPERATOR);
        Self(Arc::new(Callers::Local(Arc::new(Identity { name: "local".into(), roles }))))
    }

    /// The callers that a file names, in TOML: `[[caller]]` with `name`, `roles` and `token_sha256`
    /// or `certificate_name`.
    pub fn load(file: &Path) -> Result<Self, CallersFileError> {
        let failed = |problem: String| CallersFileError { file: file.display().to_string(), problem };
        let metadata = fs::metadata(file).map_err(|error| failed(format!("can't be read: {error}")))?;
        if metadata.len() > MAX_FILE_BYTES {
            return Err(failed("is longer than 1 MiB".to_owned()));
        }
        let text = fs::read_to_string(file).map_err(|error| failed(format!("can't be read: {error}")))?;
        Self::parse(&text).map_err(failed)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let parsed: CallersFile = toml::from_str(text).map_err(|error| error.to_string())?;
        let (mut by_token, mut by_certificate) = (HashMap::new(), HashMap::new());
        for CallerEntry { name, roles, token_sha256, certificate_name } in parsed.caller {
            if name.is_empty() || name.len() > 64 || name.chars().any(char::is_control) {
                return Err(format!("name `{name}` must be 1 to 64 characters"));
            }
            let identity = Arc::new(Identity { roles: parse_roles(&name, &roles)?, name: name.as_str().into() });
            if token_sha256.is_none() && certificate_name.is_none() {
                return Err(format!("`{name}` needs token_sha256 or certificate_name"));
            }
            if let Some(digest) = token_sha256 {
                let digest = parse_digest(&digest).ok_or_else(|| {
                    format!("token_sha256 of `{name}` must be 64 hexadecimal digits: printf %s TOKEN | sha256sum")
                })?;
                if by_token.insert(digest, Arc::clone(&identity)).is_some() {
                    return Err(format!("the token of `{name}` is another caller's too"));
                }
            }
            if let Some(certificate) = certificate_name
                && by_certificate.insert(certificate, identity).is_some()
            {
                return Err(format!("the certificate of `{name}` is another caller's too"));
            }
        }
        if by_token.is_empty() && by_certificate.is_empty() {
            return Err("names no caller".to_owned());
        }
        Ok(Self(Arc::new(Callers::Known { by_token, by_certificate })))
    }

    /// Whether some caller is known by its certificate: then somebody must ask for certificates.
    pub fn names_certificates(&self) -> bool {
        matches!(&*self.0, Callers::Known { by_certificate, .. } if !by_certificate.is_empty())
    }

    fn identify(&self, metadata: &MetadataMap, extensions: &Extensions) -> Result<Arc<Identity>, Status> {
        let (by_token, by_certificate) = match &*self.0 {
            Callers::Local(identity) => return Ok(Arc::clone(identity)),
            Callers::Known { by_token, by_certificate } => (by_token, by_certificate),
        };
        if let Some(authorization) = metadata.get("authorization") {
            let token =
                authorization.as_bytes().split_at_checked(7).filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "));
            let (_, token) = token.ok_or_else(|| status::unknown_caller("authorization must be: Bearer TOKEN"))?;
            let digest: [u8; 32] = Sha256::digest(token).into();
            let found = by_token.get(&digest).map(Arc::clone);
            return found.ok_or_else(|| status::unknown_caller("the token is not known"));
        }
        let names = connection::certificate_names(extensions);
        let found = names.iter().find_map(|name| by_certificate.get(name)).map(Arc::clone);
        found.ok_or_else(|| status::unknown_caller("say who calls: a bearer token, or a client certificate that is known"))
    }
}

impl Interceptor for CallerPolicy {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let identity = self.identify(request.metadata(), request.extensions()).inspect_err(|_| {
            refusals::note("CALLER_UNKNOWN", None, connection::peer(request.extensions()));
        })?;
        request.extensions_mut().insert(identity);
        Ok(request)
    }
}

impl fmt::Debug for CallerPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CallerPolicy")
    }
}

/// Refuses who may not ask about logins.
pub(super) fn frontend<T>(request: &Request<T>) -> Result<(), Status> {
    let identity = identity(request)?;
    if !identity.roles.contains(Roles::FRONTEND) && !identity.roles.contains(Roles::OPERATOR) {
        return Err(role_missing(request, identity, "frontend or operator"));
    }
    if request.metadata().contains_key(ACTOR) && !may_act(identity) {
        return Err(status::actor_not_allowed());
    }
    Ok(())
}

/// Who provisions, and for whom if somebody is named.
pub(super) fn provisioner<T>(request: &Request<T>) -> Result<Requester, Status> {
    with_role(request, Roles::PROVISIONER, "provisioner or operator")
}

/// Who manages, and for whom if somebody is named.
pub(super) fn manager<T>(request: &Request<T>) -> Result<Requester, Status> {
    with_role(request, Roles::MANAGER, "manager or operator")
}

/// An operator has every role.
fn with_role<T>(request: &Request<T>, role: Roles, needed: &str) -> Result<Requester, Status> {
    let identity = identity(request)?;
    if !identity.roles.contains(role) && !identity.roles.contains(Roles::OPERATOR) {
        return Err(role_missing(request, identity, needed));
    }
    let actor = match request.metadata().get(ACTOR) {
        None => None,
        Some(actor) => {
            let text = actor.to_str().unwrap_or_default();
            Some(UserId::parse(ACTOR, text).map_err(|why| status::invalid(&why))?)
        }
    };
    let peer = connection::peer(request.extensions()).map_or_else(String::new, |address| address.to_string());
    Ok(Requester { caller: identity.name.to_string(), peer, actor })
}

/// As [`manager`]; one that is no operator must name the person it acts for.
pub(super) fn acting_manager<T>(request: &Request<T>) -> Result<Requester, Status> {
    let who = manager(request)?;
    if who.actor.is_none() && !identity(request)?.roles.contains(Roles::OPERATOR) {
        let problem = "a manager must name the person it acts for in this metadata";
        return Err(status::invalid(&Invalid::new(ACTOR, problem)));
    }
    Ok(who)
}

/// Who goes on waiting for a revocation, and for which: of the services whose role they have. One
/// that is no operator must name the person it acts for, for those of a manager.
pub(super) fn awaiting<T>(request: &Request<T>) -> Result<(Requester, MayAwait), Status> {
    let roles = identity(request)?.roles;
    let is_operator = roles.contains(Roles::OPERATOR);
    if !is_operator && !roles.contains(Roles::PROVISIONER) {
        let who = acting_manager(request)?;
        return Ok((who, MayAwait { device_credentials: true, directory: false }));
    }
    let who = provisioner(request)?;
    let is_manager = roles.contains(Roles::MANAGER) && who.actor.is_some();
    Ok((who, MayAwait { device_credentials: is_operator || is_manager, directory: true }))
}

fn role_missing<T>(request: &Request<T>, identity: &Identity, needed: &str) -> Status {
    refusals::note("ROLE_MISSING", Some(&identity.name), connection::peer(request.extensions()));
    status::role_missing(needed)
}

fn may_act(identity: &Identity) -> bool {
    [Roles::MANAGER, Roles::PROVISIONER, Roles::OPERATOR].into_iter().any(|role| identity.roles.contains(role))
}

fn identity<T>(request: &Request<T>) -> Result<&Identity, Status> {
    let found = request.extensions().get::<Arc<Identity>>();
    found.map(AsRef::as_ref).ok_or_else(|| status::unknown_caller("nobody said who calls"))
}

fn parse_roles(name: &str, roles: &[String]) -> Result<Roles, String> {
    let parsed = roles.iter().try_fold(Roles::default(), |all, role| {
        Ok(all.with(match role.as_str() {
            "frontend" => Roles::FRONTEND,
            "manager" => Roles::MANAGER,
            "provisioner" => Roles::PROVISIONER,
            "operator" => Roles::OPERATOR,
            _ => return Err(format!("role `{role}` of `{name}` must be frontend, manager, provisioner or operator")),
        }))
    })?;
    if parsed == Roles::default() { Err(format!("`{name}` needs at least one role")) } else { Ok(parsed) }
}

fn parse_digest(text: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, at) in digest.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"; // of "hello"

    fn problem(text: &str) -> String {
        CallerPolicy::parse(text).map(drop).unwrap_err()
    }

    #[test]
    fn a_callers_file_says_what_is_wrong_with_it() {
        let entry = |roles: &str, rest: &str| format!("[[caller]]\nname = 'imap'\nroles = [{roles}]\n{rest}");
        assert!(problem("").contains("names no caller"));
        assert!(problem(&entry("'frontend'", "")).contains("needs token_sha256 or certificate_name"));
        assert!(problem(&entry("'frontend'", "token_sha256 = 'abc'")).contains("64 hexadecimal"));
        assert!(problem(&entry("'root'", &format!("token_sha256 = '{DIGEST}'"))).contains("`root`"));
        assert!(problem(&entry("", &format!("token_sha256 = '{DIGEST}'"))).contains("at least one role"));
        assert!(problem(&entry("'frontend'", "token = 'hello'")).contains("token"));
        CallerPolicy::parse(&entry("'frontend'", &format!("token_sha256 = '{DIGEST}'"))).unwrap();
    }

    #[test]
    fn a_token_names_its_caller() {
        let text = format!("[[caller]]\nname = 'imap'\nroles = ['frontend']\ntoken_sha256 = '{DIGEST}'");
        let mut policy = CallerPolicy::parse(&text).unwrap();
        let mut ask = |authorization: Option<&str>| {
            let mut request = Request::new(());
            if let Some(value) = authorization {
                request.metadata_mut().insert("authorization", value.parse().unwrap());
            }
            policy.call(request)
        };
        let known = ask(Some("Bearer hello")).unwrap();
        frontend(&known).unwrap();
        assert!(manager(&known).is_err(), "a frontend can't manage");
        for unknown in [None, Some("Bearer hellO"), Some("Basic hello"), Some("")] {
            assert_eq!(ask(unknown).unwrap_err().code(), tonic::Code::Unauthenticated, "{unknown:?}");
        }
    }
}
