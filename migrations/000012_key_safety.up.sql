-- Keys that somebody reported as leaked, and keys that are traps. Nobody can verify a key
-- while the table is altered, so nothing here reads all keys; see 14 and 17.

ALTER TABLE api_keys
    ADD COLUMN quarantined_at  timestamptz,
    ADD COLUMN quarantine_note text NOT NULL DEFAULT '',
    ADD COLUMN canary          boolean NOT NULL DEFAULT false,
    ADD CONSTRAINT api_keys_quarantine_noted CHECK (quarantined_at IS NOT NULL OR quarantine_note = '') NOT VALID,
    ADD CONSTRAINT api_keys_canary_free CHECK (NOT canary OR quarantined_at IS NULL) NOT VALID;
