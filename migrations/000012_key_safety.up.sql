-- Keys that somebody reported as leaked, and keys that are traps.

ALTER TABLE api_keys
    ADD COLUMN quarantined_at  timestamptz,
    ADD COLUMN quarantine_note text NOT NULL DEFAULT '',
    ADD COLUMN canary          boolean NOT NULL DEFAULT false,
    ADD CONSTRAINT api_keys_quarantine_noted CHECK (quarantined_at IS NOT NULL OR quarantine_note = ''),
    ADD CONSTRAINT api_keys_canary_free CHECK (NOT canary OR quarantined_at IS NULL);
CREATE INDEX api_keys_quarantined ON api_keys (id) WHERE quarantined_at IS NOT NULL AND revoked_at IS NULL;
