ALTER TABLE replicas
    DROP COLUMN version, DROP COLUMN gateway_number, DROP COLUMN gateway_digest, DROP COLUMN gateway_applied_at,
    DROP COLUMN gateway_error, DROP COLUMN gateway_failed_at;
DROP TABLE gateway_current, gateway_revisions;
DROP FUNCTION gateway_revisions_are_append_only();
