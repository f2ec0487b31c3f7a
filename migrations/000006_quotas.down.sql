DROP TABLE quota_events;
DROP TABLE quota_accounts;
