-- Files. The bytes lie in the object store at `<prefix>/blob/<sha256>`, immutable and shared by all
-- rows with the same content. The object is always there before the row.

create table blob (
    sha256 bytea primary key check (length(sha256) = 32),
    size_bytes bigint not null check (size_bytes >= 0),
    created_at timestamptz not null default now(),
    -- Since when no file refers to it. The sweep removes the object later, when no state of the
    -- database that can still be restored refers to it either.
    unreferenced_at timestamptz
);
create index blob_unreferenced on blob (unreferenced_at) where unreferenced_at is not null;

create table file (
    id uuid primary key default gen_random_uuid(),
    blob_sha256 bytea not null references blob (sha256),
    -- As people see it; cleaned when it came in.
    name text not null
        check (length(name) between 1 and 180 and name !~ '[/\\[:cntrl:]]' and name !~ '^\.'),
    -- As found in the bytes, never as the browser said.
    media_type text not null check (media_type ~ '^[a-z]+/[a-z0-9.+-]+$'),
    uploaded_by uuid references account (id) on delete set null,
    created_at timestamptz not null default now()
);
create index file_by_blob on file (blob_sha256);
create index file_by_uploader on file (uploaded_by);

alter table account add column avatar_file_id uuid references file (id) on delete set null;
create index account_by_avatar on account (avatar_file_id) where avatar_file_id is not null;

create function blob_is_referenced() returns trigger language plpgsql as $$
begin
    if tg_op <> 'DELETE' then
        update blob set unreferenced_at = null
        where sha256 = new.blob_sha256 and unreferenced_at is not null;
    end if;
    if tg_op <> 'INSERT' then
        update blob set unreferenced_at = now()
        where sha256 = old.blob_sha256
          and not exists (select from file where blob_sha256 = old.blob_sha256);
    end if;
    return null;
end $$;
create trigger file_keeps_blob after insert or delete or update of blob_sha256 on file
    for each row execute function blob_is_referenced();
