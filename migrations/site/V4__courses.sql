-- What is taught: subject, course, module, content (a lesson), content item.
-- Quizzes and assignments will be further kinds of content item with tables of their own; reviews,
-- forums and certificates hang on `course` and `enrolment`.

create type course_status as enum ('draft', 'published', 'archived');
create type difficulty_level as enum ('beginner', 'intermediate', 'advanced');
create type enrollment_type as enum ('open', 'approval', 'restricted');
create type pricing_type as enum ('free', 'one_time', 'subscription', 'one_time_or_subscription');
create type item_kind as enum ('text', 'image', 'file', 'video');

create table subject (
    id uuid primary key default gen_random_uuid(),
    slug text not null unique check (slug ~ '^[a-z0-9]+(-[a-z0-9]+)*$' and length(slug) <= 100),
    title text not null check (length(title) between 1 and 100),
    created_at timestamptz not null default now()
);

create table course (
    id uuid primary key default gen_random_uuid(),
    slug text not null unique check (slug ~ '^[a-z0-9]+(-[a-z0-9]+)*$' and length(slug) <= 200),
    title text not null check (length(title) between 1 and 200),
    -- Markdown.
    overview text not null default '' check (length(overview) <= 50000),
    subject_id uuid not null references subject (id),
    owner_id uuid not null references account (id),
    language text not null check (language in ('id', 'en')),
    status course_status not null default 'draft',
    published_at timestamptz,
    difficulty_level difficulty_level,
    estimated_hours integer check (estimated_hours between 1 and 10000),
    cover_file_id uuid references file (id) on delete set null,
    enrollment_type enrollment_type not null default 'open',
    max_capacity integer check (max_capacity > 0),
    waitlist_enabled boolean not null default false,
    certificate_enabled boolean not null default false,
    pricing pricing_type not null default 'free',
    -- In the currency's smallest unit that Ta3lem keeps: two decimals for USD and EUR, none for IDR.
    price_minor bigint,
    currency text not null default 'IDR' check (currency in ('IDR', 'USD', 'EUR')),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    search tsvector not null generated always as (
        setweight(to_tsvector('simple', title), 'A') || to_tsvector('simple', overview)) stored,
    check (status = 'draft' or published_at is not null),
    check (case when pricing in ('one_time', 'one_time_or_subscription')
                then price_minor is not null and price_minor > 0
                else price_minor is null end),
    check (not waitlist_enabled or max_capacity is not null)
);
create index course_published on course (published_at desc) where status = 'published';
create index course_by_subject on course (subject_id);
create index course_by_owner on course (owner_id);
create index course_by_cover on course (cover_file_id) where cover_file_id is not null;
create index course_search on course using gin (search);

create table module (
    id uuid primary key default gen_random_uuid(),
    course_id uuid not null references course (id) on delete cascade,
    position integer not null check (position >= 0),
    title text not null check (length(title) between 1 and 200),
    description text not null default '' check (length(description) <= 4000),
    -- Deferrable, so that a reordering can pass through duplicates.
    unique (course_id, position) deferrable initially immediate
);

create table content (
    id uuid primary key default gen_random_uuid(),
    module_id uuid not null references module (id) on delete cascade,
    position integer not null check (position >= 0),
    title text not null check (length(title) between 1 and 250),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    unique (module_id, position) deferrable initially immediate
);

create table content_item (
    id uuid primary key default gen_random_uuid(),
    content_id uuid not null references content (id) on delete cascade,
    position integer not null check (position >= 0),
    kind item_kind not null,
    title text not null default '' check (length(title) <= 250),
    markdown text check (length(markdown) <= 500000),
    file_id uuid references file (id),
    -- What an image shows, for those who do not see it.
    alt text check (length(alt) <= 1000),
    -- A page of a video host that `tenant-app` knows how to embed.
    video_url text check (video_url ~ '^https://' and length(video_url) <= 500),
    transcript text check (length(transcript) <= 500000),
    duration_secs integer check (duration_secs > 0),
    minimum_watch_percent integer check (minimum_watch_percent between 1 and 100),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    unique (content_id, position) deferrable initially immediate,
    check ((kind = 'text') = (markdown is not null)),
    check ((kind = 'image') = (alt is not null)),
    check (case kind when 'text' then file_id is null and video_url is null
                     when 'video' then (file_id is null) <> (video_url is null)
                     else file_id is not null and video_url is null end),
    check (kind = 'video'
           or num_nonnulls(transcript, duration_secs, minimum_watch_percent) = 0)
);
create index content_item_by_file on content_item (file_id) where file_id is not null;
