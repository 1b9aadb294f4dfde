-- List the webhooks, and how far each is.
select *
from fine_tuning.webhooks
order by name
