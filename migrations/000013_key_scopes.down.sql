DROP TABLE api_key_scopes;
ALTER TABLE api_keys DROP COLUMN scopes_recorded_since;
