-- Holds the keys that were there before against what 9 and 12 demand of new ones. Keys are
-- read and written meanwhile.
ALTER TABLE api_keys VALIDATE CONSTRAINT api_keys_app;
ALTER TABLE api_keys VALIDATE CONSTRAINT api_keys_quarantine_noted;
ALTER TABLE api_keys VALIDATE CONSTRAINT api_keys_canary_free;
