-- Sites as they were at some moment, beside the sites: what is asked of keepers, and what came of it.

alter type operation_kind add value 'create_preview';
alter type operation_kind add value 'restore_site';
alter type operation_kind add value 'undo_restore';

-- A place that is kept after the site was put back to an earlier moment follows nothing: it is as it was
-- left, with what was written until then.
alter table placement add column follows boolean not null default true;

-- Which placement was the site, and since when: in its cluster's backups are those moments.
create table placement_term (
    placement_id uuid not null references placement (id) on delete cascade,
    generation bigint not null,
    site_id uuid not null references site (id),
    began_at timestamptz not null,
    primary key (placement_id, generation)
);
create index placement_term_by_site on placement_term (site_id, began_at);

create function begin_placement_term() returns trigger
language plpgsql as $$
begin
    insert into placement_term (placement_id, generation, site_id, began_at)
    values (new.id, new.generation, new.site_id, clock_timestamp())
    on conflict do nothing;
    return null;
end
$$;

create trigger placement_term_began after update of state on placement
    for each row when (new.state = 'current' and old.state <> 'current')
    execute function begin_placement_term();

-- Those that there are: as far as it is known since when.
insert into placement_term (placement_id, generation, site_id, began_at)
select placement.id, placement.generation, placement.site_id,
       case when placement.state = 'current'
           then coalesce(operation.finished_at, placement.created_at)
           else placement.created_at end
from placement left join operation on operation.id = placement.moved_by
where placement.state <> 'preparing';

-- What a keeper shall bring back: one database of its cluster, as it was, into a new one. Gone when its
-- operation needs it no more.
create table restore_order (
    -- That of the operation.
    id uuid primary key references operation (id),
    cluster_id uuid not null references cluster (id),
    database_name text not null check (database_name ~ '^s_[0-9a-f]{32}$'),
    moment timestamptz not null,
    into_database text not null check (into_database ~ '^s_[0-9a-f]{32}$'),
    created_at timestamptz not null default now(),
    -- What the keeper said last.
    progress jsonb,
    told_at timestamptz,
    check ((progress is null) = (told_at is null))
);
create index restore_order_by_cluster on restore_order (cluster_id, created_at);

-- A site that shows another one as it was.
create table preview (
    site_id uuid primary key references site (id),
    of_site_id uuid not null references site (id),
    moment timestamptz not null,
    -- Whose key seals the secret.
    region text not null references region (name),
    -- The secret in its link.
    sealed_key bytea not null,
    -- SHA-256 of it: what its instance is told.
    key_hash bytea not null check (length(key_hash) = 32),
    created_by text not null,
    created_at timestamptz not null default now(),
    expires_at timestamptz not null,
    -- It proves that the site can be put back, and is for nobody to look at.
    is_proof boolean not null default false,
    check (site_id <> of_site_id)
);
create index preview_by_site on preview (of_site_id, created_at);

-- Whether a site can be put back: tried again and again.
create table restore_proof (
    site_id uuid primary key references site (id),
    -- The last try, and what was wrong with it; null: nothing.
    tried_at timestamptz not null,
    problem text,
    -- The last try with which nothing was wrong: how long it took from the order to an open site, how
    -- old the oldest write was that was in no backup, and what was in it.
    proved_at timestamptz,
    took_ms bigint,
    at_risk_secs bigint,
    accounts bigint,
    courses bigint,
    files bigint,
    check (proved_at is null
           or num_nulls(took_ms, at_risk_secs, accounts, courses, files) = 0),
    check (problem is not null or proved_at = tried_at)
);

-- What a preview holds is the data of the site that it shows: the list of its regions cannot be narrowed
-- while a preview lies outside it either (see V4).
create or replace function refuse_narrowing_regions() returns trigger
language plpgsql as $$
declare
    outside text;
begin
    select region into outside from (
        select region from placement where site_id = new.id and state <> 'retired'
        union all
        select region from certificate where site_id = new.id
        union all
        select placement.region from preview
        join placement on placement.site_id = preview.site_id
        where preview.of_site_id = new.id and placement.state <> 'retired'
    ) used where not region = any (new.allowed_regions) limit 1;
    if outside is not null then
        raise exception using
            errcode = 'check_violation',
            constraint = 'site_allowed_regions',
            table = 'site',
            message = format('site %s still has data in region %s', new.id, outside);
    end if;
    return new;
end
$$;
