-- Products with plans, and the apps that are subscribed to them.

CREATE TABLE products (
    id          uuid PRIMARY KEY,
    name        text NOT NULL,
    title       text NOT NULL,
    description text NOT NULL,
    visible     boolean NOT NULL,
    apps_only   boolean NOT NULL, -- who shows another credential than the key of an app does not reach the routes
    routes      text[] NOT NULL,  -- names of routes, and of APIs
    created_at  timestamptz NOT NULL,
    updated_at  timestamptz NOT NULL,
    CONSTRAINT products_name_unique UNIQUE (name)
);

CREATE TABLE plans (
    id            uuid PRIMARY KEY,
    product_id    uuid NOT NULL REFERENCES products ON DELETE CASCADE,
    name          text NOT NULL,
    price         text NOT NULL,
    approval      text NOT NULL,
    rate_requests bigint NOT NULL,  -- 0: no rate limit
    rate_window   bigint NOT NULL,  -- nanoseconds
    rate_burst    bigint NOT NULL,
    quota_units   bigint NOT NULL,  -- 0: no quota
    quota_period  text NOT NULL,
    quota_zone    text NOT NULL,
    quota_rolling boolean NOT NULL,
    created_at    timestamptz NOT NULL,
    updated_at    timestamptz NOT NULL,
    CONSTRAINT plans_name_unique UNIQUE (product_id, name),
    CONSTRAINT plans_of_product UNIQUE (id, product_id),
    CONSTRAINT plans_approval_known CHECK (approval IN ('automatic', 'operator'))
);

-- An app that was deleted stays as a row, without a key that is not revoked: what it
-- had used of a plan is not forgotten.
CREATE TABLE apps (
    id           uuid PRIMARY KEY,
    user_id      uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    name         text NOT NULL,
    description  text NOT NULL,
    suspended_at timestamptz,
    deleted_at   timestamptz,
    created_at   timestamptz NOT NULL,
    updated_at   timestamptz NOT NULL,
    CONSTRAINT apps_of_user UNIQUE (id, user_id)
);
CREATE INDEX apps_by_user ON apps (user_id, id DESC);

-- One row for each app and product, whatever became of it: its id is what the limits
-- of the plan are counted for.
CREATE TABLE subscriptions (
    id         uuid PRIMARY KEY,
    app_id     uuid NOT NULL REFERENCES apps ON DELETE CASCADE,
    product_id uuid NOT NULL REFERENCES products ON DELETE CASCADE,
    plan_id    uuid, -- gone at the end at the earliest
    state      text NOT NULL,
    barred     boolean NOT NULL DEFAULT false, -- an operator has ended it: only an operator lets it begin again
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    CONSTRAINT subscriptions_once UNIQUE (app_id, product_id),
    CONSTRAINT subscriptions_plan FOREIGN KEY (plan_id, product_id) REFERENCES plans (id, product_id) ON DELETE SET NULL (plan_id),
    CONSTRAINT subscriptions_state_known CHECK (state IN ('pending', 'active', 'suspended', 'rejected', 'cancelled', 'revoked')),
    CONSTRAINT subscriptions_live_have_a_plan CHECK (plan_id IS NOT NULL OR state IN ('rejected', 'cancelled', 'revoked'))
);
CREATE INDEX subscriptions_by_product ON subscriptions (product_id, id DESC);
CREATE INDEX subscriptions_by_plan ON subscriptions (plan_id);

-- A key belongs to an app of its owner, or to none. It goes with its app, and is never
-- without it again. Keys are verified meanwhile: nothing here reads them all; see 14 and 15.
ALTER TABLE api_keys ADD COLUMN app_id uuid;
ALTER TABLE api_keys ADD CONSTRAINT api_keys_app FOREIGN KEY (app_id, user_id) REFERENCES apps (id, user_id) ON DELETE CASCADE NOT VALID;
