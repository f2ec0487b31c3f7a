-- Who has used what, minute by minute, as each replica has counted it.

-- A row is one cell of one replica: it is written with what was counted so far, again
-- and again, until its minute is over. Users and keys are kept by their ids alone, and
-- for longer than they exist themselves.
CREATE TABLE usage_minutes (
    minute         timestamptz NOT NULL,
    replica        uuid NOT NULL,
    cell           bigint NOT NULL,
    flush          bigint NOT NULL,          -- number of the replica's flush that wrote it last
    route          text NOT NULL,
    user_id        text NOT NULL,            -- empty for anonymous callers
    key_id         text NOT NULL,
    app            text NOT NULL,
    status_class   smallint NOT NULL,        -- first digit of the status, 0 for none
    requests       bigint NOT NULL,
    request_bytes  bigint NOT NULL,
    response_bytes bigint NOT NULL,
    buckets        smallint[] NOT NULL,      -- of the histogram of durations, and
    counts         bigint[] NOT NULL,        -- how many fell into each
    PRIMARY KEY (minute, replica, cell),
    CONSTRAINT usage_minutes_class CHECK (status_class BETWEEN 0 AND 5),
    CONSTRAINT usage_minutes_histogram CHECK (cardinality(buckets) = cardinality(counts))
) WITH (fillfactor = 70); -- room for the next states of a row on its own page, without a change to the indexes
-- Half a day later the rows of an hour become one for each combination, under the
-- beginning of the hour, the replica of zeros and the next number.
CREATE SEQUENCE usage_hours;
CREATE INDEX usage_minutes_by_user ON usage_minutes (user_id, minute);
CREATE INDEX usage_minutes_by_key ON usage_minutes (key_id, minute);
