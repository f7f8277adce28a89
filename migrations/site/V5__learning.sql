-- Who learns what, and how far.
-- Payments will add `subscription` and `order` and refer to `enrolment`; `access` already says by
-- which right somebody is in. A waiting list is one more table beside `enrolment`.

create type enrolment_state as enum
    ('pending', 'enrolled', 'completed', 'paused', 'withdrawn', 'rejected');
create type enrolment_access as enum ('free', 'purchased', 'subscription');

--   (none) --open course--> enrolled --all contents done--> completed
--   (none) --approval-----> pending --owner or staff--> enrolled | rejected
--   enrolled <--> paused (subscription ended, began again); any --learner--> withdrawn
create table enrolment (
    id uuid primary key default gen_random_uuid(),
    course_id uuid not null references course (id) on delete cascade,
    account_id uuid not null references account (id) on delete cascade,
    state enrolment_state not null,
    access enrolment_access not null default 'free',
    requested_at timestamptz not null default now(),
    enrolled_at timestamptz,
    completed_at timestamptz,
    decided_at timestamptz,
    decided_by uuid references account (id) on delete set null,
    rejection_reason text,
    -- Where to go on.
    last_content_id uuid references content (id) on delete set null,
    last_activity_at timestamptz,
    unique (course_id, account_id),
    check (state in ('pending', 'withdrawn', 'rejected') or enrolled_at is not null),
    check ((state = 'completed') <= (completed_at is not null)),
    check ((state = 'rejected') = (rejection_reason is not null))
);
create index enrolment_by_account on enrolment (account_id, last_activity_at desc);
create index enrolment_by_last_content on enrolment (last_content_id)
    where last_content_id is not null;
create index enrolment_by_decider on enrolment (decided_by) where decided_by is not null;

create table content_progress (
    enrolment_id uuid not null references enrolment (id) on delete cascade,
    content_id uuid not null references content (id) on delete cascade,
    first_viewed_at timestamptz not null default now(),
    last_viewed_at timestamptz not null default now(),
    view_count integer not null default 1 check (view_count > 0),
    completed_at timestamptz,
    primary key (enrolment_id, content_id)
);
create index content_progress_by_content on content_progress (content_id);

-- A module whose contents were all done at one moment. Contents added later do not take it back.
create table module_progress (
    enrolment_id uuid not null references enrolment (id) on delete cascade,
    module_id uuid not null references module (id) on delete cascade,
    completed_at timestamptz not null default now(),
    primary key (enrolment_id, module_id)
);
create index module_progress_by_module on module_progress (module_id);

-- A stretch of study: pages of one course opened with less than half an hour between them.
create table learning_session (
    id uuid primary key default gen_random_uuid(),
    enrolment_id uuid not null references enrolment (id) on delete cascade,
    content_id uuid references content (id) on delete set null,
    started_at timestamptz not null default now(),
    last_seen_at timestamptz not null default now() check (last_seen_at >= started_at)
);
create index learning_session_by_enrolment on learning_session (enrolment_id, last_seen_at desc);
create index learning_session_by_content on learning_session (content_id)
    where content_id is not null;
