//! Who answers for it, who was told, who acted?

use serde_json::{Value as Json, json};

use super::context::Context;
use super::{Answer, ExplainError, Result, View};
use crate::contract::{ActionRule, Contract, Objective};
use crate::store::Asked;

pub(super) async fn answer(mut context: Context<'_>) -> Result<Answer> {
    if context.subject.violation.is_none() && context.subject.contract.is_none() {
        let text = "ask who about a violation, or about a contract and its objective".to_owned();
        return Err(ExplainError::Subject(text));
    }
    let mut sentences = Vec::new();
    let (contract, objective, violation) = if context.subject.violation.is_some() {
        let breach = context.breach().await?;
        let name = breach.name(&context);
        (breach.contract, breach.objective, Some((breach.violation, name)))
    } else {
        let contract = context.asked_contract().await?;
        let name = context.subject.objective.clone();
        let asks = ExplainError::Subject("ask who about an objective too: its name is missing".to_owned());
        let name = name.ok_or(asks)?;
        let objective = contract.spec.objectives.iter().find(|objective| objective.name == name).cloned();
        (contract, objective.ok_or(ExplainError::NotFound("objective", name))?, None)
    };
    let role = |id: &str| contract.spec.parties.iter().find(|party| party.id == id).map(|party| party.role.clone());
    let promised = format!("{}/{}", contract.metadata.name, objective.name);
    match &objective.responsible {
        Some(party) => {
            let role = role(party).map(|role| format!(" ({role})")).unwrap_or_default();
            sentences.push(format!("{party}{role} answers for {promised}."));
        }
        None => {
            let providers: Vec<&str> = contract
                .spec
                .parties
                .iter()
                .filter(|party| party.role == "provider")
                .map(|party| party.id.as_str())
                .collect();
            sentences.push(match providers[..] {
                [] => format!("The contract names nobody who answers for {promised}."),
                _ => format!(
                    "The contract names no party for {promised}, so its provider does: {}.",
                    providers.join(", ")
                ),
            });
        }
    }
    let consumers: Vec<&str> =
        contract.spec.parties.iter().filter(|party| party.role == "consumer").map(|party| party.id.as_str()).collect();
    if !consumers.is_empty() {
        sentences.push(format!("It was promised to {}.", consumers.join(", ")));
    }
    let rows = contract.spec.parties.iter().map(|party| {
        let answers = if objective.responsible.as_deref() == Some(&party.id) { "answers for it" } else { "" };
        vec![party.id.clone(), party.role.clone(), party.provides.join(", "), answers.to_owned()]
    });
    let rows = rows.collect();
    context.section("Parties", &["party", "role", "provides", ""], rows);
    let mut evidence = json!({
        "parties": contract.spec.parties, "responsible": objective.responsible, "objective": promised,
        "actions_of_the_contract": policies(&contract, &objective),
    });
    if let Some((violation, name)) = violation {
        evidence["violation"] = json!({
            "id": violation.id, "opened_at": violation.opened_at, "resolved_at": violation.resolved_at,
            "acknowledged_at": violation.acknowledged_at, "acknowledged_by": violation.acknowledged_by,
            "acknowledged_note": violation.acknowledged_note,
        });
        evidence["notified"] = notified(&mut context, &violation.id, &mut sentences).await?.into();
        evidence["actions"] = acted(&mut context, &violation.id, &contract, &mut sentences).await?.into();
        match (&violation.acknowledged_by, &violation.acknowledged_at) {
            (Some(by), Some(at)) => {
                let note = violation.acknowledged_note.as_ref().map(|note| format!(": {note}")).unwrap_or_default();
                sentences.push(format!("{by} acknowledged it at {at}{note}."));
            }
            _ => sentences.push(format!("Nobody has acknowledged {name}.")),
        }
    }
    Ok(context.answer(sentences, evidence))
}

/// Which actions would answer a violation, and by which policy.
fn policies(contract: &Contract, objective: &Objective) -> Vec<Json> {
    let fitting = contract.spec.actions.iter().filter(|action| action.on.fits(objective));
    fitting.map(|action| json!({"name": action.name, "by": by(action), "approval": action.guard.approval})).collect()
}

fn by(action: &ActionRule) -> String {
    match (&action.decide, &action.command) {
        (Some(decide), _) => format!("{} of {}", decide.function, decide.policy),
        (None, Some(command)) => format!("the contract: {}", command.kind),
        (None, None) => "the contract".to_owned(),
    }
}

async fn notified(context: &mut Context<'_>, id: &str, sentences: &mut Vec<String>) -> Result<Vec<Json>> {
    let sql = "SELECT kind, destination, state, attempts, created_at, done_at, error FROM deliveries WHERE violation = $1 ORDER BY created_at, id LIMIT 200";
    let rows = context.ask(Asked::new("who was told", sql, [id.into()])).await?;
    let (mut table, mut told) = (Vec::new(), Vec::new());
    for row in &rows {
        // Where a provider's messages go is its own matter.
        let destination = match context.view {
            View::Provider => row.text("destination")?,
            View::Consumer => "(kept back)".to_owned(),
        };
        let (kind, state, done) = (row.text("kind")?, row.text("state")?, row.maybe_time("done_at")?);
        table.push(vec![
            kind.clone(),
            destination.clone(),
            state.clone(),
            done.map_or_else(|| "-".to_owned(), |at| at.to_string()),
            row.text("error")?,
        ]);
        told.push(json!({
            "kind": kind, "destination": destination, "state": state, "attempts": row.count("attempts")?,
            "created_at": row.time("created_at")?, "done_at": done, "error": row.maybe("error")?,
        }));
    }
    let arrived = told.iter().filter(|one| one["state"] == "sent").count();
    sentences.push(match told.len() {
        0 => "Nobody was told: the contract names no webhook, and no NATS server is connected.".to_owned(),
        all => format!("{arrived} of {all} messages about it arrived."),
    });
    context.section("Who was told", &["by", "where", "state", "at", "error"], table);
    Ok(told)
}

async fn acted(
    context: &mut Context<'_>,
    id: &str,
    contract: &Contract,
    sentences: &mut Vec<String>,
) -> Result<Vec<Json>> {
    let sql = "SELECT a.id, a.name, a.kind, a.state, a.reason, a.at, a.approved_by, o.state AS outcome, o.at AS outcome_at, o.message \
               FROM actions a LEFT JOIN outcomes o ON o.action = a.id WHERE a.violation = $1 ORDER BY a.at, a.id, o.at LIMIT 500";
    let rows = context.ask(Asked::new("who acted", sql, [id.into()])).await?;
    let (mut table, mut acts) = (Vec::new(), Vec::new());
    for row in &rows {
        let name = row.text("name")?;
        let policy = contract.spec.actions.iter().find(|action| action.name == name).map(by).unwrap_or_default();
        table.push(vec![
            row.time("at")?.to_string(),
            row.text("kind")?,
            policy.clone(),
            row.text("state")?,
            row.text("approved_by")?,
            row.maybe("outcome")?.unwrap_or_default(),
            row.text("message")?,
        ]);
        acts.push(json!({
            "id": row.text("id")?, "name": name, "kind": row.text("kind")?, "by": policy, "state": row.text("state")?,
            "reason": row.maybe("reason")?, "at": row.time("at")?, "approved_by": row.maybe("approved_by")?,
            "outcome": row.maybe("outcome")?, "outcome_at": row.maybe_time("outcome_at")?, "message": row.maybe("message")?,
        }));
    }
    if let Some(first) = acts.first() {
        let text = |field: &str| first[field].as_str().unwrap_or_default().replace('_', " ");
        let approved = first["approved_by"].as_str().map(|by| format!(", approved by {by}")).unwrap_or_default();
        sentences.push(format!(
            "Action {} was caused by {} and is {}{approved}.",
            text("kind"),
            text("by"),
            text("state")
        ));
    } else {
        sentences.push("No action followed.".to_owned());
    }
    context.section("Who acted", &["at", "action", "by", "state", "approved by", "outcome", "message"], table);
    Ok(acts)
}
