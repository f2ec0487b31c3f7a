DROP TABLE replicas, change_log, ledger, audit_log, sealed_secrets, signing_keys, idempotency,
    api_key_secrets, api_keys, refresh_tokens, sessions, users;
DROP FUNCTION audit_log_is_append_only();
