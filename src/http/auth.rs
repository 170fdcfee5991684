//! Bearer tokens and what their roles may do.

use axum::extract::{Request, State};
use axum::http::{Method, header};
use axum::middleware::Next;
use axum::response::Response;
use hmac::{Hmac, KeyInit, Mac};
use serde::Deserialize;
use sha2::Sha256;

use super::{App, Problem};

/// What a client may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Send reports.
    Reporter,
    /// Read everything.
    Reader,
    /// Ask questions, and get the answers that consumers may see.
    Consumer,
    /// Read everything, change contracts.
    Provider,
    /// Everything.
    Operator,
}

/// A secret and the role it gives.
#[derive(Clone)]
pub struct Token {
    /// The role.
    pub role: Role,
    /// The secret.
    pub secret: String,
}

impl Role {
    fn may(self, method: &Method, path: &str) -> bool {
        match self {
            Role::Operator => true,
            Role::Reporter => method == Method::POST && path == "/v1/reports",
            Role::Reader => method == Method::GET,
            Role::Consumer => method == Method::GET && path.starts_with("/v1/explain/"),
            Role::Provider => {
                method == Method::GET
                    || ((method == Method::PUT || method == Method::DELETE) && path.starts_with("/v1/contracts/"))
            }
        }
    }
}

/// Probes and the API's own description are for everybody.
const OPEN: [&str; 3] = ["/healthz", "/readyz", "/openapi.json"];

pub(super) async fn check(State(app): State<App>, request: Request, next: Next) -> Result<Response, Problem> {
    let path = request.uri().path();
    if app.tokens.is_empty() || OPEN.contains(&path) {
        return Ok(next.run(request).await);
    }
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default().trim();
    match app.tokens.iter().find(|token| same(&token.secret, given)) {
        None => Err(Problem::new(401, "unauthorized", "send a valid token: Authorization: Bearer ...")),
        Some(token) if !token.role.may(request.method(), path) => {
            let detail = format!("the role {:?} may not {} {path}", token.role, request.method());
            Err(Problem::new(403, "forbidden", detail))
        }
        Some(token) => {
            let role = token.role;
            let mut request = request;
            request.extensions_mut().insert(role);
            Ok(next.run(request).await)
        }
    }
}

/// Compares in a time that does not tell how much is right.
fn same(secret: &str, given: &str) -> bool {
    let mac = |text: &str| {
        let keyed = Hmac::<Sha256>::new_from_slice(b"qualm token").map(|mac| mac.chain_update(text));
        keyed.expect("HMAC takes keys of any length")
    };
    mac(secret).verify(&mac(given).finalize().into_bytes()).is_ok()
}
