//! `/v1/contracts`.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{App, Problem};
use crate::contract::{self, Finding};
use crate::engine::{BaselineSummary, Standing};
use crate::store::ContractVersion;

/// Learned baselines that are listed at most.
const BASELINES_MAX: i64 = 100;

/// A contract and how its objectives stand.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Status {
    name: String,
    /// The version in force.
    version: String,
    /// Counts accepted versions, from 1.
    number: i64,
    /// `api`, or its file.
    origin: String,
    /// Whether the newest version offered is in force and no script fails.
    healthy: bool,
    /// What is wrong with the newest version offered, if it was refused.
    #[schema(value_type = Vec<Object>)]
    faults: Vec<Finding>,
    /// The newest evaluation of each series, and where it stands.
    series: Vec<SeriesStatus>,
}

/// Where a series stands.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SeriesStatus {
    objective: String,
    /// Label to value.
    #[schema(value_type = Object)]
    series: Value,
    /// healthy, pending or open, with since when.
    #[schema(value_type = Object)]
    phase: Value,
    /// The newest evaluation.
    #[schema(value_type = Option<Object>)]
    latest: Value,
}

/// The contracts in force
#[utoipa::path(get, path = "/v1/contracts", operation_id = "listContracts", tag = "contracts", responses((status = 200, body = Vec<ContractVersion>)))]
pub(super) async fn list(State(app): State<App>) -> Result<Json<Vec<ContractVersion>>, Problem> {
    Ok(Json(app.store.contracts_in_force().await?))
}

/// A contract in force
#[utoipa::path(
    get, path = "/v1/contracts/{name}", operation_id = "getContract", tag = "contracts", params(("name" = String, Path)),
    responses((status = 200, body = ContractVersion), (status = 404, body = Problem))
)]
pub(super) async fn get(State(app): State<App>, Path(name): Path<String>) -> Result<Json<ContractVersion>, Problem> {
    found(&app, &name).await.map(Json)
}

/// Put a contract, or a new version of it, into force
#[utoipa::path(
    put, path = "/v1/contracts/{name}", operation_id = "putContract", tag = "contracts", params(("name" = String, Path)),
    request_body(content = String, content_type = "application/yaml", description = "YAML or JSON; see `qualm schema contract`"),
    responses(
        (status = 200, body = ContractVersion),
        (status = 409, body = Problem, description = "The contract comes from a file"),
        (status = 422, body = Problem, description = "It has errors; the version before stays in force"),
    )
)]
pub(super) async fn put(
    State(app): State<App>,
    Path(name): Path<String>,
    body: Bytes,
) -> Result<Json<ContractVersion>, Problem> {
    let source = std::str::from_utf8(&body).map_err(|_| Problem::bad_request("a contract is UTF-8 text"))?;
    Ok(Json(app.catalog.put(&name, source).await?))
}

/// Withdraw a contract; its open violations close as withdrawn
#[utoipa::path(
    delete, path = "/v1/contracts/{name}", operation_id = "deleteContract", tag = "contracts", params(("name" = String, Path)),
    responses((status = 204), (status = 404, body = Problem), (status = 409, body = Problem))
)]
pub(super) async fn delete(State(app): State<App>, Path(name): Path<String>) -> Result<StatusCode, Problem> {
    app.catalog.delete(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Every version that was ever accepted, newest first
#[utoipa::path(
    get, path = "/v1/contracts/{name}/versions", operation_id = "listContractVersions", tag = "contracts", params(("name" = String, Path)),
    responses((status = 200, body = Vec<ContractVersion>), (status = 404, body = Problem))
)]
pub(super) async fn versions(
    State(app): State<App>,
    Path(name): Path<String>,
) -> Result<Json<Vec<ContractVersion>>, Problem> {
    let versions = app.store.contract_versions(&name).await?;
    if versions.is_empty() {
        return Err(Problem::not_found(format!("there is no contract {name}")));
    }
    Ok(Json(versions))
}

/// Whether a contract is healthy, and how its objectives stand
#[utoipa::path(
    get, path = "/v1/contracts/{name}/status", operation_id = "getContractStatus", tag = "contracts", params(("name" = String, Path)),
    responses((status = 200, body = Status), (status = 404, body = Problem))
)]
pub(super) async fn status(State(app): State<App>, Path(name): Path<String>) -> Result<Json<Status>, Problem> {
    let version = found(&app, &name).await?;
    let faults = app.catalog.faults(&name).await;
    let status = |Standing { objective, labels, lifecycle, .. }: Standing| {
        // Both have text keys only.
        let phase = serde_json::to_value(&lifecycle.phase).unwrap_or_default();
        let latest = serde_json::to_value(&lifecycle.latest).unwrap_or_default();
        SeriesStatus { objective, series: labels, phase, latest }
    };
    let mut series: Vec<SeriesStatus> = app.store.series_of(&name).await?.into_iter().map(status).collect();
    if let Some(contract) = contract::load(&version.origin, &version.source).contract {
        let scope = contract.spec.scope;
        let rules = app.store.rules_of(&name, &scope.tenant, &scope.application).await?;
        series.extend(rules.into_iter().map(status));
    }
    let failing = series.iter().any(|series| series.latest["verdict"] == "error");
    Ok(Json(Status {
        name: version.name,
        version: version.version,
        number: version.number,
        origin: version.origin,
        healthy: faults.is_empty() && !failing,
        faults,
        series,
    }))
}

/// A baseline that drift is measured from.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BaselineRecord {
    objective: String,
    /// Label to value; absent for a file, which all series share.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    series: Option<Value>,
    /// The file, if it is from one.
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    /// How its values are distributed.
    #[schema(value_type = Object)]
    summary: BaselineSummary,
}

/// The baselines of a contract: those of files, and those that series have learned (100 at most)
#[utoipa::path(
    get, path = "/v1/contracts/{name}/baselines", operation_id = "listBaselines", tag = "contracts", params(("name" = String, Path)),
    responses((status = 200, body = Vec<BaselineRecord>), (status = 404, body = Problem))
)]
pub(super) async fn baselines(
    State(app): State<App>,
    Path(name): Path<String>,
) -> Result<Json<Vec<BaselineRecord>>, Problem> {
    let version = found(&app, &name).await?;
    let program = crate::catalog::ready(&version);
    let inputs = program.iter().flat_map(|program| &program.promises).flat_map(|promised| {
        promised.inputs.iter().map(|input| (promised.objective.name.clone(), input.baseline.as_ref()))
    });
    let mut records: Vec<BaselineRecord> = inputs
        .filter_map(|(objective, baseline)| {
            let baseline = baseline?;
            let summary = BaselineSummary::of(&baseline.distribution);
            Some(BaselineRecord { objective, series: None, file: Some(baseline.file.clone()), summary })
        })
        .collect();
    for (objective, series, memory) in app.store.memories_of(&name, BASELINES_MAX).await? {
        let summary = BaselineSummary::of_memory(&memory).map_err(crate::store::StoreError::unreadable("memories"))?;
        records.extend(summary.map(|summary| BaselineRecord { objective, series: Some(series), file: None, summary }));
    }
    Ok(Json(records))
}

async fn found(app: &App, name: &str) -> Result<ContractVersion, Problem> {
    let version = app.store.contract(name).await?;
    version.ok_or_else(|| Problem::not_found(format!("there is no contract {name}")))
}
