-- What the platform keeps in a site's database. The instance may read all of it and write none of
-- it: so a site can neither raise its limits nor un-fence itself. (Schema `platform` itself is made
-- by the runner, since the history of migrations lies in it.)

create type platform.authority_state as enum ('primary', 'fenced', 'standby', 'aborted', 'retired');

-- Whether this database is the site. At most one database of a site is `primary`; generations only
-- grow, the higher wins. Never replicated. One row, written by the provisioner when the database
-- is made for a site; a template has none.
create table platform.site_authority (
    only_row boolean primary key default true check (only_row),
    site_id uuid not null,
    generation bigint not null check (generation > 0),
    state platform.authority_state not null,
    cluster text not null,
    moving_to text,
    open_lsn pg_lsn
);

-- Replicated to the target of a move: the proof that all before the fence has arrived.
create table platform.move_marker (
    generation bigint primary key,
    fence_lsn pg_lsn not null,
    at timestamptz not null default clock_timestamp()
);

-- The limits of the site's plan. Null means unlimited.
create table platform.site_limit (
    only_row boolean primary key default true check (only_row),
    plan text not null,
    max_students integer,
    max_instructors integer,
    max_courses integer,
    storage_bytes bigint,
    max_upload_bytes bigint not null
);
