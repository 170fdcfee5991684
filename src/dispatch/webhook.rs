//! Webhooks after the Standard Webhooks specification
//! (<https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>).

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::Failure;
use crate::store::Due;
use crate::time::Timestamp;

const TIMEOUT: Duration = Duration::from_secs(15);

/// Sends signed webhooks.
#[derive(Clone)]
pub struct Sender {
    client: reqwest::Client,
}

impl Sender {
    /// A sender that follows no redirects.
    pub fn new() -> reqwest::Result<Sender> {
        let client = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("qualm/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Sender { client })
    }

    /// Sends one webhook; any answer but 2xx is a failure, and 410 Gone is a final one.
    pub async fn send(&self, due: &Due) -> Result<(), Failure> {
        let failed = |message: String| Failure { message, is_final: false };
        let variable = due.secret_env.as_deref().unwrap_or_default();
        let secret = std::env::var(variable)
            .map_err(|_| failed(format!("environment variable {variable} with the secret is not set")))?;
        let timestamp = Timestamp::now().as_micros() / 1_000_000;
        let signature = sign(&secret, &due.event, timestamp, &due.body)
            .ok_or_else(|| failed(format!("the secret in {variable} is not whsec_ and base64")))?;
        let request = self
            .client
            .post(&due.destination)
            .header("content-type", "application/json")
            .header("webhook-id", &due.event)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", signature)
            .body(due.body.clone());
        let response = request.send().await.map_err(|error| failed(in_words(&error)))?;
        match response.status() {
            status if status.is_success() => Ok(()),
            status => {
                Err(Failure { message: format!("the endpoint answered {status}"), is_final: status.as_u16() == 410 })
            }
        }
    }
}

fn in_words(error: &reqwest::Error) -> String {
    let mut words = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        words = format!("{words}: {error}");
        cause = error.source();
    }
    words
}

/// `v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`; `None` for a secret that is
/// not `whsec_` and base64 (the prefix may be left out).
fn sign(secret: &str, id: &str, timestamp: i64, body: &str) -> Option<String> {
    let key = STANDARD.decode(secret.trim().strip_prefix("whsec_").unwrap_or(secret.trim())).ok()?;
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).ok()?;
    mac.update(format!("{id}.{timestamp}.{body}").as_bytes());
    Some(format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification's reference libraries.
    #[test]
    fn signs_as_the_reference_does() {
        let signature = sign(
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            r#"{"test": 2432232314}"#,
        );
        assert_eq!(signature.as_deref(), Some("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="));
        assert_eq!(sign("whsec_!!", "a", 1, ""), None);
    }
}
