-- Alerts: rules, what they led to, whom they tell, and what is on its way there.

-- One row for each rule, with where it stands. Who works a rule out has its lease; what
-- follows is committed only if turn is still that of the claim.
CREATE TABLE alert_rules (
    id           uuid PRIMARY KEY,
    version      bigint NOT NULL,        -- 1, and one more with every change by an operator
    name         text NOT NULL,
    enabled      boolean NOT NULL,
    spec         jsonb NOT NULL,         -- what an operator says of it
    status       jsonb NOT NULL DEFAULT '{"state": "ok", "reading": {"known": false, "value": 0, "why": "not evaluated yet"}}',
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now(), -- by an operator
    next_at      timestamptz NOT NULL DEFAULT now(), -- it is due then
    turn         bigint NOT NULL DEFAULT 0, -- one more with every claim and every change
    holder       text NOT NULL DEFAULT '',  -- replica that has the lease
    leased_until timestamptz NOT NULL DEFAULT '-infinity',
    CONSTRAINT alert_rules_name_unique UNIQUE (name)
) WITH (fillfactor = 50); -- rows are updated in place, over and over again
CREATE INDEX alert_rules_due ON alert_rules (next_at) WHERE enabled;

CREATE TABLE alert_channels (
    id         uuid PRIMARY KEY,
    version    bigint NOT NULL,
    name       text NOT NULL,
    kind       text NOT NULL,
    enabled    boolean NOT NULL,
    recipients text[] NOT NULL DEFAULT '{}',
    host       text NOT NULL DEFAULT '', -- of the URL, for people
    key_id     text NOT NULL DEFAULT '', -- of the master key that sealed is under
    sealed     bytea,                    -- URL and secret, sealed for the id and the version
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT alert_channels_name_unique UNIQUE (name),
    CONSTRAINT alert_channels_kind_known CHECK (kind IN ('webhook', 'slack', 'email')),
    CONSTRAINT alert_channels_sealed CHECK ((kind = 'email') = (sealed IS NULL))
);

-- Which channels a rule tells.
CREATE TABLE alert_rule_channels (
    rule_id    uuid NOT NULL REFERENCES alert_rules ON DELETE CASCADE,
    channel_id uuid NOT NULL,
    place      smallint NOT NULL, -- in the rule's list
    PRIMARY KEY (rule_id, channel_id),
    CONSTRAINT alert_rule_channels_channel FOREIGN KEY (channel_id) REFERENCES alert_channels ON DELETE RESTRICT
);
CREATE INDEX alert_rule_channels_by_channel ON alert_rule_channels (channel_id);

-- One row for each time that a rule fired. Alerts outlive their rules.
CREATE TABLE alerts (
    id          uuid PRIMARY KEY,
    rule_id     uuid NOT NULL,
    state       text NOT NULL,
    alert       jsonb NOT NULL,
    fired_at    timestamptz NOT NULL,
    resolved_at timestamptz,
    CONSTRAINT alerts_state_known CHECK (state IN ('firing', 'resolved')),
    CONSTRAINT alerts_resolved CHECK ((state = 'resolved') = (resolved_at IS NOT NULL))
);
-- A rule fires one alert at a time.
CREATE UNIQUE INDEX alerts_one_firing ON alerts (rule_id) WHERE state = 'firing';
CREATE INDEX alerts_by_rule ON alerts (rule_id, id DESC);
CREATE INDEX alerts_by_end ON alerts (resolved_at) WHERE resolved_at IS NOT NULL;

CREATE TABLE alert_silences (
    id         uuid PRIMARY KEY,
    rule_id    uuid REFERENCES alert_rules ON DELETE CASCADE, -- NULL for all rules
    begins     timestamptz NOT NULL,
    ends       timestamptz NOT NULL,
    comment    text NOT NULL,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL,
    CONSTRAINT alert_silences_span CHECK (ends >= begins)
);
CREATE INDEX alert_silences_by_end ON alert_silences (ends);
CREATE INDEX alert_silences_by_rule ON alert_silences (rule_id);

-- The outbox: a row is written in the transaction of what it tells, once for each alert,
-- channel and event. Its id is what receivers tell repetitions by.
CREATE TABLE alert_deliveries (
    id           uuid PRIMARY KEY,
    alert_id     uuid NOT NULL REFERENCES alerts ON DELETE CASCADE,
    channel_id   uuid NOT NULL REFERENCES alert_channels ON DELETE CASCADE,
    event        text NOT NULL,
    notification jsonb NOT NULL,
    state        text NOT NULL DEFAULT 'pending',
    attempts     integer NOT NULL DEFAULT 0, -- that were begun
    error        text NOT NULL DEFAULT '',   -- of the last attempt
    next_at      timestamptz NOT NULL DEFAULT now(),
    holder       text NOT NULL DEFAULT '',
    leased_until timestamptz NOT NULL DEFAULT '-infinity',
    created_at   timestamptz NOT NULL DEFAULT now(),
    finished_at  timestamptz,
    CONSTRAINT alert_deliveries_once UNIQUE (alert_id, channel_id, event),
    CONSTRAINT alert_deliveries_state_known CHECK (state IN ('pending', 'delivered', 'dead')),
    CONSTRAINT alert_deliveries_finished CHECK ((state = 'pending') = (finished_at IS NULL))
);
CREATE INDEX alert_deliveries_due ON alert_deliveries (next_at) WHERE state = 'pending';
CREATE INDEX alert_deliveries_by_channel ON alert_deliveries (channel_id);
CREATE INDEX alert_deliveries_by_end ON alert_deliveries (finished_at) WHERE finished_at IS NOT NULL;
