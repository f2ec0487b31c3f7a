-- A key of an app must not become one that reaches more.
UPDATE api_keys SET revoked_at = now(), updated_at = now() WHERE app_id IS NOT NULL AND revoked_at IS NULL;
ALTER TABLE api_keys DROP COLUMN app_id;
DROP TABLE subscriptions;
DROP TABLE apps;
DROP TABLE plans;
DROP TABLE products;
