//! Who talks to us. Every call of the API carries a bearer token; what its holder may do (roles)
//! is decided here too, once there is more than one role.

use axum::{
    extract::{Request, State},
    http::header::AUTHORIZATION,
    middleware::Next,
    response::Response,
};
use uuid::Uuid;

use crate::{
    control_db::{cluster_backups, tokens},
    http::{Api, refusal::Refusal},
};

/// The holder of the token that a request carried.
#[derive(Clone, Debug)]
pub struct Actor(pub String);

/// The cluster that the keeper speaks for whose token a request carried.
#[derive(Clone, Copy, Debug)]
pub struct KeptCluster(pub Uuid);

/// Lets requests with a valid token through, with their [`Actor`].
pub async fn require_token(
    State(api): State<Api>,
    mut request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    let Some(holder) = tokens::holder(&api.world.db.pool, token(&request)?).await? else {
        return Err(Refusal::unauthorised(
            "this token is unknown, expired or revoked; take the one that the provisioner's \
             operator gave out",
        ));
    };
    request.extensions_mut().insert(Actor(holder));
    Ok(next.run(request).await)
}

/// Lets requests of keepers through, with their [`KeptCluster`].
pub async fn require_keeper(
    State(api): State<Api>,
    mut request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    let kept = cluster_backups::kept_by(&api.world.db.pool, token(&request)?).await?;
    let Some(cluster) = kept else {
        return Err(Refusal::unauthorised(
            "this is no keeper's token: register it with PUT /v1/clusters/{name}/keeper",
        ));
    };
    request.extensions_mut().insert(KeptCluster(cluster));
    Ok(next.run(request).await)
}

/// The bearer token of a request.
fn token(request: &Request) -> Result<&str, Refusal> {
    request
        .headers()
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim())
        .ok_or_else(|| Refusal::unauthorised("send 'Authorization: Bearer <token>'"))
}
