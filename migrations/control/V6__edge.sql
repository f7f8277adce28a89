-- What routers must know beyond routes: challenges of certificate authorities, sites on hold, the
-- limits of a plan, and where other regions' routers take connections over.

-- The answer to a challenge that an authority will ask for at any router. Removed when it is over.
create type acme_challenge_kind as enum ('http_01', 'tls_alpn_01');

create table acme_challenge (
    id uuid primary key,
    -- Null for the platform's own names.
    site_id uuid references site (id),
    hostname text not null check (hostname = lower(hostname) and length(hostname) between 1 and 253),
    kind acme_challenge_kind not null,
    -- Of http_01: the last part of the path, and the body of the answer.
    token text check (token ~ '^[A-Za-z0-9_-]{1,128}$'),
    key_authorization text,
    -- Of tls_alpn_01: the certificate that holds the digest. Its key opens nothing else.
    region text references region (name),
    chain_pem text,
    sealed_key bytea,
    expires_at timestamptz not null,
    created_at timestamptz not null default now(),
    check ((kind = 'http_01') = (token is not null and key_authorization is not null)),
    check ((kind = 'tls_alpn_01')
        = (region is not null and chain_pem is not null and sealed_key is not null))
);
create index acme_challenge_by_site on acme_challenge (site_id);
create index acme_challenge_by_hostname on acme_challenge (hostname);
create index acme_challenge_by_expiry on acme_challenge (expires_at);

-- Requests of the site wait at the routers until the hold is taken away, at most until its deadline.
create table site_hold (
    site_id uuid primary key references site (id),
    id uuid not null,
    deadline timestamptz not null,
    created_at timestamptz not null default now()
);

alter table plan
    -- Of all the site's people together, at one router.
    add column requests_per_second integer not null default 200 check (requests_per_second > 0),
    add column request_burst integer not null default 400 check (request_burst > 0),
    add column max_concurrent_requests integer not null default 256
        check (max_concurrent_requests between 1 and 100000);
update plan set requests_per_second = 1000, request_burst = 2000 where name = 'professional';
update plan set requests_per_second = 5000, request_burst = 10000, max_concurrent_requests = 1024
    where name = 'enterprise';

-- How long browsers shall insist on TLS, in seconds; 0 tells them to forget it.
alter table site
    add column hsts_max_age_secs integer not null default 31536000
        check (hsts_max_age_secs between 0 and 63072000);

-- Where this router takes connections over from other regions' routers (PROXY protocol, version 2).
alter table router add column passthrough_address text;

create trigger acme_challenge_changed after insert or update or delete on acme_challenge
    for each row execute function touch_site();
create trigger site_hold_changed after insert or update or delete on site_hold
    for each row execute function touch_site();

drop trigger site_changed on site;
create trigger site_changed before update on site
    for each row when (
        (old.slug, old.name, old.plan, old.state, old.hsts_max_age_secs, old.version)
        is distinct from
        (new.slug, new.name, new.plan, new.state, new.hsts_max_age_secs, new.version))
    execute function raise_site_version();

-- What belongs to no site: the routers of the regions, and the limits of all sites of a plan.
create function note_general_change() returns trigger
language plpgsql as $$
begin
    insert into route_change (site_id) values (null);
    perform pg_notify('route_change', '');
    return null;
end
$$;
create trigger router_changed after insert or update or delete on router
    for each statement execute function note_general_change();

create function touch_sites_of_plan() returns trigger
language plpgsql as $$
begin
    update site set version = version + 1 where plan = new.name and state <> 'deleted';
    return null;
end
$$;
create trigger plan_changed after update on plan
    for each row execute function touch_sites_of_plan();

create or replace view routing.route as
select
    domain.hostname,
    domain.kind as domain_kind,
    domain.is_primary,
    primary_domain.hostname as primary_hostname,
    site.id as site_id,
    site.slug,
    site.name as site_name,
    site.default_language,
    site.state as site_state,
    placement.generation,
    placement.region,
    -- Null while the site has no instance that listens.
    instance.address as upstream,
    plan.max_upload_bytes + 1024 * 1024 as max_body_bytes,
    site.version,
    plan.requests_per_second,
    plan.request_burst,
    plan.max_concurrent_requests,
    site.hsts_max_age_secs,
    -- Null unless the site's requests shall wait.
    site_hold.id as hold_id,
    site_hold.deadline as hold_deadline
from domain
join site on site.id = domain.site_id
join plan on plan.name = site.plan
join placement on placement.site_id = site.id and placement.state = 'current'
left join domain primary_domain
    on primary_domain.site_id = site.id and primary_domain.is_primary
    and primary_domain.state = 'active'
left join site_hold on site_hold.site_id = site.id
left join lateral (
    select instance.address from instance
    where instance.placement_id = placement.id and instance.desired = 'listening'
        and instance.address is not null
    order by instance.created_at desc limit 1
) instance on true
where domain.state = 'active' and site.state in ('active', 'suspended', 'deleting');

create view routing.challenge as
select id, site_id, hostname, kind, token, key_authorization, region, chain_pem, sealed_key,
       expires_at
from acme_challenge;

create view routing.edge as
select name, region, passthrough_address
from router
where passthrough_address is not null;

grant select on routing.challenge, routing.edge to ta3lem_router;
