-- Revisions of the gateway document, and which of them each replica serves.

CREATE TABLE gateway_revisions (
    number   bigint PRIMARY KEY,
    digest   text NOT NULL,
    at       timestamptz NOT NULL,
    author   text NOT NULL DEFAULT '', -- id of the user; kept when the user is gone
    message  text NOT NULL DEFAULT '',
    base     bigint NOT NULL,          -- number of the one it replaced, 0 for the first
    document text NOT NULL,            -- canonical JSON; not jsonb, which would not keep the bytes that the digest is of
    CONSTRAINT gateway_revisions_order CHECK (number > 0 AND base = number - 1),
    CONSTRAINT gateway_revisions_digest CHECK (digest = encode(sha256(convert_to(document, 'UTF8')), 'hex'))
);

-- The one row that says which revision is in force; a writer locks it until it
-- commits. Number 0 stands for none.
CREATE TABLE gateway_current (
    singleton boolean PRIMARY KEY DEFAULT true,
    number    bigint NOT NULL DEFAULT 0,
    digest    text NOT NULL DEFAULT '',
    CONSTRAINT gateway_current_one_row CHECK (singleton)
);
INSERT INTO gateway_current DEFAULT VALUES;

-- Only the oldest go: never one of the newest 1000, of which one is in force.
CREATE FUNCTION gateway_revisions_are_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND OLD.number <= (SELECT number FROM gateway_current) - 1000 THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'revisions of the gateway document are append-only';
END
$$;
CREATE TRIGGER gateway_revisions_append_only BEFORE UPDATE OR DELETE ON gateway_revisions
    FOR EACH ROW EXECUTE FUNCTION gateway_revisions_are_append_only();
CREATE TRIGGER gateway_revisions_no_truncate BEFORE TRUNCATE ON gateway_revisions
    FOR EACH STATEMENT EXECUTE FUNCTION gateway_revisions_are_append_only();

ALTER TABLE replicas
    ADD COLUMN version            text NOT NULL DEFAULT '',
    ADD COLUMN gateway_number     bigint NOT NULL DEFAULT 0,
    ADD COLUMN gateway_digest     text NOT NULL DEFAULT '',
    ADD COLUMN gateway_applied_at timestamptz,
    ADD COLUMN gateway_error      text NOT NULL DEFAULT '',
    ADD COLUMN gateway_failed_at  timestamptz;
