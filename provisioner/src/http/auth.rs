//! Who talks to us. Every call of the API carries a bearer token; what its holder may do (roles)
//! is decided here too, once there is more than one role.

use axum::{
    extract::{Request, State},
    http::header::AUTHORIZATION,
    middleware::Next,
    response::Response,
};

use crate::{
    control_db::tokens,
    http::{Api, refusal::Refusal},
};

/// The holder of the token that a request carried.
#[derive(Clone, Debug)]
pub struct Actor(pub String);

/// Lets requests with a valid token through, with their [`Actor`].
pub async fn require_token(
    State(api): State<Api>,
    mut request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    let token = request
        .headers()
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim());
    let Some(token) = token else {
        return Err(Refusal::unauthorised("send 'Authorization: Bearer <token>'"));
    };
    let Some(holder) = tokens::holder(&api.world.db.pool, token).await? else {
        return Err(Refusal::unauthorised(
            "this token is unknown, expired or revoked; take the one that the provisioner's \
             operator gave out",
        ));
    };
    request.extensions_mut().insert(Actor(holder));
    Ok(next.run(request).await)
}
