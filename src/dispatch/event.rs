//! Events and actions to NATS.

use std::time::Duration;

use super::Failure;
use crate::store::Due;

/// Publishes with the event's id as `Nats-Msg-Id`, and waits until the server has it.
pub async fn send(client: &async_nats::Client, due: &Due) -> Result<(), Failure> {
    let failed = |message: String| Failure { message, is_final: false };
    if client.connection_state() != async_nats::connection::State::Connected {
        return Err(failed("not connected to NATS".to_owned()));
    }
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Nats-Msg-Id", due.event.as_str());
    headers.insert("Content-Type", "application/cloudevents+json");
    let publish = client.publish_with_headers(due.destination.clone(), headers, due.body.clone().into());
    publish.await.map_err(|error| failed(error.to_string()))?;
    match tokio::time::timeout(Duration::from_secs(5), client.flush()).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(_) => Err(failed("NATS did not answer in 5 s".to_owned())),
    }
}
