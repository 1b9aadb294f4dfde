-- Count the open findings of each source by kind, for the metrics.
select sources.name as source, kinds.kind, count(findings.id)
from fine_tuning.sources
cross join (
  values
    ('overfitting'), ('diverging'), ('stalled'), ('finished'), ('failed'), ('suspected_gap'), ('stale'),
    ('source_paused'), ('source_refused'), ('unreadable'), ('leaving'), ('shutting_down')
) as kinds (kind)
left join fine_tuning.findings
  on findings.source = sources.name and findings.kind = kinds.kind and findings.until is null
group by sources.name, kinds.kind
