-- What the institution says about itself, and what its people did.
-- Limits are not here: they belong to the plan (`platform.site_limit`) and the site cannot write them.

create table site_settings (
    only_row boolean primary key default true check (only_row),
    name text not null check (length(name) between 1 and 200),
    tagline text not null default '' check (length(tagline) <= 300),
    description text not null default '' check (length(description) <= 2000),
    logo_file_id uuid references file (id) on delete set null,
    favicon_file_id uuid references file (id) on delete set null,
    -- As chosen; what is shown is corrected for contrast.
    primary_color text not null default '#3b82f6' check (primary_color ~ '^#[0-9a-f]{6}$'),
    secondary_color text not null default '#10b981' check (secondary_color ~ '^#[0-9a-f]{6}$'),
    contact_email text check (contact_email like '_%@_%' and length(contact_email) <= 254),
    support_email text check (support_email like '_%@_%' and length(support_email) <= 254),
    phone text not null default '' check (length(phone) <= 40),
    address text not null default '' check (length(address) <= 400),
    facebook_url text check (facebook_url ~ '^https://' and length(facebook_url) <= 300),
    twitter_url text check (twitter_url ~ '^https://' and length(twitter_url) <= 300),
    linkedin_url text check (linkedin_url ~ '^https://' and length(linkedin_url) <= 300),
    instagram_url text check (instagram_url ~ '^https://' and length(instagram_url) <= 300),
    youtube_url text check (youtube_url ~ '^https://' and length(youtube_url) <= 300),
    default_language text not null default 'id' check (default_language in ('id', 'en')),
    default_currency text not null default 'IDR' check (default_currency in ('IDR', 'USD', 'EUR')),
    time_zone text not null default 'Asia/Jakarta' check (length(time_zone) between 1 and 60),
    enable_subscriptions boolean not null default true,
    enable_one_time_purchase boolean not null default true,
    enable_manual_payment boolean not null default true,
    enable_course_reviews boolean not null default true,
    enable_certificates boolean not null default false,
    updated_at timestamptz not null default now(),
    updated_by uuid references account (id) on delete set null
);
create index site_settings_by_editor on site_settings (updated_by);

create table audit_event (
    id uuid primary key default gen_random_uuid(),
    at timestamptz not null default now(),
    account_id uuid references account (id) on delete set null,
    -- `noun.verb`, as `course.import`.
    action text not null check (action ~ '^[a-z_]+\.[a-z_]+$'),
    object_id uuid,
    detail jsonb not null default '{}',
    address inet,
    request_id text not null default '' check (length(request_id) <= 100)
);
create index audit_event_by_time on audit_event (at desc);
create index audit_event_by_account on audit_event (account_id, at desc);
