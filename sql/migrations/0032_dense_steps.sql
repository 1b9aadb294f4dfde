-- Steps are appended in order, so that no entry of the index needs room beside it. This holds for pages that are
-- filled from now on.
alter index checkpointd.steps_pkey set (fillfactor = 100);
