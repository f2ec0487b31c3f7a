-- What must not open anything does not begin to: the older program knows neither.
UPDATE api_keys SET revoked_at = coalesce(revoked_at, now()) WHERE canary OR quarantined_at IS NOT NULL;
ALTER TABLE api_keys DROP COLUMN quarantined_at, DROP COLUMN quarantine_note, DROP COLUMN canary;
