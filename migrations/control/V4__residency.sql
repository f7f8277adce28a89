-- No code path can place data of a site outside its allowed regions: the database refuses.

create function refuse_region_not_allowed() returns trigger
language plpgsql as $$
declare
    allowed text[];
begin
    if new.site_id is null then
        return new;
    end if;
    select allowed_regions into strict allowed from site where id = new.site_id for share;
    if not new.region = any (allowed) then
        raise exception using
            errcode = 'check_violation',
            constraint = 'site_allowed_regions',
            table = tg_table_name,
            message = format('region %s is not among the allowed regions of site %s (%s)',
                             new.region, new.site_id, array_to_string(allowed, ', '));
    end if;
    return new;
end
$$;

create constraint trigger placement_in_allowed_region
    after insert or update of region, site_id on placement
    for each row execute function refuse_region_not_allowed();
create constraint trigger certificate_in_allowed_region
    after insert or update of region, site_id on certificate
    for each row execute function refuse_region_not_allowed();

-- Nor can the list be narrowed while something lies outside it.
create function refuse_narrowing_regions() returns trigger
language plpgsql as $$
declare
    outside text;
begin
    select region into outside from (
        select region from placement where site_id = new.id and state <> 'retired'
        union all
        select region from certificate where site_id = new.id
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

create constraint trigger regions_not_narrowed
    after update of allowed_regions on site
    for each row execute function refuse_narrowing_regions();
