-- Durable work on sites, who asked for it, and what happened.

create type operation_kind as enum ('create_site', 'delete_site');
create type operation_state as enum
    ('queued', 'running', 'unwinding', 'stuck', 'succeeded', 'failed', 'cancelled');
create type step_event as enum
    ('started', 'succeeded', 'waiting', 'retried', 'failed', 'undo_started', 'undone', 'undo_failed');

create table operation (
    id uuid primary key,
    kind operation_kind not null,
    -- Of the kind's list of steps; a list never changes under a running operation.
    plan_version integer not null check (plan_version > 0),
    site_id uuid not null references site (id),
    params jsonb not null,
    -- The kind's typed progress, written in the same transaction as the event of its step.
    progress jsonb not null default '{}',
    state operation_state not null default 'queued',
    -- Forward: steps done. Unwinding: steps that are still to be undone.
    steps_done integer not null default 0 check (steps_done >= 0),
    -- Whether it went forward or backward when it got stuck.
    stuck_while operation_state,
    attempt integer not null default 0,
    last_error text,
    requested_by text not null,
    reason text,
    idempotency_key text unique check (length(idempotency_key) between 1 and 200),
    cancel_requested_by text,
    cancel_requested_at timestamptz,
    -- Not before this; a step that waits sets it.
    wake_at timestamptz not null default now(),
    claimed_by text,
    -- Raised by every claim; every write of a step is conditional on it.
    claim_token bigint not null default 0,
    claim_expires_at timestamptz,
    created_at timestamptz not null default now(),
    started_at timestamptz,
    finished_at timestamptz,
    check ((state in ('succeeded', 'failed', 'cancelled')) = (finished_at is not null)),
    check ((state = 'stuck') = (stuck_while is not null)),
    check ((claimed_by is null) = (claim_expires_at is null)),
    check ((cancel_requested_by is null) = (cancel_requested_at is null))
);
create unique index one_live_operation_per_site on operation (site_id)
    where state in ('queued', 'running', 'unwinding', 'stuck');
create index operation_to_drive on operation (wake_at)
    where state in ('queued', 'running', 'unwinding');
create index operation_by_time on operation (created_at desc);

create table operation_event (
    operation_id uuid not null references operation (id),
    seq integer not null,
    step text not null,
    event step_event not null,
    attempt integer not null,
    detail jsonb,
    at timestamptz not null default clock_timestamp(),
    primary key (operation_id, seq)
);

create table api_token (
    id uuid primary key,
    name text not null unique,
    -- SHA-256 of the token; the token itself is nowhere.
    token_hash bytea not null unique check (length(token_hash) = 32),
    created_at timestamptz not null default now(),
    expires_at timestamptz,
    revoked_at timestamptz,
    last_used_at timestamptz
);

create table audit_event (
    id bigint generated always as identity primary key,
    at timestamptz not null default clock_timestamp(),
    actor text not null,
    action text not null,
    site_id uuid references site (id),
    operation_id uuid references operation (id),
    reason text,
    detail jsonb not null default '{}'
);
create index audit_event_by_site on audit_event (site_id, id);
