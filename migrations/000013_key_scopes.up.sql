-- Which scopes keys use, so that their owners can be told which they could do without.

-- The recording of a key begins anew when it gets a scope that it had not.
ALTER TABLE api_keys ADD COLUMN scopes_recorded_since timestamptz NOT NULL DEFAULT now();

CREATE TABLE api_key_scopes (
    key_id       uuid NOT NULL REFERENCES api_keys ON DELETE CASCADE,
    scope        text NOT NULL,
    last_used_at timestamptz NOT NULL, -- to the minute
    PRIMARY KEY (key_id, scope)
) WITH (fillfactor = 80); -- room for the next state of a row on its own page
