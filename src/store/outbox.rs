//! What is to leave because of a transition or an action: composed here, stored with its
//! cause, sent by [`crate::dispatch`]. Bodies are fixed when stored, so that every attempt
//! sends the same bytes under the same id.

use serde_json::{Value as Json, json};
use uuid::Uuid;

use crate::contract::{EventKind, Webhook};
use crate::engine::{Action, State, Transition, derived_id};

/// One message to one destination.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Derived from event and destination.
    pub id: Uuid,
    /// The event: the idempotency key for receivers.
    pub event: Uuid,
    /// What it is about.
    pub violation: Uuid,
    /// `nats` or `webhook`.
    pub kind: &'static str,
    /// Subject or URL.
    pub destination: String,
    /// For webhooks: where the secret is.
    pub secret_env: Option<String>,
    /// What is sent.
    pub body: String,
}

fn event_kind(transition: &Transition) -> (EventKind, &'static str) {
    match transition.state {
        State::Open => (EventKind::Opened, "violation.opened"),
        State::Resolved => (EventKind::Resolved, "violation.resolved"),
    }
}

/// The CloudEvent of a transition.
pub fn violation_event(transition: &Transition) -> Delivery {
    let Transition { id, tenant, application, contract, .. } = transition;
    let (_, word) = event_kind(transition);
    let source = format!("/qualm/{tenant}/{application}/{contract}");
    let data = serde_json::to_value(transition).unwrap_or_default();
    nats(derived_id(*id, word), *id, format!("qoa.violations.{tenant}.{application}.{contract}"), |event| {
        cloud_event(event, &source, word, id, transition.at, data)
    })
}

/// The CloudEvent of an action that may leave. `action` is its JSON.
pub fn action_event(id: Uuid, violation: Uuid, at: crate::time::Timestamp, action: &Json) -> Delivery {
    let field = |name: &str| action.get(name).and_then(Json::as_str).unwrap_or_default().to_owned();
    let (tenant, application, kind) = (field("tenant"), field("application"), field("kind"));
    let source = format!("/qualm/{tenant}/{application}/{}", field("contract"));
    let mut data = action.clone();
    data["outcome_subject"] = format!("qoa.outcomes.{id}").into();
    nats(derived_id(id, "action.requested"), violation, format!("qoa.actions.{tenant}.{application}.{kind}"), |event| {
        cloud_event(event, &source, "action.requested", &id, at, data)
    })
}

impl Action {
    /// The CloudEvent of this action.
    pub fn event(&self) -> Delivery {
        let mut json = serde_json::to_value(self).unwrap_or_default();
        if let Some(object) = json.as_object_mut() {
            object.remove("state");
        }
        action_event(self.id, self.violation, self.at, &json)
    }
}

/// The webhook of a transition, if the endpoint wants it.
pub fn webhook_event(transition: &Transition, webhook: &Webhook) -> Option<Delivery> {
    let (kind, word) = event_kind(transition);
    if !webhook.events.contains(&kind) {
        return None;
    }
    let event = derived_id(transition.id, word);
    let body = json!({"type": word, "timestamp": transition.at, "data": transition});
    Some(Delivery {
        id: derived_id(event, &webhook.url),
        event,
        violation: transition.id,
        kind: "webhook",
        destination: webhook.url.clone(),
        secret_env: Some(webhook.secret_env.clone()),
        body: body.to_string(),
    })
}

fn nats(event: Uuid, violation: Uuid, subject: String, body: impl FnOnce(Uuid) -> Json) -> Delivery {
    Delivery {
        id: derived_id(event, &subject),
        event,
        violation,
        kind: "nats",
        body: body(event).to_string(),
        destination: subject,
        secret_env: None,
    }
}

fn cloud_event(id: Uuid, source: &str, word: &str, subject: &Uuid, time: crate::time::Timestamp, data: Json) -> Json {
    json!({
        "specversion": "1.0", "id": id, "source": source, "type": format!("qualm.{word}"),
        "subject": subject, "time": time, "datacontenttype": "application/json", "data": data,
    })
}
