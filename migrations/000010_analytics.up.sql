-- Figures of who uses what, by hour, day and month.

-- What is told apart beside route, user, key, app and class of status.
ALTER TABLE usage_minutes
    ADD COLUMN api     text NOT NULL DEFAULT '',
    ADD COLUMN product text NOT NULL DEFAULT '',
    ADD COLUMN refusal text NOT NULL DEFAULT '',     -- code of the problem that was answered, empty for none
    ADD COLUMN client  text NOT NULL DEFAULT '';     -- network of refused anonymous callers

-- A row is the sum of an hour, a day or a month for one value of one dimension, the name
-- of which is in dimension; '' is the sum of everything, and 'all' are the combinations of
-- all dimensions. Rows of a beginning are always made together, from those of the next
-- shorter step, and replaced together. The same value may have more than one row.
CREATE TABLE analytics_hours (
    at             timestamptz NOT NULL,             -- the beginning
    dimension      text NOT NULL,
    value          text NOT NULL DEFAULT '',         -- empty for 'all', which has the next eight
    api            text NOT NULL DEFAULT '',
    product        text NOT NULL DEFAULT '',
    app            text NOT NULL DEFAULT '',
    user_id        text NOT NULL DEFAULT '',
    key_id         text NOT NULL DEFAULT '',
    route          text NOT NULL DEFAULT '',
    refusal        text NOT NULL DEFAULT '',
    client         text NOT NULL DEFAULT '',
    requests       bigint NOT NULL,
    refused        bigint NOT NULL,
    client_errors  bigint NOT NULL,
    server_errors  bigint NOT NULL,
    request_bytes  bigint NOT NULL,
    response_bytes bigint NOT NULL,
    buckets        smallint[] NOT NULL,              -- of the histogram of durations, as in usage_minutes
    counts         bigint[] NOT NULL,
    CONSTRAINT analytics_hours_histogram CHECK (cardinality(buckets) = cardinality(counts))
) PARTITION BY RANGE (at);
CREATE INDEX analytics_hours_at ON analytics_hours (dimension, at, value) INCLUDE (requests);
CREATE INDEX analytics_hours_by_key ON analytics_hours (key_id, at) WHERE dimension = 'all';
CREATE INDEX analytics_hours_by_user ON analytics_hours (user_id, at) WHERE dimension = 'all';
CREATE INDEX analytics_hours_by_app ON analytics_hours (app, at) WHERE dimension = 'all';
CREATE INDEX analytics_hours_by_route ON analytics_hours (route, at) WHERE dimension = 'all';
CREATE INDEX analytics_hours_by_refusal ON analytics_hours (refusal, at) WHERE dimension = 'all' AND refusal <> '';

-- There is a partition for each month, made when it is needed and dropped when it is old.
CREATE TABLE analytics_days (LIKE analytics_hours INCLUDING ALL) PARTITION BY RANGE (at);
CREATE TABLE analytics_months (LIKE analytics_hours INCLUDING ALL) PARTITION BY RANGE (at);

-- The one row says until when there are sums. Who makes some has it locked.
CREATE TABLE analytics_state (
    one    boolean PRIMARY KEY DEFAULT true CHECK (one),
    hours  timestamptz,
    days   timestamptz,
    months timestamptz
);
INSERT INTO analytics_state DEFAULT VALUES;

-- What must be summed up again, since something came late. Whoever has summed up deletes
-- the row unless marks has grown since the work began.
CREATE TABLE analytics_pending (
    step  text NOT NULL CHECK (step IN ('hour', 'day', 'month')),
    at    timestamptz NOT NULL,
    marks bigint NOT NULL DEFAULT 1,
    PRIMARY KEY (step, at)
);
