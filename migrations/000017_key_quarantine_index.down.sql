DROP INDEX api_keys_quarantined;
