-- Keys in quarantine.
CREATE INDEX IF NOT EXISTS api_keys_quarantined ON api_keys (id) WHERE quarantined_at IS NOT NULL AND revoked_at IS NULL;
