-- Keys of an app.
--
-- An index on a table that is in use has a migration of its own: while it is built, about
-- 0.2 s for a million keys, keys are read but not written, and nothing else waits for the
-- lock. CONCURRENTLY would not hold writers up, but waits for every statement that is
-- under way, also that of another replica that waits for its turn to migrate.
CREATE INDEX IF NOT EXISTS api_keys_by_app ON api_keys (app_id, id DESC) WHERE app_id IS NOT NULL;
