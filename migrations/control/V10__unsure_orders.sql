-- Orders that an authority may have taken without anybody having noted them: a worker ended, or the
-- answer was lost, between the authority and the row. Such an order cannot be resumed, so another
-- one is placed; here it is counted.
alter table certificate_order
    -- Since when an authority is being asked for an order. Stays when nobody heard what it said.
    add column placing_since timestamptz,
    -- How often another order was placed although one may have been taken.
    add column n_unsure integer not null default 0 check (n_unsure >= 0),
    add constraint placing_or_placed check (placing_since is null or order_url is null);
