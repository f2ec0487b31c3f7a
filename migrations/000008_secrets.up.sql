-- Secrets that the gateway shows to services (key-value maps).

CREATE TABLE secrets (
    environment text NOT NULL,
    name        text NOT NULL,
    version     bigint NOT NULL, -- 1, and one more with every value
    key_id      text NOT NULL,   -- of the master key that the value is sealed under
    sealed      bytea NOT NULL,  -- sealed for environment, name and version
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now(), -- when the value was set; sealing it anew does not count
    PRIMARY KEY (environment, name),
    CONSTRAINT secrets_version CHECK (version > 0)
);
