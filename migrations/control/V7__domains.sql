-- Hostnames of an institution's own: who may claim them, how ownership is shown, what the DNS says.

create type domain_proof as enum ('txt', 'cname', 'vouched');

-- Where visitors of the region's sites arrive: what A and AAAA records shall name.
alter table region
    add column edge_addresses text[] not null default '{}';

alter table domain
    -- What the TXT record shall hold. It is no secret: it only must be another one for each site.
    add column token text not null default replace(gen_random_uuid()::text, '-', ''),
    -- How ownership was shown, and when. Kept when the name is released: a tombstone.
    add column proof domain_proof,
    add column verified_at timestamptz,
    add column primary_when_active boolean not null default false,
    -- What the DNS said when it last answered (provisioner-api, DomainCheck).
    add column report jsonb,
    add column points_here boolean,
    add column checked_at timestamptz,
    add column next_check_at timestamptz not null default now();

update domain set proof = 'vouched', verified_at = created_at where kind = 'custom';

alter table domain
    add constraint proof_has_a_time check ((proof is null) = (verified_at is null)),
    add constraint owned_by_proof
        check (kind = 'platform' or state in ('pending', 'released') or proof is not null),
    add constraint pending_is_not_primary check (not (is_primary and state = 'pending'));

-- Many may say that a name is theirs; one can show it.
drop index one_claim_per_hostname;
create unique index one_owner_per_hostname on domain (hostname)
    where state in ('verified', 'active');
create unique index one_claim_per_site_and_hostname on domain (site_id, hostname)
    where state <> 'released';
create index domain_by_hostname on domain (hostname);
create index domain_by_next_check on domain (next_check_at)
    where kind = 'custom' and state <> 'released';

-- What was seen in the DNS concerns no router.
drop trigger domain_changed on domain;
create trigger domain_changed
    after insert or delete or update of site_id, hostname, kind, state, is_primary on domain
    for each row execute function touch_site();
