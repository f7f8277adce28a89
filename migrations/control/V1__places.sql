-- Where sites can live, and what they may use. Written by the provisioner only.

create table region (
    name text primary key check (name ~ '^[a-z]{2,}(-[a-z0-9]+)+$'),
    display_name text not null,
    created_at timestamptz not null default now()
);

-- One Postgres server. `admin_url` is for the provisioner (it creates databases and roles);
-- instances connect to `app_host`, so that a pooler can sit in front.
create table cluster (
    id uuid primary key,
    name text not null unique check (name ~ '^[a-z][a-z0-9-]{0,62}$'),
    region text not null references region (name),
    sealed_admin_url bytea not null,
    app_host text not null,
    app_port integer not null check (app_port between 1 and 65535),
    max_databases integer not null default 250 check (max_databases > 0),
    accepts_sites boolean not null default true,
    -- Observed: the template of the current site schema, when it is ready.
    template_version integer,
    last_seen_at timestamptz,
    last_error text,
    created_at timestamptz not null default now(),
    unique (id, region)
);

-- One S3 endpoint and bucket. `sealed_admin` is JSON: the key that reaches the whole bucket, and
-- how keys for sites are made there.
create table object_store (
    id uuid primary key,
    name text not null unique check (name ~ '^[a-z][a-z0-9-]{0,62}$'),
    region text not null references region (name),
    endpoint text not null,
    bucket text not null,
    sealed_admin bytea not null,
    accepts_sites boolean not null default true,
    last_seen_at timestamptz,
    last_error text,
    created_at timestamptz not null default now(),
    unique (id, region)
);

-- A router, for those who ask whether a route has arrived. Routers themselves read `routing`.
create table router (
    name text primary key check (name ~ '^[a-z][a-z0-9-]{0,62}$'),
    region text not null references region (name),
    https_address text not null,
    http_address text not null,
    admin_url text not null,
    created_at timestamptz not null default now()
);

-- A set of limits. Null means unlimited.
create table plan (
    name text primary key check (name ~ '^[a-z][a-z0-9_]{0,30}$'),
    display_name text not null,
    max_students integer check (max_students > 0),
    max_instructors integer check (max_instructors > 0),
    max_courses integer check (max_courses > 0),
    storage_bytes bigint check (storage_bytes > 0),
    max_upload_bytes bigint not null check (max_upload_bytes > 0),
    max_custom_domains integer not null check (max_custom_domains >= 0),
    min_instances integer not null default 0 check (min_instances in (0, 1)),
    idle_exit_secs integer not null default 300 check (idle_exit_secs >= 10),
    max_database_connections integer not null default 5
        check (max_database_connections between 1 and 100),
    grace_period_secs integer not null default 604800 check (grace_period_secs >= 0)
);

insert into plan (name, display_name, max_students, max_instructors, max_courses, storage_bytes,
                  max_upload_bytes, max_custom_domains, min_instances, max_database_connections)
values
    ('starter', 'Starter', 5000, 50, 500, 50 * 1024::bigint ^ 3, 200 * 1024 ^ 2, 0, 0, 5),
    ('professional', 'Professional', 20000, 200, 2000, 200 * 1024::bigint ^ 3, 500 * 1024 ^ 2, 3, 0, 10),
    ('enterprise', 'Enterprise', null, null, null, 1024::bigint ^ 4, 2 * 1024::bigint ^ 3, 50, 1, 20);
