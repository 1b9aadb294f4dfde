-- Learn from the ended jobs of sources when checkpoints arrive, and set the price of a request. Returns what is known.
-- $1 source: int[], key
-- $2 request_interval: float8[], seconds between requests; null if there is no rate limit
-- $3 interval_s: float8, what was learnt is kept for so long
-- $4 highest_price: float8
--
-- Only jobs whose first checkpoint was seen to arrive count, the 200 of them that ended last. The spacing of other
-- jobs may follow from the times of creation alone, which say nothing about the arrivals if the provider publishes at
-- the end. A damaged row, whose numbers have no finite logarithms or squares, does not count either.
--
-- The price is multiplied by the ratio of the requests that the polls need to those that the rate limit permits, of
-- which a tenth is left to the job list and to lists of several pages. Polls get rarer with the root of the price, so
-- that this ratio approaches 1. A failing job needs requests as often as its back-off makes it due.
with known as (
  select sources.key as source, wanted.request_interval, coalesce(learnt.price, 1) as price,
    learnt.source is null
      or checkpointd.is_over(
        learnt.learnt_at + $3::float8 * interval '1 s', learnt.learnt_at, clock_timestamp()
      ) as is_due
  from unnest($1::int[], $2::float8[]) as wanted (source, request_interval)
  join checkpointd.sources on sources.key = wanted.source
  left join checkpointd.source_arrivals as learnt on learnt.source = wanted.source
),

ended as (
  select known.source, jobs.*
  from known
  cross join lateral (
    select polling.arrivals, polling.spacing_s, greatest(polling.spread_s, 1e-20) as spread_s, polling.first_arrival_s,
      polling.first_arrival_s + polling.publication_delay_s as first_s, polling.epoch_estimate_s
    from checkpointd.polling
    where polling.source = known.source and polling.first_arrival_s is not null and polling.settling_since is not null
      and least(polling.spacing_s, polling.first_arrival_s, polling.epoch_estimate_s) > 1e-20
      and least(polling.spread_s, polling.publication_delay_s) >= 0
      and greatest(
        polling.spacing_s, polling.spread_s, polling.first_arrival_s, polling.publication_delay_s,
        polling.epoch_estimate_s
      ) < 1e20
    order by polling.settling_since desc
    limit 200
  ) as jobs
  where known.is_due
),

needed as (
  select known.source, known.request_interval / 0.9 * sum(
    1 / greatest(polling.gap_s, extract(epoch from polling.next_poll_at - polling.last_attempt_at)::float8)
  ) as share
  from known
  join checkpointd.polling on polling.source = known.source
  where known.is_due and known.request_interval is not null and polling.next_poll_at < 'infinity' and polling.gap_s > 0
  group by known.source, known.request_interval
),

-- The columns are those of the table, in the same order.
found as (
  select known.source, clock_timestamp(),
    count(ln(first_s)), avg(ln(first_s)), stddev_pop(ln(first_s)),
    count(*) filter (where arrivals > 1), avg(ln(spacing_s)) filter (where arrivals > 1),
    stddev_pop(ln(spacing_s)) filter (where arrivals > 1),
    count(first_arrival_s) filter (where arrivals > 1),
    avg(ln(first_arrival_s / spacing_s)) filter (where arrivals > 1),
    stddev_pop(ln(first_arrival_s / spacing_s)) filter (where arrivals > 1),
    count(*) filter (where arrivals > 2), sqrt(avg((spread_s / spacing_s) ^ 2) filter (where arrivals > 2)),
    least(greatest(known.price * coalesce(needed.share, 0), 1), $4::float8),
    count(first_s / epoch_estimate_s), avg(ln(first_s / epoch_estimate_s)), stddev_pop(ln(first_s / epoch_estimate_s))
  from known
  left join ended on ended.source = known.source
  left join needed on needed.source = known.source
  where known.is_due
  group by known.source, known.price, needed.share
  order by known.source
),

learnt as (
  insert into checkpointd.source_arrivals as old
  select * from found
  on conflict (source) do update
  set learnt_at = excluded.learnt_at, firsts = excluded.firsts, first_mean = excluded.first_mean,
    first_spread = excluded.first_spread, spacings = excluded.spacings, spacing_mean = excluded.spacing_mean,
    spacing_spread = excluded.spacing_spread, ratios = excluded.ratios, ratio_mean = excluded.ratio_mean,
    ratio_spread = excluded.ratio_spread, noises = excluded.noises, noise = excluded.noise, price = excluded.price,
    estimates = excluded.estimates, estimate_mean = excluded.estimate_mean, estimate_spread = excluded.estimate_spread
  returning old.*
)

select learnt.*
from learnt
union all
select old.*
from checkpointd.source_arrivals as old
join known on known.source = old.source
where not known.is_due
