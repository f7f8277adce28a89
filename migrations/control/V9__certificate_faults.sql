-- Whose fault it is that a name has no new certificate, which decides what people are told to do; and
-- from when on a certificate in use is an alarm, in one place for all who show it.

create type certificate_fault as enum
    ('name', 'proof', 'authority', 'unreachable', 'limited', 'here', 'unfinished');

-- With `last_error`; null for failures from before it was noted.
alter table certificate_order add column last_fault certificate_fault;

-- A certificate that is renewed by itself should have been replaced long before its last week. One
-- that a person uploaded needs that person, so it is told of earlier. Short lives have shorter weeks.
create function certificate_alarm_at(
    source certificate_source, not_before timestamptz, not_after timestamptz
) returns timestamptz
language sql stable as $$
    select not_after - least(
        case source when 'uploaded' then interval '14 days' else interval '7 days' end,
        (not_after - not_before) / 4)
$$;
