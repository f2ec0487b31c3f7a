-- Users, sessions, API keys, audit trail and the change log.

CREATE TABLE users (
    id            uuid PRIMARY KEY,
    email         text NOT NULL,
    name          text NOT NULL DEFAULT '',
    role          text NOT NULL,
    disabled      boolean NOT NULL DEFAULT false,
    password_hash text NOT NULL,
    created_at    timestamptz NOT NULL,
    updated_at    timestamptz NOT NULL,
    CONSTRAINT users_email_unique UNIQUE (email),
    CONSTRAINT users_role_known CHECK (role IN ('user', 'admin')),
    CONSTRAINT users_email_canonical CHECK (email = lower(email) AND length(email) BETWEEN 3 AND 254)
);
CREATE INDEX users_active_admins ON users (id) WHERE role = 'admin' AND NOT disabled;

CREATE TABLE sessions (
    id         uuid PRIMARY KEY,
    user_id    uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    created_at timestamptz NOT NULL,
    used_at    timestamptz NOT NULL,
    idle_until timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    ended_at   timestamptz,
    client     text NOT NULL,
    user_agent text NOT NULL DEFAULT '',
    CONSTRAINT sessions_times CHECK (expires_at > created_at)
);
CREATE INDEX sessions_by_user ON sessions (user_id, id DESC);
CREATE INDEX sessions_by_end ON sessions (least(expires_at, idle_until, ended_at));

-- Only digests: a copy of this table signs nobody in.
CREATE TABLE refresh_tokens (
    digest     bytea PRIMARY KEY,
    session_id uuid NOT NULL REFERENCES sessions ON DELETE CASCADE,
    created_at timestamptz NOT NULL,
    spent_at   timestamptz,
    CONSTRAINT refresh_tokens_digest_size CHECK (length(digest) = 32)
);
CREATE INDEX refresh_tokens_by_session ON refresh_tokens (session_id);
CREATE INDEX refresh_tokens_by_use ON refresh_tokens (spent_at) WHERE spent_at IS NOT NULL;
-- A session has at most one token that can still be used.
CREATE UNIQUE INDEX refresh_tokens_one_unspent ON refresh_tokens (session_id) WHERE spent_at IS NULL;

CREATE TABLE api_keys (
    id           uuid PRIMARY KEY,
    public_id    text NOT NULL,
    user_id      uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    name         text NOT NULL,
    env          text NOT NULL,
    prefix       text NOT NULL,
    last_four    text NOT NULL,
    scopes       text[] NOT NULL DEFAULT '{}',
    allowed_ips  text[] NOT NULL DEFAULT '{}',
    expires_at   timestamptz,
    created_at   timestamptz NOT NULL,
    updated_at   timestamptz NOT NULL,
    revoked_at   timestamptz,
    last_used_at timestamptz,
    CONSTRAINT api_keys_public_id_unique UNIQUE (public_id),
    CONSTRAINT api_keys_env_known CHECK (env IN ('live', 'test'))
);
CREATE INDEX api_keys_by_user ON api_keys (user_id, id DESC);

CREATE TABLE api_key_secrets (
    id          uuid PRIMARY KEY,
    key_id      uuid NOT NULL REFERENCES api_keys ON DELETE CASCADE,
    bcrypt      text NOT NULL,
    verifier    bytea,
    pepper_id   text NOT NULL DEFAULT '',
    created_at  timestamptz NOT NULL,
    valid_until timestamptz
);
CREATE INDEX api_key_secrets_by_key ON api_key_secrets (key_id);
CREATE INDEX api_key_secrets_by_end ON api_key_secrets (valid_until) WHERE valid_until IS NOT NULL;
-- A key has at most one current secret; older ones have an end.
CREATE UNIQUE INDEX api_key_secrets_one_current ON api_key_secrets (key_id) WHERE valid_until IS NULL;

CREATE TABLE idempotency (
    user_id     uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    token       text NOT NULL,
    fingerprint bytea NOT NULL,
    answer      bytea NOT NULL, -- sealed under the master key
    expires_at  timestamptz NOT NULL,
    PRIMARY KEY (user_id, token)
);
CREATE INDEX idempotency_by_expiry ON idempotency (expires_at);

CREATE TABLE signing_keys (
    id         uuid PRIMARY KEY,
    sealed     bytea NOT NULL, -- sealed under the master key
    created_at timestamptz NOT NULL,
    signs_from timestamptz NOT NULL,
    retires_at timestamptz NOT NULL
);

-- Secrets of the platform itself, such as the key of the audit chain.
CREATE TABLE sealed_secrets (
    name   text PRIMARY KEY,
    sealed bytea NOT NULL -- sealed under the master key
);

CREATE TABLE audit_log (
    seq          bigint PRIMARY KEY,
    at           timestamptz NOT NULL,
    action       text NOT NULL,
    actor_kind   text NOT NULL,
    actor_id     text NOT NULL DEFAULT '',
    actor_key_id text NOT NULL DEFAULT '',
    target_kind  text NOT NULL,
    target_id    text NOT NULL DEFAULT '',
    result       text NOT NULL,
    client       text NOT NULL DEFAULT '',
    request_id   text NOT NULL DEFAULT '',
    detail       jsonb NOT NULL DEFAULT '{}',
    prev         bytea NOT NULL,
    hash         bytea NOT NULL,
    CONSTRAINT audit_log_result_known CHECK (result IN ('success', 'failure'))
);
CREATE INDEX audit_log_by_action ON audit_log (action, seq DESC);
CREATE INDEX audit_log_by_actor ON audit_log (actor_id, seq DESC);
CREATE INDEX audit_log_by_target ON audit_log (target_id, seq DESC);

CREATE FUNCTION audit_log_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit log is append-only';
END
$$;
CREATE TRIGGER audit_log_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION audit_log_is_append_only();

-- The one row that every writer of audit entries and events locks until it
-- commits. It puts commits in order: a reader that sees entry or event n sees
-- all before it.
CREATE TABLE ledger (
    singleton boolean PRIMARY KEY DEFAULT true,
    seq       bigint NOT NULL,           -- of the newest audit entry
    hash      bytea NOT NULL,            -- its hash
    epoch     bigint NOT NULL,           -- of the newest event
    pruned    bigint NOT NULL DEFAULT 0, -- events up to here are gone
    CONSTRAINT ledger_one_row CHECK (singleton)
);
INSERT INTO ledger (seq, hash, epoch) VALUES (0, decode(repeat('00', 32), 'hex'), 0);

CREATE TABLE change_log (
    epoch   bigint PRIMARY KEY,
    kind    text NOT NULL,
    subject text NOT NULL,
    at      timestamptz NOT NULL
);
CREATE INDEX change_log_by_time ON change_log (at);

CREATE TABLE replicas (
    id    text PRIMARY KEY,
    acked bigint NOT NULL,
    seen  timestamptz NOT NULL
);
