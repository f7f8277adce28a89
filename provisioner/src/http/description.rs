//! `/openapi.json`: the API described as OpenAPI 3.1, from the types that it is spoken with.

use std::sync::LazyLock;

use axum::{http::header::CONTENT_TYPE, response::IntoResponse};
use provisioner_api::{
    backups, certificates, domains, operations, places, previews, problem, restores, routers,
    sites, status,
};
use utoipa::{
    OpenApi,
    openapi::{
        Content, ContentBuilder, HttpMethod, OpenApi as Description, PathItem, Ref, RefOr,
        Response, Schema,
        path::{OperationBuilder, ParameterBuilder, ParameterIn},
        request_body::RequestBodyBuilder,
        schema::{ArrayBuilder, ObjectBuilder, Type},
        security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};

/// The types.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Ta3lem provisioner",
        description = "Creates and deletes sites, and tells how they are. Every call carries a \
                       bearer token; errors are problem details (RFC 9457)."
    ),
    components(schemas(
        problem::Problem,
        places::Region,
        places::PutRegion,
        places::Cluster,
        places::PutCluster,
        places::ObjectStore,
        places::PutObjectStore,
        places::Router,
        places::Plan,
        routers::HoldSite,
        routers::SiteHold,
        routers::RouterHold,
        routers::RouterStatus,
        routers::RouterTable,
        routers::RouterProcess,
        routers::SiteTraffic,
        sites::Site,
        sites::Placement,
        sites::Domain,
        sites::Instance,
        sites::CreateSite,
        sites::NewAccount,
        sites::Role,
        sites::Accepted,
        sites::DryRun,
        sites::PlannedStep,
        sites::DeleteSite,
        sites::ChangeSite,
        sites::MoveSite,
        sites::ChangeMove,
        sites::ChangeRegions,
        sites::SiteRecord,
        sites::WayBack,
        certificates::Certificate,
        certificates::CertificateAlarm,
        certificates::CertificateFailure,
        certificates::UploadCertificate,
        domains::DomainDetail,
        domains::DomainCertificate,
        domains::DomainCheck,
        domains::Ownership,
        domains::Pointing,
        domains::RecordDiff,
        domains::RecordStatus,
        domains::AddDomain,
        domains::ChangeDomain,
        operations::Operation,
        operations::StepProgress,
        operations::OperationEvent,
        operations::OperationNews,
        backups::PutKeeper,
        backups::KeeperSettings,
        backups::KeeperReport,
        backups::Backup,
        backups::BackupKind,
        backups::ClusterBackups,
        backups::RestoreWindow,
        backups::RestoreProof,
        restores::RestoreOrder,
        restores::RestoreProgress,
        previews::CreatePreview,
        previews::Preview,
        previews::AcceptedPreview,
        previews::Comparison,
        previews::NounComparison,
        previews::ComparedItem,
        previews::Change,
        status::Status,
        status::Component,
        status::Reconciler,
    ))
)]
struct Types;

/// One call: method, path, what it does, the body it takes, the status and body of its answer.
type Call = (HttpMethod, &'static str, &'static str, Option<&'static str>, u16, &'static str);

/// Every call of the API, as in [`crate::http::routes`].
const CALLS: &[Call] = &[
    (HttpMethod::Get, "/v1/regions", "All regions", None, 200, "[Region]"),
    (
        HttpMethod::Put,
        "/v1/regions/{name}",
        "Makes a region, or changes it",
        Some("PutRegion"),
        200,
        "Region",
    ),
    (HttpMethod::Get, "/v1/clusters", "All clusters", None, 200, "[Cluster]"),
    (
        HttpMethod::Put,
        "/v1/clusters/{name}",
        "Makes a cluster known, or changes it",
        Some("PutCluster"),
        200,
        "Cluster",
    ),
    (
        HttpMethod::Put,
        "/v1/clusters/{name}/keeper",
        "Lets a keeper speak for a cluster",
        Some("PutKeeper"),
        200,
        "ClusterBackups",
    ),
    (
        HttpMethod::Get,
        "/v1/backups",
        "How the backups of all clusters are",
        None,
        200,
        "[ClusterBackups]",
    ),
    (
        HttpMethod::Get,
        "/v1/keeper",
        "With a keeper's token: what it shall do",
        None,
        200,
        "KeeperSettings",
    ),
    (
        HttpMethod::Post,
        "/v1/keeper/report",
        "With a keeper's token: what it sees; answers what it shall do from now on",
        Some("KeeperReport"),
        200,
        "KeeperSettings",
    ),
    (
        HttpMethod::Get,
        "/v1/keeper/restores",
        "With a keeper's token: what it shall bring back; waits for that to change (`known`: ids with \
         commas between them; `wait_secs`)",
        None,
        200,
        "[RestoreOrder]",
    ),
    (
        HttpMethod::Post,
        "/v1/keeper/restores/{order}",
        "With a keeper's token: how far it is with that",
        Some("RestoreProgress"),
        200,
        "RestoreProgress",
    ),
    (
        HttpMethod::Get,
        "/v1/previews",
        "All previews that are there, the newest first",
        None,
        200,
        "[Preview]",
    ),
    (
        HttpMethod::Get,
        "/v1/previews/{preview}/comparison",
        "What differs between a preview and its site (`list`: how many of each kind are named)",
        None,
        200,
        "Comparison",
    ),
    (HttpMethod::Get, "/v1/sites/{site}/previews", "Those of a site", None, 200, "[Preview]"),
    (
        HttpMethod::Post,
        "/v1/sites/{site}/previews",
        "Shows a site as it was at some moment, beside the site",
        Some("CreatePreview"),
        202,
        "AcceptedPreview",
    ),
    (HttpMethod::Get, "/v1/object-stores", "All object stores", None, 200, "[ObjectStore]"),
    (
        HttpMethod::Put,
        "/v1/object-stores/{name}",
        "Makes an object store known, or changes it",
        Some("PutObjectStore"),
        200,
        "ObjectStore",
    ),
    (HttpMethod::Get, "/v1/routers", "All routers", None, 200, "[Router]"),
    (
        HttpMethod::Put,
        "/v1/routers/{name}",
        "Makes a router known, or changes it",
        Some("Router"),
        200,
        "Router",
    ),
    (
        HttpMethod::Get,
        "/v1/routers/{name}/status",
        "How a router is, and its busiest sites",
        None,
        200,
        "RouterStatus",
    ),
    (HttpMethod::Get, "/v1/plans", "All plans", None, 200, "[Plan]"),
    (HttpMethod::Get, "/v1/sites", "All sites that are not deleted", None, 200, "[Site]"),
    (
        HttpMethod::Post,
        "/v1/sites",
        "Makes a site; with dry_run answers 200 and a DryRun",
        Some("CreateSite"),
        202,
        "Accepted",
    ),
    (HttpMethod::Get, "/v1/sites/{site}", "One site, by slug or id", None, 200, "Site"),
    (
        HttpMethod::Delete,
        "/v1/sites/{site}",
        "Deletes a site after its grace period; with dry_run answers 200 and a DryRun",
        Some("DeleteSite"),
        202,
        "Accepted",
    ),
    (
        HttpMethod::Post,
        "/v1/sites/{site}/suspend",
        "Closes a site",
        Some("ChangeSite"),
        200,
        "Site",
    ),
    (
        HttpMethod::Post,
        "/v1/sites/{site}/resume",
        "Opens a suspended site",
        Some("ChangeSite"),
        200,
        "Site",
    ),
    (HttpMethod::Get, "/v1/certificates", "All certificates", None, 200, "[Certificate]"),
    (
        HttpMethod::Get,
        "/v1/platform/certificate",
        "The certificate for all names right below the platform's domain, in each region",
        None,
        200,
        "[Certificate]",
    ),
    (
        HttpMethod::Put,
        "/v1/platform/certificate",
        "Takes one certificate for all names right below the platform's domain",
        Some("UploadCertificate"),
        200,
        "[Certificate]",
    ),
    (
        HttpMethod::Get,
        "/v1/sites/{site}/certificates",
        "The certificates of a site",
        None,
        200,
        "[Certificate]",
    ),
    (
        HttpMethod::Post,
        "/v1/sites/{site}/certificates",
        "Takes a certificate of one's own",
        Some("UploadCertificate"),
        200,
        "Certificate",
    ),
    (
        HttpMethod::Post,
        "/v1/sites/{site}/certificates/{hostname}/renew",
        "Asks for a new certificate now",
        None,
        200,
        "Certificate",
    ),
    (
        HttpMethod::Post,
        "/v1/sites/{site}/hold",
        "Lets a site's requests wait at all routers",
        Some("HoldSite"),
        200,
        "SiteHold",
    ),
    (
        HttpMethod::Delete,
        "/v1/sites/{site}/hold",
        "Lets them go on",
        Some("ChangeSite"),
        200,
        "SiteHold",
    ),
    (
        HttpMethod::Post,
        "/v1/sites/{site}/move",
        "Moves a site to another cluster while people use it",
        Some("MoveSite"),
        202,
        "Accepted",
    ),
    (
        HttpMethod::Post,
        "/v1/sites/{site}/move-back",
        "Returns a site to where it was before its last move",
        Some("ChangeMove"),
        202,
        "Accepted",
    ),
    (
        HttpMethod::Post,
        "/v1/sites/{site}/settle",
        "Removes what a moved site left at its old place",
        Some("ChangeMove"),
        202,
        "Accepted",
    ),
    (
        HttpMethod::Post,
        "/v1/sites/{site}/regions",
        "Changes where a site's data may be",
        Some("ChangeRegions"),
        200,
        "Site",
    ),
    (
        HttpMethod::Get,
        "/v1/sites/{site}/records",
        "What was proven of a site, as signed",
        None,
        200,
        "[SiteRecord]",
    ),
    (
        HttpMethod::Get,
        "/v1/sites/{site}/domains",
        "The hostnames of a site, the primary one first",
        None,
        200,
        "[DomainDetail]",
    ),
    (
        HttpMethod::Post,
        "/v1/sites/{site}/domains",
        "Claims a hostname of the institution's own",
        Some("AddDomain"),
        201,
        "DomainDetail",
    ),
    (
        HttpMethod::Get,
        "/v1/sites/{site}/domains/{hostname}",
        "One hostname of a site",
        None,
        200,
        "DomainDetail",
    ),
    (
        HttpMethod::Post,
        "/v1/sites/{site}/domains/{hostname}/check",
        "Looks into the DNS now, and says how the certificate is and what to do; a claim whose \
         ownership is shown is verified by it",
        None,
        200,
        "DomainDetail",
    ),
    (
        HttpMethod::Post,
        "/v1/sites/{site}/domains/{hostname}/primary",
        "Lets the site's other hostnames redirect to this one",
        Some("ChangeDomain"),
        200,
        "DomainDetail",
    ),
    (
        HttpMethod::Delete,
        "/v1/sites/{site}/domains/{hostname}",
        "Gives a hostname up; its certificate is deleted",
        Some("ChangeDomain"),
        200,
        "DomainDetail",
    ),
    (
        HttpMethod::Get,
        "/v1/operations",
        "Operations, the newest first; query: site, live, limit",
        None,
        200,
        "[Operation]",
    ),
    (HttpMethod::Get, "/v1/operations/{id}", "One operation", None, 200, "Operation"),
    (
        HttpMethod::Get,
        "/v1/operations/{id}/events",
        "What happened after event `after_seq`; waits up to `wait_secs` for more",
        None,
        200,
        "OperationNews",
    ),
    (
        HttpMethod::Post,
        "/v1/operations/{id}/cancel",
        "Stops an operation and undoes what it did",
        None,
        200,
        "Operation",
    ),
    (
        HttpMethod::Post,
        "/v1/operations/{id}/retry",
        "Lets a stuck operation try again",
        None,
        200,
        "Operation",
    ),
    (HttpMethod::Get, "/v1/status", "How the platform is", None, 200, "Status"),
];

static DESCRIPTION: LazyLock<String> =
    LazyLock::new(|| describe().to_json().unwrap_or_else(|_| "{}".to_owned()));

/// The description.
pub async fn show() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], DESCRIPTION.as_str())
}

fn describe() -> Description {
    let mut description = Types::openapi();
    description.info.version = env!("CARGO_PKG_VERSION").to_owned();
    for (method, path, summary, takes, status, gives) in CALLS {
        let mut operation = OperationBuilder::new()
            .summary(Some(*summary))
            .response(status.to_string(), answer("Done", "application/json", gives))
            .response("default", answer("Refused", problem::CONTENT_TYPE, "Problem"))
            .security(SecurityRequirement::new("token", Vec::<String>::new()));
        for name in path.split('{').skip(1).filter_map(|part| part.split('}').next()) {
            operation = operation.parameter(
                ParameterBuilder::new()
                    .name(name)
                    .parameter_in(ParameterIn::Path)
                    .schema(Some(ObjectBuilder::new().schema_type(Type::String))),
            );
        }
        if let Some(takes) = takes {
            let body = RequestBodyBuilder::new().content("application/json", content(takes));
            operation = operation.request_body(Some(body.build()));
        }
        let item = PathItem::new(method.clone(), operation);
        match description.paths.paths.get_mut(*path) {
            Some(known) => known.merge_operations(item),
            None => drop(description.paths.paths.insert((*path).to_owned(), item)),
        }
    }
    if let Some(components) = &mut description.components {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        components.add_security_scheme("token", SecurityScheme::Http(scheme));
    }
    description
}

fn answer(what: &str, kind: &str, schema: &str) -> Response {
    let mut response = Response::new(what);
    response.content.insert(kind.to_owned(), RefOr::T(content(schema)));
    response
}

/// `Site`, or `[Site]` for a list.
fn content(schema: &str) -> Content {
    let name = schema.trim_matches(['[', ']']);
    let reference = RefOr::<Schema>::Ref(Ref::from_schema_name(name));
    let builder = ContentBuilder::new();
    if schema.starts_with('[') {
        builder.schema(Some(ArrayBuilder::new().items(reference))).build()
    } else {
        builder.schema(Some(reference)).build()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_that_a_call_names_is_described() {
        let json: serde_json::Value = serde_json::from_str(&DESCRIPTION).expect("JSON");
        assert!(json["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")));
        for (_, path, _, takes, _, gives) in CALLS {
            assert!(json["paths"].get(*path).is_some(), "{path}");
            for name in takes.iter().chain([gives]) {
                let name = name.trim_matches(['[', ']']);
                assert!(json["components"]["schemas"].get(name).is_some(), "{name}");
            }
        }
    }
}
