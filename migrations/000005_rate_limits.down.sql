DROP FUNCTION rate_limit_reserve(bytea, boolean, bigint, bigint, bigint, bigint, bigint);
DROP TABLE rate_limits;
