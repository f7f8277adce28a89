-- Backups of clusters. A keeper beside each cluster makes them (base backups and the write-ahead log, by
-- pgBackRest) and reports how they are.

alter table plan
    -- How far back a site can be put.
    add column restore_window_secs integer not null default 604800
        check (restore_window_secs between 86400 and 31536000);

update plan set restore_window_secs = 14 * 86400 where name = 'professional';
update plan set restore_window_secs = 30 * 86400 where name = 'enterprise';

create table cluster_backup (
    cluster_id uuid primary key,
    object_store_id uuid not null,
    -- Backups stay in the region of their cluster.
    region text not null,
    -- Where they lie in the bucket. Short: a segment of the log has a key of 101 bytes below it, and the
    -- embedded object store takes 120.
    prefix text not null check (prefix ~ '^pg/[0-9a-f]{8}$'),
    -- JSON: the key that reaches the prefix, and the passphrase that the backups are encrypted with.
    sealed_secrets bytea not null,
    -- SHA-256 of the keeper's token; the token itself is nowhere.
    keeper_token_hash bytea not null unique check (length(keeper_token_hash) = 32),
    created_at timestamptz not null default now(),
    -- When the key was made at the object store; it is to be made when null.
    prepared_at timestamptz,
    last_error text,
    -- What the keeper said last.
    reported_at timestamptz,
    report jsonb,
    check ((reported_at is null) = (report is null)),
    foreign key (cluster_id, region) references cluster (id, region),
    foreign key (object_store_id, region) references object_store (id, region),
    unique (object_store_id, prefix)
);
