-- What the provisioner calls once it has made a site's database: the institution's name, and the
-- accounts to begin with. Can be called again with the same input.
create function platform.seed_site(input jsonb) returns void
    language plpgsql
    set search_path = public, pg_temp
as $$
declare
    person jsonb;
    token_hash bytea;
begin
    insert into site_settings (name, default_language, contact_email, support_email)
    select input ->> 'name', coalesce(input ->> 'default_language', 'id'), admin.email, admin.email
    from (select 1) one
    left join lateral (
        select lower(a ->> 'email') as email
        from jsonb_array_elements(coalesce(input -> 'accounts', '[]')) a
        where a ->> 'role' = 'admin' limit 1
    ) admin on true
    on conflict (only_row) do nothing;

    for person in select * from jsonb_array_elements(coalesce(input -> 'accounts', '[]')) loop
        insert into account (id, email, name, role, state, password_hash, email_verified_at)
        values ((person ->> 'id')::uuid, lower(person ->> 'email'), person ->> 'name',
                (person ->> 'role')::account_role,
                case when person ->> 'password_hash' is null then 'invited' else 'active' end
                    ::account_state,
                person ->> 'password_hash', now())
        on conflict (id) do nothing;

        token_hash := decode(person ->> 'invitation_token_hash', 'hex');
        if token_hash is not null then
            insert into one_time_token (token_hash, account_id, purpose, expires_at)
            values (token_hash, (person ->> 'id')::uuid, 'invitation',
                    (person ->> 'invitation_expires_at')::timestamptz)
            on conflict do nothing;
        end if;
    end loop;
end $$;
revoke execute on function platform.seed_site(jsonb) from public;
