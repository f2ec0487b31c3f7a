-- Which key expires first.
CREATE INDEX IF NOT EXISTS api_keys_by_expiry ON api_keys (expires_at) WHERE revoked_at IS NULL AND expires_at IS NOT NULL;
