-- What was used of quotas, and what happened to them.

-- One row for each subject of each quota. What replicas hold and have not given out
-- is booked as used: used is never less than what was given out in the period.
CREATE TABLE quota_accounts (
    id       uuid PRIMARY KEY, -- made of the five texts of the identity
    quota    text NOT NULL,
    scope    text NOT NULL,    -- name of the route; empty where routes share the account
    period   text NOT NULL,
    kind     text NOT NULL,    -- of the subject
    subject  text NOT NULL,
    begins   timestamptz NOT NULL,
    ends     timestamptz NOT NULL,
    allowed  bigint NOT NULL,            -- the limit of the quota
    topup    bigint NOT NULL DEFAULT 0,  -- units of this period beside the limit
    used     bigint NOT NULL,
    capacity bigint NOT NULL,            -- allowed + topup, or used where the limit was lowered below it
    epoch    bigint NOT NULL,            -- changes with the period and with a reset; what was granted in another one never comes back
    granted  bigint NOT NULL DEFAULT 0,  -- by the newest update, which reads it back
    warned   smallint NOT NULL DEFAULT 0, -- the highest level, in percent, of which there is an event in this period
    crossed  smallint NOT NULL DEFAULT 0, -- the level that the newest update has crossed; 0: none
    CONSTRAINT quota_accounts_used CHECK (used >= 0 AND used <= capacity),
    CONSTRAINT quota_accounts_units CHECK (allowed > 0 AND topup >= 0 AND capacity >= allowed + topup AND granted >= 0),
    CONSTRAINT quota_accounts_period CHECK (ends > begins)
) WITH (fillfactor = 70); -- rows are updated in place, and no index has what changes with every update
CREATE INDEX quota_accounts_by_subject ON quota_accounts (subject);
CREATE INDEX quota_accounts_by_end ON quota_accounts (ends);

-- Most of an account, or all of it, is used: once for each level, account and period.
CREATE TABLE quota_events (
    number   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    account  uuid NOT NULL, -- which may be gone by now
    quota    text NOT NULL,
    scope    text NOT NULL,
    period   text NOT NULL,
    kind     text NOT NULL,
    subject  text NOT NULL,
    begins   timestamptz NOT NULL,
    ends     timestamptz NOT NULL,
    level    smallint NOT NULL,
    used     bigint NOT NULL,
    capacity bigint NOT NULL,
    CONSTRAINT quota_events_once UNIQUE (account, begins, level),
    CONSTRAINT quota_events_level CHECK (level IN (80, 100))
);
CREATE INDEX quota_events_by_time ON quota_events (at);
