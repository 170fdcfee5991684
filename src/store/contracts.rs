//! Contract versions: every one that was accepted, and which is in force.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;
use xxhash_rust::xxh3::xxh3_128;

use super::{Result, Store, json_text, number, query, text, time};
use crate::engine::Program;
use crate::store::StoreError;
use crate::time::Timestamp;

/// A version of a contract that was accepted.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ContractVersion {
    /// The contract's name.
    pub name: String,
    /// Counts accepted versions of the name, from 1.
    pub number: i64,
    /// `metadata.version`.
    pub version: String,
    /// Digest of the contract and what it names.
    pub digest: String,
    /// `api`, or the file it came from.
    pub origin: String,
    /// The document as it was given.
    pub source: String,
    /// Its scripts, baselines and schemas by name.
    pub files: BTreeMap<String, String>,
    /// When it was accepted.
    #[schema(value_type = String, format = DateTime)]
    pub accepted_at: Timestamp,
    /// Whether it is the one in force.
    pub in_force: bool,
}

const SELECT: &str =
    "SELECT name, number, version, digest, origin, source, files, accepted_at, in_force FROM contracts";

fn read(row: &sqlx::any::AnyRow) -> Result<ContractVersion> {
    let files = text(row, "files")?;
    Ok(ContractVersion {
        name: text(row, "name")?,
        number: number(row, "number")?,
        version: text(row, "version")?,
        digest: text(row, "digest")?,
        origin: text(row, "origin")?,
        source: text(row, "source")?,
        files: serde_json::from_str(&files).map_err(StoreError::unreadable("contracts"))?,
        accepted_at: time(row, "accepted_at")?,
        in_force: number(row, "in_force")? != 0,
    })
}

impl ContractVersion {
    /// A version that is accepted now; the store gives it its number.
    pub fn of(program: &Program, origin: String, source: String) -> ContractVersion {
        ContractVersion {
            name: program.name().to_owned(),
            number: 0,
            version: program.contract.metadata.version.clone(),
            digest: ContractVersion::digest_of(&source, &program.files),
            origin,
            source,
            files: program.files.clone(),
            accepted_at: Timestamp::now(),
            in_force: true,
        }
    }

    /// What tells versions apart: the document and what it names.
    pub fn digest_of(source: &str, files: &BTreeMap<String, String>) -> String {
        format!("{:032x}", xxh3_128(format!("{source}\u{1f}{}", json_text(files)).as_bytes()))
    }
}

impl Store {
    /// The contracts in force, by name.
    pub async fn contracts_in_force(&self) -> Result<Vec<ContractVersion>> {
        let rows = query(&format!("{SELECT} WHERE in_force = 1 ORDER BY name"), []).fetch_all(&self.read).await?;
        rows.iter().map(read).collect()
    }

    /// The contract of a name that is in force.
    pub async fn contract(&self, name: &str) -> Result<Option<ContractVersion>> {
        let sql = format!("{SELECT} WHERE in_force = 1 AND name = $1");
        let row = query(&sql, [name.into()]).fetch_optional(&self.read).await?;
        row.as_ref().map(read).transpose()
    }

    /// Every version of a name that was ever accepted, newest first.
    pub async fn contract_versions(&self, name: &str) -> Result<Vec<ContractVersion>> {
        let sql = format!("{SELECT} WHERE name = $1 ORDER BY number DESC LIMIT 1000");
        let rows = query(&sql, [name.into()]).fetch_all(&self.read).await?;
        rows.iter().map(read).collect()
    }

    /// Puts versions into force, in one transaction; numbers are given here.
    pub async fn accept_contracts(&self, versions: &[ContractVersion]) -> Result<()> {
        let mut transaction = self.write.begin().await?;
        for version in versions {
            let sql = "UPDATE contracts SET in_force = 0 WHERE name = $1";
            query(sql, [version.name.as_str().into()]).execute(&mut *transaction).await?;
            let sql = "INSERT INTO contracts (name, number, version, digest, origin, source, files, accepted_at, in_force) \
                       SELECT $1, COALESCE(MAX(number), 0) + 1, $2, $3, $4, $5, $6, $7, 1 FROM contracts WHERE name = $8";
            let args = [
                version.name.as_str().into(),
                version.version.as_str().into(),
                version.digest.as_str().into(),
                version.origin.as_str().into(),
                version.source.as_str().into(),
                json_text(&version.files).into(),
                version.accepted_at.into(),
                version.name.as_str().into(),
            ];
            query(sql, args).execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// Takes a contract out of force. Its versions stay.
    pub async fn withdraw_contract(&self, name: &str) -> Result<()> {
        query("UPDATE contracts SET in_force = 0 WHERE name = $1", [name.into()]).execute(&self.write).await?;
        Ok(())
    }
}
