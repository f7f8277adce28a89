-- Sites, their names and where they are.

create type site_state as enum ('creating', 'active', 'suspended', 'deleting', 'deleted');
create type domain_kind as enum ('platform', 'custom');
create type domain_state as enum ('pending', 'verified', 'active', 'released');
create type placement_state as enum ('preparing', 'current', 'retired');
create type instance_desired as enum ('listening', 'absent');
create type instance_observed as enum ('unknown', 'absent', 'sleeping', 'running', 'failing');

create table site (
    id uuid primary key,
    slug text not null check (slug ~ '^[a-z][a-z0-9-]{1,39}$'),
    name text not null check (length(name) between 1 and 200),
    plan text not null references plan (name),
    state site_state not null default 'creating',
    -- The state to go back to when a deletion is cancelled.
    state_before_deletion site_state,
    suspended_reason text,
    -- Residency: no data of the site may lie outside these regions (see the triggers in V4).
    allowed_regions text[] not null check (cardinality(allowed_regions) > 0),
    default_language text not null default 'id' check (default_language in ('id', 'en')),
    -- Raised by every change that routers must hear of (V5).
    version bigint not null default 1,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    delete_after timestamptz,
    deleted_at timestamptz,
    check ((state = 'deleted') = (deleted_at is not null)),
    check (state = 'suspended' or suspended_reason is null or state = 'deleting')
);
create unique index one_live_site_per_slug on site (slug) where state <> 'deleted';

create table domain (
    id uuid primary key,
    site_id uuid not null references site (id),
    hostname text not null check (hostname = lower(hostname) and length(hostname) between 1 and 253),
    kind domain_kind not null,
    state domain_state not null default 'pending',
    is_primary boolean not null default false,
    created_at timestamptz not null default now(),
    released_at timestamptz,
    check ((state = 'released') = (released_at is not null)),
    check (not (is_primary and state = 'released'))
);
create unique index one_claim_per_hostname on domain (hostname) where state <> 'released';
create unique index one_primary_per_site on domain (site_id) where is_primary;
create index domain_by_site on domain (site_id);

-- Which cluster, database, object store and prefix serve a site. One row per generation.
create table placement (
    id uuid primary key,
    site_id uuid not null references site (id),
    generation bigint not null check (generation > 0),
    state placement_state not null default 'preparing',
    region text not null references region (name),
    cluster_id uuid not null,
    object_store_id uuid not null,
    -- Also the name of the login role, so that pg_hba's `sameuser` is a second wall.
    database_name text not null check (database_name ~ '^s_[0-9a-f]{32}$'),
    prefix text not null,
    -- JSON: the login role's password and the site's S3 key.
    sealed_secrets bytea not null,
    created_at timestamptz not null default now(),
    retired_at timestamptz,
    unique (site_id, generation),
    unique (cluster_id, database_name),
    foreign key (cluster_id, region) references cluster (id, region),
    foreign key (object_store_id, region) references object_store (id, region),
    check ((state = 'retired') = (retired_at is not null))
);
create unique index one_current_placement_per_site on placement (site_id) where state = 'current';

-- A tenant-app process of a site, as wanted and as seen. Sleeping instances have no process.
create table instance (
    id uuid primary key,
    site_id uuid not null references site (id),
    placement_id uuid not null references placement (id),
    desired instance_desired not null,
    observed instance_observed not null default 'unknown',
    observed_at timestamptz,
    -- `unix:/path` or `tcp:host:port`; set by the reconciler once it listens.
    address text,
    process_id integer,
    starts integer not null default 0,
    last_error text,
    created_at timestamptz not null default now()
);
create index instance_by_site on instance (site_id);
create index instance_by_placement on instance (placement_id);

-- Keys are sealed with the key of `region`; a router of another region cannot open them.
create table certificate (
    id uuid primary key,
    site_id uuid references site (id),
    hostname text not null,
    region text not null references region (name),
    issuer text not null,
    chain_pem text not null,
    sealed_key bytea not null,
    not_before timestamptz not null,
    not_after timestamptz not null check (not_after > not_before),
    created_at timestamptz not null default now(),
    unique (hostname, region)
);
create index certificate_by_site on certificate (site_id);
