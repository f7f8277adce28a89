-- Certificates by ACME (RFC 8555): accounts at authorities, and one order per hostname and region
-- whose row survives whoever works on it.

-- Where a certificate came from, which decides who renews it.
create type certificate_source as enum ('local', 'acme', 'uploaded');
alter table certificate add column source certificate_source not null default 'local';
alter table certificate alter column source drop default;

-- One account per authority and region. Its key is sealed with the region's ring.
create table acme_account (
    id uuid primary key,
    directory_url text not null,
    region text not null references region (name),
    sealed_credentials bytea not null,
    -- The budget of new orders: what was left of it at a moment.
    budget double precision not null,
    budget_at timestamptz not null default now(),
    created_at timestamptz not null default now(),
    unique (directory_url, region)
);

create type certificate_order_state as enum ('wanted', 'ordered', 'failing', 'issued');

-- The work on the certificate of a hostname in a region. Only who holds the claim writes to it, but
-- for what asks for the next look (`next_at`, `renew_requested`).
create table certificate_order (
    id uuid primary key,
    -- Null for the platform's own name.
    site_id uuid references site (id),
    hostname text not null check (hostname = lower(hostname) and length(hostname) between 1 and 253),
    region text not null references region (name),
    state certificate_order_state not null default 'wanted',

    -- The authority of the next or the open order, by its name in the configuration; null for the
    -- first one. After some failures of its own it is the next one's turn.
    authority text,
    authority_failures integer not null default 0 check (authority_failures >= 0),
    -- How the next or the open order is to be proven; null for the way that is preferred.
    challenge acme_challenge_kind,
    -- What is resumed by whoever claims the row next.
    order_url text,
    -- The certificate in the making: its key is sealed for the row that it will have.
    certificate_id uuid,
    sealed_key bytea,

    -- Consecutive ones, and the last one in words.
    failures integer not null default 0 check (failures >= 0),
    last_error text,
    last_error_at timestamptz,

    -- What the authority suggests for the renewal of the present certificate (RFC 9773), and the
    -- moment in it that was drawn.
    window_start timestamptz,
    window_end timestamptz,
    renew_at timestamptz,
    -- When to ask for it again.
    window_check_at timestamptz,
    renew_requested boolean not null default false,

    -- When there is something to do or to look at.
    next_at timestamptz not null default now(),
    claimed_by text,
    claim_token uuid,
    claim_expires_at timestamptz,
    created_at timestamptz not null default now(),
    unique (hostname, region),
    check ((sealed_key is null) = (certificate_id is null)),
    check (order_url is null or (sealed_key is not null and authority is not null)),
    check ((state = 'ordered') = (order_url is not null)),
    check ((window_start is null) = (window_end is null)),
    check ((claim_token is null) = (claim_expires_at is null))
);
create index certificate_order_by_next on certificate_order (next_at);
create index certificate_order_by_site on certificate_order (site_id);

-- It holds a key of the site's certificate.
create constraint trigger certificate_order_in_allowed_region
    after insert or update of region, site_id on certificate_order
    for each row execute function refuse_region_not_allowed();

-- A challenge goes with the order that it is of.
alter table acme_challenge
    add column order_id uuid references certificate_order (id) on delete cascade;
create index acme_challenge_by_order on acme_challenge (order_id);

-- Every hostname that needs a certificate in a region: those of placed sites at home, and the
-- platform's own name everywhere. Names of the platform that its uploaded wildcard covers need none
-- while that one does not end soon.
create function certificate_wanted(platform_domain text, wildcard_until timestamptz)
returns table (site_id uuid, hostname text, region text)
language sql stable as $$
    select domain.site_id, domain.hostname, placement.region
    from domain
    join placement on placement.site_id = domain.site_id and placement.state = 'current'
    join site on site.id = domain.site_id
    where domain.state in ('verified', 'active')
        and site.state in ('active', 'suspended', 'deleting')
        and not (domain.kind = 'platform' and exists (
            select from certificate
            where certificate.hostname = '*.' || platform_domain
                and certificate.region = placement.region
                and certificate.not_after > wildcard_until))
    union all
    select null, platform_domain, region.name from region
$$;
