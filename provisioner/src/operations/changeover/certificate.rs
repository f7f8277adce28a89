//! The certificate of a move: what was compared, when and where the switch was, signed by the
//! platform's authority. `openssl dgst -sha256 -verify` with the authority's public key checks it.

use control_types::state::RecordKind;
use serde_json::{Value, json};

use super::{Compared, Opened, Side, Sides};
use crate::{
    control_db::site_records,
    engine::{Cx, Flow, Kind, StepError, StepResult},
};

/// Signs what was proven.
pub(super) async fn keep<K: Kind>(
    cx: &Cx<'_, K>,
    sides: &Sides,
    compared: Option<&Compared>,
    opened: Option<&Opened>,
) -> StepResult {
    let missing = || StepError::fail("the steps before did not note what they proved");
    let document = json!({
        "record": RecordKind::MoveCertificate,
        "operation": cx.operation,
        "site": cx.site,
        "from": described(&sides.source),
        "to": described(&sides.target),
        "compared": compared.ok_or_else(missing)?,
        "opened": opened.ok_or_else(missing)?,
    });
    sign(cx, RecordKind::MoveCertificate, &document).await
}

/// Signs a document and keeps it with the operation's site.
pub async fn sign<K: Kind>(cx: &Cx<'_, K>, kind: RecordKind, document: &Value) -> StepResult {
    let text = document.to_string();
    let signature = cx.world.authority.sign(text.as_bytes());
    let signature = signature.map_err(|error| StepError::Fail(error.into()))?;
    let mut tx = cx.begin().await?;
    site_records::put(&mut tx, cx.site, cx.operation, kind, &text, &signature).await?;
    tx.commit().await?;
    Ok(Flow::Done)
}

/// A place, as records tell it.
pub fn described(side: &Side) -> Value {
    json!({
        "region": side.placement.region,
        "cluster": side.cluster.cluster(),
        "database": side.database,
        "prefix": side.placement.prefix,
        "generation": side.placement.generation,
    })
}
