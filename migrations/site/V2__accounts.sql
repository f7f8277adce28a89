-- People: who they are, how they are let in, who is in.
-- Later issues add beside these: passkeys and second factors (`account_credential`), single sign-on
-- (`account_identity`), mail preferences. All refer to `account`.

create type account_role as enum ('student', 'instructor', 'staff', 'admin');
create type account_state as enum ('invited', 'active', 'disabled');
create type token_purpose as enum ('invitation', 'email_verification', 'password_reset');

create table account (
    id uuid primary key default gen_random_uuid(),
    email text not null unique
        check (email = lower(email) and email like '_%@_%' and length(email) <= 254),
    name text not null check (length(name) between 1 and 200),
    role account_role not null,
    state account_state not null default 'active',
    -- PHC string. Null until the person has chosen a password (invited, or single sign-on).
    password_hash text check (password_hash like '$%' or password_hash like 'pbkdf2\_%'),
    email_verified_at timestamptz,
    -- Null: as the site's settings say.
    language text check (language in ('id', 'en')),
    time_zone text check (length(time_zone) between 1 and 60),
    bio text not null default '' check (length(bio) <= 4000),
    phone text not null default '' check (length(phone) <= 40),
    date_of_birth date,
    address text not null default '' check (length(address) <= 400),
    city text not null default '' check (length(city) <= 100),
    country text not null default '' check (length(country) <= 100),
    postal_code text not null default '' check (length(postal_code) <= 20),
    email_notifications boolean not null default true,
    last_sign_in_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    check (state <> 'invited' or password_hash is null)
);
create index account_by_role on account (role) where state <> 'disabled';

-- A browser that is signed in. The cookie's value is never stored, only its SHA-256.
create table session (
    id_hash bytea primary key check (length(id_hash) = 32),
    account_id uuid not null references account (id) on delete cascade,
    created_at timestamptz not null default now(),
    last_seen_at timestamptz not null default now(),
    expires_at timestamptz not null check (expires_at > created_at),
    address inet,
    user_agent text not null default '' check (length(user_agent) <= 300)
);
create index session_by_account on session (account_id);
create index session_by_expiry on session (expires_at);

-- A link that was mailed or handed over, good once. Only the SHA-256 of the token is stored.
create table one_time_token (
    token_hash bytea primary key check (length(token_hash) = 32),
    account_id uuid not null references account (id) on delete cascade,
    purpose token_purpose not null,
    created_at timestamptz not null default now(),
    expires_at timestamptz not null,
    used_at timestamptz
);
create index one_time_token_by_account on one_time_token (account_id, purpose);

-- Sign-in attempts counted per account and per address, in the database since an instance that
-- goes to sleep must not forget them. Keys are hashes of `account:<email>` or `address:<ip>`.
create table sign_in_throttle (
    key bytea primary key check (length(key) = 32),
    attempts integer not null check (attempts > 0),
    window_started_at timestamptz not null default now()
);
create index sign_in_throttle_by_age on sign_in_throttle (window_started_at);
