-- What routers read: views of a select-only role, and an append-only feed of what changed.
-- The views are the contract with routers; expand and contract them, never change a column.

create schema routing;

-- Sequence order is not commit order. A reader therefore keeps the `xmin` of the snapshot that it
-- last read with, and reads everything with a transaction id not below it again: what it saw twice
-- is told apart by `version`. Pruned by the provisioner; a reader that was away for longer than the
-- feed reaches back reads the views whole.
create table route_change (
    seq bigint generated always as identity primary key,
    transaction_id xid8 not null default pg_current_xact_id(),
    -- Null: something that belongs to no site changed, as the platform's own certificate.
    site_id uuid,
    at timestamptz not null default clock_timestamp()
);
create index route_change_by_transaction on route_change (transaction_id);

create function raise_site_version() returns trigger
language plpgsql as $$
begin
    new.version := old.version + 1;
    new.updated_at := now();
    insert into route_change (site_id) values (new.id);
    perform pg_notify('route_change', '');
    return new;
end
$$;

create trigger site_changed before update on site
    for each row when (
        (old.slug, old.name, old.plan, old.state, old.version)
        is distinct from (new.slug, new.name, new.plan, new.state, new.version))
    execute function raise_site_version();

-- Whatever belongs to a site raises the site's version, under the lock of the site's row.
create function touch_site() returns trigger
language plpgsql as $$
begin
    if tg_op <> 'INSERT' and old.site_id is not null then
        update site set version = version + 1 where id = old.site_id;
    end if;
    if tg_op <> 'DELETE' and new.site_id is not null
        and (tg_op = 'INSERT' or new.site_id is distinct from old.site_id) then
        update site set version = version + 1 where id = new.site_id;
    end if;
    if coalesce(case when tg_op <> 'DELETE' then new.site_id end,
                case when tg_op <> 'INSERT' then old.site_id end) is null then
        insert into route_change (site_id) values (null);
        perform pg_notify('route_change', '');
    end if;
    return null;
end
$$;

create trigger domain_changed after insert or update or delete on domain
    for each row execute function touch_site();
create trigger placement_changed after insert or delete or update of state, generation, region
    on placement for each row execute function touch_site();
create trigger certificate_changed after insert or update or delete on certificate
    for each row execute function touch_site();
-- What is observed changes often and concerns no router; the address does.
create trigger instance_changed after insert or delete or update of address, desired, placement_id
    on instance for each row execute function touch_site();

-- One row per hostname that anybody may ask for.
create view routing.route as
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
    site.version
from domain
join site on site.id = domain.site_id
join plan on plan.name = site.plan
join placement on placement.site_id = site.id and placement.state = 'current'
left join domain primary_domain
    on primary_domain.site_id = site.id and primary_domain.is_primary
    and primary_domain.state = 'active'
left join lateral (
    select instance.address from instance
    where instance.placement_id = placement.id and instance.desired = 'listening'
        and instance.address is not null
    order by instance.created_at desc limit 1
) instance on true
where domain.state = 'active' and site.state in ('active', 'suspended', 'deleting');

create view routing.certificate as
select id, site_id, hostname, region, chain_pem, sealed_key, not_after,
       coalesce((select version from site where site.id = certificate.site_id), 0) as version
from certificate;

create view routing.change as
select seq, transaction_id, site_id, at from route_change;

do $$
begin
    -- Roles belong to the whole server, so another control database may have made it.
    if not exists (select from pg_roles where rolname = 'ta3lem_router') then
        create role ta3lem_router nologin;
    end if;
exception when duplicate_object or unique_violation then
    null;
end
$$;
grant usage on schema routing to ta3lem_router;
grant select on routing.route, routing.certificate, routing.change to ta3lem_router;
