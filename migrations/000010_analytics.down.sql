DROP TABLE analytics_pending;
DROP TABLE analytics_state;
DROP TABLE analytics_months;
DROP TABLE analytics_days;
DROP TABLE analytics_hours;
ALTER TABLE usage_minutes DROP COLUMN client, DROP COLUMN refusal, DROP COLUMN product, DROP COLUMN api;
