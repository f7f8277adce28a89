-- Moving sites: two more kinds of work, placements that follow the one they gave the site to, and what
-- is kept of a move.

alter type operation_kind add value 'move_site';
alter type operation_kind add value 'move_site_back';
alter type operation_kind add value 'retire_placement';

-- Served the site before and follows it still: the way back. Its data counts for residency.
alter type placement_state add value 'following' before 'retired';

alter table placement
    -- Until when a following placement is kept; then it is retired.
    add column follows_until timestamptz,
    -- The operation that gave the site away, or back.
    add column moved_by uuid references operation (id);

-- The last number that was drawn for an attempt to give the site another place: both databases refuse
-- what comes with a lower one than they know.
alter table site add column last_attempt bigint not null default 0;

alter table plan
    -- How long a site can be moved back without loss after a move.
    add column way_back_secs integer not null default 604800 check (way_back_secs >= 0);

-- Where another cluster's server reaches this one for replication; where it is administered when
-- absent.
alter table cluster
    add column replication_host text,
    add column replication_port integer check (replication_port between 1 and 65535),
    add constraint replication_has_both check ((replication_host is null) = (replication_port is null));

-- What was proven of a move, or removed after it: the document as signed, the signature by the
-- platform's authority (ECDSA P-256 and SHA-256 over the text). Kept as long as the site's row.
create type record_kind as enum ('move_certificate', 'deletion_record');

create table site_record (
    operation_id uuid primary key references operation (id),
    site_id uuid not null references site (id),
    kind record_kind not null,
    document text not null,
    signature bytea not null,
    created_at timestamptz not null default now()
);
create index site_record_by_site on site_record (site_id, created_at);
